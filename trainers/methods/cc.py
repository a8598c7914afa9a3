"""Correlation congruence: relations between the samples of a batch (Peng et al. 2019), as two public code bases compute them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from trainers.config import MethodConfig
from trainers.methods import Batch, Case, Context, DistillMethod, Terms
from trainers.methods._adapters import batch_faults, fresh, probes
from trainers.methods.ce import ce_loss

KIND = "distill"
VERSION = 1
NEEDS_TEACHER = True
TAYLOR_ORDER = 2
"""P of the Gaussian's series (PCKD authors' code)."""


class Config(MethodConfig):
    """Defaults: the CIFAR-100 recipe of RepDistiller, behind the printed numbers."""

    ce_weight: float = Field(1.0, ge=0, description="weight of the cross-entropy with the labels (RepDistiller)")
    cc_weight: float = Field(0.02, ge=0, description="weight of the correlation loss (RepDistiller)")
    form: Literal["neighbours", "gaussian"] = Field(
        "neighbours",
        description="neighbours: products of neighbours' differences (RepDistiller); gaussian: kernel matrices (PCKD code)",
    )
    gamma: float = Field(0.4, gt=0, description="width of the Gaussian kernel (PCKD code)")
    embed_dim: int = Field(128, gt=0, description="dimensions of both embeddings (RepDistiller)")

    def inactive(self) -> frozenset[str]:
        if self.cc_weight == 0:
            return frozenset({"form", "gamma", "embed_dim"})
        return frozenset({"gamma"}) if self.form == "neighbours" else frozenset()


PRESETS: Mapping[str, Mapping[str, Any]] = {"gaussian": {"form": "gaussian"}}
"""gaussian: the form in the code of the PCKD authors, gamma 0.4; its weight is not known, so RepDistiller's stays."""


def faults(config: Config, case: Case) -> list[str]:
    """One sample has no relations."""
    return batch_faults(case, 2)


def neighbours_loss(student_embedding: Tensor, teacher_embedding: Tensor) -> Tensor:
    """Products of the differences at neighbouring samples (RepDistiller's reading of Peng et al. 2019).

        L = 1 / (B - 1) * sum_{i < B} sum_k d_ik d_(i+1)k,  d = |e_s - e_t|

    Args:
        student_embedding: e_s, shape (B, D).
        teacher_embedding: e_t, shape (B, D); trained, so it keeps its gradient.

    Returns:
        Scalar in squared units of the embeddings; depends on the order of the batch.

    Departs from the paper, which compares kernel matrices.
    """
    difference = (student_embedding.float() - teacher_embedding.float()).abs()
    return (difference[:-1] * difference[1:]).sum(dim=1).mean()


def gaussian_kernel(embedding: Tensor, gamma: float) -> Tensor:
    """Gaussian similarities by a second-order Taylor series (Peng et al. 2019).

        K = exp(-2 gamma) * sum_{p=0..2} (2 gamma)^p / p! * (e e^T)^p, powers element by element, rows of e of length 1

    Args:
        embedding: e before normalisation, shape (B, D).
        gamma: > 0.

    Returns:
        Shape (B, B), close to exp(-gamma |e_i - e_j|^2).
    """
    rows = F.normalize(embedding.float(), dim=1)
    cosines = rows @ rows.T
    series = torch.ones_like(cosines)
    for p in range(1, TAYLOR_ORDER + 1):
        series = series + (2 * gamma) ** p / math.factorial(p) * cosines**p
    return math.exp(-2 * gamma) * series


def gaussian_loss(student_embedding: Tensor, teacher_embedding: Tensor, gamma: float) -> Tensor:
    """Mean squared difference of the kernel matrices (Peng et al. 2019): L = || K_s - K_t ||_F^2 / B^2.

    Args:
        student_embedding: shape (B, D).
        teacher_embedding: shape (B, D); trained, so it keeps its gradient.
        gamma: of the kernel.

    Returns:
        Scalar, dimensionless.
    """
    return F.mse_loss(gaussian_kernel(student_embedding, gamma), gaussian_kernel(teacher_embedding, gamma))


class Method(DistillMethod):
    """L = ce_weight * CE + cc_weight * CC of linear embeddings of both pooled features, both trained."""

    needs_features = True

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        for name, features in zip(("embed_student", "embed_teacher"), probes(context), strict=True):
            wide = features.pooled.shape[1]
            self.modules[name] = fresh(partial(nn.Linear, wide, config.embed_dim), context, f"cc-{name}")

    def terms(self, batch: Batch) -> Terms:
        student = self.modules["embed_student"](batch.student.maps.pooled.float())
        teacher = self.modules["embed_teacher"](batch.taught.maps.pooled.float())
        if self.config.form == "neighbours":
            loss = neighbours_loss(student, teacher)
        else:
            loss = gaussian_loss(student, teacher, self.config.gamma)
        return {
            "ce": self.config.ce_weight * ce_loss(batch.student_logits, batch.labels),
            "cc": self.config.cc_weight * loss,
        }
