"""Knowledge distillation from softened logits (Hinton et al. 2015)."""

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


class Config(MethodConfig):
    """Weights of the CIFAR-100 recipe of RepDistiller and mdistiller."""

    temperature: float = Field(4.0, gt=0, description="T, the same for teacher and student (RepDistiller)")
    ce_weight: float = Field(0.1, ge=0, description="weight of the cross-entropy with the labels (RepDistiller)")
    kd_weight: float = Field(0.9, ge=0, description="weight of the softened KL divergence (RepDistiller)")

    def inactive(self) -> frozenset[str]:
        return frozenset({"temperature"}) if self.kd_weight == 0 else frozenset()


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Softened KL divergence from teacher to student (Hinton et al. 2015, Sec. 2).

        L = T^2 / B * sum_i KL( softmax(t_i / T) || softmax(s_i / T) )

    Args:
        student_logits: s, shape (B, K), before softmax.
        teacher_logits: t, shape (B, K); receives no gradient.
        temperature: T > 0, dimensionless, the same for both sides.

    Returns:
        Scalar, in nats per sample, averaged over the batch.

    Departs from the paper: KL instead of cross-entropy; they differ by a term without gradient.
    """
    return kl_per_sample(student_logits, teacher_logits.detach(), temperature).mean()


class Method(DistillMethod):
    """L = ce_weight * CE + kd_weight * KD."""

    def terms(self, batch: Batch) -> Terms:
        return {
            "ce": self.config.ce_weight * ce_loss(batch.student_logits, batch.labels),
            "kd": self.config.kd_weight * kd_loss(batch.student_logits, batch.teacher_logits, self.config.temperature),
        }
