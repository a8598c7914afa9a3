"""Handwritten digits of scikit-learn: 1,797 real images, 8x8, one channel, that come with a dependency."""

from __future__ import annotations

from pathlib import Path

from trainers.config import DataSpec
from trainers.data import DataSet, Info, _digits

INFO = Info(
    classes=10,
    channels=1,
    size=8,
    mean=(0.3056530566772164,),  # of the train split
    std=(0.3761208915152327,),
    crop_padding=1,
    flip=False,  # a mirrored digit is no digit
    has_val=True,
)


def info(spec: DataSpec, root: Path) -> Info:
    """What is known without reading an image.

    Raises:
        ConfigError: a field that has no meaning here.
    """
    _digits.check(spec)
    return INFO


def content(spec: DataSpec, root: Path) -> None:
    """None: the images are fixed."""


def load(spec: DataSpec, root: Path) -> DataSet:
    """All images as uint8, split 60 / 15 / 25 % into train, val and test; the split is the same for every seed.

    Raises:
        ConfigError: a field that has no meaning here, or more images a class than there are.
    """
    return _digits.load(spec, info(spec, root), lambda pixels: pixels)
