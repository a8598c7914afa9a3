"""Factor transfer (Kim et al. 2018): an autoencoder condenses the teacher's last map for the student."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from trainers.config import Epochs, MethodConfig
from trainers.methods import Batch, Context, DistillMethod, FirstStage, Terms
from trainers.methods._adapters import fresh, pooled_alike, probes
from trainers.methods._two_stages import freeze, thaw
from trainers.methods.ce import ce_loss

KIND = "distill"
VERSION = 1
NEEDS_TEACHER = True


class Config(MethodConfig):
    """Values of RepDistiller's CIFAR-100 recipe."""

    ce_weight: float = Field(1.0, ge=0, description="weight of the cross-entropy (RepDistiller)")
    ft_weight: float = Field(200.0, ge=0, description="weight of the distance between factors (RepDistiller)")
    factor_ratio: float = Field(
        0.5, gt=0, le=1, description="channels of a factor as a share of those of the teacher's last map (RepDistiller)"
    )
    first_stage_epochs: Epochs = Field(
        30, ge=1, description="epochs in which the paraphraser learns to reconstruct that map (RepDistiller)"
    )
    first_stage_lr: float | None = Field(
        0.01,
        gt=0,
        description="of the paraphraser, constant; None: the recipe's (RepDistiller: 0.01 for ResNet, WRN students)",
    )


PRESETS: Mapping[str, Mapping[str, Any]] = {"other-students": {"first_stage_lr": None}}
"""other-students: RepDistiller's rate for students that are neither ResNet nor WRN."""


def factor(maps: Tensor) -> Tensor:
    """Where a factor is strong: normalize_L2(flatten(mean_c x^2)) (RepDistiller's `FT.py`).

    Args:
        maps: x, shape (B, C, H, W).

    Returns:
        Shape (B, H * W), rows of length 1.

    Departs from the paper, which normalises the whole factor: the channel mean is RepDistiller's.
    """
    return F.normalize(maps.float().square().mean(dim=1).flatten(1), dim=1)


def ft_loss(student_factor: Tensor, teacher_factor: Tensor) -> Tensor:
    """Mean absolute difference of the two factors' patterns: L = mean |Fac(s) - Fac(t)|.

    Args:
        student_factor: s, shape (B, C, H_s, W_s).
        teacher_factor: t, shape (B, C, H_t, W_t), without gradient; the larger map is average-pooled down.

    Returns:
        Scalar, averaged over batch and positions.
    """
    student_factor, teacher_factor = pooled_alike(student_factor, teacher_factor.detach())
    return (factor(student_factor) - factor(teacher_factor)).abs().mean()


def encoder(channels: int, out: int, *, norm: bool) -> nn.Sequential:
    """Three 3x3 convolutions C -> C -> C' -> C', each followed by BN where asked for and by LeakyReLU 0.1."""
    layers: list[nn.Module] = []
    for before, after in ((channels, channels), (channels, out), (out, out)):
        layers.append(nn.Conv2d(before, after, 3, padding=1))
        if norm:
            layers.append(nn.BatchNorm2d(after))
        layers.append(nn.LeakyReLU(0.1))
    return nn.Sequential(*layers)


def decoder(channels: int, out: int) -> nn.Sequential:
    """The encoder's mirror in transposed convolutions, C' -> C' -> C -> C, with a LeakyReLU also at its end."""
    layers: list[nn.Module] = []
    for before, after in ((out, out), (out, channels), (channels, channels)):
        layers += [nn.ConvTranspose2d(before, after, 3, padding=1), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)


class Method(DistillMethod):
    """First stage: the paraphraser's squared error on the teacher's last map. Then ce_weight * CE + ft_weight * FT.

    The paraphraser has no BN, so that being frozen is all that its eval mode would mean.
    """

    needs_features = True

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        own, taught = (features.stages[-1].shape[1] for features in probes(context))
        out = max(1, int(taught * config.factor_ratio))
        self.paraphraser = fresh(
            lambda: nn.ModuleDict({"encoder": encoder(taught, out, norm=False), "decoder": decoder(taught, out)}),
            context,
            "ft/paraphraser",
        )
        self.translator = fresh(lambda: encoder(own, out, norm=True), context, "ft/translator")
        freeze(self.paraphraser)
        self.modules["paraphraser"], self.modules["translator"] = self.paraphraser, self.translator
        rate = config.first_stage_lr or context.protocol.lr
        self.first_stage = FirstStage(
            epochs=config.first_stage_epochs,
            rates=lambda epoch: rate,
            parameters=list(self.paraphraser.parameters()),
            terms=self._reconstruction,
            prepare=partial(thaw, self.paraphraser),
        )

    def _reconstruction(self, batch: Batch) -> Terms:
        maps = batch.taught.maps.stages[-1].float()
        again = self.paraphraser["decoder"](self.paraphraser["encoder"](maps))
        return {"reconstruction": F.mse_loss(again, maps)}

    def start_epoch(self, epoch: int) -> None:
        freeze(self.paraphraser)

    def terms(self, batch: Batch) -> Terms:
        with torch.no_grad():
            target = self.paraphraser["encoder"](batch.taught.maps.stages[-1].float())
        translated = self.translator(batch.student.maps.stages[-1].float())
        return {
            "ce": self.config.ce_weight * ce_loss(batch.student_logits, batch.labels),
            "ft": self.config.ft_weight * ft_loss(translated, target),
        }
