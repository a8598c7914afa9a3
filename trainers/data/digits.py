"""Handwritten digits of scikit-learn: 1,797 real images, 8x8, one channel, that come with a dependency."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from trainers.config import DataSpec
from trainers.data import DataSet, Info, Split, _split

TEST_IMAGES = 449  # a quarter
VAL_IMAGES = 270  # 15 %

INFO = Info(
    classes=10,
    channels=1,
    size=8,
    mean=(0.3056530566772164,),  # of the train split below
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
    not_a_folder = "which comes with scikit-learn; `image_folder` reads folders"
    own_val = "which has a fixed `val` split of its own"
    _split.reject(spec, {"folder": not_a_folder, "content": not_a_folder, "holdout_images": own_val})
    return INFO


def content(spec: DataSpec, root: Path) -> None:
    """None: the images are fixed."""


def load(spec: DataSpec, root: Path) -> DataSet:
    """All images as uint8, split 60 / 15 / 25 % into train, val and test; the split is the same for every seed.

    Raises:
        ConfigError: a field that has no meaning here, or more images a class than there are.
    """
    known = info(spec, root)
    from sklearn.datasets import load_digits  # takes a second to import

    pixels, labels = load_digits(return_X_y=True)  # (N, 64) of 0 ... 16
    images = torch.from_numpy(np.rint(pixels * 255 / 16).astype(np.uint8)).view(-1, 1, 8, 8)
    everything = Split(images, torch.from_numpy(labels.astype(np.int64)))
    rest_rows, test_rows = _split.holdout(everything.labels, TEST_IMAGES)
    rest = _split.take(everything, rest_rows)
    train_rows, val_rows = _split.holdout(rest.labels, VAL_IMAGES)
    return _split.finish(
        spec, known, _split.take(rest, train_rows), _split.take(everything, test_rows), _split.take(rest, val_rows)
    )
