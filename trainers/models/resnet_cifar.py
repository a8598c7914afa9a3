"""resnet-N of CIFAR (He et al. 2016, Sec. 4.2), three stages, and its four times wider pair; RepDistiller's layout."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from trainers.models import Features, Network
from trainers.models._basic import Block, conv3x3, run, run_keeping

NAMES = (
    "resnet8",
    "resnet14",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "resnet8x4",
    "resnet32x4",
    "resnet8x2",  # ours, as is resnet14x2: half of x4, for small images on a CPU
    "resnet14x2",
)
WIDTHS = {"": (16, 16, 32, 64), "2": (16, 32, 64, 128), "4": (32, 64, 128, 256)}  # of the stem and of the stages


def serves(name: str) -> bool:
    """Whether this file builds `name`."""
    return name in NAMES


def build(name: str, classes: int, channels: int, size: int) -> Network:
    """The network called `name`; any image size from 4 pixels."""
    depth, _, wide = name.removeprefix("resnet").partition("x")
    return ResNetCifar((int(depth) - 2) // 6, WIDTHS[wide], classes, channels)


class ResNetCifar(Network):
    """3x3 stem, three stages of basic blocks, global average pool, linear.

    Stage maps are taken after the ReLU that follows the sum; pre-ReLU maps are that sum.

    Args:
        blocks: of a stage; depth = 6 blocks + 2.
        widths: channels of the stem and of the three stages.
        classes: K.
        channels: of the images.
    """

    def __init__(self, blocks: int, widths: tuple[int, int, int, int], classes: int, channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, widths[0], 1)
        self.norm = nn.BatchNorm2d(widths[0])
        self.stages = nn.ModuleList()
        for stage, (before, width) in enumerate(pairwise(widths)):
            first = Block(before, width, stride=1 if stage == 0 else 2)
            self.stages.append(nn.Sequential(first, *(Block(width, width, stride=1) for _ in range(blocks - 1))))
        self.classifier = nn.Linear(widths[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        maps = run(self.stages, F.relu(self.norm(self.conv(images))))
        logits: Tensor = self.classifier(maps.mean((2, 3)))
        return logits

    def features(self, images: Tensor) -> Features:
        stem = F.relu(self.norm(self.conv(images)))
        stages, sums = run_keeping(self.stages, stem)
        pooled = stages[-1].mean((2, 3))
        return Features(self.classifier(pooled), pooled, stages, sums, stem)
