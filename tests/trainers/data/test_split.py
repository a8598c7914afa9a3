"""Fixed stratified choices of training images."""

import pytest
import torch

from trainers.config import DataSpec
from trainers.data import _split
from trainers.errors import ConfigError

LABELS = torch.tensor([0, 1, 2, 2, 1, 2, 2, 1, 2, 2] * 10)  # 10, 30 and 60 of the three classes


def test_holdout_takes_each_class_in_proportion() -> None:
    kept, held = _split.holdout(LABELS, 20)
    assert torch.bincount(LABELS[held]).tolist() == [2, 6, 12]
    assert sorted(kept.tolist() + held.tolist()) == list(range(100))


def test_largest_remainders_make_up_the_sum() -> None:
    # 25 of 100: 2.5, 7.5, 15; one image is left after rounding down and the tie goes to the lower class.
    _, held = _split.holdout(LABELS, 25)
    assert torch.bincount(LABELS[held]).tolist() == [3, 7, 15]


def test_choice_is_the_same_in_every_version() -> None:
    # RandomState(0).permutation(100) starts 26 86 2 55 75 93 16 73 54 95 53 92 78 13 7 30. A row's last digit tells its
    # class (0: class 0; 1, 4, 7: class 1). Shares of 5 are 0.5, 1.5, 3, so 1 + 1 + 3 rows: 30; 54; 26, 86, 2.
    _, held = _split.holdout(LABELS, 5)
    assert held.tolist() == [2, 26, 30, 54, 86]


def test_holdout_that_empties_a_class_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"data\.holdout_images: 96 of 100"):
        _split.holdout(LABELS, 96)
    with pytest.raises(ConfigError, match=r"data\.holdout_images: 200 of 100"):
        _split.holdout(LABELS, 200)


def test_limit_keeps_that_many_of_each_class_and_a_smaller_one_is_a_subset() -> None:
    few, more = _split.per_class(LABELS, 3), _split.per_class(LABELS, 7)
    assert torch.bincount(LABELS[few]).tolist() == [3, 3, 3]
    assert set(few.tolist()) < set(more.tolist())
    assert few.tolist() == sorted(few.tolist())


def test_limit_above_a_class_is_an_error_that_names_the_class() -> None:
    with pytest.raises(ConfigError, match=r"data\.train_per_class: 11, but class 0 has 10"):
        _split.per_class(LABELS, 11)


def test_every_field_without_meaning_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        _split.reject(DataSpec(name="x", folder="f", holdout_images=3), {"folder": "a", "holdout_images": "b"})
    assert [fault.split(":")[0] for fault in caught.value.faults] == ["data.folder", "data.holdout_images"]
