"""What methods with one persistent generator share: the generator's updates, fresh images for the student, the checkpoint."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from trainers import artifacts, seeding
from trainers.config import MethodConfig
from trainers.data._augment import standardise_unit
from trainers.methods import Context, Output, Terms
from trainers.protocols import learning_rate
from trainers.synthesis import generator as generators
from trainers.synthesis.bn_statistics import BNStatistics
from trainers.synthesis.dafl_generator import DaflGenerator
from trainers.synthesis.generator import Generator


class GeneratorConfig(MethodConfig):
    """The generator of the CMI authors' benchmark (zju-vipa/DataFree) and its updates."""

    latent_dim: int = Field(256, gt=0, description="dimensions of z (benchmark)")
    generator_depth: int = Field(2, ge=1, description="number of x2 upsamplings (2 at 32 pixels, 3 at 64)")
    generator_width: int = Field(64, gt=0, description="maps before the last convolution (benchmark)")
    generator_init: Literal["normal", "default"] = Field(
        "default", description="normal: N(0, 0.02) (CuDFKD); default: PyTorch's (benchmark)"
    )
    generator_lr: float = Field(1e-3, gt=0, description="Adam, constant (benchmark)")
    generator_beta1: float = Field(0.5, ge=0, lt=1, description="Adam (benchmark; 0.9 in CuDFKD's fork)")
    generator_beta2: float = Field(0.999, ge=0, lt=1, description="Adam (benchmark; 0.99 in CuDFKD's fork)")
    generator_steps: int = Field(1, gt=0, description="generator updates in each cycle (benchmark)")
    student_steps: int = Field(5, gt=0, description="student updates in each cycle (benchmark)")


class GeneratorMethod(ABC):
    """A cycle updates the generator on the method's `generator_terms`, then the student on fresh images.

    Attributes:
        batch_statistics: False: while one of generator and student learns, the other normalises with its running
            statistics (benchmark). True: both always by the batch, in train mode, as the originals do; then the
            student's running statistics also follow the images of the generator's updates.
        follows_schedule: whether the generator's learning rate keeps its ratio to the student's.
        clip_norm: largest norm of the generator's gradient; None: no limit.
    """

    needs_features = False
    batch_statistics = False
    follows_schedule = False
    clip_norm: float | None = None

    def __init__(self, config: Any, context: Context) -> None:
        self.config = config
        self.context = context
        self.student_steps: int = config.student_steps
        self.generator = self.new_generator().to(memory_format=context.memory_format)  # type: ignore[call-overload]
        self.optimizer = context.adam(
            self.generator.parameters(), lr=config.generator_lr, betas=(config.generator_beta1, config.generator_beta2)
        )
        self.latents = seeding.stream(context.seed, "latent", 0, device=context.device)

    def new_generator(self) -> Generator | DaflGenerator:
        """The benchmark's topology; a method with another one replaces this."""
        config, context = self.config, self.context
        return generators.build(
            config.latent_dim,
            context.info.channels,
            context.info.size,
            depth=config.generator_depth,
            width=config.generator_width,
            init=config.generator_init,
            seed=context.seed,
            device=context.device,
        )

    @abstractmethod
    def generator_terms(self, images: Tensor) -> Terms:
        """Weighted terms of one generator update; none where every weight is 0.

        Args:
            images: standardised, shape (B, C, H, W), with gradient to the generator.
        """

    @abstractmethod
    def student_terms(self, student: Output, teacher: Output) -> tuple[Terms, Terms]:
        """Weighted terms of one student update, and scalars that are only logged."""

    def start_epoch(self, epoch: int) -> None:
        self.latents = seeding.stream(self.context.seed, "latent", epoch, device=self.context.device)
        protocol, rate = self.context.protocol, self.config.generator_lr
        for group in self.optimizer.param_groups:
            group["lr"] = rate * learning_rate(protocol, epoch) / protocol.lr if self.follows_schedule else rate

    def synthesise(self) -> Terms:
        self.generator.train()
        self.context.student.train(self.batch_statistics)
        terms: Terms = {}
        for _ in range(self.config.generator_steps):
            terms = self.generator_terms(self.standardised(self.latent()))
            if not terms:  # nothing to learn from
                continue
            self.optimizer.zero_grad(set_to_none=True)
            torch.stack(list(terms.values())).sum().backward()
            if self.clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(self.generator.parameters(), self.clip_norm)
            self.optimizer.step()
        self.generator.train(self.batch_statistics)
        self.context.student.eval()
        return {name: value.detach() for name, value in terms.items()}

    @torch.no_grad()
    def images(self) -> Tensor:
        return self.standardised(self.latent())

    def latent(self) -> Tensor:
        """Fresh z ~ N(0, I), shape (B, Z)."""
        size = (self.context.protocol.batch_size, self.config.latent_dim)
        return torch.randn(size, generator=self.latents, device=self.context.device)

    def standardised(self, latent: Tensor) -> Tensor:
        """Images of `latent` as student and teacher take them, shape (B, C, H, W)."""
        return self._standardised(self.generator(latent))

    def _standardised(self, made: Tensor) -> Tensor:
        return made if self.generator.standardised else standardise_unit(made, self.context.info)

    def _pixels(self, made: Tensor) -> Tensor:
        """What the generator made as pixels in [0, 1]; colours outside are clipped."""
        if not self.generator.standardised:
            return made
        mean, std = (
            made.new_tensor(value).view(1, -1, 1, 1) for value in (self.context.info.mean, self.context.info.std)
        )
        return (made * std + mean).clamp(0, 1)

    def after_student_update(self) -> None:
        return  # nothing follows

    def end_epoch(self, epoch: int) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.generator.load_state_dict(state["generator"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.train(self.batch_statistics)

    @torch.no_grad()
    def write_artifacts(self, folder: Path, epoch: int) -> None:
        """Samples, and samples of each class as the teacher decides."""
        stream = seeding.stream(self.context.seed, "artifact", epoch, device=self.context.device)
        size = (max(self.context.protocol.batch_size, artifacts.SAMPLES), self.config.latent_dim)
        generator = copy.deepcopy(self.generator)  # in train mode its running statistics would move
        made = generator(torch.randn(size, generator=stream, device=self.context.device))
        decisions = self.context.frozen(self._standardised(made)).argmax(dim=1)
        pixels = self._pixels(made)
        artifacts.write_samples(folder / "samples.png", pixels)
        artifacts.write_samples_by_class(folder / "samples_by_class.png", pixels, decisions)


def original_generator(
    config: GeneratorConfig, context: Context, *, output: Literal["tanh_bn", "bn"], eps: float = 1e-5
) -> DaflGenerator:
    """The generator of a method's original authors (DAFL, ZSKT, DFAD).

    Args:
        output: how it ends.
        eps: of the BatchNorm layers after convolutions.
    """
    info = context.info
    return generators.fresh(
        lambda: DaflGenerator(
            config.latent_dim, info.channels, info.size, width=config.generator_width, eps=eps, output=output
        ),
        init=config.generator_init,
        seed=context.seed,
        device=context.device,
    )


class TeacherView:
    """One pass of the teacher over synthetic images, with the BatchNorm term and the pooled feature where they are asked for.

    Args:
        context: of the trial.
        statistics: whether `bn` is wanted.
        pooled: whether `pooled` is wanted.
    """

    def __init__(self, context: Context, *, statistics: bool, pooled: bool) -> None:
        self.teacher = context.frozen
        self.statistics = BNStatistics(context.frozen) if statistics else None
        self.wants_pooled = pooled
        self.bn = self.pooled = torch.zeros(())

    def logits(self, images: Tensor) -> Tensor:
        """Logits (B, K) with gradient to the images; sets `bn` and `pooled` (B, d)."""
        if self.statistics is None:
            return self._logits(images)
        with self.statistics:
            logits = self._logits(images)
        self.bn = self.statistics.total()
        return logits

    def _logits(self, images: Tensor) -> Tensor:
        if not self.wants_pooled:
            found: Tensor = self.teacher(images)
            return found
        features = self.teacher.features(images)
        self.pooled = features.pooled
        return features.logits
