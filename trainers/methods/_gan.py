"""What methods with one persistent generator share: the generator's updates, fresh images for the student, the checkpoint."""

from __future__ import annotations

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
from trainers.synthesis import generator as generators
from trainers.synthesis.bn_statistics import BNStatistics


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

    The generator is in train mode for its own updates and in eval mode when it makes images for the student.
    """

    needs_features = False

    def __init__(self, config: Any, context: Context) -> None:
        self.config = config
        self.context = context
        self.student_steps: int = config.student_steps
        self.generator = generators.build(
            config.latent_dim,
            context.info.channels,
            context.info.size,
            depth=config.generator_depth,
            width=config.generator_width,
            init=config.generator_init,
            seed=context.seed,
            device=context.device,
        )
        self.optimizer = torch.optim.Adam(
            self.generator.parameters(), lr=config.generator_lr, betas=(config.generator_beta1, config.generator_beta2)
        )
        self.latents = seeding.stream(context.seed, "latent", 0, device=context.device)

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

    def synthesise(self) -> Terms:
        self.generator.train()
        terms: Terms = {}
        for _ in range(self.config.generator_steps):
            terms = self.generator_terms(self.standardised(self.latent()))
            if not terms:  # nothing to learn from
                continue
            self.optimizer.zero_grad(set_to_none=True)
            torch.stack(list(terms.values())).sum().backward()
            self.optimizer.step()
        self.generator.eval()  # the student's images come from running statistics
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
        return standardise_unit(self.generator(latent), self.context.info)

    def after_student_update(self) -> None:
        return  # nothing follows

    def end_epoch(self, epoch: int) -> dict[str, float]:
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.generator.load_state_dict(state["generator"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.eval()

    @torch.no_grad()
    def write_artifacts(self, folder: Path, epoch: int) -> None:
        """Samples, and samples of each class as the teacher decides."""
        stream = seeding.stream(self.context.seed, "artifact", epoch, device=self.context.device)
        size = (max(self.context.protocol.batch_size, artifacts.SAMPLES), self.config.latent_dim)
        raw = self.generator(torch.randn(size, generator=stream, device=self.context.device))
        decisions = self.context.frozen(standardise_unit(raw, self.context.info)).argmax(dim=1)
        artifacts.write_samples(folder / "samples.png", raw)
        artifacts.write_samples_by_class(folder / "samples_by_class.png", raw, decisions)


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
