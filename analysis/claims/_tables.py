"""Comparisons over a whole table: one label against another, or against the best of the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence

from analysis import metrics as names
from analysis.claims._checks import Comparison, Relation
from analysis.claims._sources import Cell, Reader

ACC1 = "test/acc1_pct"
ACC5 = "test/acc5_pct"
AGREE1 = "test/agree1_pct"
LOYALTY = "test/loyalty_code"
THREE = (ACC1, AGREE1, LOYALTY)

Groups = dict[tuple[str, ...], dict[str, Cell]]


def groups(read: Reader, experiment: str, metric: str, axis: str = "method", **only: str | Sequence[str]) -> Groups:
    """Labels of all other axes -> label of `axis` -> cell."""
    found: Groups = {}
    for cell in read.cells(experiment, metric, **only):
        others = tuple(label for name, label in cell.labels.items() if name != axis)
        found.setdefault(others, {})[cell.labels[axis]] = cell
    return found


def versus(
    read: Reader,
    experiment: str,
    metric: str,
    left: str,
    relation: Relation,
    right: str,
    *,
    axis: str = "method",
    **only: str | Sequence[str],
) -> list[Comparison]:
    """Label `left` against label `right`, wherever the table has both."""
    return [
        Comparison(
            place(others, metric, f"{left} against {right}"), cells[left].value, relation, cells[right].value, metric
        )
        for others, cells in groups(read, experiment, metric, axis, **{axis: [left, right]}, **only).items()
        if left in cells and right in cells
    ]


def leads(
    read: Reader,
    experiment: str,
    metric: str,
    winner: str,
    *,
    axis: str = "method",
    but: Sequence[str] = (),
    lower: bool = False,
    **only: str | Sequence[str],
) -> list[Comparison]:
    """`winner` against the best other label, in each column of the table.

    Args:
        but: labels that do not compete.
        lower: whether less is better.
    """
    found = []
    for others, cells in groups(read, experiment, metric, axis, **only).items():
        rivals = {label: cell.value for label, cell in cells.items() if label != winner and label not in but}
        if winner in cells and rivals:
            found.append(against_best(others, metric, winner, cells[winner].value, rivals, lower))
    return found


def against_best(
    others: Sequence[str], metric: str, winner: str, value: float, rivals: dict[str, float], lower: bool
) -> Comparison:
    """One column. A rival that is known to be ahead decides it; else every rival must be known."""
    known = {label: rival for label, rival in rivals.items() if not math.isnan(rival)}
    relation: Relation = "<" if lower else ">"
    if not known:
        return Comparison(place(others, metric, winner), value, relation, math.nan, metric)
    best = (min if lower else max)(known, key=lambda label: known[label])
    found = Comparison(place(others, metric, f"{winner} against {best}"), value, relation, known[best], metric)
    if found.holds and len(known) < len(rivals):
        return Comparison(found.where, value, relation, math.nan, metric)
    return found


def place(others: Sequence[str], metric: str, who: str) -> str:
    """`VGG13 / VGG8, Acc@1: PCKD against MLD`."""
    return f"{', '.join([*others, names.metric(metric).label])}: {who}"


def gains(read: Reader, experiment: str, metric: str, label: str, over: str, *, axis: str = "method") -> list[float]:
    """label - over in each column that has both; NaN where one is missing."""
    return [
        cells[label].value - cells[over].value
        for cells in groups(read, experiment, metric, axis).values()
        if label in cells and over in cells
    ]


def mean(values: Sequence[float]) -> float:
    """NaN of nothing."""
    return math.fsum(values) / len(values) if values else math.nan


def largest(values: Sequence[float]) -> float:
    """NaN where one is missing, or of nothing."""
    return max(values) if values and not any(map(math.isnan, values)) else math.nan


def spread(values: Sequence[float]) -> float:
    """Largest minus smallest; NaN where one is missing, or of nothing."""
    return max(values) - min(values) if values and not any(map(math.isnan, values)) else math.nan
