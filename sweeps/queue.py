"""Which trial comes next: a trial becomes ready when its upstream is done; searches are asked when nothing else is waiting."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Hashable
from pathlib import Path

from optuna.exceptions import StorageInternalError

from sweeps import groups
from sweeps.plan import Plan
from sweeps.pruners import EPOCHWISE
from sweeps.search import CellStudy, Suggestion
from sweeps.spec import Resources
from trainers.attempts import State, fixed_execution, heal, machine_fault, note_machine_fault, read_status
from trainers.config import Execution, PassKind, Trial

logger = logging.getLogger(__name__)

MACHINE_RETRIES = 3
DEVICE_MEMORY = "device_memory"
BUSY_WAIT_S = 10.0
YIELD_WAIT_S = 1.0
"""How long a trial that yielded is left to its worker, which lets go of it a moment after Tune says so."""
VAIN_S = 5.0
"""How long searches that had nothing to suggest are taken to have nothing, unless a trial ends."""


class Queue:
    """The state of a launch, seen by Tune's searcher, the tracker and the live view; safe to use from several threads.

    Args:
        plans: what to run.
        studies: searches beside the grids.
        retry_failed: run trials again that are failed on disk.
    """

    def __init__(
        self,
        plans: list[Plan],
        studies: list[CellStudy],
        state_root: Path,
        *,
        retry_failed: bool = False,
    ) -> None:
        self.plans, self.studies, self.state_root = plans, studies, state_root
        self._lock = threading.RLock()
        self.trials: dict[str, Trial] = {}
        self.names: dict[str, str] = {}
        self.owner: dict[str, Plan] = {}
        self.waiting: list[str] = []
        self.running: set[str] = set()
        self.groups: dict[str, tuple[str, ...]] = {}  # what each was started with last, itself included
        self.failed: dict[str, str] = {}
        self.blocked: dict[str, str] = {}
        self.fresh: set[str] = set()  # nobody had begun these when they came here
        self._not_before: dict[str, float] = {}
        self._crashes: dict[str, int] = {}
        self._alone: set[str] = set()
        self._likeness: dict[str, Hashable] = {}
        self._share: Callable[[Trial, PassKind], float] | None = None
        self._resources: dict[str, Resources] = {}
        self._upstream: dict[str, tuple[str, ...]] = {}
        self._done: set[str] = set()
        self._retry_failed = retry_failed
        self._storage_away = False
        self._vain_until = 0.0
        self._expected = 0
        for plan in plans:
            for digest, trial in plan.trials.items():
                self._add(plan, digest, trial, plan.names[digest])
        for study in studies:
            study.tell()
            for suggestion in sorted(study.suggestions(), key=lambda each: each.number not in study.open):
                self._add_suggestion(study, suggestion)

    def next(self) -> str | None:
        """Digest of a trial that can start now, or None while none is ready."""
        with self._lock:
            try:
                for study in self.studies:
                    self._follow(study)
                digest = self._ready()
                while digest is None and self._ask():
                    digest = self._ready()
                self._storage_away = False
            except StorageInternalError as error:  # all that was told so far is kept; the next call goes on from there
                self._note_storage_away(error)
                digest = self._ready()
            if digest is not None:
                self._start([digest], (digest,))
            self._vain_until = time.monotonic() + VAIN_S if digest is None else 0.0
            return digest

    def companions(self, first: str, most: int, places: int) -> list[str]:
        """Trials that start together with `first`, which `next` has just given, and share its teacher's passes.

        A trial that ended by a fault of the machine before is nobody's companion: one that takes its worker down must not use
        up the others' turns.

        Args:
            most: of a group, `first` included.
            places: trials, or groups of them, that run at a time.
        """
        with self._lock:
            if most < 2 or self._like(first) is None:
                return []
            ready = self._startable()
            alike = [digest for digest in ready if self._like(digest) == self._like(first)]
            members = groups.size(
                alike=1 + len(alike),
                ready=1 + len(ready),
                running=len(self.running) - 1,
                free=places - len({self.groups[digest] for digest in self.running}) + 1,
                places=places,
                most=most,
            )
            execution, found = self._execution(first), list[str]()
            for digest in alike:
                if len(found) == members - 1:
                    break
                ended = read_status(self.state_root, digest).state in (State.DONE, State.FAILED)  # by another launch
                if not ended and self._execution(digest) == execution:
                    found.append(digest)
            self._start(found, (first, *found))
            return found

    def startable(self, most: int) -> list[tuple[float, float]]:
        """CPUs and GPUs of trials that `next` would give now, one after the other; of what searches might suggest, the most it can be."""
        with self._lock:
            found: list[tuple[float, float]] = []
            try:
                for study in self.studies:
                    self._follow(study)
            except StorageInternalError as error:
                self._note_storage_away(error)
            if self._ready() is not None:
                found = [self.demand(digest) for digest in self._startable()[:most]]
            if time.monotonic() >= self._vain_until:
                with contextlib.suppress(StorageInternalError):
                    for study in self.studies:
                        wanted = study.plan.resources
                        more = 0 if self._held_up(study) else (study.total - len(study.asked())) * len(study.seeds)
                        found += [(wanted.cpu, wanted.gpu)] * more
            return found[:most]

    def demand(self, digest: str) -> tuple[float, float]:
        """CPUs and GPUs of a trial; one that must have a device for itself gets a whole one."""
        wanted = self.resources(digest)
        return wanted.cpu, max(1.0, wanted.gpu) if wanted.gpu and self.alone(digest) else wanted.gpu

    def pack(self, share: Callable[[Trial, PassKind], float]) -> None:
        """Trials on a GPU get the share of it that `share` says, from now on."""
        with self._lock:
            self._share = share
            self._resources.clear()
            self._likeness.clear()

    def resources(self, digest: str) -> Resources:
        """What Ray reserves for the trial."""
        with self._lock:
            if digest not in self._resources:
                wanted = self.owner[digest].resources
                if wanted.gpu and self._share is not None:
                    wanted = wanted.model_copy(update={"gpu": self._share(self.trials[digest], wanted.passes)})
                self._resources[digest] = wanted
            return self._resources[digest]

    def _start(self, digests: list[str], group: tuple[str, ...]) -> None:
        for digest in digests:
            self.waiting.remove(digest)
            self.running.add(digest)
        self.groups |= dict.fromkeys(group, group)

    def _like(self, digest: str) -> Hashable:
        """As `groups.likeness`; None for trials that must be alone, or whose time or memory somebody wants to know."""
        if digest in self._alone or digest in self._crashes:
            return None
        if digest not in self._likeness:
            reported = any(groups.measured(plan) for plan in self.plans if digest in plan.trials)
            own = groups.likeness(self.trials[digest], self.resources(digest))
            self._likeness[digest] = None if reported else own
        return self._likeness[digest]

    def _execution(self, digest: str) -> Execution:
        fixed = fixed_execution(self.state_root, digest)
        wanted = self.resources(digest)
        return fixed or Execution.of_new(wanted.threads, wanted.passes)

    def _startable(self) -> list[str]:
        """Digests of the waiting that nothing this launch knows of holds back."""
        now, to_come, found = time.monotonic(), {*self.waiting, *self.running}, list[str]()
        for digest in self.waiting:
            upstream = self._upstream_of(digest)
            free = to_come.isdisjoint(upstream) and self._not_before.get(digest, 0) <= now
            if free and all(self._is_done(up) for up in upstream):
                found.append(digest)
        return found

    def _note_storage_away(self, error: StorageInternalError) -> None:
        if not self._storage_away:
            logger.warning("the study storage is away; searches wait for it: %s", str(error.__cause__).splitlines()[0])
        self._storage_away = True

    def _ask(self) -> bool:
        """Takes in one more suggestion of the first study that may be asked; False where none has one."""
        for study in self.studies:
            if self._held_up(study):
                continue  # to ask now would be to ask without the values that are still to come
            suggestion = study.ask()
            if suggestion is not None:
                study.tell()  # it may be a point that is already known
                self._add_suggestion(study, suggestion)
                return True
        return False

    def _held_up(self, study: CellStudy) -> bool:
        """Whether a suggestion of a study waits to be run."""
        digests = (digest for each in study.open.values() for digest in each.digests.values())
        return any(digest in self.waiting or digest in self.blocked for digest in digests)

    def _follow(self, study: CellStudy) -> None:
        """Tells a study what ended, takes in the seeds that wait for nothing any more, and drops those that nobody wants now."""
        closed = study.tell()
        before = len(self.waiting)
        for suggestion in study.open.values():
            ready = (suggestion.digests[seed] for seed in study.ready(suggestion))
            if any(d not in self.running and d not in self.waiting and d not in self.failed for d in ready):
                self._add_suggestion(study, suggestion)
        if len(self.waiting) > before:  # what is under way goes before what is new
            self.waiting = self.waiting[before:] + self.waiting[:before]
        if not closed:
            return
        wanted = self._wanted_by_studies()
        for digest in (d for suggestion in closed for d in suggestion.digests.values()):
            if digest in self.waiting and digest not in wanted and not self._in_a_grid(digest):
                self.waiting.remove(digest)  # another seed failed

    def _wanted_by_studies(self) -> set[str]:
        """Digests of all open suggestions."""
        return {d for study in self.studies for each in study.open.values() for d in each.digests.values()}

    def expected(self) -> int:
        """Trials of this launch, those that searches have yet to suggest included."""
        with self._lock:
            try:
                to_come = [(study.total - len(study.asked())) * len(study.seeds) for study in self.studies]
            except StorageInternalError:
                return self._expected
            held_back = self._wanted_by_studies() - set(self.trials)
            self._expected = len(self.trials) + len(held_back) + sum(max(number, 0) for number in to_come)
            return self._expected

    def finished(self) -> bool:
        """Whether nothing runs and nothing can become ready any more."""
        with self._lock:
            try:
                return not self.waiting and not self.running and all(self._over(study) for study in self.studies)
            except StorageInternalError:
                return False

    def _over(self, study: CellStudy) -> bool:
        """Whether a study has no suggestion left that could still get a value in this launch."""
        digests = [list(suggestion.digests.values()) for suggestion in study.open.values()]
        if any(digest in self.blocked for trials in digests for digest in trials):
            return True
        return len(study.asked()) >= study.total and all(
            any(digest in self.failed for digest in trials) for trials in digests
        )

    def release(self, digest: str, outcome: str, cause: str = "") -> None:
        """Takes a trial back from its worker.

        Args:
            outcome: "done", "failed" (the trial's fault), "stopped" (by a pruner), "crashed" (the machine's fault), "busy" or
                "fenced" (somebody else has it), "yielded" (it made room for another sweep, and goes on from its checkpoint). What is
                not running here any more was taken back before.
        """
        with self._lock:
            if digest not in self.running:
                return
            self.running.discard(digest)
            self._vain_until = 0.0
            state = read_status(self.state_root, digest).state
            if state is State.DONE or outcome == "stopped":
                return
            if state is State.FAILED:
                self._fail(digest, cause or "failed")
            elif outcome == "crashed":
                self._crashed(digest, cause)
            elif outcome in ("busy", "fenced"):
                self._not_before[digest] = time.monotonic() + BUSY_WAIT_S
                self.waiting.append(digest)
            elif outcome == "yielded":
                self._not_before[digest] = time.monotonic() + YIELD_WAIT_S
                self.waiting.insert(0, digest)
            else:
                self._fail(digest, cause or f"ended as {outcome} without a result")

    def alone(self, digest: str) -> bool:
        """Whether the trial ran out of the device's memory before, so that it must have a whole device next time."""
        with self._lock:
            return digest in self._alone

    def _crashed(self, digest: str, cause: str) -> None:
        """Gives a trial another turn after a fault of the machine, or gives it up and leaves word of that for `sweep why`."""
        status = read_status(self.state_root, digest)
        fault = machine_fault(status)
        if fault is not None and fault["kind"] == DEVICE_MEMORY:
            if digest not in self._alone:
                logger.warning("%s ran out of the device's memory; it gets the device for itself", self.names[digest])
                self._alone.add(digest)
                self.waiting.insert(0, digest)
            else:
                self._fail(digest, f"out of memory, though alone on the device: {fault['cause']}")
            return
        cause = cause or (str(fault["cause"]) if fault is not None else "killed, or its node was lost")
        self._crashes[digest] = self._crashes.get(digest, 0) + 1
        if self._crashes[digest] <= MACHINE_RETRIES:
            logger.warning(
                "worker of %s died (%d of %d retries): %s",
                self.names[digest],
                self._crashes[digest],
                MACHINE_RETRIES,
                cause,
            )
            self.waiting.insert(0, digest)
            return
        self._fail(digest, f"its worker died {self._crashes[digest]} times: {cause}")
        if status.folder is not None:
            note_machine_fault(status.folder, self.failed[digest], "worker")

    def should_prune(self, digest: str, epoch: int, row: dict[str, float]) -> bool:
        """Whether the pruners of all studies that suggested this trial want it to end."""
        with self._lock:
            if self._in_a_grid(digest):
                return False  # which wants it whole
            try:
                answers = [s.should_prune(digest, epoch, row.get(s.search.prune_metric)) for s in self.studies]
            except StorageInternalError as error:  # the epoch is in the journal, where the study finds it later
                self._note_storage_away(error)
                return False
            return True in answers and False not in answers

    def watched(self, digest: str) -> list[str]:
        """Metrics of each epoch that a pruner may cut this trial by; empty for one that runs to its end."""
        with self._lock:
            if self._in_a_grid(digest):
                return []
            return sorted({each.search.prune_metric for each in self.studies if each.search.pruner in EPOCHWISE})

    def _in_a_grid(self, digest: str) -> bool:
        return any(digest in plan.trials and plan.experiment.file.search is None for plan in self.plans)

    def _add(self, plan: Plan, digest: str, trial: Trial, name: str, *, wanted: bool = True) -> None:
        """Takes a trial in; one that is not wanted (an earlier launch's suggestion, or a seed held back) is only shown and mirrored."""
        if digest not in self.trials:
            self.trials[digest], self.names[digest], self.owner[digest] = trial, name, plan
        elif not wanted or digest in self.running or digest in self.waiting or digest in self.failed:
            return
        state = read_status(self.state_root, digest).state
        if state is State.NEW:
            self.fresh.add(digest)
        if state in (State.DONE, State.FAILED):
            try:
                heal(self.state_root, digest)
            except OSError as error:  # what needs its weights meets this again and fails by it
                logger.warning("%s is sealed, but its files cannot be published: %s", name, error)
        if state is State.FAILED and not self._retry_failed:
            self.failed[digest] = "failed earlier"
        elif state is not State.DONE and wanted:
            self.waiting.append(digest)
            fault = machine_fault(read_status(self.state_root, digest))
            if fault is not None and fault["kind"] == DEVICE_MEMORY:  # of an earlier launch
                self._alone.add(digest)

    def _add_suggestion(self, study: CellStudy, suggestion: Suggestion) -> None:
        from sweeps.plan import short_name

        values = " ".join(
            f"{path.rsplit('.', 1)[-1]}={value:.3g}" if isinstance(value, float) else f"{path}={value}"
            for path, value in suggestion.params.items()
        )
        cell = short_name(study.plan.experiment, study.cell)
        ready = study.ready(suggestion)
        for seed, trial in suggestion.trials.items():
            for digest, each, name in _with_upstream(
                trial, f"#{suggestion.number} {'' if cell == 'all' else cell + ' '}{values} seed={seed}"
            ):
                wanted = seed in ready
                if not wanted and read_status(self.state_root, digest).state is State.NEW:
                    continue
                self._add(study.plan, digest, each, name, wanted=wanted)
                study.plan.trials.setdefault(digest, each)
                study.plan.names.setdefault(digest, name)

    def _ready(self) -> str | None:
        """First of the waiting that can start; reads the directories only of trials that wait for none of this launch."""
        now = time.monotonic()
        to_come = {*self.waiting, *self.running}
        before = len(self.waiting)
        for digest in list(self.waiting):
            upstream = self._upstream_of(digest)
            lost = next((up for up in upstream if up in self.failed), None)
            if lost is not None:
                self._fail(digest, f"its upstream trial {self.names.get(lost, lost[:12])} failed")
            elif not to_come.isdisjoint(upstream):
                continue
            else:
                state = read_status(self.state_root, digest).state
                if state is State.FAILED and digest in self._not_before:
                    self._fail(digest, "failed in another launch")
                elif state is not State.DONE:  # else another launch was faster
                    if self._not_before.get(digest, 0) <= now and all(self._is_done(up) for up in upstream):
                        return digest
                    continue
            self.waiting.remove(digest)
            to_come.discard(digest)
        return self._ready() if len(self.waiting) < before else None  # what stood before them may have waited for them

    def _upstream_of(self, digest: str) -> tuple[str, ...]:
        if digest not in self._upstream:
            self._upstream[digest] = tuple(up.digest() for up in self.trials[digest].upstreams())
        return self._upstream[digest]

    def _is_done(self, digest: str) -> bool:
        """Reads the directory until it is; what is done stays done."""
        if digest not in self._done and read_status(self.state_root, digest).state is State.DONE:
            self._done.add(digest)
        return digest in self._done

    def _fail(self, digest: str, cause: str) -> None:
        self.failed[digest] = cause
        if cause.startswith("its upstream"):
            self.blocked[digest] = cause


def _with_upstream(trial: Trial, name: str) -> list[tuple[str, Trial, str]]:
    found: list[tuple[str, Trial, str]] = []
    for upstream in trial.upstreams():
        found += _with_upstream(upstream, f"teacher {upstream.student} seed={upstream.seed}")
    return [*found, (trial.digest(), trial, name)]
