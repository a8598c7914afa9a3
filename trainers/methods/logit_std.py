"""Distillation from standardised logits (Sun et al. 2024, "Logit Standardization in Knowledge Distillation")."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from trainers.config import MethodConfig
from trainers.methods import Batch, DistillMethod, Terms
from trainers.methods._losses import kl_per_sample
from trainers.methods.ce import ce_loss

KIND = "distill"
VERSION = 1
NEEDS_TEACHER = True
GUARD = 1e-7


class Config(MethodConfig):
    """Weights of the authors' CIFAR-100 scripts for plain KD."""

    temperature: float = Field(2.0, gt=0, description="T after standardising, the same for both sides (official code)")
    ce_weight: float = Field(0.1, ge=0, description="weight of the cross-entropy with the labels (official code)")
    kd_weight: float = Field(
        9.0,
        ge=0,
        description="weight of the KL between standardised logits (official code; other values for some pairs)",
    )

    def inactive(self) -> frozenset[str]:
        return frozenset({"temperature"}) if self.kd_weight == 0 else frozenset()


def standardised(logits: Tensor) -> Tensor:
    """Each row with mean 0 and standard deviation 1: (z - mean z) / (std z + 1e-7), std with K - 1.

    Args:
        logits: z, shape (B, K).

    Returns:
        Shape (B, K), float32.
    """
    logits = logits.float()
    return (logits - logits.mean(dim=1, keepdim=True)) / (logits.std(dim=1, keepdim=True) + GUARD)


def logit_std_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """KL divergence between standardised logits (Sun et al. 2024, official code).

        L = T^2 / B * sum_i KL( softmax(std(t_i) / T) || softmax(std(s_i) / T) )

    Args:
        student_logits: s, shape (B, K).
        teacher_logits: t, shape (B, K); receives no gradient.
        temperature: T > 0.

    Returns:
        Scalar, in nats times T^2, averaged over the batch.
    """
    return kl_per_sample(standardised(student_logits), standardised(teacher_logits.detach()), temperature).mean()


class Method(DistillMethod):
    """L = ce_weight * CE + kd_weight * KD of standardised logits."""

    def terms(self, batch: Batch) -> Terms:
        config = self.config
        loss = logit_std_loss(batch.student_logits, batch.teacher_logits, config.temperature)
        return {
            "ce": config.ce_weight * ce_loss(batch.student_logits, batch.labels),
            "kd": config.kd_weight * loss,
        }
