"""ResNet50 (He et al. 2016) with the stem of CIFAR."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from trainers.models import Features, Network
from trainers.models._basic import conv3x3, projection, run, run_keeping

SIZES = {  # blocks of each stage, channels of its 3x3 convs
    "resnet50": ((3, 4, 6, 3), (64, 128, 256, 512)),
    "resnet50_small": ((1, 1, 1, 1), (16, 32, 64, 64)),  # ours, for 8x8 images on a CPU
}
NAMES = tuple(SIZES)
EXPANSION = 4


def serves(name: str) -> bool:
    """Whether this file builds `name`."""
    return name in NAMES


def build(name: str, classes: int, channels: int, size: int) -> Network:
    """The network called `name`; any image size."""
    return ResNet50(*SIZES[name], classes, channels)


class Bottleneck(nn.Module):
    """1x1 conv-BN-ReLU, 3x3 conv-BN-ReLU, 1x1 conv-BN to 4 times `width`, plus shortcut, WITHOUT the ReLU after it.

    The stride is that of the 3x3 conv; the shortcut runs after the main branch.
    """

    def __init__(self, channels_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, EXPANSION * width, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(EXPANSION * width)
        self.shortcut = projection(channels_in, EXPANSION * width, stride)

    def forward(self, maps: Tensor) -> Tensor:
        main = F.relu(self.norm1(self.conv1(maps)))
        main = F.relu(self.norm2(self.conv2(main)))
        main = self.norm3(self.conv3(main))
        total: Tensor = main + self.shortcut(maps)
        return total


class ResNet50(Network):
    """3x3 stem of the first width without max-pool, four stages of bottlenecks with strides 1, 2, 2, 2, average pool, linear.

    Stage maps are taken after the ReLU that follows the sum; pre-ReLU maps are that sum. Conv init Kaiming normal over
    fan-out.

    Args:
        blocks: of each stage.
        widths: of the 3x3 convs of each stage.
        classes: K.
        channels: of the images.
    """

    def __init__(self, blocks: tuple[int, ...], widths: tuple[int, ...], classes: int, channels: int) -> None:
        super().__init__()
        before = widths[0]
        self.conv = conv3x3(channels, before, 1)
        self.norm = nn.BatchNorm2d(before)
        self.stages = nn.ModuleList()
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            first = Bottleneck(before, width, stride=1 if stage == 0 else 2)
            before = EXPANSION * width
            self.stages.append(nn.Sequential(first, *(Bottleneck(before, width, stride=1) for _ in range(count - 1))))
        self.classifier = nn.Linear(before, classes)
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
