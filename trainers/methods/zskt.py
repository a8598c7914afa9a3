"""ZSKT: zero-shot knowledge transfer, a generator against the student on KL, with attention (Micaelli and Storkey 2019, arXiv 1905.09768)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from trainers.errors import ConfigError
from trainers.methods import Context, Output, Terms
from trainers.methods._gan import GeneratorConfig, GeneratorMethod, original_generator
from trainers.methods._losses import kl_per_sample
from trainers.synthesis.dafl_generator import DaflGenerator
from trainers.synthesis.generator import Generator

KIND = "datafree"
VERSION = 1
NEEDS_TEACHER = True
# As printed for DFQ, of which this is the adversarial term alone.
TRAITS = {"Target": "Adversarial", "Student": "Yes", "Dynamic": "No"}


class Config(GeneratorConfig):
    """Defaults: the CMI authors' benchmark, in which CuDFKD's paper ran it."""

    temperature: float = Field(1.0, gt=0, description="T of the student's KL (benchmark)")
    attention: float = Field(
        0.0, ge=0, description="weight of the attention loss (0 in the benchmark, 250 in the original)"
    )
    reduction: Literal["batch", "elements"] = Field(
        "batch", description="KL divided by B (benchmark), or by B K (original), for student and generator"
    )
    latent: Literal["fresh", "reused"] = Field(
        "fresh", description="z of each update (benchmark), or one z for all updates of a cycle (original)"
    )
    normalisation: Literal["running", "batch"] = Field(
        "running",
        description="of the network that does not learn: running statistics (benchmark), or those of the batch (original)",
    )
    generator: Literal["large", "dafl"] = Field(
        "large", description="topology: large (benchmark); dafl: BatchNorm at the end, no tanh (original)"
    )
    generator_schedule: Literal["constant", "student"] = Field(
        "constant",
        description="its learning rate: constant (benchmark), or in a constant ratio to the student's (original)",
    )
    generator_clip_norm: float | None = Field(
        None, gt=0, description="largest norm of its gradient; None: no limit (benchmark; 5 in the original)"
    )

    def inactive(self) -> frozenset[str]:
        return frozenset({"generator_depth"} if self.generator == "dafl" else ())


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "original": {
        "attention": 250.0, "reduction": "elements", "latent": "reused", "normalisation": "batch", "generator": "dafl", "latent_dim": 100,
        "generator_schedule": "student", "generator_clip_norm": 5.0, "generator_beta1": 0.9, "student_steps": 10,
    },
    "follow-up-cifar100": {"temperature": 2.0},
}  # fmt: skip
"""original: the authors' code (polo5), the same for every WRN pair; pairs of two families need `attention` 0.
follow-up-cifar100: the code of CuDFKD's author (ljrprocc/DFKD, 2023)."""


def zskt_loss(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float, reduction: Literal["batch", "elements"]
) -> Tensor:
    """Forward KL that the student minimises and, at T = 1, the generator maximises.

        batch: 1/B sum_i T^2 KL_T(t_i || s_i);  elements: the same divided by K

    Args:
        student_logits: s, shape (B, K).
        teacher_logits: t, shape (B, K).
        temperature: T > 0.

    Returns:
        Scalar in nats.
    """
    divergence = kl_per_sample(student_logits, teacher_logits, temperature).mean()
    return divergence if reduction == "batch" else divergence / student_logits.shape[1]


def attention_map(maps: Tensor) -> Tensor:
    """Where a stage responds: the mean of its squared channels, flattened, of norm 1. (B, C, H, W) -> (B, H W)."""
    return F.normalize(maps.float().pow(2).mean(dim=1).flatten(1))


def attention_loss(student_maps: tuple[Tensor, ...], teacher_maps: tuple[Tensor, ...]) -> Tensor:
    """Distance between attention maps: sum over stages of mean_{i, p} (a(S)_ip - a(T)_ip)^2, a = `attention_map`.

    Args:
        student_maps: one (B, C, H, W) for each stage; for WRNs the raw residual sums, as in the authors' code.
        teacher_maps: the same, without gradient; channels may differ.

    Returns:
        Scalar, summed over stages; each is a mean over images and positions.

    Raises:
        ConfigError: the stages differ in number, or in height and width.
    """
    student_sizes, teacher_sizes = ([tuple(each.shape[2:]) for each in maps] for maps in (student_maps, teacher_maps))
    if student_sizes != teacher_sizes:
        raise ConfigError(
            f"the attention loss needs stages of equal sizes; the student has {student_sizes}, the teacher {teacher_sizes}; set attention to 0"
        )
    pairs = zip(student_maps, teacher_maps, strict=True)
    return torch.stack([(attention_map(s) - attention_map(t)).pow(2).mean() for s, t in pairs]).sum()


class Method(GeneratorMethod):
    """The generator looks for images on which the student departs from the teacher; the student follows it there."""

    config: Config

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.needs_features = config.attention > 0
        self.batch_statistics = config.normalisation == "batch"
        self.follows_schedule = config.generator_schedule == "student"
        self.clip_norm = config.generator_clip_norm
        self.reused: Tensor | None = None  # z of this cycle
        self.made: Tensor | None = None  # its images, after the generator's updates

    def new_generator(self) -> Generator | DaflGenerator:
        if self.config.generator == "large":
            return super().new_generator()
        return original_generator(self.config, self.context, output="bn")

    def synthesise(self) -> Terms:
        self.reused = self.made = None
        return super().synthesise()

    def latent(self) -> Tensor:
        if self.config.latent == "fresh":
            return super().latent()
        if self.reused is None:
            self.reused = super().latent()
        return self.reused

    def images(self) -> Tensor:
        if self.config.latent == "fresh":
            return super().images()
        if self.made is None:  # the generator rests, so images made anew would be the same
            self.made = super().images()
        return self.made

    def generator_terms(self, images: Tensor) -> Terms:
        student_logits, teacher_logits = self.context.student(images), self.context.frozen(images)
        return {"adversarial": -zskt_loss(student_logits, teacher_logits, 1.0, self.config.reduction)}

    def student_terms(self, student: Output, teacher: Output) -> tuple[Terms, Terms]:
        config = self.config
        terms = {"kd": zskt_loss(student.logits, teacher.logits, config.temperature, config.reduction)}
        if config.attention > 0:
            terms["attention"] = config.attention * attention_loss(student.maps.stages, teacher.maps.stages)
        return terms, {}
