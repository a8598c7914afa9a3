"""Trials that never see an image of the data set: cycles of one synthesis step and several student updates on what was made."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from trainers.errors import ConfigError
from trainers.methods import Context, DataFreeMethod, module
from trainers.train import Row, Setup, StudentLoop
from trainers.updates import Sums, clip_gradients, make_optimizer, require_finite, set_learning_rate

VERSION = 1


class DataFreeLoop(StudentLoop):
    """An epoch is `updates_per_epoch` student updates; the student is in eval mode while images are made."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        trial = setup.trial
        if trial.protocol.updates_per_epoch is None or setup.teacher is None or setup.answering is None:
            raise ConfigError(
                f"protocol {trial.protocol.name!r}: a data-free method needs updates_per_epoch and a teacher"
            )
        self.teacher = setup.answering
        self.total_epochs = trial.protocol.epochs
        self.updates_per_epoch = trial.protocol.updates_per_epoch
        file = module(trial.method)
        context = Context(
            setup.student,
            setup.teacher,
            setup.images.info,
            trial.protocol,
            trial.seed,
            setup.device,
            setup.images.train.labels,
            setup.pool_folder,
            setup.execution.fused_optimizer,
        )
        self.method: DataFreeMethod = file.Method(file.Config.model_validate(dict(trial.hparams)), context)
        self.optimizer = make_optimizer(trial, self.student.parameters(), fused=setup.execution.fused_optimizer)

    def run_epoch(self, epoch: int) -> Row:
        trial, device, passes = self.setup.trial, self.setup.device, self.setup.passes
        rate = set_learning_rate(self.optimizer, trial, epoch)
        self.method.start_epoch(epoch)
        sums, seen = Sums(), 0
        started = time.perf_counter()
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=trial.precision == "bf16")
        for first in range(0, self.updates_per_epoch, self.method.student_steps):
            self.student.eval()
            self.student.requires_grad_(False)  # its answer shapes the images, never its own weights
            with autocast:
                synthesis = self.method.synthesise()
            sums.add({f"train/loss_synthesis_{name}": value for name, value in synthesis.items()})
            self.student.requires_grad_(True)
            self.student.train()
            for _ in range(min(self.method.student_steps, self.updates_per_epoch - first)):
                with autocast:
                    images = self.method.images()
                    with torch.no_grad():
                        teacher = passes.answer(self.teacher, images, self.method.needs_features)
                    student = passes.answer(self.student, images, self.method.needs_features)
                terms, logged = self.method.student_terms(student, teacher)
                loss = torch.stack(list(terms.values())).sum()
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                clip_gradients(trial, self.student.parameters())
                self.optimizer.step()
                self.method.after_student_update()
                seen += len(images)
                sums.add({"train/loss": loss, **{f"train/loss_{name}": value for name, value in terms.items()}})
                sums.add({f"train/{name}": value for name, value in logged.items()})
        row = sums.means()
        require_finite(row, epoch)
        row |= {f"train/{name}": value for name, value in self.method.end_epoch(epoch).items()}
        row["train/lr"] = rate
        row["train/images_per_s"] = seen / (time.perf_counter() - started)
        return row

    def state_dict(self) -> dict[str, Any]:
        return {
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "method": self.method.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.student.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.method.load_state_dict(state["method"])

    def write_artifacts(self, folder: Path, epoch: int) -> None:
        self.student.eval()
        self.method.write_artifacts(folder, epoch)
