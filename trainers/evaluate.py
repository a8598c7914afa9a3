"""Trials that train nothing: a finished student against a teacher, measured once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainers.train import Row, Setup

VERSION = 1


class EvaluateLoop:
    """One epoch without updates, so that the measurement is recorded like any other."""

    def __init__(self, setup: Setup) -> None:
        self.student = setup.student
        self.total_epochs = 1

    def run_epoch(self, epoch: int) -> Row:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing was trained, so nothing comes back."""

    def write_artifacts(self, folder: Path, epoch: int) -> None:
        """The loyalty histogram, which every trial with a teacher keeps, is all there is."""
