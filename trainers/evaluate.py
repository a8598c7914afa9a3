"""Trials that train nothing: finished weights, alone or against a teacher, measured once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from trainers.data import Split
from trainers.methods import Measurement, Subject, module
from trainers.train import LOGITS, Row, Setup, StudentLoop

VERSION = 1


class EvaluateLoop(StudentLoop):
    """One epoch without updates, so that the measurement is recorded like any other."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.total_epochs = 1
        file = module(setup.trial.method)
        config = file.Config.model_validate(dict(setup.trial.hparams))
        self.method: Measurement = file.Method(config, Subject(setup.student, setup.images))

    def predict(self, split: Split) -> Tensor:
        """The student's logits; measurements against other teachers have the same."""
        images, subject = self.setup.images, self.setup.trial.subject
        assert subject is not None
        self.student.eval()
        return self.setup.answers.once(LOGITS, subject, images, split, lambda: super(EvaluateLoop, self).predict(split))

    def run_epoch(self, epoch: int) -> Row:
        return dict(self.method.measure())

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing was trained, so nothing comes back."""

    def write_artifacts(self, folder: Path, epoch: int) -> None:
        self.method.write_artifacts(folder)
