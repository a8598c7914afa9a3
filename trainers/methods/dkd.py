"""Decoupled distillation: the target class and the others apart (Zhao et al. 2022, "Decoupled Knowledge Distillation")."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from trainers.config import Epochs, MethodConfig
from trainers.methods import Batch, DistillMethod, Terms
from trainers.methods.ce import ce_loss

KIND = "distill"
VERSION = 1
NEEDS_TEACHER = True


class Config(MethodConfig):
    """CIFAR-100 values of mdistiller; beta differs from pair to pair."""

    ce_weight: float = Field(1.0, ge=0, description="weight of the cross-entropy with the labels (mdistiller)")
    alpha: float = Field(1.0, ge=0, description="weight of the target class's part (mdistiller)")
    beta: float = Field(
        8.0, ge=0, description="weight of the other classes' part: 2, 6 or 8, by pair (mdistiller; 8 is built in)"
    )
    temperature: float = Field(4.0, gt=0, description="T, the same for teacher and student (mdistiller)")
    warmup_epochs: Epochs = Field(
        20, ge=1, description="epochs over which both parts rise linearly to their weights (mdistiller)"
    )

    def inactive(self) -> frozenset[str]:
        return frozenset({"temperature", "warmup_epochs"}) if self.alpha == self.beta == 0 else frozenset()


PRESETS: Mapping[str, Mapping[str, Any]] = {"imagenet": {"beta": 0.5, "temperature": 1.0, "warmup_epochs": 1}}
"""imagenet: ResNet34 -> ResNet18 of mdistiller. The CIFAR-100 betas belong to pairs, so to experiments: 2 for resnet56 ->
resnet20 and resnet110 -> resnet32 or resnet20; 6 for wrn_40_2 -> wrn_16_2 or wrn_40_1 and vgg13 -> vgg8 or mobilenetv2;
8 for resnet32x4 ->, resnet50 -> mobilenetv2 and wrn_40_2 -> shufflev1."""


def target_split(logits: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities of "the target" and "any other class", without leaving log-space.

        log b = [ log p_y, log(1 - p_y) ],  log(1 - p_y) = LSE_{j != y} z_j / T - LSE_j z_j / T

    Args:
        logits: z, shape (B, K).
        labels: y, shape (B,).

    Returns:
        log b, shape (B, 2); z / T with -inf at the target, shape (B, K).
    """
    scaled = logits.float() / temperature
    target = F.one_hot(labels, logits.shape[1]).bool()
    others = scaled.masked_fill(target, -math.inf)
    total = scaled.logsumexp(dim=1)
    own = scaled.gather(1, labels[:, None])[:, 0]
    return torch.stack([own - total, others.logsumexp(dim=1) - total], dim=1), others


def dkd_loss(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """The two parts of KD (Zhao et al. 2022), batch means.

        TCKD = T^2 KL( b_t || b_s ),  b = [p_y, 1 - p_y]
        NCKD = T^2 KL( softmax(t_others / T) || softmax(s_others / T) ),  over the K - 1 classes without y

    so that T^2 KL over all classes = TCKD + (1 - p_t,y) NCKD.

    Args:
        student_logits: s, shape (B, K).
        teacher_logits: t, shape (B, K); receives no gradient.
        labels: y, shape (B,).
        temperature: T > 0.

    Returns:
        TCKD and NCKD, scalars in nats times T^2.

    Departs from mdistiller: no probability is formed whose logarithm could be -inf, and the target is left out, not
    lowered by 1000.
    """
    student_pair, student_others = target_split(student_logits, labels, temperature)
    teacher_pair, teacher_others = target_split(teacher_logits.detach(), labels, temperature)
    target_part = (teacher_pair.exp() * (teacher_pair - student_pair)).sum(dim=1)
    log_q, log_p = student_others.log_softmax(dim=1), teacher_others.log_softmax(dim=1)
    difference = (log_p - log_q).masked_fill(teacher_others.isneginf(), 0.0)  # -inf - -inf at the target
    other_part = (log_p.exp() * difference).sum(dim=1)
    return temperature**2 * target_part.mean(), temperature**2 * other_part.mean()


def warmup(epoch: int, warmup_epochs: int) -> float:
    """min((epoch + 1) / warmup_epochs, 1) in epoch `epoch` from 0: mdistiller counts epochs from 1."""
    return min((epoch + 1) / warmup_epochs, 1.0)


class Method(DistillMethod):
    """L = ce_weight * CE + warmup * (alpha * TCKD + beta * NCKD)."""

    rise = 1.0

    def start_epoch(self, epoch: int) -> None:
        self.rise = warmup(epoch, self.config.warmup_epochs)

    def terms(self, batch: Batch) -> Terms:
        config = self.config
        target, others = dkd_loss(batch.student_logits, batch.teacher_logits, batch.labels, config.temperature)
        return {
            "ce": config.ce_weight * ce_loss(batch.student_logits, batch.labels),
            "tckd": self.rise * config.alpha * target,
            "nckd": self.rise * config.beta * others,
        }
