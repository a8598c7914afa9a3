"""Distillation methods: one file each, with `KIND`, `VERSION`, `Config`, `<name>_loss` functions and a `Method` that joins them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Adam

from trainers import registry
from trainers.config import MethodConfig
from trainers.config import Protocol as Recipe
from trainers.data import DataSet, Info
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
        labels: (N,) int64, of the training split, on `device`; a data-free method never looks at them.
        pool_folder: for files that are written once and that the method's state refers to; they follow a continued trial.
        fused_optimizer: whether what `adam` makes updates all weights in one kernel.
    """

    student: Network
    teacher: Network | None
    info: Info
    protocol: Recipe
    seed: int
    device: torch.device
    labels: Tensor
    pool_folder: Path
    fused_optimizer: bool = False

    @property
    def frozen(self) -> Network:
        """The teacher of a method that declares one."""
        assert self.teacher is not None
        return self.teacher

    @property
    def memory_format(self) -> torch.memory_format:
        """Of the student's weights (`trainers.train.make_ready`): a network of the method's own that makes its images takes it too."""
        last = (
            weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
            for weight in self.student.parameters()
            if weight.dim() == 4
        )
        return torch.channels_last if any(last) else torch.contiguous_format

    def adam(self, parameters: Iterable[Tensor], *, lr: float, betas: tuple[float, float] = (0.9, 0.999)) -> Adam:
        """The optimiser of what a method trains besides the student: a generator, images, a head."""
        return Adam(parameters, lr=lr, betas=betas, fused=self.fused_optimizer or None)


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


class Batch(NamedTuple):
    """One training batch of a method with data.

    Attributes:
        rows: (B,) int64, of the images in the training split: what memory banks are addressed by.
        labels: (B,) int64.
        student: the student's answer to all views, rows i * V ... i * V + V - 1 belonging to image i.
        teacher: likewise, without gradient; None where the method needs no teacher.
        views: V, 1 unless the method declares others.
    """

    rows: Tensor
    labels: Tensor
    student: Output
    teacher: Output | None
    views: int = 1

    @property
    def student_logits(self) -> Tensor:
        """Of view 0, shape (B, K)."""
        return self.student.logits[:: self.views]

    @property
    def teacher_logits(self) -> Tensor:
        """Of view 0, shape (B, K), without gradient."""
        return self.taught.logits[:: self.views]

    @property
    def taught(self) -> Output:
        """The teacher's answer of a method that declares one."""
        assert self.teacher is not None
        return self.teacher


@dataclass(frozen=True)
class FirstStage:
    """Epochs before the recipe's own, in which something else is trained: connectors, a paraphraser, the teacher's head.

    Attributes:
        epochs: how many, at the scale of the trial's protocol.
        rates: learning rate of each epoch from 0.
        parameters: what the optimiser of this stage gets; those of the student among them where its trunk is trained.
        terms: of a batch, like the method's own.
        student_mode: "eval": the student's BatchNorm statistics stay; "train": they move.
        prepare: called at the start of each epoch, after modes were set.
    """

    epochs: int
    rates: Callable[[int], float]
    parameters: Sequence[nn.Parameter]
    terms: Callable[[Batch], Terms]
    student_mode: Literal["train", "eval"] = "eval"
    prepare: Callable[[], None] = lambda: None


class DistillMethod(ABC):
    """A method that trains on images. `terms(batch)` gives weighted scalars; their sum is the loss.

    Attributes:
        needs_features: whether it looks at maps or pooled features, not only at logits.
        views: a name of `trainers.data._views`: what the networks see of one image.
        modules: trained or kept beside the student: adapters, heads, banks. Parameters with `requires_grad` are optimised with
            the student, in its group; parameters and buffers of all are part of the checkpoint.
        first_stage: what is trained before; None for methods with one stage.
    """

    needs_features = False
    views = "plain"
    first_stage: FirstStage | None = None

    def __init__(self, config: Any, context: Context) -> None:
        self.config = config
        self.context = context
        self.modules = nn.ModuleDict()

    @abstractmethod
    def terms(self, batch: Batch) -> Terms:
        """Weighted terms of one update."""

    def start_epoch(self, epoch: int) -> None:
        """Called before the first update of epoch `epoch` (from 0, first-stage epochs not counted)."""
        return

    def end_epoch(self) -> dict[str, float]:
        """Called after the last update of an epoch; returns scalars to be logged."""
        return {}

    def write_artifacts(self, folder: Path, epoch: int, images: DataSet) -> None:
        """Writes what figures need of epoch `epoch` (from 0, first-stage epochs not counted) into `folder`."""
        return


@dataclass(frozen=True)
class Subject:
    """Finished weights that are measured.

    Attributes:
        network: frozen, in eval mode.
        images: the data set.
    """

    network: Network
    images: DataSet


class Measurement:
    """A method of kind "evaluate": trains nothing. Test accuracy, and agreement where there is a teacher, are measured anyway."""

    def __init__(self, config: Any, subject: Subject) -> None:
        self.config = config
        self.subject = subject

    def measure(self) -> dict[str, float]:
        """Further metrics, by full name."""
        return {}

    def write_artifacts(self, folder: Path) -> None:
        """Writes what figures need into `folder`."""
        return


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


class Case(NamedTuple):
    """What a method is asked to serve, known before any image or weight is read.

    Attributes:
        protocol: the recipe.
        info: shape of the images.
        student: the student's network, by name.
        teacher: the teacher's, or None.
    """

    protocol: Recipe
    info: Info
    student: str
    teacher: str | None


def faults(name: str, config: MethodConfig, case: Case) -> list[str]:
    """What a method refuses before anything starts: a pair it cannot serve, a pool that would not fit into memory.

    Returns:
        One sentence for each fault; methods without a `faults` function have none.
    """
    find = getattr(module(name), "faults", None)
    found: list[str] = [] if find is None else find(config, case)
    return found


def synthesis_images(name: str, config: MethodConfig, protocol: Recipe) -> int:
    """Images that go through teacher and generator to be improved in one epoch, for estimates of cost.

    A method whose synthesis is not one batch for each `generator_steps` says so in a function of this name in its file.
    """
    count = getattr(module(name), "synthesis_images", None)
    if count is not None:
        return int(count(config, protocol))
    cycles = math.ceil((protocol.updates_per_epoch or 0) / getattr(config, "student_steps", 1))
    return cycles * int(getattr(config, "generator_steps", 1)) * protocol.batch_size


def views(name: str, config: MethodConfig) -> str:
    """What the networks see of one image: a name of `trainers.data._views`, for estimates of cost.

    A method of kind "distill" whose views depend on its hyper-parameters says so in a function of this name in its file.
    """
    choose = getattr(module(name), "views", None)
    found = getattr(module(name).Method, "views", "plain") if choose is None else choose(config)
    return str(found)


def traits(name: str) -> Mapping[str, str]:
    """How the method's file describes it in a table of methods; empty where it does not."""
    found: Mapping[str, str] = getattr(module(name), "TRAITS", {})
    return found


def freeze(network: nn.Module) -> None:
    """Eval mode and no gradients: a teacher's state never changes."""
    network.eval()
    network.requires_grad_(False)
