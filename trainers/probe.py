"""Trials that train a linear layer on a finished network: its features are computed once and kept."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainers import models, seeding
from trainers.data import Info, Split
from trainers.methods import linear_probe
from trainers.methods.linear_probe import probe_loss, trunk_features
from trainers.models import Features, Network
from trainers.train import Row, Setup, StudentLoop
from trainers.updates import Sums, make_optimizer, require_finite, set_learning_rate

VERSION = 1


class Probe(Network):
    """A frozen trunk with a fresh linear layer.

    Args:
        trunk: with its finished weights; its own classifier stays unused.
        classes: of the target data set.
    """

    def __init__(self, trunk: Network, classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.classifier = nn.Linear(trunk.classifier.in_features, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.trunk.features(images).pooled)
        return logits

    def features(self, images: Tensor) -> Features:
        found = self.trunk.features(images)
        return found._replace(logits=self.classifier(found.pooled))


def build(network: str, source: Info, classes: int, seed: int) -> Probe:
    """The trunk as it was built for its own data set, weights to be loaded, and a linear layer from the trial's seed."""
    trunk = models.build(network, classes=source.classes, channels=source.channels, size=source.size)
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(seeding.stream_seed(seed, "weights", "probe"))
        return Probe(trunk, classes)


class ProbeLoop(StudentLoop):
    """Plain SGD on the linear layer; one epoch is one pass over the training features in the order of the trial's stream."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        trial, images, student = setup.trial, setup.images, setup.student
        assert isinstance(student, Probe) and setup.source is not None
        self.total_epochs = trial.protocol.epochs
        student.trunk.requires_grad_(False)
        self.classifier = student.classifier
        splits = [images.train, images.test, *([] if images.val is None else [images.val])]
        self.features = {id(split): self._features(student.trunk, split, setup.source) for split in splits}
        self.optimizer = make_optimizer(trial, self.classifier.parameters(), fused=setup.execution.fused_optimizer)

    def _features(self, trunk: Network, split: Split, source: Info) -> Tensor:
        """Of the frozen trunk, as other probes of it may have computed them before."""
        images, subject = self.setup.images, self.setup.trial.subject
        assert subject is not None
        what = {"what": "features", "version": linear_probe.VERSION, "size": source.size}
        return self.setup.answers.once(
            what, subject, images, split, lambda: trunk_features(trunk, split, images.info, source)
        )

    def run_epoch(self, epoch: int) -> Row:
        trial, train = self.setup.trial, self.setup.images.train
        rate = set_learning_rate(self.optimizer, trial, epoch)
        order = torch.randperm(len(train), generator=seeding.stream(trial.seed, "order", epoch)).to(self.setup.device)
        features, sums, started = self.features[id(train)], Sums(), time.perf_counter()
        for index in order.split(trial.protocol.batch_size):
            loss = probe_loss(self.classifier(features[index]), train.labels[index])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            sums.add({"train/loss": loss})
        row = sums.means()
        require_finite(row, epoch)
        return row | {"train/images_per_s": len(train) / (time.perf_counter() - started), "train/lr": rate}

    @torch.no_grad()
    def predict(self, split: Split) -> Tensor:
        logits: Tensor = self.classifier(self.features[id(split)])
        return logits

    def state_dict(self) -> dict[str, Any]:
        return {"classifier": self.classifier.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.classifier.load_state_dict(state["classifier"])
        self.optimizer.load_state_dict(state["optimizer"])

    def write_artifacts(self, folder: Path, epoch: int) -> None:
        """There is nothing to show but the accuracy."""
