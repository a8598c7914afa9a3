"""Both forms of the total variation: by hand, by a loop over pixels, and their limits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from trainers.synthesis.total_variation import total_variation_l1, total_variation_l2

SQUARE = torch.tensor([[[[0.0, 1.0], [3.0, 7.0]]]])
# right: 1, 4; down: 3, 6; down-right: 7; down-left: 1 - 3 = -2


def naive(images: Tensor, direction: tuple[int, int]) -> list[float]:
    """Differences between pixels `direction` (down, right) apart."""
    down, right = direction
    height, width = images.shape[2:]
    return [
        float(image[channel, row, column] - image[channel, row + down, column + right])
        for image in images
        for channel in range(images.shape[1])
        for row in range(height - down)
        for column in range(width)
        if 0 <= column + right < width
    ]


def test_by_hand() -> None:
    assert float(total_variation_l1(SQUARE)) == 2.5 + 4.5 + 7 + 2
    assert float(total_variation_l2(SQUARE)) == pytest.approx(math.sqrt(17) + math.sqrt(45) + 7 + 2)


def test_equals_a_loop_over_pixels() -> None:
    images = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    found = [naive(images, direction) for direction in ((0, 1), (1, 0), (1, 1), (1, -1))]
    l1 = sum(sum(abs(each) for each in part) / len(part) for part in found)
    l2 = sum(math.sqrt(sum(each**2 for each in part)) for part in found)
    assert float(total_variation_l1(images)) == pytest.approx(l1, rel=1e-5)
    assert float(total_variation_l2(images)) == pytest.approx(l2, rel=1e-5)


def test_flat_images_have_none_and_a_mean_does_not_grow_with_the_batch() -> None:
    assert float(total_variation_l1(torch.ones(2, 3, 4, 4))) == 0
    assert float(total_variation_l2(torch.ones(2, 3, 4, 4))) == 0
    four = SQUARE.repeat(4, 1, 1, 1)
    assert float(total_variation_l1(four)) == float(total_variation_l1(SQUARE))
    assert float(total_variation_l2(four)) == pytest.approx(2 * float(total_variation_l2(SQUARE)))
