"""ADI, Adaptive DeepInversion: images made pixel by pixel from the teacher's statistics and the student's faults (arXiv 1912.08795)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from trainers.config import Protocol
from trainers.data._augment import standardise_unit
from trainers.methods import Case, Context, Terms
from trainers.methods._gan import TeacherView
from trainers.methods._inversion import InversionConfig, InversionMethod, Lowest, pool_faults, synthesis_batch
from trainers.methods._losses import js_divergence
from trainers.synthesis.bn_statistics import bn_layer_faults
from trainers.synthesis.total_variation import total_variation_l1, total_variation_l2

KIND = "datafree"
VERSION = 1
NEEDS_TEACHER = True
# The student is asked which images it gets wrong; the weights of the target stay what they are.
TRAITS = {"Target": "Adversarial", "Student": "Yes", "Dynamic": "No"}


class Config(InversionConfig):
    """Defaults: the benchmark of the CMI authors (zju-vipa/DataFree), which CuDFKD's paper ran."""

    iterations: int = Field(1000, gt=0, description="updates of the images (benchmark; 2000 in DeepInversion's code)")
    image_lr: float = Field(0.1, gt=0, description="Adam on the pixels (benchmark; 0.05 in DeepInversion's paper)")
    image_beta1: float = Field(0.5, ge=0, lt=1, description="Adam (benchmark; 0.9 in DeepInversion's code)")
    image_beta2: float = Field(0.99, ge=0, lt=1, description="Adam (benchmark; 0.999 in DeepInversion's code)")
    labels: Literal["uniform", "balanced"] = Field(
        "uniform",
        description="classes of a batch: drawn (benchmark), or each in turn (DeepInversion's code)",
    )
    jitter: int | None = Field(
        None,
        ge=0,
        description="pixels that images are rolled by at most before each pass, without a flip (2 in DeepInversion's code); "
        "None: an eighth of the size, and a flip with probability 1/2 where the data set allows it (benchmark)",
    )
    clip: bool = Field(True, description="keep pixels in the valid range after each update (benchmark)")
    keep: Literal["best", "last"] = Field(
        "best",
        description="images of lowest loss, or those after the last update, which the published code stores (benchmark)",
    )
    bn: float = Field(
        10.0, ge=0, description="weight of the BatchNorm statistics (benchmark; 10 or 100 in DeepInversion)"
    )
    one_hot: float = Field(1.0, ge=0, description="weight of the cross-entropy with the class (benchmark)")
    adversarial: float = Field(1.0, ge=0, description="weight of the student's disagreement (benchmark)")
    adversarial_form: Literal["divergence", "clamped"] = Field(
        "divergence", description="divergence: -J (benchmark); clamped: 1 - clip(J, 0, 1) (DeepInversion's code)"
    )
    tv: float = Field(
        1e-3, ge=0, description="weight of the total variation (benchmark; 2.5e-5 in DeepInversion's code)"
    )
    tv_form: Literal["l1_mean", "l2_norms"] = Field(
        "l1_mean",
        description="mean absolute differences (benchmark), or norms of the rolled batch's differences (DeepInversion's code)",
    )
    l2: float = Field(0.0, ge=0, description="weight of ||x||_2 over the batch (0 in both codes)")

    @model_validator(mode="after")
    def _something_to_invert(self) -> Config:
        if not (self.bn or self.one_hot or self.adversarial or self.tv or self.l2):
            raise ValueError("one of bn, one_hot, adversarial, tv and l2 must be above 0")
        return self

    def inactive(self) -> frozenset[str]:
        names: set[str] = set()
        if self.one_hot == 0:
            names |= {"labels"}
        if self.adversarial == 0:
            names |= {"adversarial_form"}
        if self.tv == 0:
            names |= {"tv_form"}
        return frozenset(names)


_ORIGINAL: Mapping[str, Any] = {
    "iterations": 2000, "image_lr": 0.05, "image_beta1": 0.9, "image_beta2": 0.999, "labels": "balanced", "jitter": 2, "clip": False,
    "adversarial": 0.0, "adversarial_form": "clamped", "tv": 2.5e-5, "tv_form": "l2_norms",
}  # fmt: skip
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "benchmark": {"keep": "last"},
    "no-total-variation": {"tv": 0.0},
    "no-adversarial": {"adversarial": 0.0},
    "deepinversion-cifar10": {**_ORIGINAL},
    "deepinversion-cifar10-better": {**_ORIGINAL, "image_lr": 0.1, "tv": 1e-3},
    "deepinversion-cifar10-code": {**_ORIGINAL, "image_lr": 0.1, "bn": 100.0},
    "original-adaptive": {**_ORIGINAL, "adversarial": 0.2},
}
"""benchmark: zju-vipa/DataFree to the letter, which stores the last images. no-total-variation: zju-vipa/Fast-Datafree. no-adversarial:
a run of ljrprocc/DFKD. deepinversion-cifar10: the command that NVlabs/DeepInversion gives for its paper's CIFAR-10 images, without the
student; -better: its second command; -code: the defaults of the code. original-adaptive: the first with the student at 0.2, the
weight that the paper has for ImageNet, since its CIFAR-10 commands leave the student out. That code trains no student."""


def faults(config: Config, case: Case) -> list[str]:
    """A teacher without BatchNorm layers, or images that would not all fit into memory."""
    return pool_faults(config, case.protocol, case.info) + (
        bn_layer_faults(case.teacher, case.info) if config.bn > 0 else []
    )


def synthesis_images(config: Config, protocol: Protocol) -> int:
    """Images that pass through the teacher in one epoch's synthesis."""
    return config.iterations * synthesis_batch(config, protocol)


def adversarial_loss(student_logits: Tensor, teacher_logits: Tensor, form: Literal["divergence", "clamped"]) -> Tensor:
    """What rewards images on which student and teacher differ (DeepInversion, Sec. 3.3), with J of `js_divergence` at T = 3.

        divergence: -J;  clamped: 1 - clip(J, 0, 1)

    Args:
        student_logits: shape (B, K), of the frozen student, with gradient to the images.
        teacher_logits: shape (B, K), likewise.

    Returns:
        Scalar in nats. The two have the same gradient while J is in [0, 1]; with 100 classes J can be slightly negative
        for flat predictions, where only the first has one.
    """
    divergence = js_divergence(student_logits, teacher_logits)
    return -divergence if form == "divergence" else 1 - divergence.clamp(0, 1)


def adi_loss(
    images: Tensor,
    seen: Tensor,
    labels: Tensor,
    student_logits: Tensor | None,
    teacher_logits: Tensor,
    bn: Tensor,
    config: Config,
) -> Terms:
    """Weighted terms whose sum the pixels minimise (DeepInversion, Secs. 3.2 and 3.3).

        L = bn L_bn + one_hot CE(t, y) + adversarial L_adv + tv TV + l2 ||x||_2

    Args:
        images: x, standardised, shape (B, C, H, W).
        seen: x as the networks were shown it: rolled, perhaps flipped.
        labels: y, shape (B,).
        student_logits: s of `seen`, shape (B, K); None where its weight is 0.
        teacher_logits: t of `seen`, shape (B, K).
        bn: L_bn of `seen`.

    Returns:
        Scalars; terms of weight 0 are left out.
    """
    terms: Terms = {}
    if config.bn > 0:
        terms["bn"] = config.bn * bn
    if config.one_hot > 0:
        terms["one_hot"] = config.one_hot * F.cross_entropy(teacher_logits.float(), labels)
    if student_logits is not None:
        terms["adversarial"] = config.adversarial * adversarial_loss(
            student_logits, teacher_logits, config.adversarial_form
        )
    if config.tv > 0:
        variation = total_variation_l1(images) if config.tv_form == "l1_mean" else total_variation_l2(seen)
        terms["tv"] = config.tv * variation
    if config.l2 > 0:
        terms["l2"] = config.l2 * torch.linalg.vector_norm(images)
    return terms


class Method(InversionMethod):
    """Before each epoch a fresh batch of noise becomes images; the student then trains on all images so far."""

    config: Config

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.view = TeacherView(context, statistics=config.bn > 0, pooled=False)

    def invert(self) -> tuple[Tensor, Terms]:
        config, info, device = self.config, self.context.info, self.context.device
        size = (self.synthesis_batch, info.channels, info.size, info.size)
        images = torch.randn(size, generator=self.stream("pixels"), device=device).requires_grad_()
        black, white = (
            standardise_unit(torch.full((1, info.channels, 1, 1), value, device=device), info) for value in (0.0, 1.0)
        )
        labels = self.labels()
        optimizer = self.context.adam([images], lr=config.image_lr, betas=(config.image_beta1, config.image_beta2))
        lowest = Lowest()
        terms: Terms = {}
        for roll, flip in self.jitters():
            seen = images.roll(roll, dims=(2, 3))
            terms = self.terms(images, seen.flip(3) if flip else seen, labels)
            loss = torch.stack(list(terms.values())).sum()
            lowest.offer(loss, images)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if config.clip:
                with torch.no_grad():
                    images.clamp_(black, white)
        kept = lowest.tensors[0] if config.keep == "best" else images.detach()
        return (kept - black) / (white - black), terms

    def terms(self, images: Tensor, seen: Tensor, labels: Tensor) -> Terms:
        """`adi_loss` of what teacher and student answer to `seen`."""
        teacher_logits = self.view.logits(seen)
        student_logits = self.context.student(seen) if self.config.adversarial > 0 else None
        return adi_loss(images, seen, labels, student_logits, teacher_logits, self.view.bn, self.config)

    def labels(self) -> Tensor:
        if self.config.labels == "uniform":
            return super().labels()
        return torch.arange(self.synthesis_batch, device=self.context.device) % self.context.info.classes

    def jitters(self) -> Iterator[tuple[tuple[int, int], bool]]:
        """For each update the pixels that the batch is rolled by, down and to the right, and whether it is flipped."""
        config, info, stream = self.config, self.context.info, self.stream("jitter", "cpu")
        most = info.size // 8 if config.jitter is None else config.jitter
        rolls = torch.randint(-most, most + 1, (config.iterations, 2), generator=stream).tolist()
        flips = (torch.rand(config.iterations, generator=stream) < 0.5).tolist()
        for (down, right), flip in zip(rolls, flips, strict=True):
            yield (down, right), flip and config.jitter is None and info.flip
