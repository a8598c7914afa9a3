"""Linear probe: a linear layer on the features of a finished, frozen network (PCKD, arXiv 2410.14143, Table IV)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.config import MethodConfig
from trainers.data import Info, Split
from trainers.data._augment import standardise_unit
from trainers.metrics import evaluation_chunks
from trainers.models import Network

KIND = "probe"
VERSION = 1
NEEDS_TEACHER = False


class Config(MethodConfig):
    """All there is to choose is in the recipe."""


def resized(images: Tensor, size: int) -> Tensor:
    """Images at another size, bilinear with antialiasing; the same images where the size is right.

    Args:
        images: (B, C, H, W) uint8.
        size: height and width wanted, in pixels.

    Returns:
        (B, C, size, size) float32 in [0, 1].
    """
    unit = images.float().div_(255)
    if unit.shape[-2:] == (size, size):
        return unit
    return F.interpolate(unit, size=(size, size), mode="bilinear", antialias=True, align_corners=False).clamp_(0, 1)


@torch.no_grad()
def trunk_features(trunk: Network, split: Split, target: Info, source: Info) -> Tensor:
    """What the linear layer sees, for a whole split: (N, d) float32 on the split's device.

    The trunk stays in eval mode, and sees the images at the size and with the colour constants it was trained with
    (reference: CRD down-samples to 32x32; the paper states neither).

    Args:
        trunk: frozen.
        split: of the target data set.
        target: of that set.
        source: of the data set that the trunk was trained on.
    """
    trunk.eval()
    parts = [
        trunk.features(standardise_unit(resized(images, source.size), source)).pooled.float()
        for images in split.batches(evaluation_chunks(split, target))
    ]
    return torch.cat(parts)


def probe_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy in nats. Args: logits (B, K), labels (B,)."""
    return F.cross_entropy(logits, labels)
