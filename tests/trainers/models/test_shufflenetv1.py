"""ShuffleNet V1: shuffle, units and the order of their channels."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers import models
from trainers.models._basic import shuffled
from trainers.models.shufflenetv1 import Unit


def maps(channels: int, size: int = 4) -> Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0)).relu()


def naive_group_conv(inputs: Tensor, conv: nn.Conv2d) -> Tensor:
    """Each group of channels with its own part of the weights, one after the other."""
    parts = zip(inputs.chunk(conv.groups, 1), conv.weight.chunk(conv.groups, 0), strict=True)
    return torch.cat([F.conv2d(part, weight) for part, weight in parts], 1)


def naive_shuffle(inputs: Tensor, groups: int) -> Tensor:
    """The first channel of each group, then the second of each, ..."""
    each = inputs.shape[1] // groups
    return torch.stack([inputs[:, group * each + index] for index in range(each) for group in range(groups)], 1)


def test_shuffle_deals_the_channels_out() -> None:
    # 6 channels in 3 groups (0 1) (2 3) (4 5): the first of each, then the second of each.
    assert shuffled(torch.arange(6).view(1, 6, 1, 1), 3).flatten().tolist() == [0, 2, 4, 1, 3, 5]
    assert shuffled(torch.arange(6).view(1, 6, 1, 1), 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert torch.equal(shuffled(maps(12), 1), maps(12))


def test_unit_that_keeps_the_size_adds_its_input() -> None:
    torch.manual_seed(0)
    unit = Unit(60, 60, halves=False)
    main = naive_shuffle(F.relu(unit.norm1(naive_group_conv(maps(60), unit.conv1))), 3)
    main = F.relu(unit.norm2(unit.conv2(main)))
    expected = unit.norm3(naive_group_conv(main, unit.conv3)) + maps(60)
    assert torch.allclose(unit(maps(60)), expected, atol=1e-6)
    assert (unit.conv1.out_channels, unit.conv2.groups) == (15, 15)


def test_unit_that_halves_appends_its_pooled_input() -> None:
    torch.manual_seed(0)
    unit = Unit(60, 120, halves=True).eval()
    joint = unit(maps(60))
    assert joint.shape == (2, 120, 2, 2)
    # Position (0, 0) of a 3x3 average over a map padded with zeros: the upper left 2x2, divided by 9.
    assert torch.allclose(joint[:, 60:, 0, 0], maps(60)[:, :, :2, :2].sum((2, 3)) / 9)
    assert torch.allclose(joint[:, 60:, 1, 1], maps(60)[:, :, 1:4, 1:4].mean((2, 3)))


def test_groups_are_three_but_for_the_stems_channels() -> None:
    network = models.build("shufflev1", classes=10, seed=0)
    units = [unit for stage in network.stages for unit in stage]
    assert [len(stage) for stage in network.stages] == [4, 8, 4]
    assert [unit.conv1.groups for unit in units] == [1] + [3] * 15
    assert [unit.conv3.groups for unit in units] == [3] * 16
    assert [unit.halves for unit in units] == [True, *[False] * 3, True, *[False] * 7, True, *[False] * 3]
    assert units[0].conv3.out_channels == 240 - 24 and units[4].conv3.out_channels == 480 - 240
