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


def mean_curve(curves: Sequence[Curve], select: Literal["last", "best"], lower_is_better: bool = False) -> Summary:
    """The selected epoch of the curve averaged over seeds, epoch by epoch.

    Only epochs that every seed has count, so that no epoch averages over fewer seeds. The spread is the sample standard
    deviation over seeds at the selected epoch. Empty curves are left out and lower n.
    """
    filled = [dict(curve) for curve in curves if len(curve)]
    if not filled:
        return EMPTY
    epochs = sorted(
        set.intersection(*({epoch for epoch, value in curve.items() if math.isfinite(value)} for curve in filled))
    )
    if not epochs:
        return EMPTY
    points = [mean_std([curve[epoch] for curve in filled]) for epoch in epochs]
    if select == "last":
        return points[-1]
    return min(points, key=lambda point: point.value) if lower_is_better else max(points, key=lambda point: point.value)


def statistic(mode: Mode, select: str, counts: Sequence[int]) -> str:
    """What the shown number is, for a caption: `best over epochs, per metric; mean ± sample std, n = 3`."""
    epoch = {"best": "best over epochs, per metric", "last": "last epoch"}[select]
    shown = sorted({count for count in counts if count})
    n = "n = 0" if not shown else f"n = {shown[0]}" if len(shown) == 1 else f"n = {shown[0]} to {shown[-1]}"
    if not shown or shown[-1] == 1:
        return f"{epoch}; one seed" if shown else f"{epoch}; no finished run"
    over = {
        "mean_std": "mean ± sample std",
        "best": "best over seeds",
        "mean_curve": "mean ± sample std over seeds, averaged before the epoch is selected",
    }[mode]
    return f"{epoch}; {over}, {n}"
