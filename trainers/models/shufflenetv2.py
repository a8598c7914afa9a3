"""ShuffleNet V2 (Ma et al. 2018) in RepDistiller's CIFAR form: a 1x1 stem and no max-pool."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.models import Features, Network
from trainers.models._basic import run, run_keeping, shuffled

SIZES = {  # channels of the stages and of the last conv; basic units of each stage, after its halving unit
    "shufflev2": ((116, 232, 464, 1024), (3, 7, 3)),
    "shufflev2_small": ((40, 80, 160, 512), (1, 1, 1)),  # ours, for 8x8 images on a CPU: RepDistiller's x0.2, shallower
}
NAMES = tuple(SIZES)
STEM = 24


def serves(name: str) -> bool:
    """Whether this file builds `name`."""
    return name in NAMES


def build(name: str, classes: int, channels: int, size: int) -> Network:
    """The network called `name`; any image size, from 8 pixels downwards with last maps of one pixel."""
    return ShuffleNetV2(*SIZES[name], classes, channels)


class Branch(nn.Module):
    """1x1 conv-BN-ReLU, 3x3 depthwise-BN, 1x1 conv-BN, WITHOUT the ReLU that follows."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, stride=stride, padding=1, groups=channels_out, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.conv3 = nn.Conv2d(channels_out, channels_out, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(channels_out)

    def forward(self, maps: Tensor) -> Tensor:
        main: Tensor = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(maps)))))
        main = self.norm3(self.conv3(main))
        return main


class BasicUnit(nn.Module):
    """The first half of the channels as it is, the other half through a branch, shuffled; WITHOUT the last ReLU.

    The half that passes comes out of a ReLU, so the one that the network applies to all changes neither it nor its
    gradient.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = Branch(channels // 2, channels // 2, stride=1)

    def forward(self, maps: Tensor) -> Tensor:
        passing, used = maps.chunk(2, 1)
        return shuffled(torch.cat([passing, self.branch(used)], 1), 2)


class HalvingUnit(nn.Module):
    """3x3 depthwise-BN-1x1 conv-BN beside a branch, both of stride 2, shuffled; WITHOUT the last ReLU of both."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        half = channels_out // 2
        self.conv1 = nn.Conv2d(channels_in, channels_in, 3, stride=2, padding=1, groups=channels_in, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_in)
        self.conv2 = nn.Conv2d(channels_in, half, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(half)
        self.branch = Branch(channels_in, half, stride=2)

    def forward(self, maps: Tensor) -> Tensor:
        side: Tensor = self.norm2(self.conv2(self.norm1(self.conv1(maps))))
        return shuffled(torch.cat([side, self.branch(maps)], 1), 2)


class ShuffleNetV2(Network):
    """1x1 stem of 24, three stages that begin with a halving unit, 1x1 conv, global average pool, linear.

    Weights keep PyTorch's own init. Stage maps are taken after the shuffle. Pre-ReLU maps have the same order of
    channels (RepDistiller and mdistiller return them in the order before the shuffle); those that pass the stage's last
    unit, every second one, are not pre-ReLU but the stage map's own.

    Args:
        widths: channels of the three stages and of the last conv.
        basic_units: of each stage, after its halving unit.
        classes: K.
        channels: of the images.
    """

    def __init__(
        self, widths: tuple[int, int, int, int], basic_units: tuple[int, int, int], classes: int, channels: int
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, STEM, 1, bias=False)
        self.norm = nn.BatchNorm2d(STEM)
        self.stages = nn.ModuleList()
        for count, (before, after) in zip(basic_units, pairwise((STEM, *widths[:3])), strict=True):
            self.stages.append(nn.Sequential(HalvingUnit(before, after), *(BasicUnit(after) for _ in range(count))))
        self.last_conv = nn.Conv2d(widths[2], widths[3], 1, bias=False)
        self.last_norm = nn.BatchNorm2d(widths[3])
        self.classifier = nn.Linear(widths[3], classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = run(self.stages, F.relu(self.norm(self.conv(images))))
        logits: Tensor = self.classifier(self._pooled(maps))
        return logits

    def features(self, images: Tensor) -> Features:
        stem = F.relu(self.norm(self.conv(images)))
        stages, joints = run_keeping(self.stages, stem)
        pooled = self._pooled(stages[-1])
        return Features(self.classifier(pooled), pooled, stages, joints, stem)

    def _pooled(self, maps: Tensor) -> Tensor:
        return F.relu(self.last_norm(self.last_conv(maps))).mean((2, 3))
