"""Distillation of activation boundaries (Heo et al. 2019): a first stage copies which neurons fire, then labels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from pydantic import Field
from torch import Tensor, nn

from trainers.config import Epochs, MethodConfig
from trainers.methods import Batch, Case, Context, DistillMethod, FirstStage, Terms
from trainers.methods._adapters import (
    MapShape,
    fresh,
    has_regressor,
    hint_regressor,
    pair_of,
    probes,
    shapes_of,
    stage_count_faults,
)
from trainers.methods._two_stages import freeze, thaw, trunk
from trainers.methods.ce import ce_loss

KIND = "distill"
VERSION = 1
NEEDS_TEACHER = True


class Config(MethodConfig):
    """Values of RepDistiller's CIFAR-100 recipe."""

    ce_weight: float = Field(
        1.0, ge=0, description="weight of the cross-entropy, alone in the second stage (RepDistiller)"
    )
    first_stage_epochs: Epochs = Field(
        30, ge=1, description="epochs in which connectors and the student's trunk learn the boundaries (RepDistiller)"
    )
    ab_weight: float = Field(0.003, ge=0, description="weight of the first stage's loss, 3 / 1000 (RepDistiller)")
    margin: float = Field(1.0, ge=0, description="how far beyond its boundary a neuron is pushed (RepDistiller)")

    def inactive(self) -> frozenset[str]:
        return frozenset({"margin"}) if self.ab_weight == 0 else frozenset()


def faults(config: Config, case: Case) -> list[str]:
    """Stages are compared one by one, and a connector must reach the size of the teacher's map."""
    found = stage_count_faults(case)
    if found:
        return found
    student, teacher = shapes_of(case)
    return [
        f"pair {pair_of(case)}: stage {number} has {mine.shape[-1]} pixels in the student and {other.shape[-1]} in the "
        "teacher, and no connector grows a map by other than a factor of two; choose networks of like resolution"
        for number, (mine, other) in enumerate(zip(student.pre_relu, teacher.pre_relu, strict=True), start=1)
        if not has_regressor(mine.shape, other.shape)
    ]


def ab_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], margin: float) -> Tensor:
    """Squared distance of each neuron to the far side of a boundary that the teacher is on the other side of.

        l(s, t) = (s + m)^2 [s > -m and t <= 0] + (s - m)^2 [s <= m and t > 0]
        L = 1/B sum_k 2^(k - n) sum over all elements of stage k of l

    Args:
        student_maps: s, n connected maps before their ReLU, each (B, C, H, W).
        teacher_maps: t, of the same shapes, without gradient.
        margin: m, in the unit of the maps.

    Returns:
        Scalar: summed over elements and stages, averaged over the batch. Source: RepDistiller's `AB.py`.
    """
    total = torch.zeros((), device=student_maps[0].device)
    for number, (student, teacher) in enumerate(zip(student_maps, teacher_maps, strict=True), start=1):
        s, t = student.float(), teacher.detach().float()
        silent = (s + margin).square() * ((s > -margin) & (t <= 0))
        firing = (s - margin).square() * ((s <= margin) & (t > 0))
        total = total + 2.0 ** (number - len(student_maps)) * (silent + firing).sum() / len(s)
    return total


def connector(student_shape: MapShape, teacher_shape: MapShape) -> nn.Module:
    """The map itself where channels and size agree, else FitNet's regressor without its ReLU."""
    if tuple(student_shape[1:]) == tuple(teacher_shape[1:]):
        return nn.Identity()
    return hint_regressor(student_shape, teacher_shape, relu=False)


class Method(DistillMethod):
    """First stage: ab_weight * AB on connectors and trunk, constant learning rate. Then the recipe with ce_weight * CE.

    Departs from RepDistiller where a student has layers between its last stage and its classifier: WRN's last BN, whose
    output is the last map here, learns with the trunk in place of staying as it was initialised.
    """

    needs_features = True

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        student, teacher = probes(context)
        shapes = [(s.shape, t.shape) for s, t in zip(student.pre_relu, teacher.pre_relu, strict=True)]
        self.connectors = fresh(lambda: nn.ModuleList(connector(s, t) for s, t in shapes), context, "ab")
        freeze(self.connectors)
        self.modules["connectors"] = self.connectors
        rate = context.protocol.lr
        self.first_stage = FirstStage(
            epochs=config.first_stage_epochs,
            rates=lambda epoch: rate,
            parameters=[*trunk(context.student), *self.connectors.parameters()],
            terms=self._boundaries,
            student_mode="train",
            prepare=partial(thaw, self.connectors),
        )

    def _boundaries(self, batch: Batch) -> Terms:
        maps = zip(self.connectors, batch.student.maps.pre_relu, strict=True)
        connected = [part(own.float()) for part, own in maps]
        return {"ab": self.config.ab_weight * ab_loss(connected, batch.taught.maps.pre_relu, self.config.margin)}

    def start_epoch(self, epoch: int) -> None:
        freeze(self.connectors)

    def terms(self, batch: Batch) -> Terms:
        return {"ce": self.config.ce_weight * ce_loss(batch.student_logits, batch.labels)}
