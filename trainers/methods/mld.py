"""Multi-level logit distillation on a weak and a strong view (Jin et al. 2023, "Multi-level Logit Distillation")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from trainers.config import MethodConfig
from trainers.methods import Batch, DistillMethod, Terms
from trainers.methods._losses import kl_per_sample
from trainers.methods.ce import ce_loss

KIND = "distill"
VERSION = 1
NEEDS_TEACHER = True
TEMPERATURES = (2.0, 3.0, 4.0, 5.0, 6.0)
STRONG_TEMPERATURES = (3.0, 4.0, 5.0)
"""Of the released code's strong instance term, those that look at the strong view; the other two look at the weak one again."""


class Config(MethodConfig):
    """Weights of the official code; every temperature of every term counts alike."""

    form: Literal["released", "masked"] = Field(
        "released",
        description="released: as the official code (commit 5ee473f) computes it; masked: what it was written to compute",
    )
    ce_weight: float = Field(0.1, ge=0, description="weight of the cross-entropy of each view (official code)")
    instance_weight: float = Field(0.9, ge=0, description="weight of KD for each temperature (official code)")
    batch_weight: float = Field(0.9, ge=0, description="weight of the B x B term for each temperature (official code)")
    class_weight: float = Field(0.9, ge=0, description="weight of the K x K term for each temperature (official code)")

    def inactive(self) -> frozenset[str]:
        off = self.instance_weight == self.batch_weight == self.class_weight == 0
        return frozenset({"form"}) if off else frozenset()


PRESETS: Mapping[str, Mapping[str, Any]] = {"masked": {"form": "masked"}}
"""masked: masks act on single samples and classes, strong terms look at strong logits, and none is left out."""


def batch_terms(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Each row's share of the batch-level term (Jin et al. 2023, official code).

        l_i = 1/B sum_j (P_s P_s^T - P_t P_t^T)_ij^2,  P = softmax(z / T)

    Args:
        student_logits: shape (B, K).
        teacher_logits: shape (B, K).

    Returns:
        Shape (B,); the sum is the term. No T^2.
    """
    student, teacher = (F.softmax(logits.float() / temperature, dim=1) for logits in (student_logits, teacher_logits))
    return (student @ student.T - teacher @ teacher.T).square().sum(dim=1) / len(student)


def class_terms(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Each class's share of the class-level term (Jin et al. 2023, official code).

        l_c = 1/K sum_k (P_s^T P_s - P_t^T P_t)_ck^2,  P = softmax(z / T)

    Returns:
        Shape (K,); the sum is the term. No T^2.
    """
    student, teacher = (F.softmax(logits.float() / temperature, dim=1) for logits in (student_logits, teacher_logits))
    return (student.T @ student - teacher.T @ teacher).square().sum(dim=1) / student.shape[1]


def masks(teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """1 for samples on which, and for classes of which, the teacher is less sure than in the middle of the batch.

        sample: max_c p_ic <= median_i;  class: sum_i p_ic <= median_c,  p = softmax(t)

    Args:
        teacher_logits: t of the weak view, shape (B, K).

    Returns:
        Shapes (B,) and (K,), float. The median of an even number is the mean of the middle two.
    """
    sure = F.softmax(teacher_logits.float(), dim=1)
    values = (sure.amax(dim=1), sure.sum(dim=0))
    samples, classes = ((value <= value.quantile(0.5)).float() for value in values)
    return samples, classes


def mld_loss(
    weak: tuple[Tensor, Tensor], strong: tuple[Tensor, Tensor], form: Literal["released", "masked"]
) -> tuple[Tensor, Tensor, Tensor]:
    """The three levels, each summed over the temperatures 2, 3, 4, 5, 6 (Jin et al. 2023, official code).

        instance: mean_i m_i T^2 KL_i on the weak view + the same without mask on the strong view
        batch: sum_i m_i l_i (`batch_terms`);  class: sum_c n_c l_c (`class_terms`)

    released: losses are scalars before they meet a mask, so m and n act by their means only; at T = 2 and 6 the strong
    instance term looks at the weak view; the strong batch and class terms are left out.
    masked: m and n act on their samples and classes; strong terms of all three levels at all temperatures, m on the
    strong batch term, no n on the strong class term (as the official code has them before it drops them).

    Args:
        weak: student's and teacher's logits of the weak view, each (B, K); the teacher's receive no gradient.
        strong: likewise of the strong view.

    Returns:
        Instance, batch and class term, scalars without weights.
    """
    weak, strong = (weak[0], weak[1].detach()), (strong[0], strong[1].detach())
    samples, classes = masks(weak[1])
    instance, batch, category = [], [], []
    for temperature in TEMPERATURES:
        parts = [function(*weak, temperature) for function in (kl_per_sample, batch_terms, class_terms)]
        if form == "released":
            again = strong if temperature in STRONG_TEMPERATURES else weak
            instance.append(parts[0].mean() * samples.mean() + kl_per_sample(*again, temperature).mean())
            batch.append(parts[1].sum() * samples.mean())
            category.append(parts[2].sum() * classes.mean())
        else:
            instance.append((parts[0] * samples).mean() + kl_per_sample(*strong, temperature).mean())
            batch.append(((parts[1] + batch_terms(*strong, temperature)) * samples).sum())
            category.append((parts[2] * classes).sum() + class_terms(*strong, temperature).sum())
    return torch.stack(instance).sum(), torch.stack(batch).sum(), torch.stack(category).sum()


class Method(DistillMethod):
    """L = ce_weight * (CE weak + CE strong) + instance_weight * ... + batch_weight * ... + class_weight * ...

    Departs from the official code: both views go through the student in one pass, so BatchNorm sees them together.
    """

    views = "weak_strong"

    def terms(self, batch: Batch) -> Terms:
        config = self.config
        weak, strong = ((batch.student.logits[v::2], batch.taught.logits[v::2]) for v in range(2))
        instance, between, category = mld_loss(weak, strong, config.form)
        return {
            "ce": config.ce_weight * (ce_loss(weak[0], batch.labels) + ce_loss(strong[0], batch.labels)),
            "instance": config.instance_weight * instance,
            "batch": config.batch_weight * between,
            "class": config.class_weight * category,
        }
