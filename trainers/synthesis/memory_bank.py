"""Features of earlier synthetic batches, to be told apart from new ones: a ring in memory, append-only files on disk (CMI)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainers import checkpoint
from trainers.errors import ConfigError, TrialError
from trainers.synthesis.pool import free_gib

LIMIT_GIB = 4.0
"""No bank may hold more: 40 960 entries of all BatchNorm inputs need 0.8 for a WRN-40-2, 1.5 for a ResNet18, 2.6 for a ResNet34."""
CPU = torch.device("cpu")


def size_gib(entries: int, dims: int) -> float:
    """Memory of `entries` pairs of features of `dims` float32 numbers, in GiB."""
    return entries * 2 * dims * 4 / 2**30


def faults(capacity: int, addition: int, dims: int) -> list[str]:
    """Why a bank cannot be kept; empty where it can.

    Args:
        capacity: entries.
        addition: entries that come at a time: the synthesis batch.
        dims: d.
    """
    found = []
    if capacity % addition:
        near = max(1, capacity // addition) * addition
        found.append(
            f"a memory bank of {capacity} entries is no multiple of the synthesis batch {addition}; set bank_images to {near} or {near + addition}, "
            f"or another synthesis_batch"
        )
    if size_gib(capacity, dims) > LIMIT_GIB:
        found.append(
            f"the memory bank would hold {capacity} entries of 2 x {dims} features = {size_gib(capacity, dims):.1f} GiB; at most {LIMIT_GIB:g} GiB "
            f"are allowed: use fewer bank_images or feature_layers = stages"
        )
    return found


class MemoryBank:
    """A first-in first-out ring of (local, global) features on the CPU.

    Each addition is a file that is written once, so that a checkpoint holds only their number. The files of entries that
    have left the ring stay until the trial is done, since an older checkpoint may still be continued from: on disk that is
    2.2 GB for 200 batches of 512 entries with d = 2704.

    Args:
        folder: where the files go: `Context.pool_folder`.
        capacity: entries of the full ring.
        addition: entries that come at a time; divides the capacity.
        dims: d.

    Raises:
        ConfigError: see `faults`; or larger than this machine's free memory.
    """

    def __init__(self, folder: Path, capacity: int, addition: int, dims: int) -> None:
        found = faults(capacity, addition, dims)
        free = free_gib(CPU)
        if not found and size_gib(capacity, dims) > free:
            found = [
                f"the memory bank needs {size_gib(capacity, dims):.1f} GiB, and this machine has {free:.1f} GiB free; use fewer bank_images"
            ]
        if found:
            raise ConfigError(*found)
        self.folder = folder
        self.capacity = capacity
        self.addition = addition
        self._entries = torch.empty((capacity, 2, dims))
        self._additions = 0

    def __len__(self) -> int:
        return min(self._additions * self.addition, self.capacity)

    def append(self, local: Tensor, whole: Tensor) -> None:
        """Adds a batch in place of the oldest one once the ring is full.

        Args:
            local: features of the local views, shape (addition, d).
            whole: features of the global views, shape (addition, d).
        """
        entries = torch.stack([local, whole], dim=1).detach().float().cpu()
        checkpoint.save(self._file(self._additions), {"entries": entries})
        self._place(self._additions, entries)
        self._additions += 1

    def sample(self, count: int, generator: torch.Generator, device: torch.device) -> tuple[Tensor, Tensor]:
        """Local and global features of `count` different entries, or of all where there are fewer.

        Args:
            count: N'.
            generator: on the CPU.
            device: where the features are wanted.

        Returns:
            Two tensors of shape (N', d); row i of both belongs to one image.
        """
        chosen = torch.randperm(len(self), generator=generator)[:count]
        local, whole = self._entries[chosen].to(device).unbind(dim=1)
        return local, whole

    def state_dict(self) -> dict[str, Any]:
        return {"additions": self._additions}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Reads the files of the entries that are in the ring.

        Raises:
            TrialError: a file is missing, corrupt or of another shape.
        """
        self._additions = int(state["additions"])
        for number in range(max(0, self._additions - self.capacity // self.addition), self._additions):
            file = self._file(number)
            if not file.exists():
                raise TrialError(f"{file} is missing: the checkpoint refers to {self._additions} files of features")
            entries = checkpoint.load(file)["entries"]
            if entries.shape != (self.addition, *self._entries.shape[1:]):
                raise TrialError(f"{file} holds features of shape {tuple(entries.shape)}, not of this trial's bank")
            self._place(number, entries)

    def _file(self, number: int) -> Path:
        return self.folder / f"bank_{number:05d}.pt"

    def _place(self, number: int, entries: Tensor) -> None:
        start = number * self.addition % self.capacity
        self._entries[start : start + self.addition] = entries
