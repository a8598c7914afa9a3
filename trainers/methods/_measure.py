"""What measurements of finished weights share: which classes are shown, and the features of a split."""

from __future__ import annotations

import torch
from torch import Tensor

from trainers import seeding
from trainers.data import Info, Split
from trainers.data._augment import standardise
from trainers.metrics import evaluation_chunks
from trainers.models import Network


def drawn_classes(total: int, count: int, seed: int) -> list[int]:
    """`count` of `total` classes drawn at random from the stream of `seed`, sorted; all where there are no more."""
    order = torch.randperm(total, generator=seeding.stream(seed, "classes"))
    return sorted(order[:count].tolist())


@torch.no_grad()
def pooled_features(network: Network, split: Split, info: Info) -> Tensor:
    """Inputs of the classifier for a whole split in eval mode, shape (N, d), float32, on the split's device."""
    network.eval()
    parts = [
        network.features(standardise(images, info)).pooled.float()
        for images in split.batches(evaluation_chunks(split, info))
    ]
    return torch.cat(parts)
