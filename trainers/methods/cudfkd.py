"""CuDFKD: data-free distillation with a self-paced curriculum over the difficulty of generated images (arXiv 2208.13648)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from trainers import artifacts, seeding
from trainers.config import MethodConfig, PerEpoch, PerUpdate
from trainers.methods import Case, Context, Output, Terms
from trainers.methods._gan import GeneratorMethod, TeacherView
from trainers.methods._losses import (
    activation_loss,
    agreement_mask,
    class_balance,
    js_divergence,
    kl_per_sample,
    l1_per_sample,
    one_hot_loss,
)
from trainers.synthesis.bn_statistics import bn_layer_faults

KIND = "datafree"
VERSION = 1
NEEDS_TEACHER = True
TRAITS = {"Target": "Difficulty", "Student": "Yes", "Dynamic": "Yes"}

Curriculum = Literal["none", "hard", "soft", "log"]


class Config(MethodConfig):
    """Defaults: the CIFAR-10 ResNet34 -> ResNet18 script of the official code, per-sample weights as in Eq. 6."""

    curriculum: Curriculum = Field("log", description="closed form of the weight v (Sec. IV-B); none: v = 1")
    weight: Literal["sample", "batch"] = Field(
        "sample",
        description="one weight a sample (Eq. 6), or one a batch from the mean loss (code of May to August 2022)",
    )
    student_loss: Literal["kl", "l1"] = Field(
        "kl", description="l: T^2 KL(t || s) (Eq. 6), or mean |s - t| over raw logits (R34 -> R18 scripts)"
    )
    temperature: float = Field(
        20.0,
        gt=0,
        description="T of the student's KL and, unless balance_temperature is set, of the class balance (scripts)",
    )
    lambda_0: float = Field(2.0, gt=0, description="curriculum threshold before the first update (Fig. 8)")
    lambda_slope: PerUpdate = Field(
        1e-4, ge=0, description="growth of lambda for each student update: 1e-4 CIFAR-10, 2e-5 CIFAR-100 (code)"
    )
    adv_init: float = Field(0.0, ge=0, description="adversarial weight before the ramp (scripts)")
    alpha: PerEpoch = Field(
        0.5, ge=0, description="growth of the adversarial weight for each epoch of the ramp (Fig. 10)"
    )
    k_begin: float = Field(0.25, ge=0, lt=1, description="share of the epochs at which the ramp begins (Fig. 9)")
    k_end: float = Field(0.75, gt=0, le=1, description="share of the epochs at which the ramp ends (Fig. 9)")
    ramp: Literal["code", "literal", "off"] = Field(
        "code",
        description="code: adv_init + alpha * epochs since the ramp began; literal: alpha * epoch inside it (Eq. 17); off: adv_init",
    )
    adversarial_loss: Literal["kl", "js"] = Field(
        "kl", description="D(t, s) of the generator (Eq. 5); every script uses kl"
    )
    adversarial_temperature: float = Field(3.0, gt=0, description="T of the generator's divergence (code)")
    agreement_mask: bool = Field(
        True, description="count only images on which student and teacher agree (code; kl only)"
    )
    bn: float = Field(1.0, ge=0, description="weight of the BatchNorm statistics (scripts)")
    one_hot: float = Field(1.0, ge=0, description="weight of the teacher's one-hot loss (scripts)")
    balance: float = Field(20.0, ge=0, description="weight of the class balance (scripts)")
    balance_temperature: float | None = Field(
        None, gt=0, description="T of the class balance; None: the student's temperature (code)"
    )
    activation: float = Field(0.0, ge=0, description="weight of the activation loss (0 in every script)")
    latent_dim: int = Field(512, gt=0, description="dimensions of z (512 CIFAR, 1024 Tiny-ImageNet)")
    generator_depth: int = Field(2, ge=1, description="number of x2 upsamplings (2 at 32 pixels, 3 at 64)")
    generator_width: int = Field(64, gt=0, description="maps before the last convolution (code)")
    generator_init: Literal["normal", "default"] = Field(
        "normal", description="normal: N(0, 0.02) (code); default: PyTorch's"
    )
    generator_lr: float = Field(1e-3, gt=0, description="Adam, constant (scripts)")
    generator_beta1: float = Field(0.9, ge=0, lt=1, description="Adam (code; 0.5 in May 2022)")
    generator_beta2: float = Field(0.99, ge=0, lt=1, description="Adam (code)")
    generator_steps: int = Field(1, gt=0, description="generator updates in each cycle (scripts)")
    student_steps: int = Field(10, gt=0, description="student updates in each cycle (scripts)")

    @model_validator(mode="after")
    def _ramp_is_an_interval(self) -> Config:
        if self.k_begin >= self.k_end:
            raise ValueError(f"k_begin {self.k_begin:g} must be below k_end {self.k_end:g}")
        return self

    def inactive(self) -> frozenset[str]:
        names: set[str] = set()
        if self.curriculum == "none":
            names |= {"lambda_0", "lambda_slope", "weight"}
        if self.ramp == "off":
            names |= {"alpha", "k_begin", "k_end"}
        if self.ramp == "off" and self.adv_init == 0:
            names |= {"adversarial_loss", "adversarial_temperature", "agreement_mask"}
        if self.adversarial_loss == "js":
            names |= {"agreement_mask"}
        if self.balance == 0:
            names |= {"balance_temperature"}
        if self.student_loss == "l1" and (self.balance == 0 or self.balance_temperature is not None):
            names |= {"temperature"}
        return frozenset(names)


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper-equations": {"weight": "sample", "student_loss": "kl"},
    "code-2022-08": {"weight": "batch"},
    "plain-dfkd": {"curriculum": "none"},
    "fig6-none": {"curriculum": "none", "ramp": "off"},
}
"""paper-equations: Eqs. 4 to 6 with the agreement mask. code-2022-08: the code at the time of the first arXiv version, behind
Tables II to V. plain-dfkd: no weights, ramp kept. fig6-none: the figure's "none", which also froze the adversarial weight."""


def faults(config: Config, case: Case) -> list[str]:
    """A teacher without BatchNorm layers has no statistics to match."""
    return bn_layer_faults(case.teacher, case.info) if config.bn > 0 else []


def curriculum_weight(difficulty: Tensor, threshold: float, curriculum: Curriculum) -> Tensor:
    """Closed-form minimiser v* of v l + g(lambda, v) (CuDFKD, Sec. IV-B).

        hard: v = 1[l < lambda];  soft: v = 1[l < lambda] (1 - l / lambda);  log: v = (1 + e^-lambda) / (1 + e^(l - lambda))

    Args:
        difficulty: l >= 0, any shape; receives no gradient.
        threshold: lambda > 0, in the unit of l.

    Returns:
        v in [0, 1], the shape of `difficulty`.
    """
    difficulty = difficulty.detach()
    if curriculum == "none":
        return torch.ones_like(difficulty)
    if curriculum == "log":
        return (1 + math.exp(-threshold)) * torch.sigmoid(
            threshold - difficulty
        )  # sigmoid: e^(l - lambda) would overflow
    inside = (difficulty < threshold).to(difficulty.dtype)
    return inside if curriculum == "hard" else inside * (1 - difficulty / threshold)


def curriculum_regulariser(weight: Tensor, threshold: float, curriculum: Curriculum) -> Tensor:
    """g(lambda, v) of Eq. 6, element by element; logged only, since v carries no gradient.

    hard: -lambda v;  soft: lambda (v^2 / 2 - v);  log: mu log mu + v log v - lambda v with mu = 1 + e^-lambda - v.
    """
    if curriculum == "none":
        return torch.zeros_like(weight)
    if curriculum == "hard":
        return -threshold * weight
    if curriculum == "soft":
        return threshold * (weight**2 / 2 - weight)
    mu = 1 + math.exp(-threshold) - weight
    return torch.xlogy(mu, mu) + torch.xlogy(weight, weight) - threshold * weight


def latent_objective(difficulty: Tensor, threshold: float, curriculum: Curriculum) -> Tensor:
    """F_lambda(l) = integral of v from 0 to l: the loss that the curriculum implicitly minimises (CuDFKD, Sec. IV-C)."""
    if curriculum == "none":
        return difficulty
    if curriculum == "hard":
        return difficulty.clamp(max=threshold)
    if curriculum == "soft":
        inside = difficulty.clamp(max=threshold)
        return inside - inside**2 / (2 * threshold)
    return (1 + math.exp(-threshold)) * (
        difficulty
        - torch.logaddexp(torch.zeros_like(difficulty), difficulty - threshold)
        + math.log1p(math.exp(-threshold))
    )


def threshold(lambda_0: float, slope: float, update: int) -> float:
    """lambda after `update` student updates: lambda_0 + slope * update (official code; the paper says linear in the epoch)."""
    return lambda_0 + slope * update


def adversarial_weight(epoch: int, epochs: int, config: Config) -> float:
    """Weight of the adversarial term in epoch `epoch` (from 0) of `epochs`.

    code: adv_init + alpha * clip(e - e_b - 1, 0, e_e - e_b - 1) with e_b = int(k_begin N), e_e = int(k_end N), which is the official
    loop's "add alpha at the end of every epoch strictly between". literal (Eq. 17): adv_init before e_b, alpha * e inside,
    alpha * e_e after.
    """
    begin, end = int(config.k_begin * epochs), int(config.k_end * epochs)
    if config.ramp == "off":
        return config.adv_init
    if config.ramp == "literal":
        return config.adv_init if epoch < begin else config.alpha * min(epoch, end)
    return config.adv_init + config.alpha * min(max(epoch - begin - 1, 0), max(end - begin - 1, 0))


def adversarial_loss(student_logits: Tensor, teacher_logits: Tensor, config: Config) -> Tensor:
    """What the generator minimises to find hard images (Eq. 5, first term).

        kl: -1/B sum_i mask_i T^2 KL_T(t_i || s_i);  js: 1 - clip(J(s, t), 0, 1)

    Args:
        student_logits: shape (B, K), of the frozen student, with gradient to the images.
        teacher_logits: shape (B, K), likewise.

    Returns:
        Scalar. Images masked out (no agreement) count as zeros in the mean.
    """
    if config.adversarial_loss == "js":
        return 1 - js_divergence(student_logits, teacher_logits, temperature=config.adversarial_temperature).clamp(0, 1)
    divergence = kl_per_sample(student_logits, teacher_logits, config.adversarial_temperature)
    if config.agreement_mask:
        divergence = agreement_mask(student_logits, teacher_logits) * divergence
    return -divergence.mean()


def cudfkd_loss(
    student_logits: Tensor, teacher_logits: Tensor, threshold: float, config: Config
) -> tuple[Tensor, Tensor, Tensor]:
    """The student's loss (Eq. 6), with the weights and difficulties behind it.

        sample: 1/B sum_i v(l_i) l_i;  batch: v(mean l) * mean l

    Args:
        student_logits: s, shape (B, K).
        teacher_logits: t, shape (B, K), without gradient.
        threshold: lambda.

    Returns:
        Loss (scalar), v and l without gradient: shape (B,), or (1,) in batch mode.

    Departs from the paper: g(lambda, v) is left out; v carries no gradient, so g changes none.
    """
    if config.student_loss == "kl":
        difficulty = kl_per_sample(student_logits, teacher_logits, config.temperature)
    else:
        difficulty = l1_per_sample(student_logits, teacher_logits)
    if config.weight == "batch":
        difficulty = difficulty.mean(dim=0, keepdim=True)
    weight = curriculum_weight(difficulty, threshold, config.curriculum)
    return (weight * difficulty).mean(), weight, difficulty.detach()


class Method(GeneratorMethod):
    """One generator for the whole run; each cycle updates it once, then the student ten times on fresh images."""

    config: Config

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.view = TeacherView(context, statistics=config.bn > 0, pooled=config.activation > 0)
        self.updates = 0
        self.adversarial = config.adv_init

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        self.adversarial = adversarial_weight(epoch, self.context.protocol.epochs, self.config)

    def generator_terms(self, images: Tensor) -> Terms:
        config = self.config
        teacher_logits = self.view.logits(images)
        terms: Terms = {}
        if config.bn > 0:
            terms["bn"] = config.bn * self.view.bn
        if config.one_hot > 0:
            terms["one_hot"] = config.one_hot * one_hot_loss(teacher_logits)
        if config.balance > 0:
            balance = class_balance(teacher_logits, config.balance_temperature or config.temperature)
            terms["balance"] = config.balance * balance
        if config.activation > 0:
            terms["activation"] = config.activation * activation_loss(self.view.pooled)
        if self.adversarial > 0:
            student_logits = self.context.student(images)
            terms["adversarial"] = self.adversarial * adversarial_loss(student_logits, teacher_logits, config)
        return terms

    def student_terms(self, student: Output, teacher: Output) -> tuple[Terms, Terms]:
        level = threshold(self.config.lambda_0, self.config.lambda_slope, self.updates)
        self.updates += 1
        loss, weight, difficulty = cudfkd_loss(student.logits, teacher.logits, level, self.config)
        regulariser = curriculum_regulariser(weight, level, self.config.curriculum).mean()
        return {"kd": loss}, {"mean_weight": weight.mean(), "difficulty": difficulty.mean(), "regulariser": regulariser}

    def end_epoch(self, epoch: int) -> dict[str, float]:
        logged = {"alpha_adv": self.adversarial}
        if self.config.curriculum != "none":
            logged["lambda"] = threshold(self.config.lambda_0, self.config.lambda_slope, self.updates)
        return logged

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.updates = int(state["updates"])

    @torch.no_grad()
    def write_artifacts(self, folder: Path, epoch: int) -> None:
        """Sample images, and the weighted difficulty v l of 20 batches (Fig. 5: l = 4 KL_2(s || t), log v)."""
        super().write_artifacts(folder, epoch)
        stream = seeding.stream(self.context.seed, "artifact", epoch, device=self.context.device)
        level = threshold(self.config.lambda_0, self.config.lambda_slope, self.updates)
        size = (self.context.protocol.batch_size, self.config.latent_dim)
        values = []
        for _ in range(20):
            images = self.standardised(torch.randn(size, generator=stream, device=self.context.device))
            student_as_target = kl_per_sample(self.context.frozen(images), self.context.student(images), 2.0)
            values.append(curriculum_weight(student_as_target, level, "log") * student_as_target)
        artifacts.write_histogram(folder / "difficulty.json", torch.cat(values), "v * l, l = 4 KL_2(s || t), nats")
