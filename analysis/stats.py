"""From the values of single seeds to the one number of a cell, with its spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Mode = Literal["mean_std", "best", "mean_curve"]
Curve = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Summary:
    """The value of one cell.

    Attributes:
        value: NaN where there is none.
        std: sample standard deviation (ddof 1) over seeds; None for fewer than two, or where the mode has none.
        n: seeds that went in.
    """

    value: float
    std: float | None
    n: int


EMPTY = Summary(float("nan"), None, 0)


def mean_std(values: Sequence[float]) -> Summary:
    """Mean and sample standard deviation, sqrt(sum (x - mean)^2 / (n - 1)).

    Edge cases: no value gives NaN and n = 0; one value has no std; equal values have std 0 exactly. NaN and infinite
    values are left out and lower n; the grid notes them as holes.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return EMPTY
    if len(set(finite)) == 1:  # rounding of the mean would give 1e-15
        return Summary(finite[0], 0.0 if len(finite) > 1 else None, len(finite))
    return Summary(float(np.mean(finite)), float(np.std(finite, ddof=1)), len(finite))


def best(values: Sequence[float], lower_is_better: bool = False) -> Summary:
    """The best seed's value; it has no spread."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return EMPTY
    return Summary(min(finite) if lower_is_better else max(finite), None, len(finite))


def largest(values: Sequence[float]) -> Summary:
    """The largest value over seeds; it has no spread."""
    return best(values)


Statistic = Literal["mean", "var", "std"]


def mean_curve(curves: Sequence[Curve]) -> list[tuple[int, Summary]]:
    """The curve averaged over seeds: each epoch with mean and sample standard deviation over seeds.

    Only epochs that every seed has count, so that no epoch averages over fewer seeds. Empty curves are left out.
    """
    filled = [dict(curve) for curve in curves if len(curve)]
    if not filled:
        return []
    epochs = set.intersection(*({e for e, value in curve.items() if math.isfinite(value)} for curve in filled))
    return [(epoch, mean_std([curve[epoch] for curve in filled])) for epoch in sorted(epochs)]


def over_epochs(curves: Sequence[Curve], statistic: Statistic) -> Summary:
    """Mean, population variance or population std over epochs of the curve averaged over seeds (CuDFKD, Table V).

        a_e = mean_s x_se;  mu = mean_e a_e;  sigma^2 = mean_e (a_e - mu)^2

    It is one number of one curve, so it has no spread over seeds; n counts the seeds.

    Args:
        curves: one for each seed, cut to the window already.
    """
    averaged = np.array([point.value for _, point in mean_curve(curves)])
    if not len(averaged):
        return EMPTY
    value = averaged.mean() if statistic == "mean" else averaged.var() if statistic == "var" else averaged.std()
    return Summary(float(value), None, sum(len(curve) > 0 for curve in curves))


Window = tuple[int, int]
"""First epoch, and the one after the last."""


def windows_of(values: Sequence[float], mean: float, var: float, tolerance: float = 1e-6) -> set[Window]:
    """Every window of epochs that has this mean and population variance.

    Runs record the statistics of their window, not where it begins: this finds it, and tells a history that does not
    belong to what was recorded. Usually there is one; equal values make several.

    Args:
        values: of epochs 0, 1, ..., finite.
        mean, var: as recorded, in doubles; a match is within `tolerance`.
    """
    offset = np.asarray(values, dtype=float) - mean  # centred, so that the sums of squares keep their digits
    first, second = (np.concatenate([[0.0], np.cumsum(part)]) for part in (offset, offset**2))
    begin, end = np.triu_indices(len(first), k=1)
    length = end - begin
    shift = (first[end] - first[begin]) / length
    spread = (second[end] - second[begin]) / length - shift**2
    fits = (np.abs(shift) < tolerance) & (np.abs(spread - var) < tolerance)
    return {(int(b), int(e)) for b, e in zip(begin[fits], end[fits], strict=True)}


def statistic(mode: Mode, select: str, counts: Sequence[int]) -> str:
    """What the shown number is, for a caption: `best over epochs, per metric; mean ± sample std, n = 3`."""
    epoch = {"best": "best over epochs, per metric", "last": "last epoch"}.get(select, select)
    shown = sorted({count for count in counts if count})
    n = "n = 0" if not shown else f"n = {shown[0]}" if len(shown) == 1 else f"n = {shown[0]} to {shown[-1]}"
    if not shown or shown[-1] == 1:
        return f"{epoch}; one seed" if shown else f"{epoch}; no finished run"
    over = {"mean_std": "mean ± sample std", "best": "best over seeds", "mean_curve": "mean ± sample std over seeds"}[
        mode
    ]
    return f"{epoch}; {over}, {n}"
