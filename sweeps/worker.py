"""Trials inside a Ray worker: a Tune step is an epoch or a second's worth, and the trial's directory holds all that must survive."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray import tune

from sweeps import parcel

logger = logging.getLogger(__name__)

STEP_S = 1.0
"""How long epochs that no pruner looks at are kept together: a report costs the driver more than a quick epoch."""


class TrialRunner(tune.Trainable):
    """Runs the trial in `config` and, when Tune reuses the actor, the next one.

    A fault of the trial ends it here as failed and leaves the actor fit for the next. A fault of the machine ends the actor;
    the plan suggests the trial again, which then goes on from its last checkpoint.
    """

    _epochs: Iterator[Any] | None

    def setup(self, config: dict[str, Any]) -> None:
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.cleanup()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        """Leaves an unfinished trial free for anybody to continue."""
        if self._epochs is not None:
            close = getattr(self._epochs, "close", None)
            if close is not None:
                close()
            self._epochs = None

    def step(self) -> dict[str, Any]:
        from trainers.attempts import Busy
        from trainers.errors import Fenced, TrainerError

        assert self._epochs is not None
        try:
            return self._advance(self._epochs)
        except Busy as error:
            return {"done": True, "outcome": "busy", "cause": str(error)}
        except Fenced as error:
            return {"done": True, "outcome": "fenced", "cause": str(error)}
        except (TrainerError, OSError, ValueError) as error:
            return {"done": True, "outcome": "failed", "cause": str(error)}
        except RuntimeError as error:
            if type(error).__name__ == "OutOfMemoryError":
                raise
            return {"done": True, "outcome": "failed", "cause": str(error)}

    def _advance(self, epochs: Iterator[Any]) -> dict[str, Any]:
        """The next epoch that the driver must hear of: each one of a watched trial, else what `STEP_S` brings."""
        due = time.monotonic() + (0 if self._watch else STEP_S)
        for epoch in epochs:
            if epoch.last:
                break
            if time.monotonic() >= due:
                seen = {name: epoch.row[name] for name in self._watch if name in epoch.row}
                return {"outcome": "running", "epoch": epoch.number, **seen}
        for _ in epochs:  # the seal comes after the last epoch
            pass
        return {"done": True, "outcome": "done"}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the trial's own checkpoint is the only one."""

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """Nothing: the trial continues from its directory."""

    def _begin(self, config: dict[str, Any]) -> None:
        from trainers.config import Execution, Trial
        from trainers.run import run_trial

        sys.path.extend(path for path in config["path"] if path not in sys.path)  # the user's own modules, after ours
        parcel.add_modules()  # those of a submitted sweep, where this node has them
        self._watch: list[str] = config["watch"]
        self._epochs = run_trial(
            Trial.model_validate_json(config["trial"]),
            Path(config["state"]),
            Path(config["data"]),
            device=config["device"],
            execution=Execution.of_new(config["threads"]),
        )
