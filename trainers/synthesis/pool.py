"""Synthetic images that stay: an append-only pool of 8-bit images in files beside the checkpoint (DeepInversion, CMI)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainers import checkpoint
from trainers.data import Info
from trainers.data._augment import augment, standardise
from trainers.errors import ConfigError, TrialError

LIMIT_GIB = 16.0
"""No pool may hold more: the papers' largest, 400 batches of 1024 images of 64x64, needs 4.7."""


def size_gib(images: int, info: Info) -> float:
    """Memory of `images` 8-bit images in GiB."""
    return images * info.channels * info.size**2 / 2**30


def faults(capacity: int, info: Info) -> list[str]:
    """Why a pool of `capacity` images cannot be kept; empty where it can."""
    asked = size_gib(capacity, info)
    if asked <= LIMIT_GIB:
        return []
    return [
        f"the image pool would hold {capacity} images of {info.size}x{info.size} pixels = {asked:.1f} GiB; at most {LIMIT_GIB:g} GiB "
        f"are allowed: use fewer epochs or a smaller synthesis batch"
    ]


class ImagePool:
    """Everything synthesised so far, in memory as uint8 and on disk as one file for each addition.

    Files are written once and never again, so an epoch costs one addition however large the pool is; the checkpoint
    holds only their number, and a continued trial reads them back. Nothing is ever evicted.

    Args:
        folder: where the files go: `Context.pool_folder`.
        capacity: images that the whole trial will add; memory is reserved for them at once.
        info: shape of the images.
        device: where batches are drawn.

    Raises:
        ConfigError: larger than `LIMIT_GIB`, or than this machine's free memory.
    """

    def __init__(self, folder: Path, capacity: int, info: Info, device: torch.device) -> None:
        found = faults(capacity, info)
        free = free_gib(device)
        if not found and size_gib(capacity, info) > free:
            found = [
                f"the image pool needs {size_gib(capacity, info):.1f} GiB for {capacity} images, and {device.type} has {free:.1f} GiB free; "
                f"use fewer epochs, a smaller synthesis batch, or a larger machine"
            ]
        if found:
            raise ConfigError(*found)
        self.folder = folder
        self.info = info
        self._images = torch.empty((capacity, info.channels, info.size, info.size), dtype=torch.uint8, device=device)
        self._count = 0
        self._additions = 0

    def __len__(self) -> int:
        return self._count

    def append(self, images: Tensor) -> None:
        """Adds a batch.

        Args:
            images: shape (N, C, H, W), float in [0, 1]; rounded to 8 bits.
        """
        pixels = (images.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
        checkpoint.save(self._file(self._additions), {"images": pixels.cpu()})
        self._add(pixels)

    def batches(self, size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Endless standardised batches, cropped and flipped as training images are: shuffled passes over the pool as it is now.

        Args:
            size: B; a pool that is smaller gives batches of all its images. What is left over of a pass is dropped.
            generator: on the pool's device; orders and augments.

        Yields:
            Shape (B, C, H, W), float32.
        """
        count = self._count
        while True:
            order = torch.randperm(count, generator=generator, device=self._images.device)
            for index in order.split(size):
                if len(index) == min(size, count):
                    yield standardise(augment(self._images[index], self.info, generator), self.info)

    def newest(self, count: int) -> Tensor:
        """The images added last, in order, at most `count`. Shape (N, C, H, W), float in [0, 1]."""
        return self._images[max(0, self._count - count) : self._count].float() / 255

    def state_dict(self) -> dict[str, Any]:
        return {"additions": self._additions, "images": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Reads the files that a checkpoint refers to; later ones, of an epoch that was cut off, are written anew.

        Raises:
            TrialError: a file is missing or corrupt.
        """
        self._count = self._additions = 0
        for number in range(int(state["additions"])):
            file = self._file(number)
            if not file.exists():
                raise TrialError(f"{file} is missing: the checkpoint refers to {state['additions']} files of images")
            self._add(checkpoint.load(file)["images"].to(self._images.device))
        if self._count != int(state["images"]):
            raise TrialError(f"{self.folder} holds {self._count} images, the checkpoint refers to {state['images']}")

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:05d}.pt"

    def _add(self, pixels: Tensor) -> None:
        self._images[self._count : self._count + len(pixels)] = pixels
        self._count += len(pixels)
        self._additions += 1


def free_gib(device: torch.device) -> float:
    """Memory that could be taken now, in GiB; on Linux what the kernel holds only as a cache counts as free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2**30
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) / 2**20  # kB
    except (OSError, StopIteration):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
