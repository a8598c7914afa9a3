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


# --- ours against a printed value ------------------------------------------------------------------------------------

Alternative = Literal["two-sided", "less", "greater"]


def has_spread(theirs: Summary) -> bool:
    """Whether a printed value comes with a std over runs, so that Welch's test applies; else it is taken as exact."""
    return theirs.std is not None and theirs.n > 1


def testable(ours: Sequence[float], theirs: Summary) -> bool:
    """Whether a t test exists: two seeds at least, a printed value, and a spread on one side.

    Equal seeds have std 0, which says nothing about other seeds: against an exact value every t would be infinite.
    """
    mine = mean_std(ours)
    spread = (mine.std or 0.0) > 0 or (has_spread(theirs) and (theirs.std or 0.0) > 0)
    return mine.n > 1 and math.isfinite(theirs.value) and spread


def p_value(ours: Sequence[float], theirs: Summary, shift: float, alternative: Alternative) -> float:
    """p of the t test of H0: mean(ours) - theirs = shift; Welch's where the printed value has a spread, else one-sample.

    Args:
        ours: one value for each seed; NaN and infinite ones are left out.
        shift: in the values' unit.

    Returns:
        In [0, 1]; NaN where `testable` is false.
    """
    from scipy import stats as scipy_stats  # takes half a second, which only verdicts are worth

    if not testable(ours, theirs):
        return math.nan
    if has_spread(theirs):
        mine = mean_std(ours)
        found = scipy_stats.ttest_ind_from_stats(
            mine.value,
            mine.std,
            mine.n,
            theirs.value + shift,
            theirs.std,
            theirs.n,
            equal_var=False,
            alternative=alternative,
        )
    else:
        finite = [value for value in ours if math.isfinite(value)]
        found = scipy_stats.ttest_1samp(finite, theirs.value + shift, alternative=alternative)
    return float(found.pvalue)


def equivalence(ours: Sequence[float], theirs: Summary, margin: float) -> float:
    """p of two one-sided t tests (TOST, Schuirmann 1987) of H0: |mean(ours) - theirs| >= margin.

    p = max(p of H0: difference = -margin against greater, p of H0: difference = +margin against less); NaN where
    `testable` is false.
    """
    return max(p_value(ours, theirs, -margin, "greater"), p_value(ours, theirs, margin, "less"))


def excess(ours: Sequence[float], theirs: Summary, margin: float = 0.0) -> float:
    """p of the t test of H0: |mean(ours) - theirs| <= margin; with margin 0 the usual two-sided test.

    p <= alpha says that the (1 - alpha) confidence interval of the difference lies wholly beyond the margin. NaN where
    `testable` is false.
    """
    sides = (p_value(ours, theirs, margin, "greater"), p_value(ours, theirs, -margin, "less"))
    return min(1.0, 2 * min(sides)) if testable(ours, theirs) else math.nan


def interval(ours: Sequence[float], theirs: Summary, level: float = 0.95) -> tuple[float, float]:
    """Confidence interval of mean(ours) - theirs by Student's t, Welch's where the printed value has a spread.

    Returns:
        Low and high; NaN where `testable` is false.
    """
    from scipy import stats as scipy_stats

    if not testable(ours, theirs):
        return math.nan, math.nan
    mine = mean_std(ours)
    parts = [((mine.std or 0.0) ** 2 / mine.n, mine.n - 1)]
    if has_spread(theirs):
        parts.append(((theirs.std or 0.0) ** 2 / theirs.n, theirs.n - 1))
    variance = sum(part for part, _ in parts)
    freedom = variance**2 / sum(part**2 / each for part, each in parts)  # Welch-Satterthwaite; n - 1 for one sample
    low, high = scipy_stats.t.interval(level, freedom, loc=mine.value - theirs.value, scale=math.sqrt(variance))
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for being tested together (Holm 1979): sorted, p'_k = max over j <= k of min(1, (m - j + 1) p_j).

    Args:
        p_values: in [0, 1]; NaN is no test, stays NaN and does not count in m.
    """
    order = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p))
        adjusted[i] = largest
    return adjusted


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
