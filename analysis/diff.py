"""Ours beside the printed values, cell by cell, with the difference and what a test says of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from analysis import metrics as names
from analysis import stats, verdicts
from analysis.grid import NOT_RUN, Grid
from analysis.layout import Block, Entry, Table
from analysis.metrics import HOLE
from analysis.tables import without_nan
from analysis.verdicts import ALPHA, Verdict


def rows(grid: Grid) -> list[dict[str, Any]]:
    """One row for each cell and metric, numbers unrounded and in the unit of the metric's name, None where there is none.

    `printed`, `difference` (ours - printed) and its 95% interval `low` to `high` are None unless comparable; `verdict`,
    `reason` (the test, or why there is none), `p` (after Holm), `margin` and `within_margin` as in `verdicts.Verdict`.
    """
    flat = []
    for record, found in zip(grid.cells, verdicts.judge(grid), strict=True):
        row: dict[str, Any] = {name: record[name] for name in (*grid.axes, "metric", "value", "std", "n", "printed")}
        row |= {"metric": names.result_name(record["metric"], grid.select), "ours": row.pop("value")}
        row |= {"difference": row["ours"] - row["printed"], "low": found.low, "high": found.high}
        row |= {"margin": found.margin, "within_margin": found.within, "p": found.p}
        row |= {"verdict": found.word or None, "reason": found.reason}
        flat.append(without_nan(row | {name: record[name] for name in ("origin", "state", "note")}))
    return flat


def table(grid: Grid) -> Table:
    """A line for each cell, a block for each metric; where nothing can be compared only ours, and a remark says why."""
    compared = grid.comparable and bool(grid.origin)
    judged = verdicts.judge(grid)
    with_p = any(not math.isnan(found.p) for found in judged)
    notes: dict[str, int] = {}
    blocks = []
    for name in grid.metrics:
        metric = grid.metric(name)
        lines = []
        for record, found in zip(grid.cells, judged, strict=True):
            if record["metric"] != name:
                continue
            if record["state"] not in NOT_RUN or (compared and not math.isnan(record["printed"])):
                ours = Entry(
                    number(record["value"], metric),
                    number(record["std"], metric, ""),
                    "",
                    numbered(record["note"], notes),
                )
                theirs = [Entry(number(record["printed"], metric))]
                theirs += [Entry(signed(record["value"] - record["printed"], metric)), entry(found, notes)]
                theirs += [Entry(probability(found.p))] if with_p else []
                label = ", ".join(str(record[axis]) for axis in grid.axes)
                lines.append((label or "all", [ours, *(theirs if compared else [])]))
        blocks.append(Block(metric.title, lines))
    remarks = list(grid.remarks)
    if grid.comparable and not grid.origin:
        remarks.append("There are no printed values for this experiment.")
    if with_p:
        remarks.append(legend(judged))
    header = ["ours", grid.origin, "difference", "verdict", *(["p"] if with_p else [])] if compared else ["ours"]
    statistic = stats.statistic(grid.over_seeds, grid.epoch, [int(record["n"]) for record in grid.cells])
    caption = f"{grid.name}, profile {grid.profile}: {statistic}."
    return Table(grid.title, caption, ", ".join(grid.axes) or "cell", header, blocks, list(notes), remarks)


def entry(found: Verdict, notes: dict[str, int]) -> Entry:
    """The verdict, with a note that names its test or says why there is none."""
    if not found.word:
        return Entry(HOLE)
    reason = found.reason
    if found.word == "not tested" and found.within is not None:
        place = "within" if found.within else "beyond"
        reason += f"; the difference itself is {place} ±{found.margin:g}"
    return Entry(found.word, note=numbered(reason, notes))


def legend(judged: Sequence[Verdict]) -> str:
    """What stands behind the verdicts: level, correction, number of tests."""
    tests = sum(not math.isnan(found.p) for found in judged)
    return (
        f"Verdicts at the {ALPHA:.0%} level; p after Holm's correction over the table's {tests} tested "
        f"{'cell' if tests == 1 else 'cells'}, for reproduced and differs each by itself."
    )


def numbered(note: str, notes: dict[str, int]) -> int:
    """The note's number, the same for the same words; 0 for none."""
    return notes.setdefault(note, len(notes) + 1) if note else 0


def number(value: float, metric: names.Metric, missing: str = HOLE) -> str:
    return missing if math.isnan(value) else metric.text(value)


def signed(value: float, metric: names.Metric) -> str:
    """With its sign; a true minus, and no sign on what rounds to zero."""
    if math.isnan(value):
        return HOLE
    text = f"{value * metric.factor:+.{metric.digits}f}"
    return metric.text(0.0) if float(text) == 0 else text.replace("-", "\N{MINUS SIGN}")


def probability(p: float) -> str:
    if math.isnan(p):
        return HOLE
    return f"{p:.3f}" if p >= 0.001 else f"{p:.2g}"
