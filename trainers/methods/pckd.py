"""PCKD: category contrastive distillation with a preview of hard samples (arXiv 2410.14143)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from trainers import models
from trainers.config import MethodConfig, PerEpoch
from trainers.data import DataSet
from trainers.methods import Batch, Case, Context, DistillMethod, Terms
from trainers.methods._adapters import fresh, pair_of
from trainers.methods._losses import kl_per_sample
from trainers.methods._preview import Preview, Weighting
from trainers.methods.ce import ce_loss

KIND = "distill"
VERSION = 2
NEEDS_TEACHER = True
BASE_TEMPERATURE = 0.07
"""Of the released contrastive loss, which is multiplied by T / 0.07 (authors' code)."""


class Config(MethodConfig):
    """Defaults: PCKD with KD as in Tables I and II, losses as in the authors' released code."""

    form: Literal["release", "printed"] = Field(
        "release",
        description="release: CC and CA of the authors' code (commit 610b3e8); printed: Eqs. 3 and 4, with the few repairs they need",
    )
    ce_weight: float = Field(1.0, ge=0, description="weight of the cross-entropy on view 0 (Eq. 8)")
    alpha: float = Field(1.0, ge=0, description="weight of KD on view 0 (Sec. IV-A; 0 in the code's command)")
    temperature: float = Field(4.0, gt=0, description="T of KD (authors' code)")
    beta_fa: float = Field(20.0, ge=0, description="weight of the feature alignment (Sec. IV-A)")
    beta_ca: float = Field(
        1.0,
        ge=0,
        description="weight of the centre alignment (Sec. IV-A); must be 0 where the classifiers differ in shape",
    )
    beta_cc: float = Field(
        0.05, ge=0, description="weight of the centre contrast (Sec. IV-A: 0.02 for resnet20, 0.005 on ImageNet)"
    )
    weighting: Weighting = Field(
        "preview",
        description="v in KD and CC: 1, Eq. 6, (1 - p_y)^gamma (Table VIII), or 0 for hard samples (Table IX)",
    )
    eps: PerEpoch = Field(
        0.005, ge=0, le=2, description="growth of the threshold: lambda = (1 + eps)^epoch (authors' code; Fig. 5d)"
    )
    gamma: float = Field(2.0, gt=0, description="exponent of the focal weight (authors' code)")
    weight_gradient: bool = Field(
        False, description="let the gradient of KD also flow through v (as in the authors' code; not in the paper)"
    )
    contrast_temperature: float = Field(4.0, gt=0, description="release: T of the contrast (authors' code)")
    tau: float = Field(0.07, gt=0, description="printed: tau of Eq. 4 (not stated; sized as the release's gradient)")
    include_positive: bool = Field(
        False, description="printed: the own centre also in the denominator, as in SupCon (Eq. 4 leaves it out)"
    )
    teacher_projection: Literal["linear", "align"] = Field(
        "linear",
        description="printed: what meets the teacher's centres: a linear map of f_S where widths differ (Eq. 4 has none), or g(f_S)",
    )
    hidden_factor: int = Field(16, ge=1, description="hidden width of g over the teacher's width (authors' code)")

    @property
    def uses_features(self) -> bool:
        """Whether features, and with them rotations, are looked at."""
        return self.beta_fa > 0 or self.beta_cc > 0

    @property
    def uses_align(self) -> bool:
        """Whether g is there."""
        projected = self.beta_cc > 0 and self.form == "printed" and self.teacher_projection == "align"
        return self.beta_fa > 0 or projected

    def inactive(self) -> frozenset[str]:
        names: set[str] = set()
        if self.alpha == 0:
            names |= {"temperature", "weight_gradient"}
        if self.beta_cc == 0:
            names |= {"contrast_temperature", "tau", "include_positive", "teacher_projection"}
        if self.beta_cc == 0 and self.beta_ca == 0:
            names |= {"form"}
        if not self.uses_align:
            names |= {"hidden_factor"}
        names |= (
            {"contrast_temperature"} if self.form == "printed" else {"tau", "include_positive", "teacher_projection"}
        )
        if self.alpha == 0 and self.beta_cc == 0:
            return frozenset(names | {"weighting", "eps", "gamma"})
        if self.weighting in ("none", "focal"):
            names |= {"eps"}
        if self.weighting != "focal":
            names |= {"gamma"}
        if self.weighting in ("none", "curriculum"):
            names |= {"weight_gradient"}
        return frozenset(names)


_NO_CKD = {"beta_fa": 0.0, "beta_ca": 0.0, "beta_cc": 0.0}
_CKD = {"alpha": 0.0, "weighting": "none"}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "pckd": {},
    "pckd-no-kd": {"alpha": 0.0},
    "kd": {**_NO_CKD, "weighting": "none"},
    "kd-preview": _NO_CKD,
    "kd-focal": {**_NO_CKD, "weighting": "focal"},
    "ckd": _CKD,
    "ckd-focal": {"alpha": 0.0, "weighting": "focal"},
    "kd-ckd": {"weighting": "none"},
    "kd-ckd-focal": {"weighting": "focal"},
    "curriculum": {"weighting": "curriculum"},
    "fa": {**_CKD, "beta_ca": 0.0, "beta_cc": 0.0},
    "ca": {**_CKD, "beta_fa": 0.0, "beta_cc": 0.0},
    "cc": {**_CKD, "beta_fa": 0.0, "beta_ca": 0.0},
    "ca-cc": {**_CKD, "beta_fa": 0.0},
    "fa-ca": {**_CKD, "beta_cc": 0.0},
    "fa-cc": {**_CKD, "beta_ca": 0.0},
    "imagenet": {"beta_cc": 0.005},
    "printed": {"form": "printed"},
}
"""pckd, pckd-no-kd: the last rows of Tables I, II and V. kd, kd-preview, ckd, kd-ckd: the other rows of Table V; with -focal
the starred rows of Table VIII. curriculum: Table IX, KD included. fa ... fa-cc: Table VI (all three are ckd, none is method
ce). imagenet: Table III. printed: the equations as printed. L_CE + preview of Table VII has no teacher: method ce_preview."""


def views(config: Config) -> str:
    """Rotations where features are looked at."""
    return "rotations" if config.uses_features else "plain"


def faults(config: Config, case: Case) -> list[str]:
    """Centres of unequal shape cannot be aligned; difficulties are relative to a batch, which needs several images."""
    found = []
    if config.beta_ca > 0 and case.teacher is not None:
        teacher, student = (_centres(network, case) for network in (case.teacher, case.student))
        if teacher != student:
            found.append(
                f"pair {pair_of(case)}: pckd cannot align class centres of shapes {teacher} and {student} (classes, width); "
                f"set beta_ca to 0, as the paper does for such pairs"
            )
    if case.protocol.batch_size < 2:
        found.append(
            f"pair {pair_of(case)}: pckd weighs and contrasts the images of a batch with each other, and batch_size is "
            f"{case.protocol.batch_size}; set it to 2 or more"
        )
    return found


def _centres(network: str, case: Case) -> tuple[int, ...]:
    """Shape of a network's classifier weight; builds it once for all cells."""
    info = case.info
    found = models.shapes(network, classes=info.classes, channels=info.channels, size=info.size)
    return info.classes, found.pooled


def fa_loss(encoded: Tensor, teacher_feats: Tensor) -> Tensor:
    """Feature alignment: squared distance of unit vectors (Eq. 2), mean over all views.

        L = mean || g(f_S) / ||g(f_S)|| - f_T / ||f_T|| ||^2 = mean (2 - 2 cos)

    Args:
        encoded: g(f_S), shape (V B, d_T).
        teacher_feats: f_T, shape (V B, d_T); receives no gradient.

    Returns:
        Scalar in [0, 4].

    Departs from the paper: mean instead of sum, as in the authors' code; beta_fa = 20 belongs to it.
    """
    difference = F.normalize(encoded.float(), dim=1) - F.normalize(teacher_feats.detach().float(), dim=1)
    return difference.square().sum(dim=1).mean()


def ca_loss(student: nn.Linear, teacher: nn.Linear, form: Literal["release", "printed"]) -> Tensor:
    """Centre alignment between two classifiers of one shape (Eq. 3).

        release: mean over the K (d + 1) elements of ([W_S, b_S] - [W_T, b_T])^2;  printed: || W_S - W_T ||^2

    Args:
        student: weight (K, d) and bias (K,).
        teacher: likewise; receives no gradient.

    Returns:
        Scalar.
    """
    weights = (student.weight.float() - teacher.weight.detach().float()).square()
    if form == "printed":
        return weights.sum()
    biases = (student.bias.float() - teacher.bias.detach().float()).square()
    return (weights.sum() + biases.sum()) / (weights.numel() + biases.numel())


def cc_release(student_scores: Tensor, teacher_scores: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Supervised contrast between views in the space of class scores, by view (authors' code).

        l_a = -(T / 0.07) mean_{p in P(a)} [ a.p / T - ln sum_{k != a} exp(a.k / T) ]

    over the 2 N vectors of both score matrices, P(a) = the others of a's label; a view has the l of both its vectors.

    Args:
        student_scores: u = norm(A f_S) W_S^T, shape (N, K), N = V B.
        teacher_scores: w = norm(B f_S) W_T^T, shape (N, K).
        labels: of the views, shape (N,).
        temperature: T.

    Returns:
        Shape (N,), in nats times T / 0.07.
    """
    vectors = torch.cat([student_scores, teacher_scores]).float()
    labels = torch.cat([labels, labels])
    products = vectors @ vectors.T / temperature  # (2 N, 2 N)
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    log_share = products - products.masked_fill(itself, -math.inf).logsumexp(dim=1, keepdim=True)
    positive = ((labels[:, None] == labels) & ~itself).float()
    losses = -(log_share * positive).sum(dim=1) / positive.sum(dim=1)
    return temperature / BASE_TEMPERATURE * losses.view(2, -1).sum(dim=0)


def cc_printed(features: Tensor, centres: Tensor, labels: Tensor, tau: float, include_positive: bool = False) -> Tensor:
    """Contrast of features with class centres, by view (Eq. 4, one of its two parts).

        l = -ln [ exp(cos(f, W_y) / tau) / sum_{c != y} exp(cos(f, W_c) / tau) ]

    Args:
        features: f, shape (N, d).
        centres: W, shape (K, d).
        labels: y of the views, shape (N,).
        tau: > 0.
        include_positive: the sum also runs over y.

    Returns:
        Shape (N,), in nats; without the positive it may be negative, and ends at ln(K - 1) - K / ((K - 1) tau).

    Departs from the paper: cosines, as its text says, for raw products would leave the loss without a lower bound.
    """
    scores = F.normalize(features.float(), dim=1) @ F.normalize(centres.float(), dim=1).T / tau  # (N, K)
    own = scores.gather(1, labels[:, None])[:, 0]
    if not include_positive:
        scores = scores.masked_fill(F.one_hot(labels, scores.shape[1]).bool(), -math.inf)
    return scores.logsumexp(dim=1) - own


def _align(student_width: int, teacher_width: int, hidden: int) -> nn.Module:
    """g: one hidden layer with BN and ReLU, as in BYOL."""
    first, last = nn.Linear(student_width, hidden), nn.Linear(hidden, teacher_width)
    return nn.Sequential(first, nn.BatchNorm1d(hidden), nn.ReLU(), last)


class Method(DistillMethod):
    """L = ce_weight * CE + alpha * v KD + beta_cc * v CC + beta_fa * FA + beta_ca * CA (Eq. 8), each a mean.

    CE, KD and v look at view 0; FA and CC at all four rotations. Without both there are no rotations. `eps` is PerEpoch:
    (1 + eps)^t is nearly exp(eps t), so a run of 20 epochs for 240 ends at 1.06^20 = 3.2 for 1.005^240 = 3.3.
    """

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.needs_features = config.uses_features
        self.views = views(config)
        weighted = config.alpha > 0 or config.beta_cc > 0
        weighting: Weighting = config.weighting if weighted else "none"
        self.preview = Preview(weighting, config.eps, config.gamma, context.labels)
        student, teacher = context.student.classifier.in_features, context.frozen.classifier.in_features
        hidden = config.hidden_factor * teacher
        if config.uses_align:
            self.modules["align"] = fresh(lambda: _align(student, teacher, hidden), context, "pckd_align")
        if config.beta_cc == 0:
            return
        if config.form == "release":
            self.modules["own_head"] = fresh(lambda: nn.Linear(student, student), context, "pckd_own_head")
        if config.form == "release" or (config.teacher_projection == "linear" and student != teacher):
            self.modules["teacher_head"] = fresh(lambda: nn.Linear(student, teacher), context, "pckd_teacher_head")

    def start_epoch(self, epoch: int) -> None:
        self.preview.start_epoch(epoch)

    def terms(self, batch: Batch) -> Terms:
        config = self.config
        weight = self.preview.weigh(batch)
        terms = {"ce": config.ce_weight * ce_loss(batch.student_logits, batch.labels)}
        if config.alpha > 0:
            losses = kl_per_sample(batch.student_logits, batch.teacher_logits, config.temperature)
            terms["kd"] = config.alpha * ((weight if config.weight_gradient else weight.detach()) * losses).mean()
        if config.uses_features:
            features = batch.student.maps.pooled.float()
            encoded = self.modules["align"](features) if config.uses_align else features
            if config.beta_fa > 0:
                terms["fa"] = config.beta_fa * fa_loss(encoded, batch.taught.maps.pooled)
            if config.beta_cc > 0:
                labels = batch.labels.repeat_interleave(batch.views)
                weights = weight.detach().repeat_interleave(batch.views)
                terms["cc"] = config.beta_cc * (weights * self._contrast(features, encoded, labels)).mean()
        if config.beta_ca > 0:
            classifiers = (self.context.student.classifier, self.context.frozen.classifier)
            terms["ca"] = config.beta_ca * ca_loss(*classifiers, config.form)
        return terms

    def _contrast(self, features: Tensor, encoded: Tensor, labels: Tensor) -> Tensor:
        """CC of each view, shape (V B,): the student's centres receive gradient, the teacher's none."""
        config, modules = self.config, self.modules
        own, other = (net.classifier.weight for net in (self.context.student, self.context.frozen))
        if config.form == "release":
            student_scores = F.normalize(modules["own_head"](features), dim=1) @ own.T
            teacher_scores = F.normalize(modules["teacher_head"](features), dim=1) @ other.detach().T
            return cc_release(student_scores, teacher_scores, labels, config.contrast_temperature)
        projected = modules["teacher_head"](features) if "teacher_head" in modules else features
        if config.teacher_projection == "align":
            projected = encoded
        by_student = cc_printed(features, own, labels, config.tau, config.include_positive)
        return by_student + cc_printed(projected, other.detach(), labels, config.tau, config.include_positive)

    def end_epoch(self) -> dict[str, float]:
        return self.preview.end_epoch()

    def write_artifacts(self, folder: Path, epoch: int, images: DataSet) -> None:
        self.preview.write(folder, images.train)
