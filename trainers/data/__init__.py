"""Data sets: one file each, with `info(spec, root)` (what networks and plans need), `content` and `load` (images)."""

from __future__ import annotations

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


@dataclass(frozen=True)
class Split:
    """Images (N, C, H, W) uint8 and labels (N,) int64, row i of one belonging to row i of the other."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Split:
        return Split(self.images.to(device), self.labels.to(device))


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


def load(spec: DataSpec, root: Path) -> DataSet:
    """`spec`'s images; see the set's own file for what it raises."""
    return module(spec.name).load(spec, root)
