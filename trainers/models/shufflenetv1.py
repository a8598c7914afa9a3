"""ShuffleNet V1 (Zhang et al. 2018) with three groups, in RepDistiller's CIFAR form: a 1x1 stem and no max-pool."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.models import Features, Network
from trainers.models._basic import run, run_keeping, shuffled

SIZES = {  # channels and units of each stage
    "shufflev1": ((240, 480, 960), (4, 8, 4)),
    "shufflev1_small": ((60, 120, 240), (2, 2, 2)),  # ours, for 8x8 images on a CPU: the paper's width x0.25, shallower
}
NAMES = tuple(SIZES)
STEM = 24
GROUPS = 3


def serves(name: str) -> bool:
    """Whether this file builds `name`."""
    return name in NAMES


def build(name: str, classes: int, channels: int, size: int) -> Network:
    """The network called `name`; any image size, from 8 pixels downwards with last maps of one pixel."""
    return ShuffleNetV1(*SIZES[name], classes, channels)


class Unit(nn.Module):
    """1x1 group conv-BN-ReLU to a quarter, shuffle, 3x3 depthwise-BN-ReLU, 1x1 group conv-BN, joined with its input.

    The joint WITHOUT the ReLU that follows, which the network applies: the sum; where the unit halves the map, its own
    channels followed by those of the input, average-pooled. In that case it makes only the channels that are missing.
    The first unit of the network takes the stem's channels ungrouped.
    """

    def __init__(self, channels_in: int, channels_out: int, halves: bool) -> None:
        super().__init__()
        self.halves = halves
        made = channels_out - channels_in if halves else channels_out
        middle = made // 4
        self.groups = 1 if channels_in == STEM else GROUPS
        self.conv1 = nn.Conv2d(channels_in, middle, 1, groups=self.groups, bias=False)
        self.norm1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride=2 if halves else 1, padding=1, groups=middle, bias=False)
        self.norm2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, made, 1, groups=GROUPS, bias=False)
        self.norm3 = nn.BatchNorm2d(made)

    def forward(self, maps: Tensor) -> Tensor:
        main = shuffled(F.relu(self.norm1(self.conv1(maps))), self.groups)
        main = F.relu(self.norm2(self.conv2(main)))
        main = self.norm3(self.conv3(main))
        joint = torch.cat([main, F.avg_pool2d(maps, 3, stride=2, padding=1)], 1) if self.halves else main + maps
        return joint


class ShuffleNetV1(Network):
    """1x1 stem of 24, three stages whose first unit halves the map, global average pool, linear; PyTorch's own init.

    Stage maps are taken after the ReLU that follows the joint; pre-ReLU maps are that joint.

    Args:
        widths: channels of the three stages.
        units: of each stage.
        classes: K.
        channels: of the images.
    """

    def __init__(self, widths: tuple[int, int, int], units: tuple[int, int, int], classes: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, STEM, 1, bias=False)
        self.norm = nn.BatchNorm2d(STEM)
        self.stages = nn.ModuleList()
        for count, (before, after) in zip(units, pairwise((STEM, *widths)), strict=True):
            others = (Unit(after, after, halves=False) for _ in range(count - 1))
            self.stages.append(nn.Sequential(Unit(before, after, halves=True), *others))
        self.classifier = nn.Linear(widths[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = run(self.stages, F.relu(self.norm(self.conv(images))))
        logits: Tensor = self.classifier(maps.mean((2, 3)))
        return logits

    def features(self, images: Tensor) -> Features:
        stem = F.relu(self.norm(self.conv(images)))
        stages, joints = run_keeping(self.stages, stem)
        pooled = stages[-1].mean((2, 3))
        return Features(self.classifier(pooled), pooled, stages, joints, stem)
