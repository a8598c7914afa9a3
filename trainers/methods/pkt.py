"""Probabilistic knowledge transfer: how likely each sample of a batch is near another (Passalis and Tefas 2018)."""

from __future__ import annotations

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from trainers.config import MethodConfig
from trainers.methods import Batch, Case, DistillMethod, Terms
from trainers.methods._adapters import batch_faults
from trainers.methods.ce import ce_loss

KIND = "distill"
VERSION = 1
NEEDS_TEACHER = True
EPSILON = 1e-7
"""Added to both probabilities inside the logarithm (RepDistiller)."""


class Config(MethodConfig):
    """Defaults: the CIFAR-100 recipe of RepDistiller and mdistiller."""

    ce_weight: float = Field(1.0, ge=0, description="weight of the cross-entropy with the labels (RepDistiller)")
    pkt_weight: float = Field(30000.0, ge=0, description="weight of the divergence, for batches of 64 (RepDistiller)")


def faults(config: Config, case: Case) -> list[str]:
    """One sample has no neighbours."""
    return batch_faults(case, 2)


def neighbourhood(features: Tensor) -> Tensor:
    """Probabilities from cosines: K_ij = k_ij / sum_j k_ij, k = (cos(f_i, f_j) + 1) / 2, i = j included.

    Args:
        features: f, shape (B, d).

    Returns:
        Shape (B, B), rows sum to 1.
    """
    rows = F.normalize(features.float(), dim=1)
    similarity = (rows @ rows.T + 1) / 2
    return similarity / similarity.sum(dim=1, keepdim=True)


def pkt_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Divergence of the neighbourhoods (Passalis and Tefas 2018).

        L = mean over the B^2 pairs of K_t ln((K_t + e) / (K_s + e)),  e = 1e-7

    Args:
        student_features: shape (B, d_s).
        teacher_features: shape (B, d_t); receives no gradient.

    Returns:
        Scalar in nats, the mean over i divided by B.
    """
    student, teacher = neighbourhood(student_features), neighbourhood(teacher_features.detach())
    return (teacher * ((teacher + EPSILON) / (student + EPSILON)).log()).mean()


class Method(DistillMethod):
    """L = ce_weight * CE + pkt_weight * PKT of the pooled features."""

    needs_features = True

    def terms(self, batch: Batch) -> Terms:
        loss = pkt_loss(batch.student.maps.pooled, batch.taught.maps.pooled)
        return {
            "ce": self.config.ce_weight * ce_loss(batch.student_logits, batch.labels),
            "pkt": self.config.pkt_weight * loss,
        }
