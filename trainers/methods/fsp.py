"""Flow of the solution procedure (Yim et al. 2017): a first stage copies how neighbouring maps go together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor

from trainers.config import Epochs, MethodConfig
from trainers.methods import Batch, Case, Context, DistillMethod, FirstStage, Terms
from trainers.methods._adapters import pair_of, pooled_alike, shapes_of, stage_count_faults
from trainers.methods._two_stages import trunk
from trainers.methods.ce import ce_loss
from trainers.models import Features

KIND = "distill"
VERSION = 1
NEEDS_TEACHER = True


class Config(MethodConfig):
    """Values of RepDistiller's CIFAR-100 recipe; the weight 50 of its script reaches neither stage."""

    ce_weight: float = Field(
        1.0, ge=0, description="weight of the cross-entropy, alone in the second stage (RepDistiller)"
    )
    first_stage_epochs: Epochs = Field(
        30, ge=1, description="epochs in which the student's trunk learns the matrices (RepDistiller)"
    )
    fsp_weight: float = Field(1.0, ge=0, description="weight of the first stage's loss (RepDistiller)")


def faults(config: Config, case: Case) -> list[str]:
    """The matrices are compared as they are, so widths must agree stage by stage, the stem's included."""
    found = stage_count_faults(case)
    if found:
        return found
    student, teacher = ([each.shape[1] for each in maps_of(features)] for features in shapes_of(case))
    if student == teacher:
        return []
    return [
        f"pair {pair_of(case)}: FSP compares channel with channel, and the widths of stem and stages are {teacher} in "
        f"the teacher and {student} in the student; choose networks of equal widths, or leave this cell out"
    ]


def maps_of(features: Features) -> tuple[Tensor, ...]:
    """Stem and stages, as the family defines them after its activation."""
    return (features.stem, *features.stages)


def fsp_matrix(first: Tensor, second: Tensor) -> Tensor:
    """How two maps of one network go together (Yim et al. 2017, Eq. 1).

        M[i, j] = mean over positions of a_i b_j

    Args:
        first: a, shape (B, C_a, H_a, W_a).
        second: b, shape (B, C_b, H_b, W_b); the larger one is average-pooled to the size of the other.

    Returns:
        Shape (B, C_a, C_b). A batched product: the broadcast form would hold B * C_a * C_b * H * W numbers.
    """
    first, second = pooled_alike(first, second)
    positions = first.shape[2] * first.shape[3]
    return torch.bmm(first.flatten(2), second.flatten(2).transpose(1, 2)) / positions


def fsp_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """Mean squared difference of the matrices of neighbouring maps, summed over the pairs (Yim et al. 2017, Eq. 2).

        L = sum_k mean( (M(s_k, s_k+1) - M(t_k, t_k+1))^2 )

    Args:
        student_maps: stem and stages, each (B, C_k, H, W).
        teacher_maps: of the same channels, without gradient; sizes may differ.

    Returns:
        Scalar; the mean is over the batch and both channels (RepDistiller's `FSP.py`).
    """
    pairs = zip(pairwise(student_maps), pairwise(teacher_maps), strict=True)
    return torch.stack(
        [(fsp_matrix(*mine) - fsp_matrix(*other).detach()).square().mean() for mine, other in pairs]
    ).sum()


class Method(DistillMethod):
    """First stage: fsp_weight * FSP on the trunk, constant learning rate. Then the recipe with ce_weight * CE alone."""

    needs_features = True

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        rate = context.protocol.lr
        self.first_stage = FirstStage(
            epochs=config.first_stage_epochs,
            rates=lambda epoch: rate,
            parameters=trunk(context.student),
            terms=self._flow,
            student_mode="train",
        )

    def _flow(self, batch: Batch) -> Terms:
        loss = fsp_loss(maps_of(batch.student.maps), maps_of(batch.taught.maps))
        return {"fsp": self.config.fsp_weight * loss}

    def terms(self, batch: Batch) -> Terms:
        return {"ce": self.config.ce_weight * ce_loss(batch.student_logits, batch.labels)}
