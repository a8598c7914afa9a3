"""The digits in another domain."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from trainers import data
from trainers.config import DataSpec
from trainers.data import DataSet, digits_turned
from trainers.errors import ConfigError

NOWHERE = Path("/nonexistent")


@pytest.fixture(scope="module")
def images() -> DataSet:
    return data.load(DataSpec(name="digits_turned"), NOWHERE)


@pytest.fixture(scope="module")
def upright() -> DataSet:
    return data.load(DataSpec(name="digits"), NOWHERE)


def test_pixels_by_hand() -> None:
    # 1 2    counter-clockwise: the right column comes to the top: 2 4    16 - v: 14 12
    # 3 4                                                          1 3            15 13
    assert digits_turned.turned(np.array([[[1.0, 2.0], [3.0, 4.0]]])).tolist() == [[[14, 12], [15, 13]]]


def test_rows_are_those_of_digits_turned_and_inverted(images: DataSet, upright: DataSet) -> None:
    assert images.val is not None and upright.val is not None
    for one, other in ((images.train, upright.train), (images.val, upright.val), (images.test, upright.test)):
        assert torch.equal(one.labels, other.labels)
        assert one.images.shape == other.images.shape and one.images.dtype == torch.uint8
        assert one.images.is_contiguous()
        back = 255 - torch.rot90(one.images, -1, dims=(2, 3)).int()
        assert (back - other.images.int()).abs().max() <= 1  # level 8 of 16 is 127.5, and both are rounded to 128


def test_levels_are_those_of_sixteen_minus_the_pixel(images: DataSet) -> None:
    pixels, _ = load_digits(return_X_y=True)
    levels = {round((16 - value) * 255 / 16) for value in np.unique(pixels)}
    assert set(images.train.images.unique().tolist()) == levels


def test_constants_are_those_of_the_train_split(images: DataSet) -> None:
    scaled = images.train.images.double() / 255
    assert digits_turned.INFO.mean == pytest.approx((scaled.mean().item(),), abs=1e-12)
    assert digits_turned.INFO.std == pytest.approx((scaled.std(unbiased=False).item(),), abs=1e-12)


def test_limit_keeps_the_same_rows_as_in_digits() -> None:
    few, same = (data.load(DataSpec(name=name, train_per_class=3), NOWHERE) for name in ("digits_turned", "digits"))
    assert torch.equal(few.train.labels, same.train.labels) and len(few.train) == 30


def test_info_and_fields_without_meaning() -> None:
    info = data.info(DataSpec(name="digits_turned"), NOWHERE)
    assert (info.classes, info.channels, info.size, info.has_val, info.flip) == (10, 1, 8, True, False)
    assert digits_turned.content(DataSpec(name="digits_turned"), NOWHERE) is None
    with pytest.raises(ConfigError) as caught:
        data.info(DataSpec(name="digits_turned", folder="x", content="y", holdout_images=5), NOWHERE)
    assert len(caught.value.faults) == 3
