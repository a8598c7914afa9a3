"""MB-DFKD, third-party re-implementation (gaurav104/LRA): PRE-DFKD's novel generator with a ring of earlier images.

No official code was found for the method of Binici et al. (WACV 2022, arXiv 2108.05698).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from trainers import artifacts, seeding
from trainers.config import Epochs
from trainers.methods import Case, Context
from trainers.methods._novel import NovelConfig, NovelMethod, novel_faults
from trainers.synthesis.replay import Ring

KIND = "datafree"
VERSION = 1
NEEDS_TEACHER = True
TRAITS = {
    "Target": "Memory",
    "Student": "Yes",
    "Dynamic": "Yes",
}  # of the third-party form: as PRE-DFKD, which lends its loss


class Config(NovelConfig):
    """Defaults: the CIFAR-100 ResNet34 -> ResNet18 configuration of the third-party re-implementation (LRA's `MB-DFKD.json`)."""

    memory_slots: int = Field(10, gt=0, description="batches that the ring keeps (third-party re-implementation)")
    push_every: Epochs = Field(
        5, gt=0, description="epochs from one batch that is kept to the next (third-party re-implementation)"
    )


PRESETS: Mapping[str, Mapping[str, Any]] = {"third-party-cifar100": {}, "batch-js": {"js_reduction": "batch"}}
"""third-party-cifar100: LRA's configuration. batch-js: with the batch mean of DeepInversion's JS term, as in `predfkd`."""


def faults(config: Config, case: Case) -> list[str]:
    """Sizes that the generator cannot make, and batches of which nothing is kept."""
    return novel_faults(config, case.protocol, case.info, least=1)


def is_kept(epoch: int, push_every: int) -> bool:
    """Whether the last batch of epoch `epoch` (from 0) goes into the ring: after the first epoch and every `push_every` then."""
    return epoch % push_every == 0


class Method(NovelMethod):
    """Student batches are B novel images and, once there are any, the B / 8 of one slot of the ring, drawn for each update."""

    config: Config

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.ring = Ring(config.memory_slots, self.replayed, context.info, context.device)
        self.novel = torch.empty(0)
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        self.slots = seeding.stream(self.context.seed, "slot", epoch)

    @torch.no_grad()
    def images(self) -> Tensor:
        self.novel = self.novel_images()
        if len(self.ring) == 0:
            return self.novel
        return torch.cat([self.novel, self.ring.draw(self.slots)])

    def after_student_update(self) -> None:
        return  # nothing follows

    def end_epoch(self, epoch: int) -> dict[str, float]:
        if is_kept(epoch, self.config.push_every):
            self.ring.push(self.novel[: self.replayed])
        return {"memory_batches": float(len(self.ring))}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"ring": self.ring.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.ring.load_state_dict(state["ring"])

    def write_artifacts(self, folder: Path, epoch: int) -> None:
        """Novel samples, and what the ring holds."""
        super().write_artifacts(folder, epoch)
        if len(self.ring):
            artifacts.write_samples(folder / "memory.png", self.pixels(self.ring.filled()))
