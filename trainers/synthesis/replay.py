"""A ring of earlier synthetic batches that are shown to the student again (MB-DFKD)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainers.data import Info


class Ring:
    """The last `slots` batches, on the device, as standardised float32; the oldest makes room for the next.

    Args:
        slots: number of batches kept.
        images: images in each.
        info: shape of the images.
        device: where they are.
    """

    def __init__(self, slots: int, images: int, info: Info, device: torch.device) -> None:
        self._slots = torch.zeros((slots, images, info.channels, info.size, info.size), device=device)
        self._pushed = 0

    def __len__(self) -> int:
        return min(self._pushed, len(self._slots))

    def push(self, images: Tensor) -> None:
        """Keeps a batch of shape (images, C, H, W)."""
        self._slots[self._pushed % len(self._slots)] = images.float()
        self._pushed += 1

    def draw(self, generator: torch.Generator) -> Tensor:
        """One filled slot with equal chances, shape (images, C, H, W).

        Args:
            generator: on the CPU, so that a GPU need not be waited for.
        """
        return self._slots[int(torch.randint(len(self), (), generator=generator))]

    def filled(self) -> Tensor:
        """Every kept image, shape (N, C, H, W)."""
        return self._slots[: len(self)].flatten(0, 1)

    def state_dict(self) -> dict[str, Any]:
        return {"slots": self._slots[: len(self)].clone(), "pushed": self._pushed}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._pushed = int(state["pushed"])
        self._slots[: len(self)] = state["slots"]
