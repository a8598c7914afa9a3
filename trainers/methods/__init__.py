"""Distillation methods: one file each, with `KIND`, `VERSION`, `Config`, `<name>_loss` functions and a `Method` that joins them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from trainers import registry
from trainers.config import MethodConfig
from trainers.config import Protocol as Recipe
from trainers.data import Info
from trainers.errors import ConfigError
from trainers.models import Features, Network

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Context:
    """What a method may look at when it is built.

    Attributes:
        student: the network in training.
        teacher: frozen, in eval mode; None for methods that need none.
        info: the data set's shape and statistics (never its images).
        protocol: the recipe; `updates_per_epoch` student updates make an epoch.
        seed: the trial's seed, for named streams.
        device: where the tensors are.
        pool_folder: for files that are written once and that the method's state refers to; they follow a continued trial.
    """

    student: Network
    teacher: Network | None
    info: Info
    protocol: Recipe
    seed: int
    device: torch.device
    pool_folder: Path

    @property
    def frozen(self) -> Network:
        """The teacher of a method that declares one."""
        assert self.teacher is not None
        return self.teacher


class Batch(NamedTuple):
    """One training batch of a method with data.

    Attributes:
        labels: (B,) int64.
        student_logits: (B, K).
        teacher_logits: (B, K) without gradient; None where the method needs no teacher.
    """

    labels: Tensor
    student_logits: Tensor
    teacher_logits: Tensor | None


class DistillMethod(Protocol):
    """A method that trains on images. `terms(batch)` gives weighted scalars; their sum is the loss."""

    def __init__(self, config: Any, context: Context) -> None: ...

    def terms(self, batch: Batch) -> Terms: ...


class Output(NamedTuple):
    """What a network answers to a batch.

    Attributes:
        logits: (B, K).
        features: every map; None where the method does not look at them.
    """

    logits: Tensor
    features: Features | None = None

    @property
    def maps(self) -> Features:
        """The features of a method that declares `needs_features`."""
        assert self.features is not None
        return self.features


class DataFreeMethod(Protocol):
    """A method that makes its own images.

    Attributes:
        student_steps: student updates after each call of `synthesise`.
        needs_features: whether `student_terms` looks at feature maps, not only at logits.
    """

    student_steps: int
    needs_features: bool

    def __init__(self, config: Any, context: Context) -> None: ...

    def start_epoch(self, epoch: int) -> None:
        """Called before the first update of epoch `epoch` (from 0)."""

    def synthesise(self) -> Terms:
        """Updates the generator or the images once; returns its loss terms without gradient."""

    def images(self) -> Tensor:
        """A standardised batch (B, C, H, W) without gradient for one student update."""

    def student_terms(self, student: Output, teacher: Output) -> tuple[Terms, Terms]:
        """Weighted loss terms of one student update, and scalars that are only logged."""

    def after_student_update(self) -> None:
        """Called after each student update."""

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """Called after the last update of an epoch; returns the schedule's values in that epoch, to be logged."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that a continued trial needs."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...

    def write_artifacts(self, folder: Path, epoch: int) -> None:
        """Writes sample images and histograms of epoch `epoch` into `folder`."""


def module(name: str) -> ModuleType:
    """The method's file.

    Raises:
        ConfigError: unknown method, or a user's module without the names a method file needs.
    """
    found = registry.load("methods", name)
    missing = [n for n in ("KIND", "VERSION", "NEEDS_TEACHER", "Config") if not hasattr(found, n)]
    if missing:
        raise ConfigError(f"module {name!r} is not a method: it lacks {', '.join(missing)}")
    return found


def config_type(name: str) -> type[MethodConfig]:
    """The method's typed hyper-parameters."""
    kind: type[MethodConfig] = module(name).Config
    return kind


def presets(name: str) -> Mapping[str, Mapping[str, Any]]:
    """Named sets of hyper-parameters of a method, each a published variant."""
    found: Mapping[str, Mapping[str, Any]] = getattr(module(name), "PRESETS", {})
    return found


def faults(name: str, config: MethodConfig, protocol: Recipe, info: Info, teacher: str | None) -> list[str]:
    """What a method refuses before anything starts: a teacher it cannot use, a pool that would not fit into memory.

    Args:
        teacher: the teacher's network, by name.

    Returns:
        One sentence for each fault; methods without a `faults` function have none.
    """
    find = getattr(module(name), "faults", None)
    found: list[str] = [] if find is None else find(config, protocol, info, teacher)
    return found


def traits(name: str) -> Mapping[str, str]:
    """How the method's file describes it in a table of methods; empty where it does not."""
    found: Mapping[str, str] = getattr(module(name), "TRAITS", {})
    return found


def freeze(network: nn.Module) -> None:
    """Eval mode and no gradients: a teacher's state never changes."""
    network.eval()
    network.requires_grad_(False)
