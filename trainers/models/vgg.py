"""VGG with batch norm (Simonyan and Zisserman 2015) in its CIFAR form: five blocks, one linear layer."""

from __future__ import annotations

import math
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from trainers.errors import ConfigError
from trainers.models import Features, Network

CONVS = {  # of each block
    "vgg8": (1, 1, 1, 1, 1),
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
SMALL = "_small"  # ours, for 8x8 images on a CPU: a quarter of the width, one max-pool less
NAMES = (*CONVS, *(f"{name}{SMALL}" for name in ("vgg8", "vgg13")))
WIDTHS = (64, 128, 256, 512, 512)


def serves(name: str) -> bool:
    """Whether this file builds `name`."""
    return name in NAMES


def build(name: str, classes: int, channels: int, size: int) -> Network:
    """The network called `name`.

    Raises:
        ConfigError: images below 8 pixels, which three max-pools leave nothing of.
    """
    if size < 8:
        raise ConfigError(f"network {name!r}: images of {size} pixels; allowed are 8 and more")
    if name.endswith(SMALL):
        widths = tuple(width // 4 for width in WIDTHS)
        return VGG(CONVS[name.removesuffix(SMALL)], classes, channels, pools=2, widths=widths)
    return VGG(CONVS[name], classes, channels, pools=4 if size == 64 else 3)


class VGG(Network):
    """Five blocks of conv-BN-ReLU (conv with bias), a max-pool after the first `pools` of them, average pool, linear.

    Block 0 is the stem, blocks 1 to 4 are the stages; all maps are taken before the max-pool, pre-ReLU maps before
    the block's last ReLU. Conv init N(0, sqrt(2 / (9 C_out))), linear init N(0, 0.01), biases 0.

    Args:
        convs: of each block.
        classes: K.
        channels: of the images.
        pools: 3; 4 for images of 64 pixels, so that blocks 3 and 4 do not work on 8x8 maps.
        widths: channels of each block.
    """

    def __init__(
        self, convs: tuple[int, ...], classes: int, channels: int, pools: int, widths: tuple[int, ...] = WIDTHS
    ) -> None:
        super().__init__()
        self.pools = pools
        self.blocks = nn.ModuleList()
        before = channels
        for count, width in zip(convs, widths, strict=True):
            layers: list[nn.Module] = []
            for _ in range(count):
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                before = width
            self.blocks.append(nn.Sequential(*layers[:-1]))  # the block's last ReLU is the network's
        self.classifier = nn.Linear(widths[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, math.sqrt(2 / (9 * module.out_channels)))
                nn.init.zeros_(cast(Tensor, module.bias))
        nn.init.normal_(self.classifier.weight, 0.0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor) -> Tensor:
        maps = images
        for index, block in enumerate(self.blocks):
            maps = F.relu(block(maps))
            if index < self.pools:
                maps = F.max_pool2d(maps, 2)
        logits: Tensor = self.classifier(maps.mean((2, 3)))
        return logits

    def features(self, images: Tensor) -> Features:
        maps, after, before = images, [], []
        for index, block in enumerate(self.blocks):
            normed = block(maps)
            maps = F.relu(normed)
            after.append(maps)
            before.append(normed)
            if index < self.pools:
                maps = F.max_pool2d(maps, 2)
        pooled = maps.mean((2, 3))
        return Features(self.classifier(pooled), pooled, tuple(after[1:]), tuple(before[1:]), after[0])
