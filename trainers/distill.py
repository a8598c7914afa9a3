"""Trials that train on images: one epoch is one pass over the training split in the order of the trial's own stream."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainers import seeding
from trainers.data._augment import standardise
from trainers.data._views import VIEWS
from trainers.dot import DOT, dot_step
from trainers.methods import Batch, Context, DistillMethod, FirstStage, Output, Terms, module
from trainers.models import Network
from trainers.train import (
    Row,
    Setup,
    StudentLoop,
    Sums,
    clip_gradients,
    make_optimizer,
    require_finite,
    set_learning_rate,
)

VERSION = 1


class DistillLoop(StudentLoop):
    """Teacher in eval mode without gradient, student and the method's modules trained on the sum of the method's terms.

    A method with a first stage runs that stage's epochs before the recipe's, with an optimiser of its own.
    """

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        trial = setup.trial
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
        )
        self.method: DistillMethod = file.Method(file.Config.model_validate(dict(trial.hparams)), context)
        self.stage = self.method.first_stage
        self.first_epochs = 0 if self.stage is None else self.stage.epochs
        self.total_epochs = self.first_epochs + trial.protocol.epochs
        assert "student" not in self.method.modules, "the name of the student itself"
        self.trained = nn.ModuleDict({"student": setup.student, **self.method.modules})
        split = trial.protocol.optimizer == "dot"
        self.optimizer = (
            DOT.of(trial.protocol, self._optimised()) if split else make_optimizer(trial, self._optimised())
        )
        self.first_optimizer = None if self.stage is None else make_optimizer(trial, iter(self.stage.parameters))

    def _optimised(self) -> Iterator[nn.Parameter]:
        """What the recipe trains: the student, and what the method's modules leave trainable."""
        yield from self.student.parameters()
        for name, part in self.trained.items():
            if name != "student":
                yield from (parameter for parameter in part.parameters() if parameter.requires_grad)

    def run_epoch(self, epoch: int) -> Row:
        if self.stage is not None and self.first_optimizer is not None and epoch < self.first_epochs:
            rate = self.stage.rates(epoch)
            for group in self.first_optimizer.param_groups:
                group["lr"] = rate
            return self._first_epoch(epoch, self.stage, self.first_optimizer) | {"train/lr": rate}
        rate = set_learning_rate(self.optimizer, self.setup.trial, epoch - self.first_epochs)
        self.trained.train()
        self.method.start_epoch(epoch - self.first_epochs)
        row = self._updates(epoch, self.optimizer, self.method.terms, "train/loss")
        row |= {f"train/{name}": value for name, value in self.method.end_epoch().items()}
        return row | {"train/lr": rate}

    def _first_epoch(self, epoch: int, stage: FirstStage, optimizer: torch.optim.Optimizer) -> Row:
        self.trained.train()
        self.student.train(stage.student_mode == "train")
        stage.prepare()
        return self._updates(epoch, optimizer, stage.terms, "train/loss_first")

    def _updates(self, epoch: int, optimizer: torch.optim.Optimizer, terms_of: Any, name: str) -> Row:
        """One pass over the training images; returns the means of the terms."""
        trial, images, device = self.setup.trial, self.setup.images, self.setup.device
        order = torch.randperm(len(images.train), generator=seeding.stream(trial.seed, "order", epoch)).to(device)
        # BatchNorm cannot take the mean of one sample.
        chunks = [index for index in order.split(trial.protocol.batch_size) if len(index) > 1]
        crops = seeding.stream(trial.seed, "augment", "resized_crop", epoch) if trial.protocol.augment else None
        stream = seeding.stream(trial.seed, "augment", "view0", epoch, device=device)
        views = VIEWS[self.method.views]
        sums = Sums()
        started = time.perf_counter()
        for index, read in zip(chunks, images.train.batches(chunks, crops), strict=True):
            pixels = views.make(read, images.info, stream, trial.protocol.augment)
            batch = standardise(pixels, images.info)
            with torch.autocast(device.type, torch.bfloat16, enabled=trial.precision == "bf16"):
                with torch.no_grad():
                    teacher = None if self.setup.teacher is None else self._answer(self.setup.teacher, batch)
                student = self._answer(self.student, batch)
            terms: Terms = terms_of(Batch(index, images.train.labels[index], student, teacher, views.count))
            loss = torch.stack(list(terms.values())).sum()
            if isinstance(optimizer, DOT):
                dot_step(optimizer, terms)
            else:
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                clip_gradients(trial, self.trained.parameters())
                optimizer.step()
            sums.add({name: loss, **{f"{name}_{term}": value for term, value in terms.items()}})
        row = sums.means()
        require_finite(row, epoch)
        row["train/images_per_s"] = len(images.train) / (time.perf_counter() - started)
        return row

    def _answer(self, network: Network, images: Tensor) -> Output:
        if not self.method.needs_features:
            return Output(network(images))
        features = network.features(images)
        return Output(features.logits, features)

    def state_dict(self) -> dict[str, Any]:
        state = {"trained": self.trained.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.first_optimizer is not None:
            state["first_optimizer"] = self.first_optimizer.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.trained.load_state_dict(state["trained"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.first_optimizer is not None:
            self.first_optimizer.load_state_dict(state["first_optimizer"])

    def write_artifacts(self, folder: Path, epoch: int) -> None:
        self.student.eval()
        if epoch >= self.first_epochs:
            self.method.write_artifacts(folder, epoch - self.first_epochs, self.setup.images)
