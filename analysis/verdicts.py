"""Whether our values reproduce the printed ones: a test for each cell, corrected over the table.

A cell is `reproduced` where two one-sided t tests (TOST) show a difference within the margin that the experiment file declares,
and `differs` where the confidence interval of the difference lies beyond that margin (beyond 0 where none is declared). Where the
paper gives a spread over runs it is Welch's t, else the one-sample t, which takes the printed value as exact. Either verdict is
corrected by Holm over all tested cells of the table, metrics together, so that the chance of one false `reproduced` in the
table is at most ALPHA, and that of one false `differs` as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from analysis import metrics as names
from analysis import stats
from analysis.grid import NOT_RUN, Grid, seeds_of

ALPHA = 0.05
Word = Literal["reproduced", "differs", "too few seeds to tell", "not tested", ""]

BEST_OF_SEVERAL = (
    "the printed value is the best of several runs: a maximum has no spread over seeds, so no t test applies"
)
OF_ALL_SEEDS = "the value is one number of all seeds together: it has no spread over seeds, so no t test applies"


@dataclass(frozen=True)
class Verdict:
    """What can be said of one cell and metric.

    Attributes:
        word: "" where there is nothing to compare.
        reason: the test by its name, or why there is none.
        p: of the stated verdict, or the smaller of both where neither holds; after Holm. NaN without a test.
        margin: NaN where none is declared for the metric.
        within: whether the difference as such is within the margin; None without margin or difference. No test.
        low, high: 95% confidence interval of ours - printed, not corrected; NaN without a test.
    """

    word: Word
    reason: str
    p: float = math.nan
    margin: float = math.nan
    within: bool | None = None
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Tested:
    """One cell's values, or why no test can be made of them (`word` and `why`)."""

    ours: tuple[float, ...]
    theirs: stats.Summary
    margin: float
    within: bool | None
    word: Word
    why: str


def judge(grid: Grid) -> list[Verdict]:
    """A verdict for each of `grid.cells`, in their order."""
    cells = [tested(grid, record) for record in grid.cells]
    same = stats.holm([equivalence(cell) for cell in cells])
    other = stats.holm([math.nan if cell.why else stats.excess(cell.ours, cell.theirs, margin(cell)) for cell in cells])
    return [decide(cell, p_same, p_other) for cell, p_same, p_other in zip(cells, same, other, strict=True)]


def tested(grid: Grid, record: Mapping[str, Any]) -> Tested:
    """The cell with all that its test needs."""
    present = tuple(float(value) for value in seeds_of(grid, record)["value"] if math.isfinite(value))
    std = record["printed_std"]
    theirs = stats.Summary(record["printed"], None if math.isnan(std) else float(std), int(record["printed_n"]))
    allowed = margin_of(grid, record["metric"])
    difference = abs(record["value"] - theirs.value)
    known = not math.isnan(difference) and not math.isnan(allowed)
    within = bool(difference <= allowed) if known else None
    word, why = untested(grid, record, present, theirs)
    return Tested(present, theirs, allowed, within, word, why)


def margin_of(grid: Grid, metric: str) -> float:
    """The declared margin, also for another selection of the metric; NaN without one."""
    if metric in grid.margin:
        return grid.margin[metric]
    return next((value for name, value in grid.margin.items() if names.bare(name) == names.bare(metric)), math.nan)


def untested(
    grid: Grid, record: Mapping[str, Any], present: tuple[float, ...], theirs: stats.Summary
) -> tuple[Word, str]:
    """The word for a cell that no test can be made of, and why; two empty texts where one can."""
    if not grid.comparable:
        return "", f"profile {grid.profile} has another scale than the paper"
    if math.isnan(theirs.value):
        return "", "no printed value"
    if record["state"] in NOT_RUN:
        return "", record["note"]
    if not present:
        return "too few seeds to tell", "no finished run"
    if grid.over_seeds == "best":
        return "not tested", BEST_OF_SEVERAL
    if grid.over_seeds == "mean_curve" and folded(record["metric"]):
        return "not tested", OF_ALL_SEEDS
    if len(present) == 1:
        return "too few seeds to tell", "one seed has no spread"
    if not stats.testable(present, theirs):
        return "too few seeds to tell", f"all {len(present)} seeds are equal: no spread to test with"
    return "", ""


def folded(metric: str) -> bool:
    """Whether `mean_curve` makes one number of all seeds that is no mean over seeds: see `grid.fold_seeds`.

    The mean over a window is one: the mean of the averaged curve is the mean of the seeds' own.
    """
    windowed = names.WINDOWED.fullmatch(metric)
    spread = windowed is not None and windowed["statistic"] != "mean"
    return spread or names.bare(metric) == names.PEAK_MEMORY


def equivalence(cell: Tested) -> float:
    skip = bool(cell.why) or math.isnan(cell.margin)
    return math.nan if skip else stats.equivalence(cell.ours, cell.theirs, cell.margin)


def margin(cell: Tested) -> float:
    return 0.0 if math.isnan(cell.margin) else cell.margin


def decide(cell: Tested, p_same: float, p_other: float) -> Verdict:
    """The verdict from both p values, which are corrected already."""
    if cell.why:
        return Verdict(cell.word, cell.why, margin=cell.margin, within=cell.within)
    test = "Welch's t" if stats.has_spread(cell.theirs) else "one-sample t"
    declared = not math.isnan(cell.margin)
    bound = f"the margin ±{cell.margin:g}"
    word: Word
    if p_same <= ALPHA:
        word, p, reason = "reproduced", p_same, f"two one-sided tests (TOST, {test}) within {bound}"
    elif p_other <= ALPHA:
        word, p, reason = "differs", p_other, f"{test}, beyond {bound}" if declared else f"{test}, no margin declared"
    else:
        word, p = "too few seeds to tell", min(p for p in (p_same, p_other) if not math.isnan(p))
        neither = f"neither within nor beyond {bound}" if declared else "no difference shown, and no margin declared"
        reason = f"{test}: {neither}"
    low, high = stats.interval(cell.ours, cell.theirs)
    return Verdict(word, reason, p, cell.margin, cell.within, low, high)
