"""What PRE-DFKD and MB-DFKD share: the novel generator with its loss, and the student's loss over novel and replayed images."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from trainers import artifacts, seeding
from trainers.config import MethodConfig, Protocol
from trainers.data import Info
from trainers.methods import Context, Output, Terms
from trainers.methods._losses import activation_loss, class_balance, js_divergence, l1_per_sample, one_hot_loss
from trainers.synthesis import vae

LOG10_E = 1 / math.log(10)
"""0.4343: log10 x = 0.4343 ln x. The released weight of the class balance goes with log10."""


class NovelConfig(MethodConfig):
    """Defaults: the CIFAR-100 ResNet34 -> ResNet18 command of PRE-DFKD's released code."""

    one_hot: float = Field(1.0, ge=0, description="weight of the teacher's one-hot loss (released code)")
    balance: float = Field(5.0, ge=0, description="weight of the class balance in log10 units (released code)")
    activation: float = Field(0.1, ge=0, description="weight of the activation loss (released code)")
    disagreement: float = Field(1.0, ge=0, description="weight of 1 - JS(student, teacher) (released code)")
    js_reduction: Literal["element", "batch"] = Field(
        "element",
        description="element: mean over B x K (released code); batch: sum over the classes, mean over B (DeepInversion's code)",
    )
    latent_dim: int = Field(1000, gt=0, description="dimensions of z (released code)")
    generator_width: int = Field(64, gt=0, description="maps before the generator's last convolution (released code)")
    generator_lr: float = Field(0.02, gt=0, description="Adam, constant (released code)")
    generator_steps: int = Field(1, gt=0, description="generator updates in each cycle (released code)")
    student_steps: int = Field(10, gt=0, description="student updates in each cycle (released code)")
    replay_share: float = Field(
        0.125, gt=0, le=1, description="replayed images beside each novel one: B / 8 (released code)"
    )

    def inactive(self) -> frozenset[str]:
        return frozenset({"js_reduction"} if self.disagreement == 0 else ())

    def replayed(self, batch_size: int) -> int:
        """Replayed images in each student batch."""
        return int(self.replay_share * batch_size)


def novel_faults(config: NovelConfig, protocol: Protocol, info: Info, *, least: int) -> list[str]:
    """Image sizes that the networks cannot make, and batches of which too few images are replayed."""
    found = []
    if info.size % 4 or info.size < 8:
        found.append(f"the generator needs an image size of at least 8 that 4 divides, got {info.size}")
    replayed = config.replayed(protocol.batch_size)
    if replayed < least:
        found.append(
            f"replay_share {config.replay_share:g} of batch_size {protocol.batch_size} gives {replayed} replayed images; "
            f"at least {least} are needed"
        )
    return found


def disagreement_loss(student_logits: Tensor, teacher_logits: Tensor, reduction: Literal["element", "batch"]) -> Tensor:
    """What draws the generator to images on which the student differs from the teacher (released code, `JS_divergence`).

        1 - clip(J, 0, 1),  J of `js_divergence` at T = 3, divided by K under `element`

    Args:
        student_logits: s, shape (B, K), with gradient to the images.
        teacher_logits: t, shape (B, K); receives no gradient.

    Returns:
        Scalar in [0, 1]. The mean over B x K makes the term at most about 1 / K of the batch mean's.
    """
    divergence = js_divergence(student_logits, teacher_logits.detach())
    if reduction == "element":
        divergence = divergence / student_logits.shape[1]
    return 1 - divergence.clamp(0, 1)


def novel_loss(student_logits: Tensor | None, teacher_logits: Tensor, pooled: Tensor, config: NovelConfig) -> Terms:
    """Weighted terms of the novel generator; their sum is its loss (released code, `train_novel_generator`).

        one_hot * CE(t, argmax t) + balance * sum_c pbar_c log10 pbar_c - activation * mean |f| + disagreement * (1 - clip(J, 0, 1))

    Args:
        student_logits: s, shape (B, K); None where disagreement is 0.
        teacher_logits: t, shape (B, K), with gradient to the images.
        pooled: f, the teacher's pooled feature, shape (B, d), likewise.

    Returns:
        The terms whose weight is not 0.
    """
    terms: Terms = {}
    if config.one_hot > 0:
        terms["one_hot"] = config.one_hot * one_hot_loss(teacher_logits)
    if config.balance > 0:
        terms["balance"] = config.balance * LOG10_E * class_balance(teacher_logits)
    if config.activation > 0:
        terms["activation"] = config.activation * activation_loss(pooled)
    if student_logits is not None:
        disagreement = disagreement_loss(student_logits, teacher_logits, config.js_reduction)
        terms["disagreement"] = config.disagreement * disagreement
    return terms


class NovelMethod(ABC):
    """A cycle updates the novel generator, then the student on fresh novel images beside replayed ones.

    The generator stays in train mode throughout: its images come from batch statistics, also those for the student.
    """

    needs_features = False

    def __init__(self, config: Any, context: Context) -> None:
        self.config = config
        self.context = context
        self.student_steps: int = config.student_steps
        self.replayed: int = config.replayed(context.protocol.batch_size)
        self.generator = vae.build_novel(
            config.latent_dim,
            context.info.channels,
            context.info.size,
            width=config.generator_width,
            seed=context.seed,
            device=context.device,
        )
        self.optimizer = context.adam(self.generator.parameters(), lr=config.generator_lr)
        self.latents = seeding.stream(context.seed, "latent", 0, device=context.device)

    @abstractmethod
    def images(self) -> Tensor:
        """Novel images, then replayed ones."""

    @abstractmethod
    def after_student_update(self) -> None:
        """What follows a student update."""

    @abstractmethod
    def end_epoch(self, epoch: int) -> dict[str, float]:
        """What is logged of an epoch."""

    def start_epoch(self, epoch: int) -> None:
        self.latents = seeding.stream(self.context.seed, "latent", epoch, device=self.context.device)

    def synthesise(self) -> Terms:
        self.context.student.train()  # as released: it answers from batch statistics, and its running ones move
        terms: Terms = {}
        for _ in range(self.config.generator_steps):
            terms = self._novel_terms()
            if not terms:
                continue
            self.optimizer.zero_grad(set_to_none=True)
            torch.stack(list(terms.values())).sum().backward()
            self.optimizer.step()
        return {name: value.detach() for name, value in terms.items()}

    def _novel_terms(self) -> Terms:
        images = self.generator(self.latent(self.latents))
        features = self.context.frozen.features(images)
        student_logits = self.context.student(images) if self.config.disagreement > 0 else None
        return novel_loss(student_logits, features.logits, features.pooled, self.config)

    @torch.no_grad()
    def novel_images(self) -> Tensor:
        """Fresh images, standardised by the generator's last BatchNorm, shape (B, C, H, W)."""
        images: Tensor = self.generator(self.latent(self.latents))
        return images

    def latent(self, stream: torch.Generator) -> Tensor:
        """z ~ N(0, I), shape (B, Z)."""
        size = (self.context.protocol.batch_size, self.config.latent_dim)
        return torch.randn(size, generator=stream, device=self.context.device)

    def student_terms(self, student: Output, teacher: Output) -> tuple[Terms, Terms]:
        return {"l1": l1_per_sample(student.logits, teacher.logits).mean()}, {}

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.generator.load_state_dict(state["generator"])
        self.optimizer.load_state_dict(state["optimizer"])

    @torch.no_grad()
    def write_artifacts(self, folder: Path, epoch: int) -> None:
        """Novel samples, and those of each class as the teacher decides. Made in eval mode, so that nothing moves."""
        stream = seeding.stream(self.context.seed, "artifact", epoch, device=self.context.device)
        size = (max(self.context.protocol.batch_size, artifacts.SAMPLES), self.config.latent_dim)
        self.generator.eval()
        images = self.generator(torch.randn(size, generator=stream, device=self.context.device))
        self.generator.train()
        pixels = self.pixels(images)
        artifacts.write_samples(folder / "samples.png", pixels)
        decisions = self.context.frozen(images).argmax(dim=1)
        artifacts.write_samples_by_class(folder / "samples_by_class.png", pixels, decisions)

    def pixels(self, images: Tensor) -> Tensor:
        """Standardised images as pixels in [0, 1]."""
        info = self.context.info
        mean, std = (torch.tensor(each, device=images.device).view(1, -1, 1, 1) for each in (info.mean, info.std))
        return (images * std + mean).clamp(0, 1)
