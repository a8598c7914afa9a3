"""Neuron selectivity transfer: the distribution of a stage's channels over positions (Huang and Wang 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from trainers.config import MethodConfig
from trainers.methods import Batch, Case, DistillMethod, Terms
from trainers.methods._adapters import pooled_alike, stage_count_faults
from trainers.methods.ce import ce_loss

KIND = "distill"
VERSION = 1
NEEDS_TEACHER = True


class Config(MethodConfig):
    """Defaults: the CIFAR-100 recipe of RepDistiller and mdistiller."""

    ce_weight: float = Field(1.0, ge=0, description="weight of the cross-entropy with the labels (RepDistiller)")
    nst_weight: float = Field(50.0, ge=0, description="weight of the maximum mean discrepancy (RepDistiller)")


def faults(config: Config, case: Case) -> list[str]:
    """Every stage is compared with the teacher's of the same number."""
    return stage_count_faults(case)


def mean_kernel(left: Tensor, right: Tensor) -> Tensor:
    """Mean of the kernel (a_i . b_j)^2 over samples and all pairs of channels: the polynomial kernel of degree 2.

    With more channels than positions it is taken from the P x P matrices, sum_ij (a_i . b_j)^2 = <A^T A, B^T B>: so no tensor is
    larger than the maps, where the matrices of a ResNet50's last stage would have a gigabyte.

    Args:
        left: a, shape (B, C_a, P), P positions.
        right: b, shape (B, C_b, P).

    Returns:
        Scalar.
    """
    batch, channels, positions = left.shape
    others = right.shape[1]
    if channels * others <= positions**2:
        return (left @ right.transpose(1, 2)).square().mean()
    products = (left.transpose(1, 2) @ left) * (right.transpose(1, 2) @ right)  # (B, P, P)
    return products.sum() / (batch * channels * others)


def nst_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """Squared maximum mean discrepancy between the channels of both (Huang and Wang 2017).

        L = sum_k mean k(t, t) + mean k(s, s) - 2 mean k(s, t),  k(a, b) = (a . b)^2, channels normalised over positions

    Args:
        student_maps: of every stage, shapes (B, C, H, W).
        teacher_maps: as many; the larger map of a stage is pooled to the smaller one's size. They receive no gradient.

    Returns:
        Scalar, dimensionless; the mean of k(t, t) has no gradient and makes the loss 0 for equal maps.
    """
    losses = []
    for student_map, teacher_map in zip(student_maps, teacher_maps, strict=True):
        both = pooled_alike(student_map, teacher_map.detach())
        student, teacher = (F.normalize(each.flatten(2), dim=2) for each in both)  # (B, C, H W)
        losses.append(mean_kernel(teacher, teacher) + mean_kernel(student, student) - 2 * mean_kernel(student, teacher))
    return torch.stack(losses).sum()


class Method(DistillMethod):
    """L = ce_weight * CE + nst_weight * NST over all stages."""

    needs_features = True

    def terms(self, batch: Batch) -> Terms:
        loss = nst_loss(batch.student.maps.stages, batch.taught.maps.stages)
        return {
            "ce": self.config.ce_weight * ce_loss(batch.student_logits, batch.labels),
            "nst": self.config.nst_weight * loss,
        }
