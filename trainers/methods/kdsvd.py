"""KD by singular value decomposition: how the main direction of a map turns from stage to stage (Lee et al. 2018).

The form is mdistiller's, on the columns of a map; RepDistiller's, on its channels, needs equal channel counts and is not offered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from trainers.config import MethodConfig
from trainers.methods import Batch, Case, DistillMethod, Terms
from trainers.methods._adapters import pair_of, shapes_of, stage_count_faults
from trainers.methods.ce import ce_loss

KIND = "distill"
VERSION = 1
NEEDS_TEACHER = True
STUDENT_VECTORS = 4
"""The teacher's direction is looked for among so many of the student's (one for the teacher and three more, mdistiller)."""
RESOLUTION = 1e-4
"""Share of the largest squared singular value below which the gap between two counts as none in the gradient (our choice)."""


class Config(MethodConfig):
    """Defaults: the CIFAR-100 recipe of mdistiller."""

    ce_weight: float = Field(1.0, ge=0, description="weight of the cross-entropy with the labels (mdistiller)")
    kdsvd_weight: float = Field(1.0, ge=0, description="weight of the loss between consecutive stages (mdistiller)")


def faults(config: Config, case: Case) -> list[str]:
    """Vectors over the columns of a map are compared, so both maps of a stage need the same width."""
    student, teacher = shapes_of(case)
    unequal = stage_count_faults(case)
    if unequal:
        return unequal
    if len(student.stages) < 2:
        return [
            f"pair {pair_of(case)}: one stage has no next one to be compared with; choose networks with two or more"
        ]
    widths = [[stage.shape[-1] for stage in features.stages] for features in (student, teacher)]
    if widths[0] == widths[1]:
        return []
    return [
        f"pair {pair_of(case)}: the teacher's maps are {widths[1]} and the student's {widths[0]} pixels wide, but their columns "
        "are compared; choose networks with equally wide maps in every stage"
    ]


class Eigenvectors(torch.autograd.Function):
    """Eigenvectors (columns, by falling eigenvalue) of symmetric matrices (B, W, W), with a gradient that stays finite.

    The gradient is V (E * (V^T dV)) V^T with E_ij = gap / (gap^2 + (1e-4 lambda_1)^2) and gap = lambda_j - lambda_i, in place of
    1 / gap, which is infinite where two eigenvalues meet.
    """

    @staticmethod
    def forward(ctx: Any, matrices: Tensor) -> Tensor:
        rising, columns = torch.linalg.eigh(matrices)
        values: Tensor = rising.flip(-1)
        vectors: Tensor = columns.flip(-1)
        ctx.save_for_backward(values, vectors)
        return vectors

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        values: Tensor
        vectors: Tensor
        values, vectors = ctx.saved_tensors
        gaps = values[:, None, :] - values[:, :, None]
        floor = (RESOLUTION * values[:, :1, None]).square() + torch.finfo(values.dtype).tiny
        inner = gaps / (gaps.square() + floor) * (vectors.transpose(1, 2) @ gradient)
        found = vectors @ inner @ vectors.transpose(1, 2)
        return (found + found.transpose(1, 2)) / 2


def right_vectors(feature_map: Tensor, count: int) -> Tensor:
    """The first right singular vectors of every sample's map, read as a matrix with a row for each channel and image row.

    Args:
        feature_map: shape (B, C, H, W), a matrix of (C * H) x W for each sample.
        count: how many, at most W.

    Returns:
        Shape (B, W, count), columns of length 1; their signs are arbitrary.
    """
    matrices = feature_map.float().flatten(1, 2)  # (B, C H, W)
    # A map with an inf or nan fails in the cross-entropy, with a better message than the decomposition's.
    gram = (matrices.transpose(1, 2) @ matrices).nan_to_num(0.0, 0.0, 0.0)
    vectors: Tensor = Eigenvectors.apply(gram)  # type: ignore[no-untyped-call]
    return vectors[:, :, :count]


def teacher_vector(feature_map: Tensor) -> Tensor:
    """First right singular vector, shape (B, W), with the sign that makes the sum of its entries positive."""
    first = right_vectors(feature_map, 1)[:, :, 0]
    return torch.where(first.sum(dim=1, keepdim=True) < 0, -first, first)


def aligned_vector(feature_map: Tensor, target: Tensor) -> Tensor:
    """The student's direction that lies nearest to the teacher's, with its sign.

    Args:
        feature_map: the student's, shape (B, C, H, W).
        target: the teacher's vector, shape (B, W).

    Returns:
        Shape (B, W): of the first four right singular vectors the one with the largest |cosine|, times the cosine's sign.
    """
    vectors = right_vectors(feature_map, STUDENT_VECTORS)
    cosines = (vectors.detach() * target[:, :, None]).sum(dim=1)
    best = cosines.abs().argmax(dim=1)
    chosen = vectors.gather(2, best[:, None, None].expand(-1, vectors.shape[1], 1))[:, :, 0]
    return torch.where(cosines.gather(1, best[:, None]) < 0, -chosen, chosen)


def turn(vector: Tensor, previous: Tensor) -> Tensor:
    """Relation of two consecutive stages: exp(-(v_i - u_j)^2 / 8) of all entries, (B, W) and (B, U) to (B, W, U)."""
    return torch.exp(-((vector[:, :, None] - previous[:, None, :]) ** 2) / 8)


def kdsvd_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """Squared difference of the relations between consecutive stages (Lee et al. 2018, mdistiller's form).

        L = 1/B sum_k>1 sum_ij (R_s,k - R_t,k)_ij^2,  R_k,ij = exp(-(v_k,i - v_(k-1),j)^2 / 8)

    Args:
        student_maps: of every stage, shapes (B, C, H, W).
        teacher_maps: as many, equally wide; receive no gradient.

    Returns:
        Scalar, dimensionless, summed over pairs of stages.

    v: first right singular vector; scaling it by the teacher's singular value has no effect, since mdistiller normalises the singular
    values over the one that it keeps. Signs follow the rule of `teacher_vector`; mdistiller takes what the decomposition returns.
    """
    teacher = [teacher_vector(each.detach()) for each in teacher_maps]
    student = [aligned_vector(each, target) for each, target in zip(student_maps, teacher, strict=True)]
    losses = [
        (turn(student[k], student[k - 1]) - turn(teacher[k], teacher[k - 1])).square().sum() / len(student[k])
        for k in range(1, len(student))
    ]
    return torch.stack(losses).sum()


class Method(DistillMethod):
    """L = ce_weight * CE + kdsvd_weight * KDSVD over all pairs of consecutive stages."""

    needs_features = True

    def terms(self, batch: Batch) -> Terms:
        loss = kdsvd_loss(batch.student.maps.stages, batch.taught.maps.stages)
        return {
            "ce": self.config.ce_weight * ce_loss(batch.student_logits, batch.labels),
            "kdsvd": self.config.kdsvd_weight * loss,
        }
