"""Relational knowledge distillation: distances and angles between the samples of a batch (Park et al. 2019)."""

from __future__ import annotations

import torch
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
SMALLEST_SQUARE = 1e-12
"""Below it a squared distance has no gradient (RepDistiller)."""


class Config(MethodConfig):
    """Defaults: the CIFAR-100 recipe of RepDistiller and mdistiller."""

    ce_weight: float = Field(1.0, ge=0, description="weight of the cross-entropy with the labels (RepDistiller)")
    distance_weight: float = Field(25.0, ge=0, description="weight of the distances (RepDistiller)")
    angle_weight: float = Field(50.0, ge=0, description="weight of the angles (RepDistiller)")


def faults(config: Config, case: Case) -> list[str]:
    """Two samples have one distance, which the scaling makes 1, and no angle."""
    return batch_faults(case, 3)


def distances(features: Tensor) -> Tensor:
    """Euclidean distances of all pairs, divided by their mean over different samples.

        psi_ij = |f_i - f_j| / mu,  mu = mean over i != j of |f_i - f_j|

    Args:
        features: f, shape (B, d).

    Returns:
        Shape (B, B), zeros on the diagonal; invariant to scale, rotation and shift of f.
    """
    features = features.float()
    count = len(features)
    squares = (features**2).sum(dim=1)
    between = (squares[:, None] + squares - 2 * features @ features.T).clamp(min=SMALLEST_SQUARE).sqrt()
    between = between * (1 - torch.eye(count, device=features.device))
    return between / (between.sum() / max(count * (count - 1), 1))


def angles(features: Tensor) -> Tensor:
    """Cosines at sample i between the directions to j and k.

    Args:
        features: f, shape (B, d).

    Returns:
        Shape (B, B, B), entry (i, j, k) = cos(f_j - f_i, f_k - f_i); 0 where a direction has no length.
    """
    features = features.float()
    directions = F.normalize(features[None] - features[:, None], dim=2)  # (B, B, d)
    return directions @ directions.transpose(1, 2)


def rkd_distance_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Huber loss between scaled distances (Park et al. 2019).

        L = mean over the B^2 pairs of smooth_l1(psi_s - psi_t), beta 1

    Args:
        student_features: shape (B, d_s).
        teacher_features: shape (B, d_t); receives no gradient.

    Returns:
        Scalar, dimensionless.
    """
    return F.smooth_l1_loss(distances(student_features), distances(teacher_features.detach()))


def rkd_angle_loss(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Huber loss between angles (Park et al. 2019): mean over the B^3 triples of smooth_l1(psi_s - psi_t), beta 1.

    Args:
        student_features: shape (B, d_s).
        teacher_features: shape (B, d_t); receives no gradient.

    Returns:
        Scalar, dimensionless.
    """
    return F.smooth_l1_loss(angles(student_features), angles(teacher_features.detach()))


class Method(DistillMethod):
    """L = ce_weight * CE + distance_weight * RKD-D + angle_weight * RKD-A of the pooled features."""

    needs_features = True

    def terms(self, batch: Batch) -> Terms:
        student, teacher = batch.student.maps.pooled, batch.taught.maps.pooled
        return {
            "ce": self.config.ce_weight * ce_loss(batch.student_logits, batch.labels),
            "distance": self.config.distance_weight * rkd_distance_loss(student, teacher),
            "angle": self.config.angle_weight * rkd_angle_loss(student, teacher),
        }
