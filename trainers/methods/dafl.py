"""DAFL: data-free learning with a generator that only the teacher guides (Chen et al. 2019, arXiv 1904.01186)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from trainers.methods import Context, Output, Terms
from trainers.methods._gan import GeneratorConfig, GeneratorMethod, TeacherView, original_generator
from trainers.methods._losses import activation_loss, class_balance, distillation_loss, one_hot_loss
from trainers.synthesis.dafl_generator import DaflGenerator
from trainers.synthesis.generator import Generator

KIND = "datafree"
VERSION = 1
NEEDS_TEACHER = True
TRAITS = {"Target": "Data Prior", "Student": "No", "Dynamic": "No"}


class Config(GeneratorConfig):
    """Defaults: the CMI authors' benchmark, in which CuDFKD's paper ran it."""

    one_hot: float = Field(1.0, ge=0, description="weight of the teacher's one-hot loss (benchmark)")
    balance: float = Field(20.0, ge=0, description="weight of the class balance, natural logarithm (benchmark)")
    activation: float = Field(1e-3, ge=0, description="weight of the activation loss (benchmark)")
    student_loss: Literal["kl", "l1"] = Field(
        "kl", description="T^2 KL(t || s) (benchmark), or mean |s - t| over raw logits (CuDFKD author's follow-up)"
    )
    temperature: float = Field(1.0, gt=0, description="T of the student's KL (benchmark)")
    images: Literal["fresh", "shared"] = Field(
        "fresh",
        description="the student learns on fresh images (benchmark), or on those of the generator's last update (original)",
    )
    generator: Literal["large", "dafl"] = Field(
        "large", description="topology: large (benchmark); dafl: tanh, then BatchNorm (original)"
    )
    latent_dim: int = Field(512, gt=0, description="dimensions of z (benchmark)")

    def inactive(self) -> frozenset[str]:
        names: set[str] = set()
        if self.student_loss == "l1":
            names |= {"temperature"}
        if self.generator == "dafl":
            names |= {"generator_depth"}
        return frozenset(names)


_ORIGINAL: Mapping[str, Any] = {
    "generator": "dafl", "images": "shared", "student_steps": 1, "latent_dim": 1000, "generator_lr": 0.02, "generator_beta1": 0.9,
}  # fmt: skip

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "original-cifar10": {**_ORIGINAL, "one_hot": 0.05, "balance": 5 / math.log(10), "activation": 0.01},
    "original-cifar100": {**_ORIGINAL, "one_hot": 0.5, "balance": 20 / math.log(10), "activation": 0.1},
    "original-mnist": {
        **_ORIGINAL, "latent_dim": 100, "generator_lr": 0.2, "one_hot": 1.0, "balance": 5 / math.log(10), "activation": 0.1,
    },
}  # fmt: skip
"""The authors' code (huawei-noah): one joint update of generator and student on each batch of z. Its class balance takes
log10, so its weights 5, 20, 5 are divided by ln 10 (x 0.4343) here."""


def dafl_loss(teacher_logits: Tensor, pooled: Tensor, config: Config) -> Terms:
    """Weighted terms of the generator: each weight times

        one_hot: CE(t, argmax t);  balance: sum_c pbar_c log pbar_c, pbar = mean_i softmax(t_i);  activation: -mean |f|

    Args:
        teacher_logits: t, shape (B, K), with gradient to the images.
        pooled: f, shape (B, d), input of the teacher's classifier; looked at where `activation` > 0.

    Returns:
        Scalars in nats, the last one in the unit of f; terms of weight 0 are left out.
    """
    terms: Terms = {}
    if config.one_hot > 0:
        terms["one_hot"] = config.one_hot * one_hot_loss(teacher_logits)
    if config.balance > 0:
        terms["balance"] = config.balance * class_balance(teacher_logits)
    if config.activation > 0:
        terms["activation"] = config.activation * activation_loss(pooled)
    return terms


class Method(GeneratorMethod):
    """The generator never sees the student; the student learns on fresh images, or on the generator's own batch."""

    config: Config

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.view = TeacherView(context, statistics=False, pooled=config.activation > 0)
        self.shared = torch.empty(0)

    def new_generator(self) -> Generator | DaflGenerator:
        if self.config.generator == "large":
            return super().new_generator()
        return original_generator(self.config, self.context, output="tanh_bn", eps=0.8)

    def generator_terms(self, images: Tensor) -> Terms:
        self.shared = images.detach()
        return dafl_loss(self.view.logits(images), self.view.pooled, self.config)

    def images(self) -> Tensor:
        return super().images() if self.config.images == "fresh" else self.shared

    def student_terms(self, student: Output, teacher: Output) -> tuple[Terms, Terms]:
        loss = distillation_loss(student.logits, teacher.logits, self.config.student_loss, self.config.temperature)
        return {"kd": loss}, {}
