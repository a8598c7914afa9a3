"""Ours beside the printed values, cell by cell, with the difference."""

from __future__ import annotations

from typing import Any

from analysis import metrics as names
from analysis import stats
from analysis.grid import NOT_RUN, Grid
from analysis.metrics import HOLE
from analysis.tables import Block, Entry, Table, without_nan


def rows(grid: Grid) -> list[dict[str, Any]]:
    """One row for each cell and metric; `printed` and `difference` (ours - printed) are None unless comparable."""
    flat = []
    for record in grid.cells:
        row: dict[str, Any] = {name: record[name] for name in (*grid.axes, "metric", "value", "std", "n", "printed")}
        row |= {"metric": names.result_name(record["metric"], grid.select), "ours": row.pop("value")}
        row |= {"difference": row["ours"] - row["printed"]}
        flat.append(without_nan(row | {name: record[name] for name in ("origin", "state", "note")}))
    return flat


def table(grid: Grid) -> Table:
    """A line for each cell, a block for each metric; where nothing can be compared only ours, and a remark says why."""
    compared = grid.comparable and bool(grid.origin)
    notes: dict[str, int] = {}
    blocks = []
    found = rows(grid)
    for name in grid.metrics:
        metric = grid.metric(name)
        lines = []
        for row in found:
            if row["metric"] != names.result_name(name, grid.select):
                continue
            note = notes.setdefault(row["note"], len(notes) + 1) if row["note"] else 0
            ours = Entry(number(row["ours"], metric), number(row["std"], metric, ""), "", note)
            theirs = [Entry(number(row["printed"], metric)), Entry(signed(row["difference"], metric))]
            if row["state"] not in NOT_RUN or (compared and row["printed"] is not None):
                label = ", ".join(str(row[axis]) for axis in grid.axes)
                lines.append((label or "all", [ours, *(theirs if compared else [])]))
        blocks.append(Block(metric.title, lines))
    remarks = list(grid.remarks)
    if grid.comparable and not grid.origin:
        remarks.append("There are no printed values for this experiment.")
    header = ["ours", grid.origin, "difference"] if compared else ["ours"]
    statistic = stats.statistic(grid.over_seeds, grid.epoch, [int(row["n"]) for row in found])
    caption = f"{grid.name}, profile {grid.profile}: {statistic}."
    return Table(grid.title, caption, ", ".join(grid.axes) or "cell", header, blocks, list(notes), remarks)


def number(value: float | None, metric: names.Metric, missing: str = HOLE) -> str:
    return missing if value is None else metric.text(value)


def signed(value: float | None, metric: names.Metric) -> str:
    """With its sign; a true minus, and no sign on what rounds to zero."""
    if value is None:
        return HOLE
    text = f"{value * metric.factor:+.{metric.digits}f}"
    return metric.text(0.0) if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")
