"""Why trials did not end: failures grouped by cause, the first first, each with what waits for it and the log's place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeps.plan import Plan
from trainers.attempts import State, Status, machine_fault, read_status
from trainers.config import Trial

SHOWN = 5


@dataclass(frozen=True)
class Cause:
    """One cause and the trials that ended by it.

    Attributes:
        cause: as the first of these trials has it; in the others epoch, values or paths may differ.
        kind: "trial": its own fault, which it would have again; "machine": the next run tries again.
        trials: names with their experiments, the first to fail first.
        waiting: names of trials that cannot start before one of these is done.
        log: of the first trial.
        since_ms: when that one failed, since the epoch.
    """

    cause: str
    kind: str
    trials: tuple[str, ...]
    waiting: tuple[str, ...]
    log: str
    since_ms: int

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "cause": self.cause,
            "kind": self.kind,
            "trials": list(self.trials),
            "waiting": list(self.waiting),
            "log": self.log,
        }

    def __str__(self) -> str:
        ended = "failed" if self.kind == "trial" else "ended by the machine, to be tried again by the next run"
        lines = [f"{len(self.trials)} {ended}: {self.cause}", *_listed(self.trials)]
        if self.waiting:
            lines += [f"    {len(self.waiting)} waiting for it:", *(f"    {line}" for line in _listed(self.waiting))]
        return "\n".join([*lines, f"    log: {self.log}"])


@dataclass(frozen=True)
class _Failure:
    since_ms: int
    name: str
    digest: str
    cause: str
    kind: str
    log: str


def causes(plans: Sequence[Plan], state_root: Path) -> list[Cause]:
    """What ended trials of these plans, each trial once; a cause is named before what came of it.

    Causes that differ only in epoch, values or the trial's own path are one.
    """
    names: dict[str, str] = {}
    trials: dict[str, Trial] = {}
    for plan in plans:
        for digest, name in plan.names.items():
            names.setdefault(digest, f"{plan.title} {name}")
            trials.setdefault(digest, plan.trials[digest])
    statuses = {digest: read_status(state_root, digest) for digest in trials}
    groups: dict[tuple[str, str], list[_Failure]] = {}
    for digest, status in statuses.items():
        failure = _failure(digest, names[digest], status)
        if failure is not None:
            groups.setdefault((failure.kind, _alike(failure.cause)), []).append(failure)
    found = []
    for group in groups.values():
        group.sort(key=lambda each: (each.since_ms, each.name))
        waiting = _waiting({each.digest for each in group}, trials, statuses)
        first = group[0]
        found.append(
            Cause(
                first.cause,
                first.kind,
                tuple(each.name for each in group),
                tuple(names[digest] for digest in waiting),
                first.log,
                first.since_ms,
            )
        )
    return sorted(found, key=lambda each: (each.since_ms, each.trials))


def _failure(digest: str, name: str, status: Status) -> _Failure | None:
    log = "" if status.folder is None else str(status.folder / "log.txt")
    if status.state is State.FAILED:
        error = status.entry["error"]
        return _Failure(int(status.entry["timestamp_ms"]), name, digest, str(error["cause"]), "trial", log)
    fault = machine_fault(status)
    if fault is None:
        return None
    return _Failure(int(fault["timestamp_ms"]), name, digest, str(fault["cause"]), "machine", log)


def _alike(cause: str) -> str:
    """The cause without what differs between trials that have it in common: digests, attempts, numbers."""
    without_paths = re.sub(r"[0-9a-f]{2}/[0-9a-f]{64}(/attempts/\d+)?|\b[0-9a-f]{12,64}\b", "<trial>", cause)
    return re.sub(r"(?<![\w.])[-+]?\d+(\.\d+)?(e[-+]?\d+)?(?![\w])", "<n>", without_paths)


def _waiting(failed: set[str], trials: Mapping[str, Trial], statuses: Mapping[str, Status]) -> list[str]:
    """Trials that need one of `failed`, at whatever distance, and have not ended themselves."""

    def needs(trial: Trial) -> bool:
        return any(up.digest() in failed or needs(up) for up in trial.upstreams())

    ended = (State.DONE, State.FAILED)
    return [digest for digest, trial in trials.items() if statuses[digest].state not in ended and needs(trial)]


def _listed(names: Sequence[str]) -> list[str]:
    more = [f"    ... and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return [*(f"    {name}" for name in names[:SHOWN]), *more]
