"""Shares of a GPU by memory: what a trial was measured to take, over what the device has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from sweeps import preflight
from sweeps.prices import cost_key, finished
from trainers import attempts, data
from trainers.attempts import read_status
from trainers.config import PassKind, Trial
from trainers.errors import TrainerError

MIB = 2**20
CONTEXT_MIB = 600.0
"""Of a process on a GPU before its first tensor: torch's allocator does not count it."""
MARGIN = 1.25
"""Times what was measured: the allocator keeps more than it hands out, and trials of one cost differ a little."""
GUESS = 3.0
"""Times the least that a trial can take, where none like it was ever measured."""
MOST = 8
"""Trials on one device: beyond that they only wait for each other."""
STEP = 1e-4
"""Ray counts fractions in these."""


def fraction(need_mib: float, device_mib: float) -> float:
    """Share f of a device for a trial that takes `need_mib`: f = (m n + c) / d rounded up, with 1 / MOST <= f <= 1.

    Shares on a device add up to 1 at most, so what its trials take, margins and contexts included, is at most d.

    Args:
        need_mib: n, its tensors at their peak.
        device_mib: d, all of the device.
    """
    share = (MARGIN * need_mib + CONTEXT_MIB) / device_mib
    steps = math.ceil(round(max(1 / MOST, share) / STEP, 6))
    return min(1.0, steps * STEP)


def records(state_root: Path) -> dict[str, float]:
    """Largest peak in MiB of finished trials on a GPU by `cost_key`; what was in a group counts for all of it, and is left out."""
    found: dict[str, float] = {}
    for each in finished(state_root):
        if each.device != "cuda" or each.together > 1:
            continue
        rows = attempts.rows(read_status(state_root, each.trial.digest()))
        peak = max((row["train/peak_memory_mib"] for row in rows if "train/peak_memory_mib" in row), default=0.0)
        if peak:
            found[each.key] = max(peak, found.get(each.key, 0.0))
    return found


def key(trial: Trial, passes: PassKind = "eager") -> str:
    """Equal for trials that take the same memory on a GPU."""
    return cost_key(trial, "cuda", 0, passes)


class Packer:
    """Gives each trial its share of a GPU.

    Args:
        peaks: MiB by `key`, as recorded or probed.
        device_bytes: memory of the smallest GPU.
    """

    def __init__(self, peaks: Mapping[str, float], device_bytes: float, data_root: Path) -> None:
        self.peaks, self.device_bytes, self.data_root = peaks, device_bytes, data_root

    def __call__(self, trial: Trial, passes: PassKind = "eager") -> float:
        """The share; a whole device where nothing is known."""
        need = self.peaks.get(key(trial, passes))
        if need is None:
            try:
                info = data.info(trial.data.model_copy(update={"content": None}), self.data_root)
            except TrainerError:
                return 1.0
            need = GUESS * preflight.gpu_bytes(trial, info) / MIB
        return fraction(need, self.device_bytes / MIB)
