"""CIFAR-100 (Krizhevsky 2009): 50,000 train and 10,000 test images, 32x32, 100 fine classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trainers.config import DataSpec
from trainers.data import DataSet, Info, _cifar

# Mean and std of HobbitLong/RepDistiller and zju-vipa/DataFree.
INFO = Info(
    classes=100,
    channels=3,
    size=32,
    mean=(0.5071, 0.4867, 0.4408),
    std=(0.2675, 0.2565, 0.2761),
    crop_padding=4,
    flip=True,
)


def info(spec: DataSpec, root: Path) -> Info:
    """What is known without reading an image.

    Raises:
        ConfigError: a field that has no meaning here.
    """
    _cifar.check(spec)
    return replace(INFO, has_val=spec.holdout_images > 0)


def content(spec: DataSpec, root: Path) -> None:
    """None: the archive is fixed."""


def load(spec: DataSpec, root: Path) -> DataSet:
    """Both splits as uint8, downloaded into `root` on demand.

    Raises:
        ConfigError: a field that has no meaning here, or more images asked for than there are.
        DataError: not there, and the download failed.
    """
    return _cifar.load(spec, root, info(spec, root), "CIFAR100")
