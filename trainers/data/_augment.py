"""Crop, flip and standardisation of whole batches, on the device the images are on."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.data import Info


def standardise(images: Tensor, info: Info) -> Tensor:
    """(x / 255 - mean) / std per channel.

    Args:
        images: (B, C, H, W) uint8.
        info: holds mean and std.

    Returns:
        (B, C, H, W) float32.
    """
    return standardise_unit(images.float().div_(255), info)


def standardise_unit(images: Tensor, info: Info) -> Tensor:
    """(x - mean) / std per channel, with gradient.

    Args:
        images: (B, C, H, W) float, in [0, 1]: what a generator makes.
        info: holds mean and std.

    Returns:
        (B, C, H, W), of the images' type.
    """
    mean, std = _constants(info.mean, info.std, images.device, images.dtype)
    return (images - mean) / std


@lru_cache(maxsize=16)
def _constants(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Both as (1, C, 1, 1). Kept, because copying them to a GPU for each batch would make the host wait for it."""
    with torch.inference_mode(False):  # an inference tensor kept from an evaluation could not enter a gradient later
        shape = (1, len(mean), 1, 1)
        return (
            torch.tensor(mean, device=device, dtype=dtype).view(shape),
            torch.tensor(std, device=device, dtype=dtype).view(shape),
        )


class Draw(NamedTuple):
    """What one batch is changed by.

    Attributes:
        offsets: (2, B, 1) int64, of the crop's first row and column in the padded image.
        flipped: (B, 1) bool.
    """

    offsets: Tensor
    flipped: Tensor


def draw(images: Tensor, info: Info, generator: torch.Generator) -> Draw:
    """Offsets uniform on 0 ... 2 p, p being `crop_padding`, and a flip with probability 1/2; drawn also where neither is used."""
    batch, device = len(images), images.device
    offsets = torch.randint(0, 2 * info.crop_padding + 1, (2, batch, 1), generator=generator, device=device)
    return Draw(offsets, torch.rand((batch, 1), generator=generator, device=device) < 0.5)


def augment(images: Tensor, info: Info, generator: torch.Generator) -> Tensor:
    """A random crop of each image padded with zeros (black), then a horizontal flip with probability 1/2.

    Args:
        images: (B, C, H, W) uint8, before standardisation, so that the padding is black and not the mean colour.
        info: `crop_padding` says how far a crop may be off; `flip` says whether images are flipped at all.
        generator: on the images' device; drawn from also where the padding is 0 or flip is off.

    Returns:
        (B, C, H, W) uint8.
    """
    return cropped(images, info, draw(images, info, generator))


def cropped(images: Tensor, info: Info, drawn: Draw, *, flips: bool = True) -> Tensor:
    """The crop and flip of one draw; without `flips` the crop alone."""
    batch, channels, height, width = images.shape
    padding, device = info.crop_padding, images.device
    rows = drawn.offsets[0] + torch.arange(height, device=device)  # (B, H)
    columns = drawn.offsets[1] + torch.arange(width, device=device)  # (B, W)
    if info.flip and flips:
        columns = torch.where(drawn.flipped, columns.flip(1), columns)
    padded = F.pad(images, (padding, padding, padding, padding)).flatten(2)  # (B, C, (H + 2p) (W + 2p))
    source = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]  # (B, H, W), positions in `padded`
    source = source.view(batch, 1, height * width).expand(batch, channels, height * width)
    return padded.gather(2, source).view(batch, channels, height, width)


def mirrored(images: Tensor, info: Info, drawn: Draw) -> Tensor:
    """The flip of one draw alone."""
    return torch.where(drawn.flipped[:, :, None, None], images.flip(3), images) if info.flip else images
