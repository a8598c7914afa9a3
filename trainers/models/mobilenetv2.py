"""MobileNetV2 (Sandler et al. 2018) in RepDistiller's CIFAR form: half width, ReLU, stem of stride 2."""

from __future__ import annotations

import math
from itertools import accumulate

import torch.nn.functional as F
from torch import Tensor, nn

from trainers.models import Features, Network

SIZES = {  # width, blocks of each group, stride of the stem
    "mobilenetv2": (0.5, (1, 2, 3, 4, 3, 3, 1), 2),
    "mobilenetv2_small": (0.5, (1, 1, 2, 1, 1, 1, 1), 1),  # ours, for 8x8 images on a CPU
}
NAMES = tuple(SIZES)
STEM = 32  # channels at width 1, as those of the groups
GROUPS = (  # expansion, channels, stride of the first block
    (1, 16, 1),
    (6, 24, 1),
    (6, 32, 2),
    (6, 64, 2),
    (6, 96, 1),
    (6, 160, 2),
    (6, 320, 1),
)
STAGE_ENDS = (1, 2, 4, 6)  # indices of the groups after which maps are taken
LAST = 1280  # at any width


def serves(name: str) -> bool:
    """Whether this file builds `name`."""
    return name in NAMES


def build(name: str, classes: int, channels: int, size: int) -> Network:
    """The network called `name`; any image size, from 16 pixels downwards with last maps of one pixel."""
    return MobileNetV2(*SIZES[name], classes, channels)


class InvertedResidual(nn.Module):
    """1x1 conv-BN-ReLU to `expansion` times the channels (also where that is 1), 3x3 depthwise-BN-ReLU, 1x1 conv-BN.

    The output is linear; the input is added to it where the shape is kept.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, expansion: int) -> None:
        super().__init__()
        middle = channels_in * expansion
        self.adds = stride == 1 and channels_in == channels_out
        self.layers = nn.Sequential(
            nn.Conv2d(channels_in, middle, 1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(),
            nn.Conv2d(middle, middle, 3, stride=stride, padding=1, groups=middle, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU(),
            nn.Conv2d(middle, channels_out, 1, bias=False),
            nn.BatchNorm2d(channels_out),
        )

    def forward(self, maps: Tensor) -> Tensor:
        main: Tensor = self.layers(maps)
        return maps + main if self.adds else main


class MobileNetV2(Network):
    """3x3 stem, seven groups of inverted residuals, 1x1 conv to 1280, global average pool, linear.

    Stage maps are the linear outputs of groups 2, 3, 5 and 7, so pre-ReLU maps are these same maps; the stem map is
    taken after its ReLU. Conv init N(0, sqrt(2 / (h w C_out))) for a kernel of h x w, linear init N(0, 0.01), biases 0.

    Departs from the paper, as RepDistiller does: ReLU instead of ReLU6, channels cut to whole numbers instead of
    rounded to multiples of 8, an expansion conv also in group 1, stride 1 in group 2, no dropout.

    Args:
        width: multiplies the channels of stem and groups, not those of the last conv.
        blocks: of each group.
        stem_stride: of the first conv.
        classes: K.
        channels: of the images.
    """

    def __init__(self, width: float, blocks: tuple[int, ...], stem_stride: int, classes: int, channels: int) -> None:
        super().__init__()
        before = int(STEM * width)
        self.conv = nn.Conv2d(channels, before, 3, stride=stem_stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(before)
        self.groups = nn.ModuleList()
        for count, (expansion, at_width_1, stride) in zip(blocks, GROUPS, strict=True):
            after = int(at_width_1 * width)
            others = (InvertedResidual(after, after, 1, expansion) for _ in range(count - 1))
            self.groups.append(nn.Sequential(InvertedResidual(before, after, stride, expansion), *others))
            before = after
        self.last_conv = nn.Conv2d(before, LAST, 1, bias=False)
        self.last_norm = nn.BatchNorm2d(LAST)
        self.classifier = nn.Linear(LAST, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                kernel = module.kernel_size[0] * module.kernel_size[1]
                nn.init.normal_(module.weight, 0.0, math.sqrt(2 / (kernel * module.out_channels)))
        nn.init.normal_(self.classifier.weight, 0.0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor) -> Tensor:
        maps = F.relu(self.norm(self.conv(images)))
        for group in self.groups:
            maps = group(maps)
        logits: Tensor = self.classifier(self._pooled(maps))
        return logits

    def features(self, images: Tensor) -> Features:
        stem = F.relu(self.norm(self.conv(images)))
        maps = list(accumulate(self.groups, lambda before, group: group(before), initial=stem))[1:]
        pooled = self._pooled(maps[-1])
        stages = tuple(maps[index] for index in STAGE_ENDS)
        return Features(self.classifier(pooled), pooled, stages, stages, stem)

    def _pooled(self, maps: Tensor) -> Tensor:
        return F.relu(self.last_norm(self.last_conv(maps))).mean((2, 3))
