"""Variational information distillation: the likelihood of the teacher's maps given the student's (Ahn et al. 2019)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from trainers.config import MethodConfig
from trainers.methods import Batch, Case, Context, DistillMethod, Terms
from trainers.methods._adapters import fresh, pooled_alike, probes, stage_count_faults
from trainers.methods.ce import ce_loss

KIND = "distill"
VERSION = 1
NEEDS_TEACHER = True
VARIANCE_FLOOR = 1e-5
"""Smallest variance (RepDistiller)."""


class Config(MethodConfig):
    """Defaults: the CIFAR-100 recipe of RepDistiller and mdistiller."""

    ce_weight: float = Field(1.0, ge=0, description="weight of the cross-entropy with the labels (RepDistiller)")
    vid_weight: float = Field(1.0, ge=0, description="weight of the negative log-likelihood (RepDistiller)")
    init_variance: float = Field(
        5.0, gt=VARIANCE_FLOOR, description="sigma^2 of every channel before training (RepDistiller)"
    )

    def inactive(self) -> frozenset[str]:
        return frozenset({"init_variance"}) if self.vid_weight == 0 else frozenset()


def faults(config: Config, case: Case) -> list[str]:
    """Every stage is compared with the teacher's of the same number."""
    return stage_count_faults(case)


def vid_loss(mean: Tensor, teacher_map: Tensor, scale: Tensor) -> Tensor:
    """Negative Gaussian log-likelihood of a teacher's map (Ahn et al. 2019).

        L = mean over B, C, H, W of ((mu - F_t)^2 / sigma_c^2 + ln sigma_c^2) / 2,  sigma_c^2 = softplus(a_c) + 1e-5

    Args:
        mean: mu(F_s), shape (B, C, H, W).
        teacher_map: F_t, shape (B, C, H, W); receives no gradient.
        scale: a, shape (C,), trained.

    Returns:
        Scalar in nats per element, without the constant ln(2 pi) / 2; may be negative.
    """
    variance = (F.softplus(scale.float()) + VARIANCE_FLOOR).view(1, -1, 1, 1)
    squares = (mean.float() - teacher_map.detach().float()) ** 2
    return ((squares / variance + variance.log()) / 2).mean()


class Gaussian(nn.Module):
    """p(F_t | F_s) of one stage: mu of three 1x1 convolutions, one variance for each of the teacher's channels.

    Args:
        into: channels of the student's map.
        out: channels of the teacher's map.
        init_variance: sigma^2 at the start.
    """

    def __init__(self, into: int, out: int, init_variance: float) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(into, out, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(out, out, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(out, out, 1, bias=False),
        )
        above = init_variance - VARIANCE_FLOOR  # a = ln(e^above - 1), written so that it cannot overflow
        self.scale = nn.Parameter(torch.full((out,), above + math.log(-math.expm1(-above))))

    def forward(self, student_map: Tensor, teacher_map: Tensor) -> Tensor:
        """The stage's loss."""
        student, teacher = pooled_alike(student_map, teacher_map)
        return vid_loss(self.mean(student), teacher, self.scale)


class Method(DistillMethod):
    """L = ce_weight * CE + vid_weight * sum of the stages' VID; the variances are trained, as in RepDistiller."""

    needs_features = True

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        student, teacher = (features.stages for features in probes(context))
        pairs = [(mine.shape[1], other.shape[1]) for mine, other in zip(student, teacher, strict=True)]
        self.stages = fresh(
            lambda: nn.ModuleList(Gaussian(into, out, config.init_variance) for into, out in pairs), context, "vid"
        )
        self.modules["stages"] = self.stages

    def terms(self, batch: Batch) -> Terms:
        stages = zip(self.stages, batch.student.maps.stages, batch.taught.maps.stages, strict=True)
        loss = torch.stack([gaussian(student, teacher) for gaussian, student, teacher in stages]).sum()
        return {
            "ce": self.config.ce_weight * ce_loss(batch.student_logits, batch.labels),
            "vid": self.config.vid_weight * loss,
        }
