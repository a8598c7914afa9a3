"""What the variants of scikit-learn's digits share: the images, and one split for all of them."""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from trainers.config import DataSpec
from trainers.data import DataSet, Info, Split, _split

TEST_IMAGES = 449  # a quarter
VAL_IMAGES = 270  # 15 %
LEVELS = 16  # the brightest; pixels are whole numbers from 0


def check(spec: DataSpec) -> None:
    """Refuse fields that have no meaning for digits.

    Raises:
        ConfigError: one fault for each that is set.
    """
    not_a_folder = "which comes with scikit-learn; `image_folder` reads folders"
    own_val = "which has a fixed `val` split of its own"
    _split.reject(spec, {"folder": not_a_folder, "content": not_a_folder, "holdout_images": own_val})


def load(spec: DataSpec, info: Info, change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> DataSet:
    """All images as uint8, split 60 / 15 / 25 % into train, val and test; the split is the same for every seed and variant.

    Args:
        spec: which images of train are kept.
        info: of the variant.
        change: (N, 8, 8) of 0 ... 16 -> the variant's, likewise.

    Raises:
        ConfigError: more images a class than there are.
    """
    pixels, labels = _read()
    scaled = np.rint(change(pixels.reshape(-1, 8, 8)) * 255 / LEVELS).astype(np.uint8, order="C")
    everything = Split(torch.from_numpy(scaled).view(-1, 1, 8, 8), torch.from_numpy(labels.astype(np.int64)))
    rest_rows, test_rows = _split.holdout(everything.labels, TEST_IMAGES)
    rest = everything.take(rest_rows)
    train_rows, val_rows = _split.holdout(rest.labels, VAL_IMAGES)
    return _split.finish(spec, info, rest.take(train_rows), everything.take(test_rows), rest.take(val_rows))


def _read() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Pixels (N, 64) and labels (N,), as `sklearn.datasets.load_digits` gives them after it was imported for a second and more."""
    found = importlib.util.find_spec("sklearn")
    assert found is not None and found.submodule_search_locations is not None  # required by this package
    file = Path(found.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    with gzip.open(file, "rt", encoding="ascii") as text:
        rows = np.loadtxt(text, delimiter=",")
    return rows[:, :-1], rows[:, -1].astype(np.int64)
