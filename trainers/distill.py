"""Trials that train on images: one epoch is one pass over the training split in the order of the trial's own stream."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainers import seeding
from trainers.data._augment import augment, standardise
from trainers.methods import Batch, Context, DistillMethod, module
from trainers.train import Row, Setup, Sums, clip_gradients, make_optimizer, require_finite, set_learning_rate

VERSION = 1


class DistillLoop:
    """Teacher in eval mode without gradient, student trained on the sum of the method's terms."""

    def __init__(self, setup: Setup) -> None:
        trial = setup.trial
        self.setup = setup
        self.student = setup.student
        self.total_epochs = trial.protocol.epochs
        file = module(trial.method)
        context = Context(
            setup.student, setup.teacher, setup.images.info, trial.protocol, trial.seed, setup.device, setup.pool_folder
        )
        self.method: DistillMethod = file.Method(file.Config.model_validate(dict(trial.hparams)), context)
        self.trained = nn.ModuleDict({"student": setup.student})
        self.optimizer = make_optimizer(trial, self.trained.parameters())

    def run_epoch(self, epoch: int) -> Row:
        trial, images = self.setup.trial, self.setup.images
        rate = set_learning_rate(self.optimizer, trial, epoch)
        device = self.setup.device
        order = torch.randperm(len(images.train), generator=seeding.stream(trial.seed, "order", epoch)).to(device)
        views = seeding.stream(trial.seed, "augment", "view0", epoch, device=device)
        sums = Sums()
        started = time.perf_counter()
        self.trained.train()
        for index in order.split(trial.protocol.batch_size):
            if len(index) == 1:  # BatchNorm cannot take the mean of one sample
                continue
            pixels = images.train.images[index]
            if trial.protocol.augment:
                pixels = augment(pixels, images.info, views)
            batch = standardise(pixels, images.info)
            with torch.autocast(device.type, torch.bfloat16, enabled=trial.precision == "bf16"):
                with torch.no_grad():
                    teacher_logits = None if self.setup.teacher is None else self.setup.teacher(batch)
                student_logits = self.student(batch)
            terms = self.method.terms(Batch(images.train.labels[index], student_logits, teacher_logits))
            loss = torch.stack(list(terms.values())).sum()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            clip_gradients(trial, self.trained.parameters())
            self.optimizer.step()
            sums.add({"train/loss": loss, **{f"train/loss_{name}": value for name, value in terms.items()}})
        row = sums.means()
        require_finite(row, epoch)
        row["train/lr"] = rate
        row["train/images_per_s"] = len(images.train) / (time.perf_counter() - started)
        return row

    def state_dict(self) -> dict[str, Any]:
        return {"trained": self.trained.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.trained.load_state_dict(state["trained"])
        self.optimizer.load_state_dict(state["optimizer"])

    def write_artifacts(self, folder: Path, epoch: int) -> None:
        """A method with data keeps no pictures of its own."""
