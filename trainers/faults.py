"""Named places where a test kills this process: between two writes that belong together. Off unless `SWEEPS_FAIL_AT` is set.

    SWEEPS_FAIL_AT="row-written:3:/tmp/marks/first claimed:1:/tmp/marks/second" sweep run mini.toml --profile paper

Each entry is a point, a count and a marker file. The process that passes the point for the count-th time makes the marker and
dies as by a power cut (SIGKILL). Where the marker exists nothing happens, so an entry kills once over all processes and restarts.
"""

from __future__ import annotations

import os
import signal
import threading
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

VARIABLE = "SWEEPS_FAIL_AT"

WORKER = {
    "claim-prepared": "the folder of a new attempt is whole, but has no number yet",
    "claimed": "the attempt has its number, but neither a heartbeat nor `trial.json`",
    "checkpoint-written": "an epoch is in the checkpoint, but not in the journal",
    "row-written": "an epoch is in the journal, but the driver has not heard of it",
    "weights-written": "the weights of the last epoch are written, but the trial is not sealed",
    "sealed": "the trial is sealed as done, but weights and artifacts lie in the attempt still",
    "weights-published": "weights and artifacts are in place, but checkpoints are not freed",
    "checkpoints-freed": "checkpoints are freed, but there is no `result.json`",
    "result-written": "`result.json` is written, but the driver has not heard of it",
}
"""Points that a trial passes in its worker, in their order, and what is then done and not done."""
DRIVER = {
    "suggested": "the queue has handed a trial out, but Tune does not have it",
    "trial-ended": "Tune has heard of a trial's end, but the queue has not",
    "parent-created": "MLflow has the parent run of an experiment, but nobody knows its id",
    "run-created": "MLflow has a trial's run, but the record does not",
    "rows-logged": "MLflow has rows that the record does not know of",
    "end-logged": "MLflow has a trial's result, but shows the run as running",
    "end-shown": "MLflow shows how a trial ended, but the record does not know",
}
"""Points that a driver or `sweep sync` passes."""
POINTS = {**WORKER, **DRIVER}

_lock = threading.Lock()
_passed: dict[str, int] = {}


class _Armed(NamedTuple):
    point: str
    passage: int
    marker: Path


def point(name: str) -> None:
    """Kills this process where `SWEEPS_FAIL_AT` asks for it here and now; else it only looks that variable up.

    Raises:
        ValueError: the variable names an unknown point or is not written as the module says.
    """
    text = os.environ.get(VARIABLE)
    if text:
        _pass(name, text)


def _pass(name: str, text: str) -> None:
    for armed in _armed(text):
        if armed.point != name:
            continue
        with _lock:
            count = _passed[str(armed.marker)] = _passed.get(str(armed.marker), 0) + 1
        if count == armed.passage and _mark(armed):
            os.kill(os.getpid(), signal.SIGKILL)


def _mark(armed: _Armed) -> bool:
    """Makes the marker, which holds the process id; False where another process was first."""
    try:
        with open(armed.marker, "x", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")
    except FileExistsError:
        return False
    return True


@lru_cache(maxsize=1)
def _armed(text: str) -> tuple[_Armed, ...]:
    found: list[_Armed] = []
    faults: list[str] = []
    for entry in text.split():
        name, _, rest = entry.partition(":")
        passage, _, marker = rest.partition(":")
        if name not in POINTS:
            faults.append(f"{VARIABLE}: unknown point {name!r}; known: {', '.join(POINTS)}")
        elif not passage.isdecimal() or int(passage) == 0 or not Path(marker).is_absolute():
            faults.append(f"{VARIABLE}: {entry!r} must be POINT:COUNT:MARKER, a count above 0 and an absolute path")
        else:
            found.append(_Armed(name, int(passage), Path(marker)))
    if faults:
        raise ValueError("\n".join(faults))
    return tuple(found)
