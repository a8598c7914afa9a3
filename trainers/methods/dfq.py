"""DFQ: data-free distillation with generated images that are hard, sure, balanced and alike in BatchNorm statistics (Choi et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from trainers.methods import Case, Context, Output, Terms
from trainers.methods._gan import GeneratorConfig, GeneratorMethod, TeacherView
from trainers.methods._losses import class_balance, distillation_loss, kl_per_sample, one_hot_loss
from trainers.synthesis.bn_statistics import bn_layer_faults

KIND = "datafree"
VERSION = 1
NEEDS_TEACHER = True
TRAITS = {"Target": "Adversarial", "Student": "Yes", "Dynamic": "No"}


class Config(GeneratorConfig):
    """The CMI authors' benchmark; its authors released no code.

    Departs from the paper: the one-hot loss stands for its entropy of each image, the norms of the BatchNorm term for
    its divergence between Gaussians.
    """

    bn: float = Field(1.0, ge=0, description="weight of the BatchNorm statistics (benchmark)")
    one_hot: float = Field(1.0, ge=0, description="weight of the teacher's one-hot loss (benchmark)")
    balance: float = Field(20.0, ge=0, description="weight of the class balance (benchmark)")
    adversarial: float = Field(1.0, ge=0, description="weight of -KL(t || s) (benchmark)")
    student_loss: Literal["kl", "l1"] = Field(
        "kl", description="T^2 KL(t || s) (benchmark), or mean |s - t| over raw logits (CuDFKD author's follow-up)"
    )
    temperature: float = Field(1.0, gt=0, description="T of the student's KL (benchmark; 2 to 5 in the follow-up)")
    student_steps: int = Field(10, gt=0, description="student updates in each cycle (benchmark)")

    def inactive(self) -> frozenset[str]:
        return frozenset({"temperature"} if self.student_loss == "l1" else ())


PRESETS: Mapping[str, Mapping[str, Any]] = {"follow-up-tiny": {"student_loss": "l1", "generator_depth": 3}}
"""follow-up-tiny: Tiny-ImageNet in the code of CuDFKD's author (ljrprocc/DFKD, 2023)."""


def faults(config: Config, case: Case) -> list[str]:
    """A teacher without BatchNorm layers has no statistics to match."""
    return bn_layer_faults(case.teacher, case.info) if config.bn > 0 else []


def dfq_loss(student_logits: Tensor | None, teacher_logits: Tensor, bn: Tensor, config: Config) -> Terms:
    """Weighted terms of the generator: each weight times

        bn: sum over layers of the statistics' distance;  one_hot: CE(t, argmax t)
        balance: sum_c pbar_c log pbar_c, pbar = mean_i softmax(t_i);  adversarial: -1/B sum_i KL(t_i || s_i), T = 1

    Args:
        student_logits: s, shape (B, K), of the frozen student, with gradient to the images; None where `adversarial` is 0.
        teacher_logits: t, shape (B, K), likewise.
        bn: scalar, as `TeacherView` gives it.

    Returns:
        Scalars; terms of weight 0 are left out.
    """
    terms: Terms = {}
    if config.bn > 0:
        terms["bn"] = config.bn * bn
    if config.one_hot > 0:
        terms["one_hot"] = config.one_hot * one_hot_loss(teacher_logits)
    if config.balance > 0:
        terms["balance"] = config.balance * class_balance(teacher_logits)
    if student_logits is not None:
        terms["adversarial"] = config.adversarial * -kl_per_sample(student_logits, teacher_logits, 1.0).mean()
    return terms


class Method(GeneratorMethod):
    """One generator for the whole run, updated against teacher and student together."""

    config: Config

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.view = TeacherView(context, statistics=config.bn > 0, pooled=False)

    def generator_terms(self, images: Tensor) -> Terms:
        teacher_logits = self.view.logits(images)
        student_logits = self.context.student(images) if self.config.adversarial > 0 else None
        return dfq_loss(student_logits, teacher_logits, self.view.bn, self.config)

    def student_terms(self, student: Output, teacher: Output) -> tuple[Terms, Terms]:
        loss = distillation_loss(student.logits, teacher.logits, self.config.student_loss, self.config.temperature)
        return {"kd": loss}, {}
