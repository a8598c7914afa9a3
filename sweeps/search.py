"""Optuna inside each cell: suggestions become trials, seeds are folded into values, and a study goes on where it was."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from sweeps import cost, resolve
from sweeps.errors import SetupError
from sweeps.plan import Plan
from sweeps.settings import Settings, shown
from sweeps.spec import FLOPS, PEAK_MEMORY, Cell, Search
from trainers import attempts
from trainers.attempts import State, Status
from trainers.config import Trial
from trainers.errors import TrainerError
from trainers.seeding import stream_seed

logger = logging.getLogger(__name__)


def open_storage(settings: Settings) -> BaseStorage:
    """Optuna's storage: a database where one is set, else a journal file in the state root.

    Raises:
        SetupError: it cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        if settings.study_url is not None:
            return RDBStorage(settings.study_url)
        journal_path(settings.state).parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(journal_path(settings.state))))
    except Exception as error:  # every database driver has exceptions of its own
        place = shown(settings.study_url or str(settings.state))
        raise SetupError(
            f"the study storage {place} cannot be opened: {str(error).splitlines()[0]}; check SWEEPS_STUDY_URL"
        ) from error


@dataclass
class Suggestion:
    """One point of a study and the trials, one a seed, whose folded values it gets."""

    number: int
    params: dict[str, Any]
    trials: dict[int, Trial]
    digests: dict[int, str] = field(init=False)

    def __post_init__(self) -> None:
        self.digests = {seed: trial.digest() for seed, trial in self.trials.items()}


class CellStudy:
    """The study of one cell, in Optuna's storage; this class keeps nothing that a restart would miss.

    The sampler is seeded anew for each suggestion from the number of suggestions so far, so that a continued study suggests what
    an unbroken one would: suggestion n depends on the values told before it and on n alone.

    Args:
        total: suggestions wanted, those of earlier launches included.
    """

    def __init__(self, plan: Plan, cell: Cell, storage: BaseStorage, settings: Settings, total: int) -> None:
        assert plan.experiment.file.search is not None
        self.plan, self.cell, self.settings, self.total = plan, cell, settings, total
        self.search: Search = plan.experiment.file.search
        self.distributions = {dimension.path: _distribution(dimension) for dimension in self.search.space}
        self.study = optuna.create_study(
            storage=storage,
            study_name=study_name(plan, cell),
            directions=[goal.direction for goal in self.search.goals],
            load_if_exists=True,
            pruner=_pruner(self.search),
        )
        self.open: dict[int, Suggestion] = {}
        for frozen in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if set(frozen.params) == set(self.distributions):
                self.open[frozen.number] = self._suggestion(frozen)
            else:  # killed while it was being suggested
                self.study.tell(frozen.number, state=TrialState.FAIL)

    def asked(self) -> list[FrozenTrial]:
        """Suggestions that were made whole, in order."""
        return [t for t in self.study.get_trials(deepcopy=False) if set(t.params) == set(self.distributions)]

    def suggestions(self) -> list[Suggestion]:
        """Suggestions that were made whole, in order, with their trials."""
        return [self._suggestion(frozen) for frozen in self.asked()]

    def ask(self) -> Suggestion | None:
        """The next point, or None when the wanted number was suggested."""
        number = len(self.asked())
        if number >= self.total:
            return None
        self.study.sampler = _sampler(self.search, stream_seed(self.search.seed, "suggest", number))
        trial = self.study.ask(self.distributions)
        frozen = self.study.get_trials(deepcopy=False)[trial.number]
        suggestion = self._suggestion(frozen)
        self.open[suggestion.number] = suggestion
        return suggestion

    def tell(self) -> list[int]:
        """Tells the study every open suggestion that has come to an end; returns their numbers."""
        closed = []
        for number, suggestion in list(self.open.items()):
            verdict = self._verdict(suggestion)
            if verdict is None:
                continue
            state, values = verdict
            if state is TrialState.COMPLETE:
                self.study.tell(number, values)
            else:
                self.study.tell(number, state=state)
            del self.open[number]
            closed.append(number)
        return closed

    def should_prune(self, digest: str, epoch: int, value: float) -> bool:
        """Reports an epoch of a suggestion's first seed and asks the pruner; other seeds are never pruned."""
        if self.search.pruner == "none":
            return False
        for number, suggestion in self.open.items():
            if next(iter(suggestion.digests.values())) == digest:
                frozen = self.study.get_trials(deepcopy=False)[number]
                trial = optuna.trial.Trial(self.study, frozen._trial_id)
                if epoch + 1 not in frozen.intermediate_values:
                    trial.report(value, step=epoch + 1)
                return trial.should_prune()
        return False

    def _suggestion(self, frozen: FrozenTrial) -> Suggestion:
        trials = {}
        for seed in self.plan.seeds:
            trial, _ = resolve.resolve(
                self.plan.experiment, self.plan.profile, self.cell, seed, self.settings.data, frozen.params
            )
            trials[seed] = trial
        return Suggestion(frozen.number, dict(frozen.params), trials)

    def _verdict(self, suggestion: Suggestion) -> tuple[TrialState, list[float] | None] | None:
        statuses = [attempts.read_status(self.settings.state, digest) for digest in suggestion.digests.values()]
        if statuses[0].state is State.STOPPED:
            return TrialState.PRUNED, None
        if any(status.state is State.FAILED for status in statuses):
            return TrialState.FAIL, None
        if all(status.state is State.DONE for status in statuses):
            return TrialState.COMPLETE, [self._fold(suggestion, statuses, goal.metric) for goal in self.search.goals]
        return None

    def _fold(self, suggestion: Suggestion, statuses: list[Status], metric: str) -> float:
        """Mean of an objective over the seeds of a suggestion.

        Raises:
            SetupError: the trials have no such metric, or their cost cannot be worked out.
        """
        trials = suggestion.trials.values()
        values = [
            flops(trial, self.settings.data) if metric == FLOPS else measured(status, metric)
            for trial, status in zip(trials, statuses, strict=True)
        ]
        return sum(values) / len(values)

    def as_json(self) -> dict[str, Any]:
        """Suggestions with values and digests, for analysis, which knows no Optuna."""
        names = {
            TrialState.COMPLETE: "complete",
            TrialState.PRUNED: "pruned",
            TrialState.FAIL: "failed",
            TrialState.RUNNING: "running",
            TrialState.WAITING: "running",
        }
        goals = self.search.goals
        rows = []
        for frozen, suggestion in zip(self.asked(), self.suggestions(), strict=True):
            values = list(frozen.values) if frozen.state is TrialState.COMPLETE else [None] * len(goals)
            rows.append(
                {
                    "number": frozen.number,
                    "params": dict(frozen.params),
                    "state": names[frozen.state],
                    **({"value": values[0]} if len(goals) == 1 else {}),
                    "values": values,
                    "trials": {str(seed): digest for seed, digest in suggestion.digests.items()},
                }
            )
        return {"labels": dict(self.cell.labels), "study": self.study.study_name, "suggestions": rows}

    def importances(self) -> dict[str, dict[str, float]]:
        """Objective -> Optuna's importance of each searched value for it.

        An objective is left out with fewer than four finished suggestions, and where its values are equal.
        """
        found = {}
        for index, goal in enumerate(self.search.goals):
            shares = self._importances(index)
            if shares:
                found[goal.metric] = shares
        return found

    def _importances(self, index: int) -> dict[str, float]:
        complete = self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(complete) < 4 or len({frozen.values[index] for frozen in complete}) < 2:
            return {}
        sign = -1.0 if self.search.goals[index].direction == "maximize" else 1.0  # it asks what makes a target small
        target = None if len(self.search.goals) == 1 else lambda frozen: sign * float(frozen.values[index])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="PedAnovaImportanceEvaluator computes", category=UserWarning)
            shares = optuna.importance.get_param_importances(self.study, target=target)
        return {name: float(value) for name, value in shares.items() if math.isfinite(value)}


def measured(status: Status, metric: str) -> float:
    """What a finished trial has of a metric; its peak memory is the largest of its epochs.

    Raises:
        SetupError: it has no such metric.
    """
    if metric == PEAK_MEMORY:
        peaks = [row[metric] for row in attempts.rows(status) if metric in row]
        found = {metric: max(peaks)} if peaks else {}
    else:
        found = dict(status.result)
    if metric not in found:
        known = ", ".join(sorted(name for name in status.result if name.startswith(("best/", "last/", "time/"))))
        raise SetupError(f"search: trials have no {metric!r}; they have {known}")
    return float(found[metric])


def flops(trial: Trial, data_root: Path) -> float:
    """`sweeps.cost.flops` of a trial.

    Raises:
        SetupError: its images cannot be counted.
    """
    try:
        return cost.flops(trial, data_root)
    except TrainerError as error:
        raise SetupError(f"search.objectives: {FLOPS} of a trial on {trial.data.name} is not known: {error}") from error


def study_name(plan: Plan, cell: Cell) -> str:
    """Name of a cell's study: readable, and with a hash of all that gives its values their meaning."""
    search = plan.experiment.file.search
    assert search is not None
    settings = {key: value for key, value in cell.settings.items()}
    meaning = [
        search.meaning,
        settings,
        plan.profile.of(plan.experiment.file.paper).model_dump(mode="json", exclude={"papers"}),
        list(plan.seeds),
    ]
    mark = hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()[:10]
    return f"{plan.experiment.name} [{plan.profile.name}] {cell.name} {mark}"


def _distribution(dimension: Any) -> BaseDistribution:
    if dimension.choices:
        return CategoricalDistribution(dimension.choices)
    if dimension.integer:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _sampler(search: Search, seed: int) -> optuna.samplers.BaseSampler:
    seed %= 2**32
    if search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if search.sampler == "gp":
        return optuna.samplers.GPSampler(seed=seed, n_startup_trials=search.startup_trials)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=search.startup_trials)


def _pruner(search: Search) -> optuna.pruners.BasePruner:
    if search.pruner == "asha":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=search.prune_from_epoch, reduction_factor=3)
    if search.pruner == "median":
        return optuna.pruners.MedianPruner(
            n_startup_trials=search.startup_trials, n_warmup_steps=search.prune_from_epoch
        )
    return optuna.pruners.NopPruner()


def studies_of(plan: Plan, settings: Settings, total: int | None) -> list[CellStudy]:
    """The studies of every selected cell of a search experiment; empty for a plain grid."""
    search = plan.experiment.file.search
    if search is None:
        return []
    storage = open_storage(settings)
    return [
        CellStudy(plan, cell, storage, settings, total or search.trials)
        for cell in plan.selected
        if cell.status == "run"
    ]


def as_json(studies: list[CellStudy]) -> dict[str, Any]:
    """The artifact `search.json`."""
    search = studies[0].search
    return {
        "schema": 2,
        **({} if search.objectives else {"metric": search.metric, "direction": search.direction}),
        "objectives": [{"metric": goal.metric, "direction": goal.direction} for goal in search.goals],
        "cells": [study.as_json() for study in studies],
        "importances": {study.cell.name: study.importances() for study in studies},
    }


def journal_path(state: Path) -> Path:
    """The default storage."""
    return state / "studies" / "journal.log"


def exists(settings: Settings) -> bool:
    """Whether there may be studies to read; a database is taken to be there."""
    return settings.study_url is not None or journal_path(settings.state).exists()
