"""Trials that train on images: one epoch is one pass over the training split in the order of the trial's own stream."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from trainers.dot import DOT, dot_step
from trainers.feed import Feed
from trainers.methods import Batch, Context, DistillMethod, FirstStage, Terms, module
from trainers.passes import Passes
from trainers.train import Setup, Step, Steps, StudentLoop
from trainers.updates import Sums, clip_gradients, make_optimizer, require_finite, set_learning_rate

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
            setup.execution.fused_optimizer,
        )
        self.method: DistillMethod = file.Method(file.Config.model_validate(dict(trial.hparams)), context)
        self.stage = self.method.first_stage
        self.first_epochs = 0 if self.stage is None else self.stage.epochs
        self.total_epochs = self.first_epochs + trial.protocol.epochs
        assert "student" not in self.method.modules, "the name of the student itself"
        self.trained = nn.ModuleDict({"student": setup.student, **self.method.modules})
        fused = setup.execution.fused_optimizer
        self.optimizer = (
            DOT.of(trial.protocol, self._optimised())
            if trial.protocol.optimizer == "dot"
            else make_optimizer(trial, self._optimised(), fused=fused)
        )
        if isinstance(self.optimizer, DOT):
            setup.passes.leave_eager(self.student, "optimizer 'dot' goes through its graph twice")
        self.first_optimizer = (
            None if self.stage is None else make_optimizer(trial, iter(self.stage.parameters), fused=fused)
        )
        self.feed = setup.common.once(
            "feed",
            lambda: Feed(trial, setup.images, setup.answering, setup.device, self.method.views, setup.passes),
        )
        self.feed.join(self.method.needs_features)

    def _optimised(self) -> Iterator[nn.Parameter]:
        """What the recipe trains: the student, and what the method's modules leave trainable."""
        yield from self.student.parameters()
        for name, part in self.trained.items():
            if name != "student":
                yield from (parameter for parameter in part.parameters() if parameter.requires_grad)

    def steps(self, epoch: int) -> Steps:
        if self.stage is not None and self.first_optimizer is not None and epoch < self.first_epochs:
            rate = self.stage.rates(epoch)
            for group in self.first_optimizer.param_groups:
                group["lr"] = rate
            row = yield from self._first_epoch(epoch, self.stage, self.first_optimizer)
            return row | {"train/lr": rate}
        rate = set_learning_rate(self.optimizer, self.setup.trial, epoch - self.first_epochs)
        self.trained.train()
        self.method.start_epoch(epoch - self.first_epochs)
        row = yield from self._updates(epoch, self.optimizer, self.method.terms, "train/loss", self.setup.passes)
        row |= {f"train/{name}": value for name, value in self.method.end_epoch().items()}
        return row | {"train/lr": rate}

    def _first_epoch(self, epoch: int, stage: FirstStage, optimizer: torch.optim.Optimizer) -> Steps:
        self.trained.train()
        self.student.train(stage.student_mode == "train")
        stage.prepare()
        return (yield from self._updates(epoch, optimizer, stage.terms, "train/loss_first", Passes()))

    def _updates(self, epoch: int, optimizer: torch.optim.Optimizer, terms_of: Any, name: str, passes: Passes) -> Steps:
        """One pass over the training images; returns the means of the terms.

        The student of a first stage is asked eagerly: a weight that none of its terms reaches must have no gradient, for with one of 0 weight
        decay would shrink it.
        """
        trial, labels, clock = self.setup.trial, self.setup.images.train.labels, self.setup.clock
        sums = Sums()
        started = clock()
        for step, made in enumerate(self.feed.epoch(epoch)):
            yield Step(epoch, step)
            shown = made()
            with torch.autocast(self.setup.device.type, torch.bfloat16, enabled=trial.precision == "bf16"):
                student = passes.answer(self.student, shown.images, self.method.needs_features)
            terms: Terms = terms_of(Batch(shown.rows, labels[shown.rows], student, shown.teacher, self.feed.count))
            loss = torch.stack(list(terms.values())).sum()
            if isinstance(optimizer, DOT):
                dot_step(optimizer, terms)
            else:
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                clip_gradients(trial, self.trained.parameters())
                optimizer.step()
            sums.add({name: loss, **{f"{name}_{term}": value for term, value in terms.items()}})
            del shown, student, terms, loss  # before the next batch, or the next trial, needs the memory
        row = sums.means()
        require_finite(row, epoch)
        row["train/images_per_s"] = len(labels) / (clock() - started)
        return row

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
