"""Random views of synthetic images for contrastive terms: whole batches, seeded, with gradient to the images."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainers.data import Info
from trainers.data._augment import augment

CANDIDATES = 10
"""Boxes drawn for each image; the first that fits is taken, as in the usual random resized crop."""
RATIOS = (3 / 4, 4 / 3)
"""Width over height of a box, uniform in its logarithm."""


def global_view(images: Tensor, info: Info, generator: torch.Generator) -> Tensor:
    """Almost the whole image: padded with black, cropped at a random place, flipped where the data set allows it.

    Args:
        images: shape (B, C, H, W), in [0, 1].
        info: `crop_padding` (4 at 32 pixels) and `flip`.
        generator: on the images' device.

    Returns:
        Shape (B, C, H, W).
    """
    return augment(images.float(), info, generator)


def local_view(images: Tensor, info: Info, smallest: float, generator: torch.Generator) -> Tensor:
    """A random box of each image, resized to the whole, flipped where the data set allows it.

    Args:
        images: shape (B, C, H, W), in [0, 1].
        info: `flip`.
        smallest: share of the image's area that a box has at least; the share is uniform up to 1.
        generator: on the images' device.

    Returns:
        Shape (B, C, H, W), bilinear.
    """
    batch, _, height, width = images.shape
    boxes = random_boxes(batch, smallest, generator, images.device)
    flipped = torch.rand((batch, 1), generator=generator, device=images.device) < 0.5
    rows = _sources(boxes[:, 0], boxes[:, 2], height)
    columns = _sources(boxes[:, 1], boxes[:, 3], width)
    if info.flip:
        columns = torch.where(flipped, columns.flip(1), columns)
    with torch.autocast(images.device.type, enabled=False):
        return _interpolation(rows, height)[:, None] @ images.float() @ _interpolation(columns, width)[:, None].mT


def random_boxes(batch: int, smallest: float, generator: torch.Generator, device: torch.device) -> Tensor:
    """Top, left, height and width of a box of each image, as shares of its sides. Shape (batch, 4).

    Departs from the usual crop where none of the candidates fits: the first is cut at the image's sides, not replaced
    by a box in the middle.
    """
    draws = torch.rand((4, batch, CANDIDATES), generator=generator, device=device)
    area = smallest + (1 - smallest) * draws[0]
    low, high = (math.log(ratio) for ratio in RATIOS)
    ratio = torch.exp(low + (high - low) * draws[1])
    sides = torch.stack([(area / ratio).sqrt(), (area * ratio).sqrt()])  # (2, batch, CANDIDATES)
    first = (sides <= 1).all(dim=0).int().argmax(dim=1)  # the first of several that fit
    heights, widths = sides.gather(2, first.expand(2, batch)[..., None])[..., 0].clamp(max=1)
    return torch.stack([draws[2, :, 0] * (1 - heights), draws[3, :, 0] * (1 - widths), heights, widths], dim=1)


def _sources(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Where the centre of each of `size` output pixels lies among the input's pixels. Shape (B, size)."""
    centres = (torch.arange(size, device=start.device) + 0.5) / size
    return ((start[:, None] + length[:, None] * centres) * size - 0.5).clamp(0, size - 1)


def _interpolation(sources: Tensor, size: int) -> Tensor:
    """Linear weights of each input pixel in each output pixel: max(0, 1 - distance). Shape (B, outputs, size)."""
    return (1 - (sources[:, :, None] - torch.arange(size, device=sources.device)).abs()).clamp(min=0)
