"""The basic residual block that the ResNets share, and how stages of it are run."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn


def conv3x3(channels_in: int, channels_out: int, stride: int) -> nn.Conv2d:
    """A padded 3x3 convolution without bias."""
    return nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)


class Block(nn.Module):
    """conv-BN-ReLU-conv-BN plus shortcut, WITHOUT the ReLU after the sum, which the network applies.

    The shortcut is the identity, or 1x1 conv + BN where the shape changes; it runs after the main branch.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels_in, channels_out, stride)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = conv3x3(channels_out, channels_out, 1)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, maps: Tensor) -> Tensor:
        main: Tensor = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(maps)))))
        total: Tensor = main + self.shortcut(maps)
        return total


def run(stages: nn.ModuleList, maps: Tensor) -> Tensor:
    """The last stage map."""
    for stage in stages:
        for block in cast(nn.Sequential, stage):
            maps = F.relu(block(maps))
    return maps


def run_keeping(stages: nn.ModuleList, maps: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """All stage maps, after their last ReLU and before it; the same arithmetic as `run`."""
    after, before = [], []
    for stage in stages:
        for block in cast(nn.Sequential, stage):
            total = block(maps)
            maps = F.relu(total)
        after.append(maps)
        before.append(total)
    return tuple(after), tuple(before)
