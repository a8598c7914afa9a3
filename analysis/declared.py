"""Tables of words: what methods declare of themselves, beside what the paper prints.

Read from the parent run's plan.json alone. Each entry of its `cells` that belongs to such an experiment is

    {"labels": {"method": "DFQ"}, "status": "declared", "declared": {"Target": "Adversarial", "Student": "Yes"}}

where the keys of `declared` are names of `report.metrics` and the values are text; other keys of the entry do not matter.
An entry with `"status": "absent"` or `"reported"` has a `reason` and no `declared`. What is not there is a hole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis import printed
from analysis.errors import StoreError
from analysis.grid import NOT_RUN, label_key, left_out, remarks
from analysis.metrics import HOLE
from analysis.runs import Sweep
from analysis.tables import Block, Entry, Table
from sweeps.spec import Experiment

DIFFERS = "differs from the printed value"


@dataclass(frozen=True)
class Declared:
    """The words of an experiment with `kind = "declared"`.

    Attributes:
        metrics: the declared columns, in the order of the file.
        cells: one for each cell and column, in the order of the file: labels by axis, `metric`, `value`, `printed`
            (None where there is none), `state` (done, hole, absent, reported) and `note`.
    """

    name: str
    profile: str
    title: str
    rows: str
    axes: tuple[str, ...]
    metrics: tuple[str, ...]
    origin: str
    remarks: tuple[str, ...]
    cells: tuple[Mapping[str, Any], ...]

    @property
    def missing(self) -> list[str]:
        """Cells that should have words and lack some."""
        return list(dict.fromkeys(label_of(self, cell) for cell in self.cells if cell["state"] == "hole"))


def load(experiment: Experiment, profile: str, sweep: Sweep, metrics: Sequence[str] = ()) -> Declared:
    """The words of the last plan; words mean the same at every scale, so the printed ones are always beside them.

    Raises:
        StoreError: a plan whose words are no words, or a column that no cell declares.
        ReportError: printed words that cannot be mapped.
    """
    report = experiment.file.report
    shown = tuple(dict.fromkeys(metrics or report.metrics))
    planned = {label_key(entry["labels"]): entry for entry in sweep.plan["cells"]}
    said = {name for entry in planned.values() for name in words_of(entry, experiment.name)}
    unknown = [name for name in shown if said and name not in said]
    if unknown:
        known = ", ".join(sorted(said))
        raise StoreError(*(f"{experiment.name}: no cell declares {name!r}; they declare {known}" for name in unknown))
    reference = printed.load_words(experiment)
    cells = []
    for cell in experiment.cells:
        entry = planned.get(label_key(cell.labels), {})
        words = words_of(entry, experiment.name)
        for metric in shown:
            reason = cell.reason or left_out(experiment, cell, metric)
            value = None if reason else words.get(metric)
            state = (cell.status if cell.status in NOT_RUN else "absent") if reason else "done" if value else "hole"
            note = reason or ("" if value else "not declared" if entry else "not in the last plan")
            theirs = reference.get(printed.key_of(experiment, cell.labels, metric))
            cells.append(
                {**cell.labels, "metric": metric, "value": value, "printed": theirs, "state": state, "note": note}
            )
    return Declared(
        name=experiment.name,
        profile=profile,
        title=experiment.file.title,
        rows=report.rows,
        axes=tuple(axis.name for axis in experiment.file.axes),
        metrics=shown,
        origin=report.reference.origin if report.reference else "",
        remarks=tuple(remarks(experiment, profile, sweep.plan, comparable=True)),
        cells=tuple(cells),
    )


def words_of(entry: Mapping[str, Any], name: str) -> Mapping[str, str]:
    """What a cell of the plan declares; nothing where it is no such cell.

    Raises:
        StoreError: something else than text by text.
    """
    words = entry.get("declared", {})
    if not isinstance(words, Mapping) or not all(isinstance(word, str) for word in words.values()):
        shown = " ".join(f"{axis}={label}" for axis, label in entry["labels"].items())
        raise StoreError(
            f"{name}: cell {shown} of plan.json declares {words!r}, not words by column; `sweep run {name}` writes it again"
        )
    return words


def table(result: Declared) -> Table:
    """A row for each cell, a column for each word, printed words beside; a note marks those that differ."""
    notes: dict[str, int] = {}
    header = [text for name in result.metrics for text in ([name, result.origin] if result.origin else [name])]
    rows: dict[str, list[Entry]] = {}
    for cell in result.cells:
        note = DIFFERS if differs(cell) else cell["note"]
        number = notes.setdefault(note, len(notes) + 1) if note else 0
        entries = rows.setdefault(label_of(result, cell), [])
        entries.append(Entry(cell["value"] or HOLE, note=number))
        if result.origin:
            entries.append(Entry(cell["printed"] or HOLE))
    caption = f"{result.name}, profile {result.profile}: as the methods' files declare."
    blocks = [Block("", list(rows.items()))]
    return Table(result.title, caption, result.rows, header, blocks, list(notes), result.remarks, words=True)


def differs(cell: Mapping[str, Any]) -> bool:
    return cell["value"] is not None and cell["printed"] is not None and cell["value"] != cell["printed"]


def label_of(result: Declared, cell: Mapping[str, Any]) -> str:
    return ", ".join(str(cell[axis]) for axis in result.axes)


def rows(result: Declared) -> list[dict[str, Any]]:
    """One flat row for each cell and column, None where there is no word."""
    return [dict(cell) | {"origin": result.origin if cell["printed"] else ""} for cell in result.cells]


def diff_rows(result: Declared) -> list[dict[str, Any]]:
    """As `rows`, with `ours` for the value and `differs`, None where one of the two is missing."""
    found = []
    for row in rows(result):
        both = row["value"] is not None and row["printed"] is not None
        verdict = differs(row) if both else None
        found.append(row | {"ours": row.pop("value"), "differs": verdict})
    return found


def diff(result: Declared) -> Table:
    """A line for each cell, a block for each column."""
    notes: dict[str, int] = {}
    blocks = []
    for metric in result.metrics:
        lines = []
        for cell in result.cells:
            if cell["metric"] == metric and (cell["state"] not in NOT_RUN or cell["printed"]):
                number = notes.setdefault(cell["note"], len(notes) + 1) if cell["note"] else 0
                both = cell["value"] is not None and cell["printed"] is not None
                verdict = ("differs" if differs(cell) else "same") if both else HOLE
                entries = [Entry(cell["value"] or HOLE, note=number), Entry(cell["printed"] or HOLE), Entry(verdict)]
                lines.append((label_of(result, cell), entries if result.origin else entries[:1]))
        blocks.append(Block(metric, lines))
    said = [*result.remarks, *([] if result.origin else ["There are no printed values for this experiment."])]
    header = ["ours", result.origin, "difference"] if result.origin else ["ours"]
    caption = f"{result.name}, profile {result.profile}: as the methods' files declare."
    corner = ", ".join(result.axes) or "cell"
    return Table(result.title, caption, corner, header, blocks, list(notes), said, words=True)
