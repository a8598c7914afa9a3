"""How much neighbouring pixels of synthetic images differ, in the two forms that model inversion is published with."""

from __future__ import annotations

import torch
from torch import Tensor


def total_variation_l1(images: Tensor) -> Tensor:
    """Sum over four directions of the mean absolute difference of neighbours (benchmark of the CMI authors).

        TV = sum_d mean |x_p - x_(p + d)|,  d = right, down, down-right, down-left

    Args:
        images: shape (B, C, H, W).

    Returns:
        Scalar, in the unit of the images; it does not grow with the batch.
    """
    return torch.stack([each.abs().mean() for each in _differences(images)]).sum()


def total_variation_l2(images: Tensor) -> Tensor:
    """Sum over the same four directions of ||x_p - x_(p + d)||_2, not squared (DeepInversion's CIFAR-10 code).

    Args:
        images: shape (B, C, H, W); each norm is taken over the whole batch, so it grows as the root of B C H W.

    Returns:
        Scalar, in the unit of the images.
    """
    return torch.stack([torch.linalg.vector_norm(each) for each in _differences(images)]).sum()


def _differences(images: Tensor) -> tuple[Tensor, ...]:
    images = images.float()
    return (
        images[..., :, :-1] - images[..., :, 1:],
        images[..., :-1, :] - images[..., 1:, :],
        images[..., :-1, :-1] - images[..., 1:, 1:],
        images[..., :-1, 1:] - images[..., 1:, :-1],
    )
