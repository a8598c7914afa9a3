"""ResNet18 and ResNet34 (He et al. 2016) with the stems of CIFAR and ImageNet, and both for 64-pixel images."""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from trainers.models import Features, Network
from trainers.models._basic import Block, conv3x3, run, run_keeping

BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
STEMS = ("", "tiny7", "tiny3", "imagenet")
NAMES = tuple(f"{name}_{stem}" if stem else name for stem in STEMS for name in BLOCKS)
WIDTHS = (64, 128, 256, 512)


def serves(name: str) -> bool:
    """Whether this file builds `name`."""
    return name in NAMES


def build(name: str, classes: int, channels: int, size: int) -> Network:
    """The network called `name`; any image size from 8 pixels."""
    depth, _, stem = name.partition("_")
    return ResNet(BLOCKS[depth], classes, channels, stem)


class ResNet(Network):
    """A stem, four stages of basic blocks with strides 1, 2, 2, 2, global average pool, linear.

        ""          3x3 conv of stride 1; PyTorch's own init everywhere
        "imagenet"  torchvision's layout: 7x7 conv of stride 2, after BN and ReLU a 3x3 max-pool of stride 2; weights
                    under torchvision's names can be loaded as well
        "tiny7"     the same layout, for 64 pixels
        "tiny3"     3x3 conv of stride 1 WITH bias and PyTorch's own init: the public code of CuDFKD puts it into a
                    built "tiny7" in place of the conv, and takes the max-pool out

    All other convs, except those of the first, are Kaiming normal over fan-out, as torchvision's are. With 64 pixels
    the stages of "tiny7" end at 16, 8, 4 and 2 pixels, those of "" and "tiny3" at 64, 32, 16 and 8. The stem map is
    taken before the max-pool, stage maps after the ReLU that follows the sum; pre-ReLU maps are that sum.

    Args:
        blocks: of each stage.
        classes: K.
        channels: of the images.
        stem: one of the four above.
    """

    def __init__(self, blocks: tuple[int, ...], classes: int, channels: int, stem: str) -> None:
        super().__init__()
        self.pools = stem in ("tiny7", "imagenet")
        if self.pools:
            self.conv = nn.Conv2d(channels, WIDTHS[0], 7, stride=2, padding=3, bias=False)
        elif stem == "tiny3":
            self.conv = nn.Conv2d(channels, WIDTHS[0], 3, padding=1)
        else:
            self.conv = conv3x3(channels, WIDTHS[0], 1)
        self.norm = nn.BatchNorm2d(WIDTHS[0])
        self.stages = nn.ModuleList()
        before = WIDTHS[0]
        for count, width in zip(blocks, WIDTHS, strict=True):
            first = Block(before, width, stride=1 if width == WIDTHS[0] else 2)
            self.stages.append(nn.Sequential(first, *(Block(width, width, stride=1) for _ in range(count - 1))))
            before = width
        self.classifier = nn.Linear(WIDTHS[-1], classes)
        if stem:
            for module in self.modules():
                if isinstance(module, nn.Conv2d) and module.bias is None:  # only the conv put into the stem has one
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if stem == "imagenet":
            self.register_load_state_dict_pre_hook(_rename_torchvision)  # type: ignore[no-untyped-call]

    def forward(self, images: Tensor) -> Tensor:
        maps = run(self.stages, self._pooled(self._stem(images)))
        logits: Tensor = self.classifier(maps.mean((2, 3)))
        return logits

    def features(self, images: Tensor) -> Features:
        stem = self._stem(images)
        stages, sums = run_keeping(self.stages, self._pooled(stem))
        pooled = stages[-1].mean((2, 3))
        return Features(self.classifier(pooled), pooled, stages, sums, stem)

    def _stem(self, images: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(images)))

    def _pooled(self, stem: Tensor) -> Tensor:
        return F.max_pool2d(stem, 3, stride=2, padding=1) if self.pools else stem


def _rename_torchvision(network: nn.Module, state: MutableMapping[str, Any], prefix: str, *_: object) -> None:
    """Gives entries under torchvision's names (resnet18-f37072fd.pth, resnet34-b627a593.pth) ours, in place."""
    for name in list(state):
        if not name.startswith(prefix):
            continue
        ours = re.sub(r"^layer(\d)\.", lambda match: f"stages.{int(match[1]) - 1}.", name.removeprefix(prefix))
        ours = re.sub(r"^fc\.", "classifier.", ours).replace("downsample.", "shortcut.")
        ours = re.sub(r"(^|\.)bn(\d?)", r"\1norm\2", ours)
        ours = re.sub(r"^(conv|norm)1\.", r"\1.", ours)
        if prefix + ours != name:
            state[prefix + ours] = state.pop(name)
