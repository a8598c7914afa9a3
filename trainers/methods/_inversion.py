"""What methods that invert the teacher once an epoch share: the pool of all images so far, the student's loss, the checkpoint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from trainers import artifacts, seeding
from trainers.config import MethodConfig, Protocol
from trainers.data import Info
from trainers.data._augment import standardise_unit
from trainers.methods import Context, Output, Terms
from trainers.methods._losses import kl_per_sample
from trainers.synthesis import pool as pools
from trainers.synthesis.pool import ImagePool


class InversionConfig(MethodConfig):
    """How many images an epoch adds, and what the student makes of them."""

    synthesis_batch: int | None = Field(
        None,
        gt=0,
        description="images made at once, before each epoch's student updates; None: the protocol's batch (benchmark)",
    )
    temperature: float = Field(20.0, gt=0, description="T of the student's KL (benchmark's scripts)")


def synthesis_batch(config: InversionConfig, protocol: Protocol) -> int:
    """Images that one synthesis call adds to the pool."""
    return config.synthesis_batch or protocol.batch_size


def pool_faults(config: InversionConfig, protocol: Protocol, info: Info) -> list[str]:
    """Why a trial's images cannot all be kept; empty where they can."""
    return pools.faults(protocol.epochs * synthesis_batch(config, protocol), info)


class Lowest:
    """Copies of what came with the lowest loss so far; decided on the device, so nothing waits for it."""

    def __init__(self) -> None:
        self.tensors: tuple[Tensor, ...] = ()
        self._loss = torch.zeros(())

    def offer(self, loss: Tensor, *tensors: Tensor) -> None:
        """Takes `tensors` where `loss` is below every earlier one.

        Args:
            loss: scalar.
            tensors: of the same shapes each time.
        """
        loss, found = loss.detach(), tuple(tensor.detach() for tensor in tensors)
        if not self.tensors:
            self._loss, self.tensors = loss, tuple(tensor.clone() for tensor in found)
            return
        better = loss < self._loss
        self._loss = torch.where(better, loss, self._loss)
        self.tensors = tuple(torch.where(better, new, old) for new, old in zip(found, self.tensors, strict=True))


class InversionMethod(ABC):
    """An epoch begins with one call of the method's `invert`, whose images join a pool that the whole epoch draws from."""

    needs_features = False

    def __init__(self, config: Any, context: Context) -> None:
        updates = context.protocol.updates_per_epoch
        assert updates is not None  # the loop has seen to it
        self.config = config
        self.context = context
        self.student_steps: int = updates
        self.synthesis_batch = synthesis_batch(config, context.protocol)
        capacity = context.protocol.epochs * self.synthesis_batch
        self.pool = ImagePool(context.pool_folder, capacity, context.info, context.device)
        self.epoch = 0
        self._batches: Iterator[Tensor] = iter(())

    @abstractmethod
    def invert(self) -> tuple[Tensor, Terms]:
        """A new batch of images in [0, 1], shape (N, C, H, W), and the weighted terms of the last update that made them."""

    def stream(self, name: str, device: torch.device | str | None = None) -> torch.Generator:
        """The stream `name` of this epoch."""
        return seeding.stream(self.context.seed, name, self.epoch, device=device or self.context.device)

    def labels(self) -> Tensor:
        """A class for each image of a batch, uniform, in rising order. Shape (N,), int64."""
        size = (self.synthesis_batch,)
        stream = self.stream("labels")
        drawn = torch.randint(self.context.info.classes, size, generator=stream, device=self.context.device)
        return drawn.sort().values

    def start_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def synthesise(self) -> Terms:
        images, terms = self.invert()
        self.pool.append(images)
        self._batches = self.pool.batches(self.context.protocol.batch_size, self.stream("pool"))
        return {name: value.detach() for name, value in terms.items()}

    @torch.no_grad()
    def images(self) -> Tensor:
        return next(self._batches)

    def student_terms(self, student: Output, teacher: Output) -> tuple[Terms, Terms]:
        return {"kd": kl_per_sample(student.logits, teacher.logits, self.config.temperature).mean()}, {}

    def after_student_update(self) -> None:
        return  # nothing follows

    def end_epoch(self, epoch: int) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"pool": self.pool.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.pool.load_state_dict(state["pool"])

    @torch.no_grad()
    def write_artifacts(self, folder: Path, epoch: int) -> None:
        """The newest images, and those of each class as the teacher decides."""
        newest = self.pool.newest(max(self.synthesis_batch, artifacts.SAMPLES))
        decisions = self.context.frozen(standardise_unit(newest, self.context.info)).argmax(dim=1)
        artifacts.write_samples(folder / "samples.png", newest)
        artifacts.write_samples_by_class(folder / "samples_by_class.png", newest, decisions)
