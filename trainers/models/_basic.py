"""What families share: the basic residual block, the channel shuffle, and how stages are run."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn


def conv3x3(channels_in: int, channels_out: int, stride: int) -> nn.Conv2d:
    """A padded 3x3 convolution without bias."""
    return nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)


def projection(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    """A shortcut: the identity, or 1x1 conv + BN where the shape changes."""
    if stride == 1 and channels_in == channels_out:
        return nn.Sequential()
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False), nn.BatchNorm2d(channels_out)
    )


def shuffled(maps: Tensor, groups: int) -> Tensor:
    """Channels dealt out to the groups in turn: channel g * (C / groups) + c goes to c * groups + g."""
    dealt: Tensor = maps.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)
    return dealt


class Block(nn.Module):
    """conv-BN-ReLU-conv-BN plus shortcut, WITHOUT the ReLU after the sum, which the network applies.

    The shortcut runs after the main branch.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels_in, channels_out, stride)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = conv3x3(channels_out, channels_out, 1)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.shortcut = projection(channels_in, channels_out, stride)

    def forward(self, maps: Tensor) -> Tensor:
        main: Tensor = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(maps)))))
        total: Tensor = main + self.shortcut(maps)
        return total


def run(stages: nn.ModuleList, maps: Tensor) -> Tensor:
    """The last stage map of blocks that leave the ReLU at their end to this function."""
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
