"""Similarity-preserving distillation: which samples of a batch look alike (Tung and Mori 2019)."""

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


class Config(MethodConfig):
    """Defaults: the CIFAR-100 recipe of RepDistiller and mdistiller."""

    ce_weight: float = Field(1.0, ge=0, description="weight of the cross-entropy with the labels (RepDistiller)")
    sp_weight: float = Field(
        3000.0, ge=0, description="weight of the similarity loss, for batches of 64 (RepDistiller)"
    )


def faults(config: Config, case: Case) -> list[str]:
    """One sample has no similarities."""
    return batch_faults(case, 2)


def similarities(feature_map: Tensor) -> Tensor:
    """G = F F^T of the flattened maps, every row divided by its length.

    Args:
        feature_map: shape (B, C, H, W).

    Returns:
        Shape (B, B).
    """
    rows = feature_map.float().flatten(1)
    return F.normalize(rows @ rows.T, dim=1)


def sp_loss(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Squared difference of similarity matrices (Tung and Mori 2019).

        L = || G_s - G_t ||_F^2 / B^2

    Args:
        student_map: last stage map, shape (B, C_s, H_s, W_s).
        teacher_map: shape (B, C_t, H_t, W_t), any size; receives no gradient.

    Returns:
        Scalar, dimensionless; depends on the batch size.
    """
    return F.mse_loss(similarities(student_map), similarities(teacher_map.detach()))


class Method(DistillMethod):
    """L = ce_weight * CE + sp_weight * SP of the last stage."""

    needs_features = True

    def terms(self, batch: Batch) -> Terms:
        loss = sp_loss(batch.student.maps.stages[-1], batch.taught.maps.stages[-1])
        return {
            "ce": self.config.ce_weight * ce_loss(batch.student_logits, batch.labels),
            "sp": self.config.sp_weight * loss,
        }
