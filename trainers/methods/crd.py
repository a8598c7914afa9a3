"""Contrastive representation distillation (Tian et al. 2020): features of one image agree, of other classes differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from trainers import seeding
from trainers.config import MethodConfig
from trainers.errors import ConfigError
from trainers.methods import Batch, Context, DistillMethod, Terms
from trainers.methods._adapters import fresh, probes
from trainers.methods.ce import ce_loss
from trainers.methods.kd import kd_loss

KIND = "distill"
VERSION = 1
NEEDS_TEACHER = True


class Config(MethodConfig):
    """Values of RepDistiller's CIFAR-100 recipe; mdistiller uses the same on ImageNet."""

    ce_weight: float = Field(1.0, ge=0, description="weight of the cross-entropy (RepDistiller)")
    crd_weight: float = Field(0.8, ge=0, description="weight of the contrast, both directions together (RepDistiller)")
    dims: int = Field(128, gt=0, description="dimensions both features are projected to (RepDistiller)")
    negatives: int = Field(
        16384, gt=0, description="K, images of other classes for each image of a batch (RepDistiller)"
    )
    temperature: float = Field(0.07, gt=0, description="of the contrast (RepDistiller)")
    mode: Literal["exact", "relax"] = Field(
        "exact", description="positive: the image itself, or a random image of its class (RepDistiller)"
    )
    bank_momentum: float = Field(0.5, ge=0, lt=1, description="share of the old row in a bank's new one (RepDistiller)")
    kd_weight: float = Field(
        0.0, ge=0, description="weight of a plain KD term beside the contrast (RepDistiller: 1 in CRD+KD)"
    )
    kd_temperature: float = Field(4.0, gt=0, description="T of that KD term (RepDistiller)")

    def inactive(self) -> frozenset[str]:
        names: set[str] = set()
        if self.kd_weight == 0:
            names |= {"kd_temperature"}
        if self.crd_weight == 0:
            names |= {"dims", "negatives", "temperature", "mode", "bank_momentum"}
        return frozenset(names)


PRESETS: Mapping[str, Mapping[str, Any]] = {"crd-kd": {"kd_weight": 1.0}}
"""crd-kd: CRD+KD of the paper's tables. ImageNet has the defaults (mdistiller), batch 256 and learning rate 0.1."""


class Bank(nn.Module):
    """A row for each training image from either network, and the constant that its scores are divided by.

    Args:
        rows: n, images of the training split.
        dims: of a row.
        generator: rows start uniform in +-1 / sqrt(dims / 3).
    """

    student: Tensor
    teacher: Tensor
    scale: Tensor

    def __init__(self, rows: int, dims: int, generator: torch.Generator) -> None:
        super().__init__()
        bound = 1 / math.sqrt(dims / 3)
        for name in ("student", "teacher"):
            self.register_buffer(name, bound * (2 * torch.rand(rows, dims, generator=generator) - 1))
        self.register_buffer("scale", torch.full((2,), -1.0))  # Z of either direction, below 0 until the first batch

    def divide(self, scores: Tensor) -> Tensor:
        """P = exp(score) / Z with Z = n * mean exp(score) of the very first batch, one Z for each direction.

        Args:
            scores: (2, B, K + 1), the student's direction first.
        """
        raised = scores.exp()
        first = raised.detach().mean(dim=(1, 2)) * len(self.student)
        self.scale = torch.where(self.scale < 0, first, self.scale)
        return raised / self.scale[:, None, None]

    @torch.no_grad()
    def renew(self, rows: Tensor, student: Tensor, teacher: Tensor, momentum: float) -> None:
        """Moves a batch's rows towards its vectors. The banks are copied: backward still needs the scored ones."""
        for name, vectors in (("student", student), ("teacher", teacher)):
            bank = getattr(self, name)
            mixed = momentum * bank[rows] + (1 - momentum) * vectors
            setattr(self, name, bank.index_copy(0, rows, mixed / mixed.norm(dim=1, keepdim=True)))


def bank_scores(vectors: Tensor, bank: Tensor, rows: Tensor, temperature: float) -> Tensor:
    """v . b / T of each vector with its own rows of a bank.

    Scored against the whole bank, of which K + 1 columns are kept: B * n numbers, 13 MB at B = 64 and n = 50,000, in
    place of the B * (K + 1) * D that gathered rows would take, 0.54 GB.

    Args:
        vectors: v, shape (B, D), rows of length 1.
        bank: b, shape (n, D).
        rows: shape (B, K + 1), int64.
        temperature: T.

    Returns:
        Shape (B, K + 1).
    """
    return (vectors @ bank.T).gather(1, rows) / temperature


def crd_loss(probabilities: Tensor, images: int) -> Tensor:
    """Noise-contrastive loss of one direction, first column positive (RepDistiller's `criterion.py`).

        m = K / n;  L = -1/B sum_i [ ln(P_i0 / (P_i0 + m + e)) + sum_k ln(m / (P_ik + m + e)) ],  e = 1e-7

    Args:
        probabilities: P, shape (B, K + 1).
        images: n, rows of the bank.

    Returns:
        Scalar in nats per sample.
    """
    noise = (probabilities.shape[1] - 1) / images
    positive, negative = probabilities[:, 0], probabilities[:, 1:]
    right = (positive / (positive + noise + 1e-7)).log()
    wrong = (noise / (negative + noise + 1e-7)).log().sum(dim=1)
    return -(right + wrong).mean()


def draw(
    rows: Tensor, labels: Tensor, negatives: int, mode: Literal["exact", "relax"], generator: torch.Generator
) -> Tensor:
    """For each image of a batch its positive and K different images of other classes, drawn for each image alone.

    One key for each image and each row of the training split, B * n numbers (13 MB at 64 x 50,000): the K largest of
    other classes are the negatives, the largest of its own class the positive of `relax`.

    Args:
        rows: (B,) int64, of the batch in the training split.
        labels: (n,) int64, of the training split.
        negatives: K, at most the images outside the largest class.
        generator: on the tensors' device.

    Returns:
        (B, K + 1) int64, rows of the training split.
    """
    keys = torch.rand(len(rows), len(labels), generator=generator, device=labels.device)
    alike = labels[rows][:, None] == labels[None, :]
    others = keys.masked_fill(alike, -1.0).topk(negatives, dim=1, sorted=False).indices
    positive = rows if mode == "exact" else keys.masked_fill(~alike, -1.0).argmax(dim=1)
    return torch.cat([positive[:, None], others], dim=1)


class Method(DistillMethod):
    """L = ce_weight * CE + crd_weight * (CRD of the student's vectors + CRD of the teacher's) + kd_weight * KD.

    A student's vector is scored against the teacher's bank and the teacher's against the student's. Both heads learn.

    Raises:
        ConfigError: more negatives than there are images outside a class.
    """

    needs_features = True

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        images = len(context.labels)
        least = images - int(context.labels.bincount().max())
        if config.negatives > least:
            raise ConfigError(
                f"crd: negatives {config.negatives} for each image are drawn without repetition from other classes, "
                f"and {least} of the {images} training images are outside the largest one; set it to {least} or fewer"
            )
        student, teacher = (features.pooled.shape[1] for features in probes(context))
        self.heads = fresh(
            lambda: nn.ModuleList(nn.Linear(width, config.dims) for width in (student, teacher)), context, "crd"
        )
        self.bank = Bank(images, config.dims, seeding.stream(context.seed, "bank", "crd")).to(context.device)
        self.modules["heads"], self.modules["bank"] = self.heads, self.bank
        self.stream = seeding.stream(context.seed, "negatives", 0, device=context.device)

    def start_epoch(self, epoch: int) -> None:
        self.stream = seeding.stream(self.context.seed, "negatives", epoch, device=self.context.device)

    def terms(self, batch: Batch) -> Terms:
        config = self.config
        terms = {"ce": config.ce_weight * ce_loss(batch.student_logits, batch.labels)}
        if config.kd_weight > 0:
            terms["kd"] = config.kd_weight * kd_loss(batch.student_logits, batch.teacher_logits, config.kd_temperature)
        terms["crd"] = config.crd_weight * self._contrast(batch)
        return terms

    def _contrast(self, batch: Batch) -> Tensor:
        config, bank = self.config, self.bank
        pooled = (batch.student.maps.pooled, batch.taught.maps.pooled)
        student, teacher = (F.normalize(head(f.float()), dim=1) for head, f in zip(self.heads, pooled, strict=True))
        rows = draw(batch.rows, self.context.labels, config.negatives, config.mode, self.stream)
        scores = [
            bank_scores(vectors, kept, rows, config.temperature)
            for vectors, kept in ((student, bank.teacher), (teacher, bank.student))
        ]
        probabilities = bank.divide(torch.stack(scores))
        bank.renew(batch.rows, student, teacher, config.bank_momentum)
        return torch.stack([crd_loss(each, len(bank.student)) for each in probabilities]).sum()
