"""Tables: a grid in, text by cell out; `analysis.formats` writes it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from analysis import metrics as names
from analysis import stats
from analysis.errors import ReportError
from analysis.formats.csv import csv_text
from analysis.formats.html import html
from analysis.formats.latex import latex
from analysis.formats.markdown import markdown
from analysis.grid import Grid
from analysis.layout import PLAIN, Block, Entry, Mark, Style, Table
from analysis.metrics import HOLE
from sweeps.spec import unknown

__all__ = ["PLAIN", "Block", "Entry", "Style", "Table", "csv_text", "html", "latex", "markdown"]
__all__ += ["FORMATS", "marks", "rank", "rows", "table", "without_nan"]

FORMATS = {"md": markdown, "latex": latex, "html": html}
"""Name of a format -> what writes a table in it; CSV is made from `rows`."""
Key = tuple[str, ...]
"""A cell's labels in the order of the axes, and its metric."""


def table(grid: Grid, baseline: str = "") -> Table:
    """With columns, one block for each panel and metric; without, one for each panel with a column for each metric.

    Args:
        baseline: label of the compared axis; each value then has its difference to that label's in parentheses, in
            place of the printed value. "" for none.

    Raises:
        ReportError: a baseline that is no such label, or that nothing is compared with.
    """
    notes: dict[str, int] = {}
    marked = marks(grid)
    changes = differences(grid, baseline)
    by_key = {key(grid, record): entry(record, grid, notes, marked, changes, bool(baseline)) for record in grid.cells}
    beside = grid.columns is None and grid.comparable and bool(grid.origin)
    blocks = []
    panels: Sequence[str | None] = grid.axes[grid.panels] if grid.panels else [None]
    if grid.columns is None:
        titles = [grid.metric(name).title for name in grid.metrics]
        header = [text for title in titles for text in ([title, grid.origin] if beside else [title])]
        for panel in panels:
            rows = []
            for label in grid.axes[grid.rows]:
                entries = [by_key[place(grid, panel, label, None, name)] for name in grid.metrics]
                rows.append((label, spread_out(entries) if beside else entries))
            blocks.append(Block(panel or "", rows))
    else:
        header = list(grid.axes[grid.columns])
        for panel, name in itertools.product(panels, grid.metrics):
            rows = [
                (label, [by_key[place(grid, panel, label, column, name)] for column in header])
                for label in grid.axes[grid.rows]
            ]
            title = grid.metric(name).title
            blocks.append(Block(f"{title}, {panel}" if panel else title, rows))
    corner = grid.rows if grid.columns is None else f"{grid.rows} \\ {grid.columns}"
    return Table(
        grid.title,
        caption(grid, baseline),
        corner,
        header,
        blocks,
        list(notes),
        [*grid.remarks, *rank_remarks(grid, bool(marked))],
        name=grid.name,
        marked=("row" if grid.compared == grid.columns else "column") if marked else "",
        unranked=[label for label in grid.unranked if label in grid.axes[grid.compared]] if marked else (),
    )


def caption(grid: Grid, baseline: str) -> str:
    statistic = stats.statistic(grid.over_seeds, grid.epoch, [int(record["n"]) for record in grid.cells])
    said = f"{grid.name}, profile {grid.profile}: {statistic}."
    if baseline:
        return f"{said} In parentheses: difference to {baseline}."
    if grid.comparable and grid.origin and grid.columns is not None:
        source = "printed value" if grid.origin == "printed" else f"value from the {grid.origin}"
        said += f" In parentheses: {source}."
    return said


def key(grid: Grid, record: Mapping[Any, Any]) -> Key:
    return (*(str(record[axis]) for axis in grid.axes), record["metric"])


def place(grid: Grid, panel: str | None, row: str, column: str | None, metric: str) -> Key:
    """The key of the cell that stands there."""
    labels = {grid.panels: panel, grid.columns: column, grid.rows: row}
    return (*(str(labels[axis]) for axis in grid.axes), metric)


def entry(
    record: Mapping[Any, Any],
    grid: Grid,
    notes: dict[str, int],
    marked: Mapping[Key, Mark],
    changes: Mapping[Key, str],
    baseline: bool,
) -> Entry:
    """One cell's text; its note gets a number, the same for the same words.

    A cell that only the paper has is shown as the paper's number, and its note says so, where no column of printed
    values stands beside.
    """
    metric = grid.metric(record["metric"])
    numbers = {name: float(record[name]) for name in ("value", "std", "printed", "printed_std")}
    shown = {name: "" if math.isnan(number) else metric.text(number) for name, number in numbers.items()}
    printed = " ± ".join(text for text in (shown["printed"], shown["printed_std"]) if text)
    change = changes.get(key(grid, record), "")
    if record["state"] == "reported" and shown["printed"] and grid.columns is not None:
        source = "printed value" if record["origin"] == "printed" else f"value from the {record['origin']}"
        number = numbered(f"{source}, not ours: {record['note']}", notes)
        return Entry(shown["printed"], shown["printed_std"], note=number, change=change)
    return Entry(
        shown["value"] or HOLE,
        shown["std"],
        "" if baseline and grid.columns is not None else printed,
        numbered(record["note"], notes),
        marked.get(key(grid, record), ""),
        change,
        record["links"],
    )


def numbered(note: str, notes: dict[str, int]) -> int:
    return notes.setdefault(note, len(notes) + 1) if note else 0


def spread_out(entries: Iterable[Entry]) -> list[Entry]:
    """Printed values in columns of their own."""
    ours = [Entry(e.value, e.spread, "", e.note, e.mark, e.change, e.links) for e in entries]
    return [part for e, mine in zip(entries, ours, strict=True) for part in (mine, Entry(e.printed or HOLE))]


# --- best and second -------------------------------------------------------------------------------------------------


def marks(grid: Grid) -> dict[Key, Mark]:
    """Best and second of each group of our values that differ only in the compared axis.

    Values of the paper do not compete, nor do unranked labels.
    """
    found: dict[Key, Mark] = {}
    for name, records in compared(grid).items():
        metric = grid.metric(name[-1])
        numbers = {
            str(record[grid.compared]): float(metric.text(record["value"]))
            for record in records
            if not math.isnan(record["value"]) and record[grid.compared] not in grid.unranked
        }
        by_label = rank(numbers, metric.lower_is_better, grid.variants)
        found |= {key(grid, r): by_label[label] for r in records if (label := str(r[grid.compared])) in by_label}
    return found


def compared(grid: Grid) -> dict[Key, list[Mapping[Any, Any]]]:
    """The cells by what they have in common when they compete: all labels but the compared one, and the metric."""
    groups: dict[Key, list[Mapping[Any, Any]]] = {}
    for record in grid.cells if grid.compared else ():
        common = (*(str(record[axis]) for axis in grid.axes if axis != grid.compared), record["metric"])
        groups.setdefault(common, []).append(record)
    return groups


def rank(
    numbers: Mapping[str, float], lower_is_better: bool, variants: Sequence[Sequence[str]] = ()
) -> dict[str, Mark]:
    """Labels that are best or second; nothing where fewer than two compete.

    Equal numbers share a mark. Second is the next number, of a label that is no variant of a best one; where all are
    equal there is none.

    Args:
        numbers: as printed, so that what looks equal is equal.
        variants: groups of labels that are one method.
    """
    if len(numbers) < 2:
        return {}
    top = min if lower_is_better else max
    best = {label for label, number in numbers.items() if number == top(numbers.values())}
    family = best.union(*(group for group in variants if best & set(group)))
    others = {label: number for label, number in numbers.items() if label not in family}
    second = {label for label, number in others.items() if number == top(others.values())}
    return {label: "best" if label in best else "second" for label in numbers if label in best | second}


def rank_remarks(grid: Grid, marked: bool) -> list[str]:
    """Which metrics are better when they are lower."""
    lower = [grid.metric(name).label for name in grid.metrics if grid.metric(name).lower_is_better]
    return [f"Lower is better: {', '.join(lower)}."] if marked and lower else []


def differences(grid: Grid, baseline: str) -> dict[Key, str]:
    """Each value's signed difference to the baseline's, of the numbers as shown, so that a reader who subtracts agrees.

    The paper's numbers are compared with the paper's baseline, ours with ours. Unranked labels have none.

    Raises:
        ReportError: see `table`.
    """
    if not baseline:
        return {}
    if not grid.compared:
        raise ReportError(
            f"{grid.name}: kind {grid.kind!r} compares no rows; name the axis in report.compared, or leave out --arrows"
        )
    known = [label for label in grid.axes[grid.compared]]
    if baseline not in known:
        raise ReportError(f"{grid.name}: --arrows: {unknown(f'label of axis {grid.compared}', baseline, known)}")
    found = {}
    for name, records in compared(grid).items():
        metric = grid.metric(name[-1])
        base = next(record for record in records if record[grid.compared] == baseline)
        for record in records:
            column = "printed" if record["state"] == "reported" else "value"
            label = record[grid.compared]
            if label != baseline and label not in grid.unranked and not math.isnan(record[column] - base[column]):
                change = float(metric.text(record[column])) - float(metric.text(base[column]))
                text = f"{change:+.{metric.digits}f}"
                found[key(grid, record)] = text if float(text) else text[1:]
    return found


# --- for machines ----------------------------------------------------------------------------------------------------


def rows(grid: Grid) -> list[dict[str, Any]]:
    """One flat row for each cell and metric, numbers unrounded, None where there is none."""
    marked = marks(grid)
    return [
        without_nan(cell)
        | {"metric": names.result_name(cell["metric"], grid.select), "mark": marked.get(key(grid, cell), "")}
        | {"links": " ".join(link for _, link in cell["links"])}
        for cell in grid.cells
    ]


def without_nan(row: Mapping[Any, Any]) -> dict[str, Any]:
    """JSON and CSV have no NaN."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
