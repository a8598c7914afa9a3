"""Wide residual networks wrn_<depth>_<width> (Zagoruyko and Komodakis 2016), pre-activation, without dropout."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from trainers.models import Features, Network
from trainers.models._basic import conv3x3

NAMES = ("wrn_10_1", "wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2")  # served is every depth 6n + 4 and every width


def serves(name: str) -> bool:
    """Whether this file builds `name`."""
    match = re.fullmatch(r"wrn_([1-9]\d{1,3})_([1-9]\d?)", name)
    return match is not None and int(match[1]) >= 10 and int(match[1]) % 6 == 4


def build(name: str, classes: int, channels: int, size: int) -> Network:
    """The network called `name`; any image size from 4 pixels."""
    _, depth, width = name.split("_")
    return WideResNet((int(depth) - 4) // 6, int(width), classes, channels)


class Block(nn.Module):
    """BN-ReLU-conv-BN-ReLU-conv plus shortcut. The network runs its first BN, which also ends the block before.

    The shortcut is the input itself, or a bare 1x1 conv on the activated input where the shape changes.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels_in)
        self.conv1 = conv3x3(channels_in, channels_out, stride)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.conv2 = conv3x3(channels_out, channels_out, 1)
        self.shortcut: nn.Conv2d | None = None
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False)

    def forward(self, maps: Tensor, normed: Tensor) -> Tensor:
        """The raw sum, from the input and from `norm1` of it."""
        active = F.relu(normed)
        main: Tensor = self.conv2(F.relu(self.norm2(self.conv1(active))))
        return main + (maps if self.shortcut is None else self.shortcut(active))


class WideResNet(Network):
    """3x3 stem of 16, three stages of widths 16k, 32k, 64k, final BN-ReLU, global average pool, linear.

    Stage maps are the raw residual sums, with their negatives; the stem map is the conv's raw output. Pre-ReLU maps are
    these sums after the BN that follows: the first of the next block, or the final one. It runs once, also when maps
    are collected (mdistiller runs it twice, so that in training the running statistics of three BNs move twice). Conv
    init N(0, sqrt(2 / (h w C_out))) for a kernel of h x w, linear bias 0.

    Args:
        blocks: of a stage; depth = 6 blocks + 4.
        width: k.
        classes: K.
        channels: of the images.
    """

    def __init__(self, blocks: int, width: int, classes: int, channels: int) -> None:
        super().__init__()
        widths = (16, 16 * width, 32 * width, 64 * width)
        self.conv = conv3x3(channels, widths[0], 1)
        self.stages = nn.ModuleList()
        for stage, (before, after) in enumerate(pairwise(widths)):
            first = Block(before, after, stride=1 if stage == 0 else 2)
            self.stages.append(nn.ModuleList([first, *(Block(after, after, stride=1) for _ in range(blocks - 1))]))
        self.norm = nn.BatchNorm2d(widths[-1])
        self.classifier = nn.Linear(widths[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                kernel = module.kernel_size[0] * module.kernel_size[1]
                nn.init.normal_(module.weight, 0.0, math.sqrt(2 / (kernel * module.out_channels)))
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.conv(images)
        for stage in self.stages:
            for block in cast(nn.ModuleList, stage):
                maps = block(maps, cast(Block, block).norm1(maps))
        logits: Tensor = self.classifier(F.relu(self.norm(maps)).mean((2, 3)))
        return logits

    def features(self, images: Tensor) -> Features:
        maps = stem = self.conv(images)
        sums: list[Tensor] = []
        normed_sums: list[Tensor] = []
        for stage in self.stages:
            for index, block in enumerate(cast(nn.ModuleList, stage)):
                normed = cast(Block, block).norm1(maps)
                if index == 0 and sums:
                    normed_sums.append(normed)
                maps = block(maps, normed)
            sums.append(maps)
        normed_sums.append(self.norm(maps))
        pooled = F.relu(normed_sums[-1]).mean((2, 3))
        return Features(self.classifier(pooled), pooled, tuple(sums), tuple(normed_sums), stem)
