"""Attention transfer: where in an image each stage is active (Zagoruyko and Komodakis 2017), in RepDistiller's form."""

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
    at_weight: float = Field(1000.0, ge=0, description="weight of the attention loss (RepDistiller)")
    power: int = Field(2, ge=1, description="p of the activations in the attention map (RepDistiller)")

    def inactive(self) -> frozenset[str]:
        return frozenset({"power"}) if self.at_weight == 0 else frozenset()


def faults(config: Config, case: Case) -> list[str]:
    """Every stage is compared with the teacher's of the same number."""
    return stage_count_faults(case)


def attention(feature_map: Tensor, power: int) -> Tensor:
    """Attention over positions: Q = normalise_L2(flatten(mean_c |F_c|^p)).

    Args:
        feature_map: F, shape (B, C, H, W).
        power: p >= 1.

    Returns:
        Shape (B, H * W), of length 1 and free of the scale of F.
    """
    return F.normalize(feature_map.float().abs().pow(power).mean(dim=1).flatten(1), dim=1)


def at_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], power: int) -> Tensor:
    """Squared difference of attention maps (Zagoruyko and Komodakis 2017, Eq. 2).

        L = sum_k mean over B and positions of (Q(F_s,k) - Q(F_t,k))^2

    Args:
        student_maps: F_s,k of every stage, shapes (B, C, H, W).
        teacher_maps: F_t,k, as many; the larger map of a stage is pooled to the smaller one's size. They receive no gradient.
        power: p of the attention.

    Returns:
        Scalar, dimensionless, summed over stages.

    Departs from the paper: a mean of squares instead of the norm, a channel mean instead of the sum (RepDistiller).
    """
    losses = []
    for student_map, teacher_map in zip(student_maps, teacher_maps, strict=True):
        student, teacher = pooled_alike(student_map, teacher_map.detach())
        losses.append(F.mse_loss(attention(student, power), attention(teacher, power)))
    return torch.stack(losses).sum()


class Method(DistillMethod):
    """L = ce_weight * CE + at_weight * AT over all stages, without the stem."""

    needs_features = True

    def terms(self, batch: Batch) -> Terms:
        loss = at_loss(batch.student.maps.stages, batch.taught.maps.stages, self.config.power)
        return {
            "ce": self.config.ce_weight * ce_loss(batch.student_logits, batch.labels),
            "at": self.config.at_weight * loss,
        }
