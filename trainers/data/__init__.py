"""Data sets: one file each, with `info(spec, root)` (what networks and plans need), `content` and `load` (images)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol as Interface
from typing import cast

import torch
from torch import Tensor

from trainers import registry
from trainers.config import DataSpec


@dataclass(frozen=True)
class Info:
    """What networks and plans need to know of a data set before an image is read.

    Attributes:
        classes: number of classes.
        channels: colour channels.
        size: height and width in pixels.
        mean, std: per channel, of images scaled to [0, 1].
        crop_padding: zero pixels added on each side before a random crop.
        flip: whether a horizontal flip keeps an image's class.
    """

    classes: int
    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int
    flip: bool
    has_val: bool = False


class Streamed(Interface):
    """N images that do not fit into memory and are read when they are needed; `_stream.Files` is one."""

    def take(self, rows: Tensor) -> Streamed:
        """The images in `rows`, in that order."""

    def batches(
        self, chunks: Sequence[Tensor], generator: torch.Generator | None, device: torch.device
    ) -> Iterator[Tensor]:
        """See `Split.batches`."""


@dataclass(frozen=True)
class Split:
    """Images (N, C, H, W) uint8 and labels (N,) int64, row i of one belonging to row i of the other.

    Attributes:
        images: in memory, on the labels' device; or read when they are needed, which `batches` hides.
        labels: always in memory.
    """

    images: Tensor | Streamed
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Split:
        """Labels, and images that are in memory, on `device`; images that are read later arrive there."""
        images = self.images.to(device) if isinstance(self.images, Tensor) else self.images
        return Split(images, self.labels.to(device))

    def take(self, rows: Tensor) -> Split:
        """The images in `rows`, in that order."""
        images = self.images[rows] if isinstance(self.images, Tensor) else self.images.take(rows)
        return Split(images, self.labels[rows])

    def batches(self, chunks: Sequence[Tensor], generator: torch.Generator | None = None) -> Iterator[Tensor]:
        """The images of each chunk, one chunk after the other.

        Args:
            chunks: row numbers, each (B,) int64, on the labels' device.
            generator: on the CPU. Where given, images that are read from files are cropped at random, drawn from it in the
                order of the chunks; without it, in the middle. Images in memory come as they are and draw nothing.

        Yields:
            (B, C, H, W) uint8 on the labels' device.

        Raises:
            DataError: a file is missing or unreadable.
        """
        if isinstance(self.images, Tensor):
            images = self.images
            return (images[rows] for rows in chunks)
        return self.images.batches(chunks, generator, self.labels.device)


@dataclass(frozen=True)
class DataSet:
    """The splits of one data set; `val` is None where nothing is held out."""

    info: Info
    train: Split
    test: Split
    val: Split | None = None

    def to(self, device: torch.device | str) -> DataSet:
        val = None if self.val is None else self.val.to(device)
        return DataSet(self.info, self.train.to(device), self.test.to(device), val)


class Module(Interface):
    """What a file of this package provides."""

    def info(self, spec: DataSpec, root: Path) -> Info: ...

    def load(self, spec: DataSpec, root: Path) -> DataSet: ...

    def content(self, spec: DataSpec, root: Path) -> str | None: ...


def module(name: str) -> Module:
    """The data set's module.

    Raises:
        ConfigError: unknown name.
    """
    return cast(Module, registry.load("data", name))


def info(spec: DataSpec, root: Path) -> Info:
    """What is known of `spec`'s data set; see the set's own file for what it raises."""
    return module(spec.name).info(spec, root)


def missing(spec: DataSpec, root: Path) -> list[str]:
    """Why `spec`'s images cannot be had, as far as a glance tells; empty where they are there, or are fetched on first use.

    A set that cannot be fetched and whose `info` does not look at its files says so in a function of this name.
    """
    find = getattr(module(spec.name), "missing", None)
    found: list[str] = [] if find is None else find(spec, root)
    return found


def load(spec: DataSpec, root: Path) -> DataSet:
    """`spec`'s images; see the set's own file for what it raises."""
    return module(spec.name).load(spec, root)
