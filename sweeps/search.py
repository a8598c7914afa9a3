"""Optuna inside each cell: suggestions become trials, seeds are folded into values, and a study goes on where it was."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from sweeps import cost, pruners, resolve
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

CUT = "cut_at_step"
"""On a suggestion that its pruner gave up: after which epoch, or after how many seeds."""
INSTEAD_OF = "instead_of"
"""On a suggestion that is tried again: the number of the one that failed, whose place it takes."""


def open_storage(settings: Settings) -> BaseStorage:
    """Optuna's storage: a database where one is set, else a journal file in the state root.

    Raises:
        SetupError: it cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        if settings.study_url is not None:
            return RDBStorage(settings.study_url, engine_kwargs={"pool_pre_ping": True})  # it may have been restarted
        journal_path(settings.state).parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(journal_path(settings.state))))
    except Exception as error:  # every database driver has exceptions of its own
        place = shown(settings.study_url or str(settings.state))
        raise SetupError(
            f"the study storage {place} cannot be opened: {str(error).splitlines()[0]}; check SWEEPS_STUDY_URL"
        ) from error


@dataclass
class Suggestion:
    """One point of a study and the trials, one a seed, whose folded values it gets.

    Attributes:
        number: its place in the study; it keeps it when it is tried again.
        told_as: its number in Optuna's storage.
    """

    number: int
    told_as: int
    params: dict[str, Any]
    trials: dict[int, Trial]
    digests: dict[int, str] = field(init=False)

    def __post_init__(self) -> None:
        self.digests = {seed: trial.digest() for seed, trial in self.trials.items()}


class CellStudy:
    """The study of one cell, in Optuna's storage; this class keeps nothing that a restart would miss.

    The sampler is seeded anew for each suggestion from the number of suggestions so far, so that a continued study suggests what
    an unbroken one would: suggestion n depends on the values told before it and on n alone. Pruners see reported values alone,
    which are filled in from the journals of trials that ended, or went on, while no launch listened.

    Args:
        total: suggestions wanted, those of earlier launches included.
        retry_failed: open suggestions that failed in earlier launches again.
    """

    def __init__(
        self,
        plan: Plan,
        cell: Cell,
        storage: BaseStorage,
        settings: Settings,
        total: int,
        *,
        retry_failed: bool = False,
    ) -> None:
        assert plan.experiment.file.search is not None
        self.plan, self.cell, self.settings, self.total = plan, cell, settings, total
        self.storage, self.retry_failed = storage, retry_failed
        self.search: Search = plan.experiment.file.search
        self.seeds = seeds_of(plan, cell)
        self.distributions = {dimension.path: _distribution(dimension) for dimension in self.search.space}
        self.study = optuna.create_study(
            storage=storage,
            study_name=study_name(plan, cell),
            directions=[goal.direction for goal in self.search.goals],
            load_if_exists=True,
            pruner=pruners.pruner(self.search),
        )
        self.open: dict[int, Suggestion] = {}
        self._done: dict[str, Status] = {}
        self._asked_at: dict[int, int] = {}
        self._old_failures: dict[str, int] = {}
        self._interrupted = False
        self._take_up(retry_failed)

    def _take_up(self, retry_failed: bool) -> None:
        """Opens what was suggested and has no value yet, and throws away what was not suggested to the end."""
        for frozen in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if set(frozen.params) != set(self.distributions):
                self.study.tell(frozen.number, state=TrialState.FAIL, skip_if_finished=True)
        taken = {suggestion.told_as for suggestion in self.open.values()}
        for frozen in self.asked():
            if retry_failed and frozen.state is TrialState.FAIL:
                frozen = self._again(frozen)
            if frozen.state is TrialState.RUNNING and frozen.number not in taken:
                self._open(frozen)
        self._interrupted = False

    def asked(self) -> list[FrozenTrial]:
        """Suggestions that were made whole, in order; one that was tried again stands where the failed one was."""
        whole = [t for t in self.study.get_trials(deepcopy=False) if set(t.params) == set(self.distributions)]
        again = {t.user_attrs[INSTEAD_OF]: t for t in whole if INSTEAD_OF in t.user_attrs}
        return [again.get(t.number, t) for t in whole if INSTEAD_OF not in t.user_attrs]

    def suggestions(self) -> list[Suggestion]:
        """Suggestions that were made whole, in order, with their trials."""
        return [self._suggestion(frozen) for frozen in self.asked()]

    def ask(self) -> Suggestion | None:
        """The next point, or None when the wanted number was suggested."""
        while True:
            number = len(self.asked())
            if number >= self.total:
                return None
            self.study.sampler = _sampler(self.search, stream_seed(self.search.seed, "suggest", number))
            try:
                trial = self.study.ask(self.distributions)
                return self._open(self._frozen(trial.number))
            except UpdateFinishedTrialError:  # a launch that starts this moment took it for one whose owner was killed
                continue
            except StorageInternalError:  # it may have been made, or half of it
                self._interrupted = True
                raise

    def tell(self) -> list[Suggestion]:
        """Tells the study every open suggestion that has come to an end, and returns them."""
        if self._interrupted:
            self._take_up(retry_failed=False)
        closed = []
        for number, suggestion in list(self.open.items()):
            verdict = self._verdict(suggestion)
            if verdict is None:
                continue
            state, values = verdict  # another launch may have told it meanwhile, from the same trials
            if state is TrialState.COMPLETE:
                self.study.tell(suggestion.told_as, values, skip_if_finished=True)
            else:
                self.study.tell(suggestion.told_as, state=state, skip_if_finished=True)
            del self.open[number]
            closed.append(suggestion)
        return closed

    def ready(self, suggestion: Suggestion) -> list[int]:
        """Seeds of an open suggestion that are not done and may be trained now; the rest wait for what the pruner says of these."""
        if suggestion.number not in self.open:
            return []
        done = [status.state is State.DONE for status in self._statuses(suggestion)]
        first = [*done, False].index(False)
        free = pruners.ready(self.search, len(self.seeds), first)
        return [seed for seed, over in zip(self.seeds[:free], done, strict=False) if not over]

    def should_prune(self, digest: str, epoch: int, value: float | None) -> bool | None:
        """Reports an epoch of a suggestion's first seed and asks the pruner; other seeds are never cut between epochs.

        Args:
            value: of `prune_metric`; None where the epoch has none.

        Returns:
            None for a trial that no open suggestion here is made of.
        """
        mine = [suggestion for suggestion in self.open.values() if digest in suggestion.digests.values()]
        answers = [self._cut_now(suggestion, digest, epoch, value) for suggestion in mine]
        return all(answers) if answers else None

    def _cut_now(self, suggestion: Suggestion, digest: str, epoch: int, value: float | None) -> bool:
        watched = self.search.pruner in pruners.EPOCHWISE and digest == suggestion.digests[self.seeds[0]]
        if not watched or value is None:
            return False
        curve = {epoch + 1: value}
        if self._asked_at.get(suggestion.number, 0) != epoch:  # some were not heard: the driver was killed meanwhile
            curve |= {step: each for step, each in self._curve(suggestion).items() if step <= epoch}
        return self._hear(suggestion, curve)

    def _hear(self, suggestion: Suggestion, values: Mapping[int, float], *, ask: bool = True) -> bool:
        """Reports what the study has not heard yet, step after step, and asks its pruner; whether the suggestion is cut.

        The last step that an earlier launch reported is asked about again: it may have been killed before it could act on the answer.
        """
        frozen = self._frozen(suggestion.told_as)
        if CUT in frozen.user_attrs:
            return True
        heard = frozen.intermediate_values
        asked_at = self._asked_at.setdefault(suggestion.number, max(max(heard, default=0) - 1, 0))
        try:
            for step in sorted(values):
                if step not in heard:
                    self.storage.set_trial_intermediate_value(frozen._trial_id, step, values[step])
                if not ask or step <= asked_at:
                    continue
                if self.study.pruner.prune(self.study, self._frozen(suggestion.told_as)):
                    self.storage.set_trial_user_attr(frozen._trial_id, CUT, step)
                    return True
                self._asked_at[suggestion.number] = step
        except UpdateFinishedTrialError:  # another launch has told it meanwhile
            logger.debug("suggestion %d was told by another launch", suggestion.number)
        return False

    def _curve(self, suggestion: Suggestion) -> dict[int, float]:
        """What the first seed's journal has of `prune_metric`, by epoch from 1."""
        rows = attempts.rows(self._status(suggestion, 0))
        metric = self.search.prune_metric
        return {int(row["epoch"]) + 1: float(row[metric]) for row in rows if metric in row}

    def _frozen(self, told_as: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[told_as]

    def _status(self, suggestion: Suggestion, index: int) -> Status:
        """Of one seed, counted from 0."""
        digest = suggestion.digests[self.seeds[index]]
        if digest in self._done:
            return self._done[digest]
        status = attempts.read_status(self.settings.state, digest)
        if status.state is State.DONE:
            self._done[digest] = status
        return status

    def _statuses(self, suggestion: Suggestion) -> list[Status]:
        return [self._status(suggestion, index) for index in range(len(self.seeds))]

    def _open(self, frozen: FrozenTrial) -> Suggestion:
        """Takes a suggestion up that has no value yet. One that repeats a point that was cut is cut without training."""
        suggestion = self._suggestion(frozen)
        self.open[suggestion.number] = suggestion
        statuses = self._statuses(suggestion)
        for digest, status in zip(suggestion.digests.values(), statuses, strict=True):
            old = status.number if self.retry_failed and status.state is State.FAILED else 0
            self._old_failures.setdefault(digest, old)
        if CUT not in frozen.user_attrs and any(status.state is not State.DONE for status in statuses):
            pruned = self.study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
            twin = next((each for each in pruned if each.params == frozen.params and CUT in each.user_attrs), None)
            if twin is not None:
                self._hear(suggestion, twin.intermediate_values, ask=False)
                self.storage.set_trial_user_attr(frozen._trial_id, CUT, twin.user_attrs[CUT])
                del self._asked_at[suggestion.number]  # so that the verdict looks at it, whatever its seeds are
        return suggestion

    def _again(self, failed: FrozenTrial) -> FrozenTrial:
        """A failed suggestion once more, as one that runs; Optuna keeps the failed one for good."""
        place = failed.user_attrs.get(INSTEAD_OF, failed.number)
        self.study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.RUNNING,
                params=failed.params,
                distributions=failed.distributions,
                user_attrs={INSTEAD_OF: place},
            )
        )
        return next(t for t in self.asked() if t.user_attrs.get(INSTEAD_OF) == place)

    def _suggestion(self, frozen: FrozenTrial) -> Suggestion:
        trials = {}
        for seed in self.seeds:
            trial, _ = resolve.resolve(
                self.plan.experiment, self.plan.profile, self.cell, seed, self.settings.data, frozen.params
            )
            trials[seed] = trial
        number = frozen.user_attrs.get(INSTEAD_OF, frozen.number)
        return Suggestion(number, frozen.number, dict(frozen.params), trials)

    def _verdict(self, suggestion: Suggestion) -> tuple[TrialState, list[float] | None] | None:
        """How an open suggestion ended; None while it may still get a value."""
        statuses = self._statuses(suggestion)
        done = [status.state is State.DONE for status in statuses]
        ended = self.search.pruner in pruners.EPOCHWISE and statuses[0].state in (State.STOPPED, State.DONE)
        if ended and CUT in self._frozen(suggestion.told_as).user_attrs:
            return TrialState.PRUNED, None  # a trial that was stopped for another study alone goes on for this one
        if all(done):
            self._hear(suggestion, self._heard_of(suggestion, statuses), ask=False)
            return TrialState.COMPLETE, [self._fold(suggestion, statuses, goal.metric) for goal in self.search.goals]
        for digest, status in zip(suggestion.digests.values(), statuses, strict=True):
            if status.state is State.FAILED and status.number != self._old_failures[digest]:
                return TrialState.FAIL, None
        if self.search.pruner == "wilcoxon":
            so_far = done.index(False)
            new = so_far > self._asked_at.get(suggestion.number, -1)
            if new and self._hear(suggestion, self._heard_of(suggestion, statuses[:so_far])):
                return TrialState.PRUNED, None
        return None

    def _heard_of(self, suggestion: Suggestion, statuses: list[Status]) -> dict[int, float]:
        """What the pruner goes by, of so many finished seeds: each one's objective in a race, else the epochs of the first."""
        if self.search.pruner == "wilcoxon":
            return {index + 1: measured(status, self.search.metric) for index, status in enumerate(statuses)}
        return self._curve(suggestion) if self.search.pruner in pruners.EPOCHWISE else {}

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
        for frozen in self.asked():
            suggestion = self._suggestion(frozen)
            begun = list(suggestion.digests.items())
            if frozen.state in (TrialState.PRUNED, TrialState.FAIL):  # not all of its seeds were trained
                statuses = self._statuses(suggestion)
                begun = [each for each, status in zip(begun, statuses, strict=True) if status.state is not State.NEW]
            values = list(frozen.values) if frozen.state is TrialState.COMPLETE else [None] * len(goals)
            rows.append(
                {
                    "number": suggestion.number,
                    "params": dict(frozen.params),
                    "state": names[frozen.state],
                    **({"value": values[0]} if len(goals) == 1 else {}),
                    "values": values,
                    "trials": {str(seed): digest for seed, digest in begun},
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
        list(seeds_of(plan, cell)),
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


def seeds_of(plan: Plan, cell: Cell) -> tuple[int, ...]:
    """Seeds that are folded in a cell: those of the command line, else the cell's own, else the experiment's."""
    asked = plan.seeds != plan.experiment.file.seeds
    return plan.seeds if asked or cell.seeds is None else cell.seeds


def studies_of(plan: Plan, settings: Settings, total: int | None, *, retry_failed: bool = False) -> list[CellStudy]:
    """The studies of every selected cell of a search experiment; empty for a plain grid."""
    search = plan.experiment.file.search
    if search is None:
        return []
    storage = open_storage(settings)
    return [
        CellStudy(plan, cell, storage, settings, total or search.trials, retry_failed=retry_failed)
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
