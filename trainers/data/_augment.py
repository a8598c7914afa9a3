"""Crop, flip and standardisation of whole batches, on the device the images are on."""

from __future__ import annotations

from functools import lru_cache

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


def flip(images: Tensor, info: Info, generator: torch.Generator) -> Tensor:
    """A horizontal flip of each image with probability 1/2, where `info.flip` allows it; draws in either case."""
    flipped = torch.rand((len(images), 1, 1, 1), generator=generator, device=images.device) < 0.5
    return torch.where(flipped, images.flip(3), images) if info.flip else images


def augment(images: Tensor, info: Info, generator: torch.Generator, *, flips: bool = True) -> Tensor:
    """A random crop of each image padded with zeros (black), then a horizontal flip with probability 1/2.

    Args:
        images: (B, C, H, W) uint8, before standardisation, so that the padding is black and not the mean colour.
        info: `crop_padding` p gives each offset as uniform on 0 ... 2p; `flip` says whether images are flipped at all.
        generator: on the images' device; drawn from also where p is 0 or flip is off.
        flips: False where the images were flipped before.

    Returns:
        (B, C, H, W) uint8.
    """
    batch, channels, height, width = images.shape
    padding, device = info.crop_padding, images.device
    offsets = torch.randint(0, 2 * padding + 1, (2, batch, 1), generator=generator, device=device)
    flipped = torch.rand((batch, 1), generator=generator, device=device) < 0.5
    rows = offsets[0] + torch.arange(height, device=device)  # (B, H)
    columns = offsets[1] + torch.arange(width, device=device)  # (B, W)
    if info.flip and flips:
        columns = torch.where(flipped, columns.flip(1), columns)
    padded = F.pad(images, (padding, padding, padding, padding)).flatten(2)  # (B, C, (H + 2p) (W + 2p))
    source = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]  # (B, H, W), positions in `padded`
    source = source.view(batch, 1, height * width).expand(batch, channels, height * width)
    return padded.gather(2, source).view(batch, channels, height, width)
