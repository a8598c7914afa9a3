"""A linear classifier of the pixels."""

from __future__ import annotations

from torch import Tensor, nn

from trainers.models import Features, Network


class Linear(Network):
    """Logits that are linear in the pixels."""

    def __init__(self, pixels: int, classes: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(pixels, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(images.flatten(1))
        return logits

    def features(self, images: Tensor) -> Features:
        pooled = images.flatten(1)
        return Features(self.classifier(pooled), pooled, (images,), (images,), images)


def build(*, classes: int, channels: int, size: int) -> Network:
    """A fresh one."""
    return Linear(channels * size * size, classes)
