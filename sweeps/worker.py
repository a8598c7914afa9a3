"""Trials inside a Ray worker: a Tune step is an epoch or a second's worth, and the trial's directory holds all that must survive."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune

from sweeps import parcel

if TYPE_CHECKING:
    from trainers.config import PassKind

logger = logging.getLogger(__name__)

STEP_S = 1.0
"""How long epochs that no pruner looks at are kept together: a report costs the driver more than a quick epoch."""
UNEVEN_S = 30.0
"""How much longer where a member stands ahead, and waits for the others."""


class TrialRunner(tune.Trainable):
    """Runs the trials in `config` together, usually one, and, when Tune reuses the actor, the next ones.

    A trial ends here alone: done, failed by its own fault, or taken by somebody else. A fault of the machine ends the actor of a
    lone trial, and a member of a group without the others; the queue hands the trial out again, and it goes on from its last
    checkpoint.
    """

    _events: Iterator[tuple[int, Any]] | None

    def setup(self, config: dict[str, Any]) -> None:
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        """Leaves unfinished trials free for anybody to continue."""
        if self._events is not None:
            close = getattr(self._events, "close", None)
            if close is not None:
                close()
            self._events = None

    def step(self) -> dict[str, Any]:
        """Goes on until the driver must hear of it: each epoch of a watched trial, else what `STEP_S` brings.

        A group is then between epochs, where it may have to yield: every member has finished as many as the others.
        """
        from trainers.group import Ended

        assert self._events is not None
        due, ended = time.monotonic() + STEP_S, list[tuple[str, str, str]]()
        for index, event in self._events:
            if isinstance(event, Ended):
                outcome, cause = _outcome(event.error)
                if event.error is not None and outcome == "crashed" and len(self._digests) == 1:
                    raise event.error
                ended.append((self._digests[index], outcome, cause))
                del self._at[index]
            elif event.last:
                continue  # its seal comes now
            else:
                self._at[index] = event.number
                if self._watch[index]:
                    seen = {name: event.row[name] for name in self._watch[index] if name in event.row}
                    return {"ended": ended, "digest": self._digests[index], "epoch": event.number, **seen}
            level = len(set(self._at.values())) == 1 or time.monotonic() >= due + UNEVEN_S
            if self._at and level and time.monotonic() >= due:
                return {"ended": ended}
        return {"ended": ended, "done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the trial's own checkpoint is the only one."""

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Nothing: the trial continues from its directory."""

    def _begin(self, config: dict[str, Any]) -> None:
        from trainers.config import Execution, Trial
        from trainers.group import run_group

        sys.path.extend(path for path in config["path"] if path not in sys.path)  # the user's own modules, after ours
        parcel.add_modules()  # those of a submitted sweep, where this node has them
        self._digests: list[str] = config["digests"]
        self._watch: list[list[str]] = config["watch"]
        self._at = dict.fromkeys(range(len(self._digests)), -1)  # last epoch of each member that has not ended
        self._events = run_group(
            [Trial.model_validate_json(trial) for trial in config["trials"]],
            Path(config["state"]),
            Path(config["data"]),
            device=config["device"],
            execution=Execution.of_new(config["threads"], config["passes"]),
        )


def _outcome(error: Exception | None) -> tuple[str, str]:
    """How a trial ended, as `Queue.release` takes it, and why."""
    from trainers.attempts import Busy
    from trainers.errors import Fenced, TrainerError

    if error is None:
        return "done", ""
    if isinstance(error, Busy):
        return "busy", str(error)
    if isinstance(error, Fenced):
        return "fenced", str(error)
    out_of_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if isinstance(error, TrainerError | OSError | ValueError | RuntimeError) and not out_of_memory:
        return "failed", str(error)
    return "crashed", str(error)


def peak_memory_mib(trial: str, data_root: str, device: str, passes: PassKind, path: list[str]) -> float:
    """Peak memory of a trial, given as JSON, over a few updates on fresh networks.

    Raises:
        TrainerError, RuntimeError: it cannot be run, or not on this device.
    """
    from trainers.config import Execution, Trial
    from trainers.timing import probe

    sys.path.extend(each for each in path if each and each not in sys.path)
    execution = Execution.of_new(1, passes)
    return probe(
        Trial.model_validate_json(trial), Path(data_root), device=device, execution=execution, most_s=0.0
    ).peak_memory_mib
