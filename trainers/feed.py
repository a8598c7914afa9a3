"""Batches of a training epoch and the teacher's answer to each: made once, for one trial or for several that see the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from trainers import methods, seeding
from trainers.config import Trial
from trainers.data import DataSet
from trainers.data._augment import standardise
from trainers.data._views import VIEWS
from trainers.methods import Output, module
from trainers.models import Network
from trainers.passes import Passes

T = TypeVar("T")


class Common:
    """What trials of one group make once and use together; alone, a trial has one of its own.

    Attributes:
        size: trials that began together.
    """

    def __init__(self, size: int = 1) -> None:
        self.size = size
        self._made: dict[str, Any] = {}

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gave the first time that it was asked for under this name."""
        if name not in self._made:
            self._made[name] = make()
        return cast(T, self._made[name])


class Shown(NamedTuple):
    """One batch as the networks see it.

    Attributes:
        rows: (B,) int64, of the images in the training split.
        images: (B * V, C, H, W) float32, standardised; rows i * V ... i * V + V - 1 are the views of image i.
        teacher: the teacher's answer to `images`, without gradient; None where there is no teacher.
    """

    rows: Tensor
    images: Tensor
    teacher: Output | None


def key(trial: Trial) -> tuple[Any, ...] | None:
    """Equal for trials that see the same batches and the same teacher; None for one that shares its teacher with nobody."""
    file = module(trial.method)
    if trial.kind != "distill" or trial.teacher is None or not file.NEEDS_TEACHER:
        return None
    views = methods.views(trial.method, file.Config.model_validate(dict(trial.hparams)))
    protocol = trial.protocol
    return (
        trial.data.model_dump_json(),
        trial.teacher.name,
        trial.seed,
        trial.precision,
        protocol.batch_size,
        protocol.augment,
        views,
    )


class Feed:
    """The batches of every epoch, in the order of the seed's own stream.

    Only the newest batch is kept. Trials that take turns batch by batch get the same tensors, which none of them changes; one
    that asks for another batch than the newest or the next costs the others nothing but time.

    Args:
        teacher: who answers; frozen, in eval mode.
        views: a name of `trainers.data._views`.
        passes: of the trials that take part.
    """

    def __init__(
        self,
        trial: Trial,
        images: DataSet,
        teacher: Network | None,
        device: torch.device,
        views: str,
        passes: Passes | None = None,
    ) -> None:
        self._trial, self._images, self._teacher, self._device = trial, images, teacher, device
        self._passes = passes or Passes()
        self._views = VIEWS[views]
        self._needs_features = False
        self._epoch, self._step = -1, -1
        self._coming: Iterator[tuple[Tensor, Tensor]] = iter(())
        self._newest: Shown | None = None

    @property
    def count(self) -> int:
        """V, views of each image."""
        return self._views.count

    def join(self, needs_features: bool) -> None:
        """Takes part from now on; the teacher's maps are kept when one of those who do looks at them."""
        self._needs_features |= needs_features

    def epoch(self, epoch: int) -> Iterator[Callable[[], Shown]]:
        """The batches of an epoch, each made when it is called for.

        Raises (when called for):
            DataError: a file of a streamed data set is missing or unreadable.
        """
        for step in range(len(self._chunks(epoch))):
            yield lambda step=step: self._shown(epoch, step)  # type: ignore[misc]

    def _chunks(self, epoch: int) -> list[Tensor]:
        stream = seeding.stream(self._trial.seed, "order", epoch)
        order = torch.randperm(len(self._images.train), generator=stream).to(self._device)
        # BatchNorm cannot take the mean of one sample.
        return [rows for rows in order.split(self._trial.protocol.batch_size) if len(rows) > 1]

    def _made(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows and standardised views of each batch."""
        trial, images, chunks = self._trial, self._images, self._chunks(epoch)
        crops = seeding.stream(trial.seed, "augment", "resized_crop", epoch) if trial.protocol.augment else None
        stream = seeding.stream(trial.seed, "augment", "view0", epoch, device=self._device)
        for rows, read in zip(chunks, images.train.batches(chunks, crops), strict=True):
            pixels = self._views.make(read, images.info, stream, trial.protocol.augment)
            yield rows, standardise(pixels, images.info)

    def _shown(self, epoch: int, step: int) -> Shown:
        if self._newest is None or (epoch, step) != (self._epoch, self._step):
            self._newest = None  # frees its maps before the next ones are made
            if epoch != self._epoch or step <= self._step:
                self._epoch, self._step, self._coming = epoch, -1, self._made(epoch)
            try:
                while self._step < step:
                    rows, images = next(self._coming)
                    self._step += 1
                self._newest = Shown(rows, images, self._taught(images))
            except BaseException:
                self._epoch = -1  # whoever asks next starts from an iterator that was not broken
                raise
        return self._newest

    def _taught(self, images: Tensor) -> Output | None:
        if self._teacher is None:
            return None
        with (
            torch.autocast(self._device.type, torch.bfloat16, enabled=self._trial.precision == "bf16"),
            torch.no_grad(),
        ):
            return self._passes.answer(self._teacher, images, self._needs_features)
