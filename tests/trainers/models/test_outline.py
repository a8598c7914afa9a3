"""Shapes without arithmetic, against what PyTorch answers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.models._outline import Outline

IMAGES = torch.randn(2, 4, 9, 11)
CALLS: dict[str, Callable[[], Tensor]] = {
    "conv": lambda: F.conv2d(IMAGES, torch.randn(6, 4, 3, 5), torch.randn(6), 2, (1, 2), 1),
    "conv, grouped and dilated": lambda: F.conv2d(IMAGES, torch.randn(6, 2, 3, 3), None, (1, 2), 1, 2, 2),
    "conv, same": lambda: F.conv2d(IMAGES, torch.randn(6, 4, 3, 3), padding="same"),
    "conv, valid": lambda: F.conv2d(IMAGES, torch.randn(6, 4, 3, 3), padding="valid"),
    "conv of one image": lambda: F.conv2d(IMAGES[0], torch.randn(6, 4, 3, 3)),
    "conv, named": lambda: F.conv2d(input=IMAGES, weight=torch.randn(6, 4, 3, 3), stride=2),
    "linear": lambda: F.linear(IMAGES, torch.randn(5, 11), torch.randn(5)),
    "max pooling": lambda: F.max_pool2d(IMAGES, 3, 2, 1),
    "max pooling, named": lambda: F.max_pool2d(IMAGES, kernel_size=(2, 3)),
    "max pooling, rounded up": lambda: F.max_pool2d(IMAGES, 2, ceil_mode=True),
    "mean pooling": lambda: F.avg_pool2d(IMAGES, 3, stride=2, padding=1),
    "mean pooling, rounded up": lambda: F.avg_pool2d(IMAGES, 2, ceil_mode=True, count_include_pad=False),
    "upsampling": lambda: F.interpolate(IMAGES, scale_factor=2),
    "upsampling to a size": lambda: F.interpolate(IMAGES, size=(3, 4)),
    "upsampling by two factors": lambda: F.interpolate(IMAGES, scale_factor=(2.0, 1.5)),
    "mean": lambda: IMAGES.mean((2, 3)),
    "mean, kept": lambda: torch.mean(IMAGES, dim=-1, keepdim=True),
    "mean of all": lambda: IMAGES.mean(),
    "sum along an axis by its other name": lambda: torch.sum(IMAGES, axis=1),  # type: ignore[call-overload]
    "cat": lambda: torch.cat([IMAGES, IMAGES], 1),
    "batch norm": lambda: F.batch_norm(IMAGES, torch.zeros(4), torch.ones(4)),
    "sum of two": lambda: IMAGES + IMAGES.mean(1, keepdim=True),
}


@pytest.mark.parametrize("name", CALLS)
def test_shapes_are_those_of_torch(name: str) -> None:
    expected = CALLS[name]()
    with Outline():
        found = CALLS[name]()
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
