"""Which trial comes next: a trial becomes ready when its upstream is done; searches are asked when nothing else is waiting."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from sweeps.plan import Plan
from sweeps.search import CellStudy, Suggestion
from trainers.attempts import State, machine_fault, note_machine_fault, read_status
from trainers.config import Trial

logger = logging.getLogger(__name__)

MACHINE_RETRIES = 3
DEVICE_MEMORY = "device_memory"
BUSY_WAIT_S = 10.0


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
        self.failed: dict[str, str] = {}
        self.blocked: dict[str, str] = {}
        self._not_before: dict[str, float] = {}
        self._crashes: dict[str, int] = {}
        self._alone: set[str] = set()
        self._retry_failed = retry_failed
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
            for study in self.studies:
                study.tell()
            digest = self._ready()
            if digest is None:
                for study in self.studies:
                    if any(
                        d in self.waiting or d in self.blocked
                        for each in study.open.values()
                        for d in each.digests.values()
                    ):
                        continue  # to ask now would be to ask without the values that are still to come
                    suggestion = study.ask()
                    if suggestion is not None:
                        self._add_suggestion(study, suggestion)
                        study.tell()  # it may be a trial that is already known
                        return self.next()
            if digest is not None:
                self.waiting.remove(digest)
                self.running.add(digest)
            return digest

    def expected(self) -> int:
        """Trials of this launch, those that searches have yet to suggest included."""
        with self._lock:
            to_come = [(study.total - len(study.asked())) * len(study.plan.seeds) for study in self.studies]
            return len(self.trials) + sum(max(number, 0) for number in to_come)

    def finished(self) -> bool:
        """Whether nothing runs and nothing can become ready any more."""
        with self._lock:
            return not self.waiting and not self.running and all(self._over(study) for study in self.studies)

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
                "fenced" (somebody else has it).
        """
        with self._lock:
            self.running.discard(digest)
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
        """Whether the pruner of the study that suggested this trial wants it to end."""
        with self._lock:
            if any(digest in plan.trials and plan.experiment.file.search is None for plan in self.plans):
                return False  # a grid wants it whole
            for study in self.studies:
                value = row.get(study.search.prune_metric)
                if value is not None and study.should_prune(digest, epoch, value):
                    return True
            return False

    def _add(self, plan: Plan, digest: str, trial: Trial, name: str, *, wanted: bool = True) -> None:
        """Takes a trial in; one that is not wanted (an earlier launch's suggestion) is only shown and mirrored."""
        if digest in self.trials:
            return
        self.trials[digest], self.names[digest], self.owner[digest] = trial, name, plan
        state = read_status(self.state_root, digest).state
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
        for seed, trial in suggestion.trials.items():
            for digest, each, name in _with_upstream(
                trial, f"#{suggestion.number} {'' if cell == 'all' else cell + ' '}{values} seed={seed}"
            ):
                state = read_status(self.state_root, digest).state
                wanted = suggestion.number in study.open and state is not State.STOPPED
                if not wanted and state is State.NEW:
                    continue
                self._add(study.plan, digest, each, name, wanted=wanted)
                study.plan.trials.setdefault(digest, each)
                study.plan.names.setdefault(digest, name)

    def _ready(self) -> str | None:
        now = time.monotonic()
        for digest in list(self.waiting):
            upstream = [up.digest() for up in self.trials[digest].upstreams()]
            lost = next((up for up in upstream if up in self.failed), None)
            if lost is not None:
                self._fail(digest, f"its upstream trial {self.names.get(lost, lost[:12])} failed")
                self.waiting.remove(digest)
                continue
            state = read_status(self.state_root, digest).state
            if state is State.DONE:  # another launch was faster
                self.waiting.remove(digest)
                continue
            if state is State.FAILED and digest in self._not_before:
                self._fail(digest, "failed in another launch")
                self.waiting.remove(digest)
                continue
            if self._not_before.get(digest, 0) > now:
                continue
            if all(read_status(self.state_root, up).state is State.DONE for up in upstream):
                return digest
        return None

    def _fail(self, digest: str, cause: str) -> None:
        self.failed[digest] = cause
        if cause.startswith("its upstream"):
            self.blocked[digest] = cause


def _with_upstream(trial: Trial, name: str) -> list[tuple[str, Trial, str]]:
    found: list[tuple[str, Trial, str]] = []
    for upstream in trial.upstreams():
        found += _with_upstream(upstream, f"teacher {upstream.student} seed={upstream.seed}")
    return [*found, (trial.digest(), trial, name)]
