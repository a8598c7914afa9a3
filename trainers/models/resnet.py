"""ResNet18 and ResNet34 (He et al. 2016) in their CIFAR form: 3x3 stem of stride 1, no max-pool."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from trainers.models import Features, Network
from trainers.models._basic import Block, conv3x3, run, run_keeping

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
NAMES = tuple(BLOCKS)
WIDTHS = (64, 128, 256, 512)


def serves(name: str) -> bool:
    """Whether this file builds `name`."""
    return name in NAMES


def build(name: str, classes: int, channels: int, size: int) -> Network:
    """The network called `name`; any image size from 8 pixels."""
    return ResNet(BLOCKS[name], classes, channels)


class ResNet(Network):
    """3x3 stem, four stages of basic blocks with strides 1, 2, 2, 2, global average pool, linear; PyTorch's own init.

    Stage maps are taken after the ReLU that follows the sum; pre-ReLU maps are that sum.

    Args:
        blocks: of each stage.
        classes: K.
        channels: of the images.
    """

    def __init__(self, blocks: tuple[int, ...], classes: int, channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, WIDTHS[0], 1)
        self.norm = nn.BatchNorm2d(WIDTHS[0])
        self.stages = nn.ModuleList()
        before = WIDTHS[0]
        for count, width in zip(blocks, WIDTHS, strict=True):
            first = Block(before, width, stride=1 if width == WIDTHS[0] else 2)
            self.stages.append(nn.Sequential(first, *(Block(width, width, stride=1) for _ in range(count - 1))))
            before = width
        self.classifier = nn.Linear(WIDTHS[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        maps = run(self.stages, F.relu(self.norm(self.conv(images))))
        logits: Tensor = self.classifier(maps.mean((2, 3)))
        return logits

    def features(self, images: Tensor) -> Features:
        stages, sums = run_keeping(self.stages, F.relu(self.norm(self.conv(images))))
        pooled = stages[-1].mean((2, 3))
        return Features(self.classifier(pooled), pooled, stages, sums)
