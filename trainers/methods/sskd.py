"""Self-supervision as an auxiliary task: which rotated view belongs to which image (Xu et al. 2020, "Knowledge Distillation Meets Self-Supervision")."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from trainers.config import Epochs, MethodConfig
from trainers.methods import Batch, Case, Context, DistillMethod, FirstStage, Terms
from trainers.methods._adapters import batch_faults, fresh
from trainers.methods._losses import kl_per_sample
from trainers.methods._two_stages import freeze
from trainers.methods.ce import ce_loss
from trainers.methods.kd import kd_loss

KIND = "distill"
VERSION = 2
NEEDS_TEACHER = True
VIEWS = 4
"""The image and its three rotations."""


class Config(MethodConfig):
    """CIFAR-100 values of the official code."""

    ce_weight: float = Field(0.1, ge=0, description="weight of the cross-entropy on view 0 (official code)")
    kd_weight: float = Field(0.9, ge=0, description="weight of KD on view 0 (official code)")
    tf_weight: float = Field(2.7, ge=0, description="weight of KD on the rotated views (official code)")
    ss_weight: float = Field(10.0, ge=0, description="weight of the KL between similarity matrices (official code)")
    temperature: float = Field(4.0, gt=0, description="T of KD on view 0 (official code)")
    tf_temperature: float = Field(4.0, gt=0, description="T of KD on the rotated views (official code)")
    ss_temperature: float = Field(0.5, gt=0, description="T of the similarities (official code)")
    tf_keep: float = Field(
        1.0, ge=0, le=1, description="share of the teacher's wrong rotated views kept (official code)"
    )
    ss_keep: float = Field(
        0.75, ge=0, le=1, description="share of the teacher's wrong similarities kept (official code)"
    )
    head_epochs: Epochs = Field(60, gt=0, description="epochs before, for the teacher's head alone (official code)")
    head_lr: float = Field(0.05, gt=0, description="learning rate of these epochs (official code)")
    head_step_1: Epochs = Field(
        30, ge=0, description="of these epochs, how many before the rate falls to a tenth (official code)"
    )
    head_step_2: Epochs = Field(45, ge=0, description="likewise to a hundredth (official code)")

    @model_validator(mode="after")
    def _steps_are_in_order(self) -> Config:
        if self.head_step_1 > self.head_step_2:
            raise ValueError(f"head_step_1 {self.head_step_1} must not come after head_step_2 {self.head_step_2}")
        return self

    def inactive(self) -> frozenset[str]:
        names: set[str] = set()
        if self.kd_weight == 0:
            names |= {"temperature"}
        if self.tf_weight == 0:
            names |= {"tf_temperature", "tf_keep"}
        if self.ss_weight == 0:
            names |= {"ss_temperature", "ss_keep", "head_epochs", "head_lr", "head_step_1", "head_step_2"}
        return frozenset(names)


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "no-kd": {"kd_weight": 0.0},
    "imagenet": {"ce_weight": 1.0, "head_epochs": 30, "head_lr": 0.1, "head_step_1": 10, "head_step_2": 20},
}
"""no-kd: what "without KD" in PCKD's Tables I and II may mean. imagenet: ResNet34 -> ResNet18 of torchdistill."""


def views(config: Config) -> str:
    """Rotations where they are distilled or told apart."""
    return "rotations" if config.tf_weight > 0 or config.ss_weight > 0 else "plain"


def faults(config: Config, case: Case) -> list[str]:
    """A batch of one image has no other image to be told apart from."""
    return batch_faults(case, least=2) if config.ss_weight > 0 else []


def similarities(embedded: Tensor) -> Tensor:
    """Cosine of each rotated view with each unrotated one (Xu et al. 2020).

    Args:
        embedded: head outputs, shape (4 B, d); rows 4 i are the unrotated views.

    Returns:
        Shape (3 B, B); rows 3 i ... 3 i + 2 belong to image i.
    """
    unit = F.normalize(embedded.float(), dim=1).view(-1, VIEWS, embedded.shape[1])  # (B, 4, d)
    return unit[:, 1:].flatten(0, 1) @ unit[:, 0].T


def own_image(images: int, device: torch.device) -> Tensor:
    """Which image each rotated view belongs to: 0 0 0 1 1 1 ... Shape (3 B,)."""
    return torch.arange(images, device=device).repeat_interleave(VIEWS - 1)


def head_loss(embedded: Tensor) -> Tensor:
    """Cross-entropy of finding one's own unrotated view among B, mean over the 3 B rotated ones; cosines as logits.

    Returns:
        Scalar in nats.
    """
    scores = similarities(embedded)
    return F.cross_entropy(scores, own_image(scores.shape[1], scores.device))


def kept_rows(scores: Tensor, truth: Tensor, keep: float) -> Tensor:
    """1 for rows whose answer is right, and for the share `keep` of the wrong ones whose truth ranks best (Xu et al. 2020, official code).

    Args:
        scores: the teacher's, shape (R, C).
        truth: right column of each row, shape (R,).
        keep: share, rounded down to whole rows.

    Returns:
        Shape (R,), float, without gradient. Equal ranks are kept in the order of their rows.
    """
    own = scores.gather(1, truth[:, None])
    rank = (scores > own).sum(dim=1)  # 0: right
    wrong = (rank > 0).sum()
    most = len(rank) - wrong + (wrong.double() * keep).floor().long()
    place = rank.argsort(stable=True).argsort()
    return (place < most).float()


def kept_mean(values: Tensor, kept: Tensor) -> Tensor:
    """Mean over the kept rows, 0 where none is. Scalar."""
    return (values * kept).sum() / kept.sum().clamp(min=1)


def tf_loss(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float, keep: float) -> Tensor:
    """KD on the rotated views, mean over the kept ones (Xu et al. 2020).

    Args:
        student_logits: shape (R, K).
        teacher_logits: shape (R, K); receives no gradient.
        labels: of the images that the views belong to, shape (R,).

    Returns:
        Scalar, in nats times T^2.
    """
    teacher_logits = teacher_logits.detach()
    values = kl_per_sample(student_logits, teacher_logits, temperature)
    return kept_mean(values, kept_rows(teacher_logits, labels, keep))


def ss_loss(student_scores: Tensor, teacher_scores: Tensor, temperature: float, keep: float) -> Tensor:
    """KL between the rows of two similarity matrices, mean over the kept rows (Xu et al. 2020).

        L = T^2 mean_r KL( softmax(A_t,r / T) || softmax(A_s,r / T) )

    Args:
        student_scores: A_s, shape (3 B, B).
        teacher_scores: A_t, shape (3 B, B); receives no gradient.

    Returns:
        Scalar, in nats times T^2.
    """
    teacher_scores = teacher_scores.detach()
    values = kl_per_sample(student_scores, teacher_scores, temperature)
    truth = own_image(teacher_scores.shape[1], teacher_scores.device)
    return kept_mean(values, kept_rows(teacher_scores, truth, keep))


def head_rate(epoch: int, config: Config) -> float:
    """Learning rate of the teacher's head in epoch `epoch` (from 0) of the first stage."""
    return float(config.head_lr * 0.1 ** ((epoch >= config.head_step_1) + (epoch >= config.head_step_2)))


def _head(features: int) -> nn.Module:
    return nn.Sequential(nn.Linear(features, features), nn.ReLU(), nn.Linear(features, features))


class Method(DistillMethod):
    """L = ce_weight * CE + kd_weight * KD + tf_weight * TF + ss_weight * SS; before, the teacher's head alone."""

    needs_features = True

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.views = views(config)
        if config.ss_weight == 0:
            return
        for side, network in (("student", context.student), ("teacher", context.frozen)):
            features = network.classifier.in_features
            self.modules[f"{side}_head"] = fresh(partial(_head, features), context, f"sskd_{side}_head")
        teacher_head = self.modules["teacher_head"]
        freeze(teacher_head)
        self.first_stage = FirstStage(
            epochs=config.head_epochs,
            rates=lambda epoch: head_rate(epoch, config),
            parameters=list(teacher_head.parameters()),
            terms=self.head_terms,
            prepare=self._teach_head,
        )

    def _teach_head(self) -> None:
        self.modules["teacher_head"].requires_grad_(True)

    def start_epoch(self, epoch: int) -> None:
        if self.first_stage is not None:
            freeze(self.modules["teacher_head"])

    def head_terms(self, batch: Batch) -> Terms:
        """Of the first stage."""
        return {"head": head_loss(self.modules["teacher_head"](batch.taught.maps.pooled.float()))}

    def terms(self, batch: Batch) -> Terms:
        config = self.config
        terms = {"ce": config.ce_weight * ce_loss(batch.student_logits, batch.labels)}
        if config.kd_weight > 0:
            terms["kd"] = config.kd_weight * kd_loss(batch.student_logits, batch.teacher_logits, config.temperature)
        if config.tf_weight > 0:
            student, teacher = (
                answer.logits.view(-1, VIEWS, answer.logits.shape[1])[:, 1:].flatten(0, 1)
                for answer in (batch.student, batch.taught)
            )
            labels = batch.labels.repeat_interleave(VIEWS - 1)
            terms["tf"] = config.tf_weight * tf_loss(student, teacher, labels, config.tf_temperature, config.tf_keep)
        if config.ss_weight > 0:
            student_scores = similarities(self.modules["student_head"](batch.student.maps.pooled.float()))
            teacher_scores = similarities(self.modules["teacher_head"](batch.taught.maps.pooled.float()))
            loss = ss_loss(student_scores, teacher_scores, config.ss_temperature, config.ss_keep)
            terms["ss"] = config.ss_weight * loss
        return terms
