"""The digits of `digits` in another domain: turned by 90 degrees counter-clockwise, dark on light; for small transfer experiments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainers.config import DataSpec
from trainers.data import DataSet, Info, _digits

INFO = Info(
    classes=10,
    channels=1,
    size=8,
    mean=(0.6944665366146459,),  # of the train split
    std=(0.3760590718892521,),
    crop_padding=0,  # the padding would be dark strokes on light ground
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
    """The images of `digits` in the same splits, row by row, with the same labels.

    Raises:
        ConfigError: a field that has no meaning here, or more images a class than there are.
    """
    return _digits.load(spec, info(spec, root), turned)


def turned(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """16 - v of (N, 8, 8), the right column on top."""
    return _digits.LEVELS - np.rot90(pixels, axes=(1, 2))
