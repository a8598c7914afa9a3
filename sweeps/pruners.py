"""When a suggestion is not worth its remaining epochs or seeds: pruners that read nothing but what was reported to their study."""

from __future__ import annotations

import math
import warnings

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner, WilcoxonPruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sweeps.spec import Search

EPOCHWISE = ("asha", "median")
"""Pruners that look at every epoch of a suggestion's first seed; the others look at finished trials."""
REDUCTION = 3
"""ASHA keeps the best third at each rung."""


class Asha(BasePruner):
    """Asynchronous successive halving (Li et al. 2020): at each rung only the best 1 / `reduction` go on.

    Rung k is after `first * reduction^k` epochs. A suggestion is compared with all that have reached the rung so far, itself
    included; while they are fewer than `reduction`, only the best goes on. Failed suggestions do not compete.

    Optuna's own SuccessiveHalvingPruner decides alike, but remembers beside the reports which rungs were passed: a launch that
    is killed between its note and the cut would let the suggestion go on. Here the reports alone decide, so asking again gives
    the same answer.
    """

    def __init__(self, first: int, reduction: int = REDUCTION) -> None:
        self.first, self.reduction = first, reduction

    def prune(self, study: optuna.study.Study, trial: FrozenTrial) -> bool:
        step = trial.last_step
        if step is None or not self._is_rung(step):
            return False
        value = trial.intermediate_values[step]
        if math.isnan(value):
            return True
        others = [
            other.intermediate_values[step]
            for other in study.get_trials(deepcopy=False)
            if other.number != trial.number
            and other.state is not TrialState.FAIL
            and not math.isnan(other.intermediate_values.get(step, math.nan))
        ]
        maximize = study.direction is StudyDirection.MAXIMIZE
        ranked = sorted([*others, value], reverse=maximize)
        last = ranked[max(1, len(ranked) // self.reduction) - 1]
        return value < last if maximize else value > last

    def _is_rung(self, step: int) -> bool:
        rung = self.first
        while rung < step:
            rung *= self.reduction
        return rung == step


def pruner(search: Search) -> BasePruner:
    """The pruner that a search names. Steps are epochs from 1; for `wilcoxon`, seeds from 1 in the order of the experiment."""
    if search.pruner == "asha":
        return Asha(search.prune_from_epoch)
    if search.pruner == "median":
        return MedianPruner(n_startup_trials=search.startup_trials, n_warmup_steps=search.prune_from_epoch)
    if search.pruner == "wilcoxon":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return WilcoxonPruner(p_threshold=search.p_threshold, n_startup_steps=search.first_cut)
    return NopPruner()


def ready(search: Search, seeds: int, done: int) -> int:
    """How many of a suggestion's seeds, from the first, may be trained when so many, from the first, are done.

    Seeds that the pruner may still save are held back: for asha and median all but the first, which is the one it watches; in a race
    those after the earliest seed at which it can end, one after the other. The rest may be trained side by side.
    """
    if search.pruner in EPOCHWISE:
        return seeds if done else 1
    if search.pruner == "wilcoxon":
        return min(seeds, max(search.first_cut, done + 1))
    return seeds
