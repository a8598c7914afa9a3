"""Batched crop and flip against a naive loop."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from trainers.data import Info
from trainers.data._augment import augment, standardise, standardise_unit

INFO = Info(classes=2, channels=3, size=6, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0), crop_padding=2, flip=True)


def pixels(batch: int = 64) -> Tensor:
    return torch.randint(1, 256, (batch, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_standardise_is_zero_at_the_mean_and_one_a_std_above() -> None:
    # 255 -> 1: (1 - 0.5) / 0.5 = 1; (1 - 0.25) / 0.25 = 3; (1 - 0) / 1 = 1.  0 -> -1, -1, 0.
    images = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    result = standardise(images, INFO)
    assert result.dtype == torch.float32
    assert result.flatten().tolist() == [-1, -1, 0, 1, 3, 1]


def test_standardise_leaves_the_images_alone() -> None:
    images = pixels()
    before = images.clone()
    standardise(images, INFO)
    assert torch.equal(images, before)


def test_gradient_passes_standardisation_also_after_an_evaluation() -> None:
    info = replace(INFO, mean=(0.1, 0.2, 0.3))  # constants not met before
    with torch.inference_mode():
        standardise_unit(torch.zeros(1, 3, 2, 2), info)
    images = torch.zeros(1, 3, 1, 1, requires_grad=True)
    standardise_unit(images, info).sum().backward()
    assert images.grad is not None
    assert images.grad.flatten().tolist() == [2, 4, 1]  # 1 / std


def test_no_padding_and_no_flip_is_the_identity() -> None:
    images = pixels()
    assert torch.equal(augment(images, replace(INFO, crop_padding=0, flip=False), seeded()), images)


def test_one_seed_gives_one_result_and_another_seed_another() -> None:
    images = pixels()
    assert torch.equal(augment(images, INFO, seeded()), augment(images, INFO, seeded()))
    assert not torch.equal(augment(images, INFO, seeded()), augment(images, INFO, seeded(1)))


@pytest.mark.parametrize("flip", [False, True])
def test_each_image_is_a_slice_of_the_padded_one_flipped_or_not(flip: bool) -> None:
    images = pixels()
    result = augment(images, replace(INFO, flip=flip), seeded(3))
    generator = seeded(3)
    offsets = torch.randint(0, 5, (2, 64, 1), generator=generator)
    flipped = torch.rand((64, 1), generator=generator) < 0.5
    for row, image in enumerate(images):
        padded = torch.zeros(3, 10, 10, dtype=torch.uint8)
        padded[:, 2:8, 2:8] = image
        top, left = int(offsets[0, row]), int(offsets[1, row])
        expected = padded[:, top : top + 6, left : left + 6]
        if flip and flipped[row]:
            expected = expected.flip(2)
        assert torch.equal(result[row], expected)


def test_every_offset_and_both_directions_occur_about_equally_often() -> None:
    image = torch.arange(1, 37, dtype=torch.uint8).view(1, 1, 6, 6).expand(5000, 1, 6, 6)
    result = augment(image, replace(INFO, channels=1), seeded())
    kinds, counts = result.flatten(1).unique(dim=0, return_counts=True)
    assert len(kinds) == 5 * 5 * 2
    assert counts.min() > 60 and counts.max() < 140  # 100 expected, std 10


def test_padding_is_black_before_standardisation() -> None:
    result = augment(torch.full((64, 3, 6, 6), 255, dtype=torch.uint8), INFO, seeded())
    assert set(result.unique().tolist()) == {0, 255}


def test_flip_setting_does_not_change_the_crops_that_follow() -> None:
    with_flip, without = seeded(), seeded()
    augment(pixels(), INFO, with_flip)
    augment(pixels(), replace(INFO, flip=False, crop_padding=0), without)
    assert torch.equal(torch.rand(4, generator=with_flip), torch.rand(4, generator=without))
