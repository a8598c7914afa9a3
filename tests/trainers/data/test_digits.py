"""scikit-learn's digits."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from trainers import data
from trainers.config import DataSpec
from trainers.data import DataSet, _digits, digits
from trainers.errors import ConfigError

NOWHERE = Path("/nonexistent")


@pytest.fixture(scope="module")
def images() -> DataSet:
    return data.load(DataSpec(name="digits"), NOWHERE)


def test_splits_have_the_declared_sizes_and_shapes(images: DataSet) -> None:
    assert images.val is not None
    assert (len(images.train), len(images.val), len(images.test)) == (1078, 270, 449)
    for split in (images.train, images.val, images.test):
        assert split.images.shape == (len(split), 1, 8, 8)
        assert split.images.dtype == torch.uint8 and split.labels.dtype == torch.int64
        assert torch.bincount(split.labels).max() - torch.bincount(split.labels).min() <= 6  # stratified


def test_every_image_is_in_exactly_one_split_with_its_label(images: DataSet) -> None:
    assert images.val is not None
    pixels, labels = load_digits(return_X_y=True)
    scaled = np.rint(pixels * 255 / 16).astype(int).tolist()
    expected = sorted((*image, int(label)) for image, label in zip(scaled, labels, strict=True))
    found = [
        (*image.flatten().tolist(), int(label))
        for part in (images.train, images.val, images.test)
        for image, label in zip(part.images, part.labels, strict=True)
    ]
    assert sorted(found) == expected
    assert len(set(expected)) == 1797  # no image occurs twice, so none is on both sides


def test_constants_are_those_of_the_train_split(images: DataSet) -> None:
    scaled = images.train.images.double() / 255
    assert digits.INFO.mean == pytest.approx((scaled.mean().item(),), abs=1e-12)
    assert digits.INFO.std == pytest.approx((scaled.std(unbiased=False).item(),), abs=1e-12)


def test_info_and_set_agree(images: DataSet) -> None:
    info = data.info(DataSpec(name="digits"), NOWHERE)
    assert images.info == info
    assert info.has_val and not info.flip and info.crop_padding == 1
    assert digits.content(DataSpec(name="digits"), NOWHERE) is None


def test_limit_keeps_n_a_class_of_train_only(images: DataSet) -> None:
    few = data.load(DataSpec(name="digits", train_per_class=7), NOWHERE)
    assert torch.bincount(few.train.labels).tolist() == [7] * 10
    assert torch.equal(few.test.images, images.test.images)


def test_fields_without_meaning_are_refused_all_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        data.info(DataSpec(name="digits", folder="x", content="y", holdout_images=5), NOWHERE)
    assert len(caught.value.faults) == 3


def test_unknown_data_set_names_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"unknown data set 'digit'.*known: cifar10, cifar100, digits, digits_turned, image_folder"
    ):
        data.load(DataSpec(name="digit"), NOWHERE)


def test_pixels_and_labels_are_those_of_scikit_learn() -> None:
    pixels, labels = _digits._read()
    known = load_digits(return_X_y=True)
    assert np.array_equal(pixels, known[0]) and pixels.dtype == known[0].dtype
    assert np.array_equal(labels, known[1])


def test_digits_are_read_without_scikit_learn_being_imported() -> None:
    code = (
        "import sys; from pathlib import Path; from trainers import data; from trainers.config import DataSpec;"
        "data.load(DataSpec(name='digits'), Path('/')); sys.exit('sklearn' in sys.modules or 'scipy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
