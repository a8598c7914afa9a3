"""Inter-channel correlation distillation, ICKD-C: which channels of the last stage fire together (Liu et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from torch import Tensor, nn

from trainers.config import MethodConfig
from trainers.methods import Batch, Context, DistillMethod, Terms
from trainers.methods._adapters import fresh, probes
from trainers.methods.ce import ce_loss
from trainers.methods.kd import kd_loss

KIND = "distill"
VERSION = 1
NEEDS_TEACHER = True
SMALLEST_SQUARE = 1e-24
"""A channel's correlations are divided by at least the root of this: a dead channel has none."""


class Config(MethodConfig):
    """Defaults: CIFAR-100 as in the README of the authors' code."""

    ce_weight: float = Field(1.0, ge=0, description="weight of the cross-entropy with the labels (authors' code)")
    ickd_weight: float = Field(2.5, ge=0, description="weight of the correlations (README of the authors' code)")
    kd_weight: float = Field(0.0, ge=0, description="weight of an added KD term; 1 where it is used (authors' code)")
    temperature: float = Field(4.0, gt=0, description="T of the KD term (RepDistiller)")

    def inactive(self) -> frozenset[str]:
        return frozenset({"temperature"}) if self.kd_weight == 0 else frozenset()


PRESETS: Mapping[str, Mapping[str, Any]] = {"with-kd": {"kd_weight": 1.0}, "sample-script": {"ickd_weight": 4.0}}
"""with-kd: the authors' code with its KD option on. sample-script: the weight of one of its sample scripts."""


def embedder(student_channels: int, teacher_channels: int) -> nn.Sequential:
    """1x1 convolution without bias to the teacher's channels, then BN (authors' code)."""
    return nn.Sequential(nn.Conv2d(student_channels, teacher_channels, 1, bias=False), nn.BatchNorm2d(teacher_channels))


def row_products(left: Tensor, right: Tensor) -> Tensor:
    """g_i . h_i of the rows of G = A A^T and H = B B^T, without forming either: a_i^T (A^T B) b_i.

    Args:
        left: A, shape (B, C, P), P positions.
        right: B, shape (B, C, Q).

    Returns:
        Shape (B, C).
    """
    return (left @ (left.transpose(1, 2) @ right) * right).sum(dim=2)


def ickd_loss(embedded: Tensor, teacher_map: Tensor) -> Tensor:
    """Squared difference of channel correlations (Liu et al. 2021, ICKD-C).

        L = 1 / (B C) * sum_bi | g_s,bi - g_t,bi |^2,  g_bi = row i of G_b = F_b F_b^T, divided by its length

    Args:
        embedded: the student's map with the teacher's channels, shape (B, C, H_s, W_s).
        teacher_map: shape (B, C, H_t, W_t), any size; receives no gradient.

    Returns:
        Scalar, dimensionless, in [0, 4].

    Computed as |g_s|^2 + |g_t|^2 - 2 g_s . g_t from matrices between positions: the B matrices of C x C would have a gigabyte for
    a ResNet50 teacher.
    """
    student, teacher = embedded.float().flatten(2), teacher_map.detach().float().flatten(2)  # (B, C, P), (B, C, Q)
    student_squares, teacher_squares = row_products(student, student), row_products(teacher, teacher)
    student_scale, teacher_scale = (x.clamp(min=SMALLEST_SQUARE).rsqrt() for x in (student_squares, teacher_squares))
    lengths = student_squares * student_scale**2 + teacher_squares * teacher_scale**2  # 2, or less with dead channels
    return (lengths - 2 * row_products(student, teacher) * student_scale * teacher_scale).mean()


class Method(DistillMethod):
    """L = ce_weight * CE + ickd_weight * ICKD-C of the last stage + kd_weight * KD."""

    needs_features = True

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        student, teacher = (features.stages[-1].shape[1] for features in probes(context))
        self.modules["embed"] = fresh(lambda: embedder(student, teacher), context, "ickd")

    def terms(self, batch: Batch) -> Terms:
        config = self.config
        embedded = self.modules["embed"](batch.student.maps.stages[-1].float())
        loss = ickd_loss(embedded, batch.taught.maps.stages[-1])
        terms = {
            "ce": config.ce_weight * ce_loss(batch.student_logits, batch.labels),
            "ickd": config.ickd_weight * loss,
        }
        if config.kd_weight > 0:
            kd = kd_loss(batch.student_logits, batch.teacher_logits, config.temperature)
            terms["kd"] = config.kd_weight * kd
        return terms
