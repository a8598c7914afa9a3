"""Knowledge review (Chen et al. 2021): deep stages of the student help its shallow ones to meet the teacher's maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from trainers.config import Epochs, MethodConfig
from trainers.methods import Batch, Case, Context, DistillMethod, Terms
from trainers.methods._adapters import fresh, probes, stage_count_faults
from trainers.methods.ce import ce_loss
from trainers.models import Features

KIND = "distill"
VERSION = 1
NEEDS_TEACHER = True


class Config(MethodConfig):
    """Values of the authors' CIFAR-100 scripts for the WRN pairs."""

    ce_weight: float = Field(1.0, ge=0, description="weight of the cross-entropy (ReviewKD scripts)")
    review_weight: float = Field(
        5.0, ge=0, description="weight of the reviewed maps' distance, by pair: see the presets (ReviewKD scripts)"
    )
    warmup_epochs: Epochs = Field(
        20, ge=0, description="epochs over which that weight grows to its value (ReviewKD code)"
    )
    warmup_from: int = Field(
        0,
        ge=0,
        le=1,
        description="number of the first epoch in min(epoch / warmup_epochs, 1) (ReviewKD code: 0; mdistiller: 1)",
    )
    student_maps: Literal["post", "pre"] = Field(
        "post", description="the student's maps after their ReLU (CIFAR scripts), or before it (ImageNet scripts)"
    )
    max_mid_channels: int = Field(512, gt=0, description="most channels a map is reviewed in (ReviewKD code)")

    def inactive(self) -> frozenset[str]:
        if self.review_weight == 0:
            return frozenset({"warmup_epochs", "warmup_from", "student_maps", "max_mid_channels"})
        return frozenset({"warmup_from"}) if self.warmup_epochs == 0 else frozenset()


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "wrn_40_2-wrn_16_2": {"review_weight": 5.0},
    "wrn_40_2-wrn_40_1": {"review_weight": 5.0},
    "wrn_40_2-shufflev1": {"review_weight": 5.0},
    "resnet32x4-resnet8x4": {"review_weight": 5.0},
    "resnet32x4-shufflev1": {"review_weight": 5.0},
    "resnet32x4-shufflev2": {"review_weight": 8.0},
    "resnet56-resnet20": {"review_weight": 0.6},
    "resnet110-resnet32": {"review_weight": 1.0},
    "resnet110-resnet20": {"review_weight": 1.0},
    "vgg13-vgg8": {"review_weight": 5.0},
    "vgg13-mobilenetv2": {"review_weight": 8.0},
    "vgg13-mobilenetv2-30": {"review_weight": 30.0},
    "resnet50-mobilenetv2": {"review_weight": 8.0},
    "resnet50-mobilenetv2-30": {"review_weight": 30.0},
    "mdistiller": {"warmup_from": 1},
    "imagenet": {"review_weight": 1.0, "warmup_epochs": 1, "student_maps": "pre"},
}
"""The first eight pairs: the authors' CIFAR-100 scripts. No script has the next six: 110 -> 20 and vgg are chosen like
their neighbours; both MobileNetV2 pairs come with 8 and with 30 (a user's, mdistiller issue 39).
mdistiller: its epochs count from 1. imagenet: ResNet34 -> ResNet18 and ResNet50 -> MobileNet."""


def faults(config: Config, case: Case) -> list[str]:
    """The student's stages are reviewed one by one, each for one of the teacher's."""
    return stage_count_faults(case)


def warmup_factor(epoch: int, warmup_epochs: int, first: int) -> float:
    """Share of the weight in epoch `epoch` (from 0): min((epoch + first) / warmup_epochs, 1); 1 without a warm-up."""
    return min((epoch + first) / warmup_epochs, 1.0) if warmup_epochs else 1.0


def hcl_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor]) -> Tensor:
    """Hierarchical context loss (HCL; Chen et al. 2021): maps are compared at full size and pooled ever coarser.

        l_k = sum_j w_j mean( (P_j(s_k) - P_j(t_k))^2 ) / sum_j w_j;  L = sum_k l_k

    P_0 is the map itself with w_0 = 1; those of the pools to 4x4, 2x2 and 1x1 that are smaller than the map follow, and
    each weighs half of the one before it, whatever its size.

    Args:
        student_maps: s, one for each level, (B, C, H, W).
        teacher_maps: t, of the same shapes, without gradient.

    Returns:
        Scalar; means are over the batch, channels and positions.
    """
    levels = []
    for student, teacher in zip(student_maps, teacher_maps, strict=True):
        s, t = student.float(), teacher.detach().float()
        loss, weight, total = F.mse_loss(s, t), 1.0, 1.0
        for size in (4, 2, 1):
            if size < s.shape[2]:
                weight /= 2
                total += weight
                pooled = F.mse_loss(F.adaptive_avg_pool2d(s, size), F.adaptive_avg_pool2d(t, size))
                loss = loss + weight * pooled
        levels.append(loss / total)
    return torch.stack(levels).sum()


class Fusion(nn.Module):
    """Attention-based fusion of one level with what the deeper ones carried up (ABF; Chen et al. 2021).

    Args:
        channels: of the student's map.
        mid: channels in which levels are mixed.
        out: channels of the teacher's map.
        size: height and width of the teacher's map.
        deepest: the first level has nothing to be fused with.
    """

    def __init__(self, channels: int, mid: int, out: int, size: int, *, deepest: bool) -> None:
        super().__init__()
        self.size = size
        first, last = nn.Conv2d(channels, mid, 1, bias=False), nn.Conv2d(mid, out, 3, padding=1, bias=False)
        self.attention = None if deepest else nn.Conv2d(2 * mid, 2, 1)
        for convolution in (first, last):
            nn.init.kaiming_uniform_(convolution.weight, a=1)
        self.into = nn.Sequential(first, nn.BatchNorm2d(mid))
        self.out = nn.Sequential(last, nn.BatchNorm2d(out))

    def forward(self, maps: Tensor, carried: Tensor | None) -> tuple[Tensor, Tensor]:
        """The map to be compared with the teacher's, and what is carried on.

        Args:
            maps: the student's, (B, channels, H, W).
            carried: of the level below, (B, mid, H', W'); None at the deepest.
        """
        mixed: Tensor = self.into(maps)
        if self.attention is not None:
            assert carried is not None
            carried = F.interpolate(carried, mixed.shape[-2:], mode="nearest")
            share = torch.sigmoid(self.attention(torch.cat([mixed, carried], dim=1)))
            mixed = mixed * share[:, :1] + carried * share[:, 1:]
        if mixed.shape[-1] != self.size:
            mixed = F.interpolate(mixed, (self.size, self.size), mode="nearest")
        return self.out(mixed), mixed


def levels(maps: Sequence[Tensor], pooled: Tensor) -> list[Tensor]:
    """Stage maps and the pooled feature as a 1x1 map, from deep to shallow, in float32."""
    return [pooled[:, :, None, None].float(), *(each.float() for each in reversed(maps))]


class Method(DistillMethod):
    """L = ce_weight * CE + min(epoch / warmup_epochs, 1) * review_weight * HCL.

    Targets are the teacher's pre-ReLU stage maps and its pooled feature.
    """

    needs_features = True

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        student, teacher = probes(context)
        own, taught = self._own(student), levels(teacher.pre_relu, teacher.pooled)
        mid = min(config.max_mid_channels, own[0].shape[1])
        shapes = [(s.shape[1], mid, t.shape[1], t.shape[-1]) for s, t in zip(own, taught, strict=True)]
        self.fusions = fresh(
            lambda: nn.ModuleList(Fusion(*shape, deepest=number == 0) for number, shape in enumerate(shapes)),
            context,
            "reviewkd",
        )
        self.modules["fusions"] = self.fusions
        self.factor = 0.0

    def _own(self, features: Features) -> list[Tensor]:
        maps = features.stages if self.config.student_maps == "post" else features.pre_relu
        return levels(maps, features.pooled)

    def start_epoch(self, epoch: int) -> None:
        self.factor = warmup_factor(epoch, self.config.warmup_epochs, self.config.warmup_from)

    def terms(self, batch: Batch) -> Terms:
        reviewed: list[Tensor] = []
        carried: Tensor | None = None
        for fusion, maps in zip(self.fusions, self._own(batch.student.maps), strict=True):
            output, carried = fusion(maps, carried)
            reviewed.append(output)
        taught = batch.taught.maps
        distance = hcl_loss(reviewed, levels(taught.pre_relu, taught.pooled))
        return {
            "ce": self.config.ce_weight * ce_loss(batch.student_logits, batch.labels),
            "reviewkd": self.factor * self.config.review_weight * distance,
        }
