"""The preview strategy of PCKD (arXiv 2410.14143, Sec. III-C): how hard each sample is, and how much it counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers import artifacts
from trainers.checkpoint import replace_bytes
from trainers.data import Split
from trainers.methods import Batch

Weighting = Literal["none", "preview", "focal", "curriculum"]
CLASSES_SHOWN = 10
IMAGES_SHOWN = 8


def difficulty(student_logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of each sample over the batch's mean (PCKD Eq. 5).

        g_i = CE_i / max(mean_j CE_j, 1e-12)

    Args:
        student_logits: of view 0, shape (B, K).
        labels: shape (B,).

    Returns:
        g, shape (B,), with gradient; its mean is 1.
    """
    losses = F.cross_entropy(student_logits.float(), labels, reduction="none")
    return losses / losses.mean().clamp(min=1e-12)


def threshold(eps: float, epoch: int) -> float:
    """lambda = (1 + eps)^t with t = epoch + 1, epoch from 0 (PCKD Eq. 7; t counts from 1 in the authors' code)."""
    return float((1 + eps) ** (epoch + 1))


def preview_weight(difficulty: Tensor, threshold: float) -> Tensor:
    """1 up to the threshold, exp(-g^2) beyond it (PCKD Eq. 6). Shape of `difficulty`, with its gradient."""
    return torch.where(difficulty <= threshold, 1.0, torch.exp(-difficulty.square()))


def curriculum_weight(difficulty: Tensor, threshold: float) -> Tensor:
    """1 up to the threshold, 0 beyond it (PCKD Table IX). Shape of `difficulty`, without gradient."""
    return (difficulty <= threshold).to(difficulty.dtype)


def focal_weight(student_logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """(1 - p_y)^gamma with p = softmax at temperature 1 (Lin et al. 2017, Eq. 4). Shape (B,), in [0, 1].

    1 - p_y is the sum of the other probabilities: no digits are lost where p_y is almost 1.
    """
    p = F.softmax(student_logits.float(), dim=1)
    others = p.masked_fill(F.one_hot(labels, p.shape[1]).bool(), 0.0).sum(dim=1)
    return others**gamma


class Preview:
    """One way to weigh samples, and what an epoch's weights and difficulties were.

    Args:
        weighting: none: v = 1; preview, curriculum and focal as the functions of these names.
        eps: growth of the threshold in an epoch.
        gamma: exponent of the focal weight.
        labels: of the training split, shape (N,).
    """

    def __init__(self, weighting: Weighting, eps: float, gamma: float, labels: Tensor) -> None:
        self.weighting = weighting
        self.eps = eps
        self.gamma = gamma
        self.labels = labels
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        self.threshold = threshold(self.eps, epoch)
        self.total = torch.zeros((), device=self.labels.device)
        self.count = 0
        self.scores = torch.full(self.labels.shape, torch.nan, device=self.labels.device)

    def weigh(self, batch: Batch) -> Tensor:
        """v of a batch, shape (B,), with gradient where it has one; remembers v and g."""
        logits, labels = batch.student_logits, batch.labels
        scores = difficulty(logits, labels)
        if self.weighting == "preview":
            weights = preview_weight(scores, self.threshold)
        elif self.weighting == "curriculum":
            weights = curriculum_weight(scores, self.threshold)
        elif self.weighting == "focal":
            weights = focal_weight(logits, labels, self.gamma)
        else:
            weights = torch.ones_like(scores)
        self.total += weights.detach().sum()
        self.count += len(weights)
        self.scores[batch.rows] = scores.detach()
        return weights

    def end_epoch(self) -> dict[str, float]:
        """The mean weight of all samples (PCKD Fig. 6), and lambda where there is one."""
        if self.weighting == "none":
            return {}
        mean = {"mean_v": float(self.total) / max(self.count, 1)}
        return mean if self.weighting == "focal" else mean | {"lambda": self.threshold}

    def write(self, folder: Path, train: Split) -> None:
        """difficulty.json: histogram of g. extremes.json: by class, rows of the training split with their g (Figs. 4 and 7),
        and the images themselves, a row for each class, in easiest.png, hardest.png and spread.png.

        g is what each image had when this epoch came to it, augmented as it was then; images without one are left out.
        """
        seen = self.scores.isfinite().nonzero()[:, 0].cpu()
        scores, labels = self.scores.cpu()[seen], self.labels.cpu()[seen]
        if len(seen) == 0:
            return
        artifacts.write_histogram(folder / "difficulty.json", scores, "g per training image, CE over the batch's mean")
        content = {str(int(label)): _ranked(seen, scores, labels == label) for label in labels.unique()[:CLASSES_SHOWN]}
        tile = 0
        for name in ("easiest", "hardest", "spread"):
            shown = torch.cat([_pictures([row for row, _ in each[name]], train) for each in content.values()])
            tile = artifacts.write_grid(folder / f"{name}.png", shown, columns=IMAGES_SHOWN)
        extremes = {"quantity": "[row, g]", "columns": IMAGES_SHOWN, "tile": tile, "border": 1, "classes": content}
        replace_bytes(folder / "extremes.json", json.dumps(extremes).encode())


def _pictures(rows: list[int], train: Split) -> Tensor:
    """`IMAGES_SHOWN` images in [0, 1], unaugmented; what is left over is white."""
    chunk = torch.tensor(rows, device=train.labels.device)
    images = torch.cat(list(train.batches([chunk]))).float().cpu() / 255
    return torch.cat([images, torch.ones(IMAGES_SHOWN - len(rows), *images.shape[1:])])


def _ranked(rows: Tensor, scores: Tensor, chosen: Tensor) -> dict[str, list[Any]]:
    """Easiest and hardest images of a class, and some evenly spaced from the easiest to the hardest; each [row, g]."""
    order = scores[chosen].argsort(stable=True)
    pairs = [
        [int(row), round(float(score), 6)]
        for row, score in zip(rows[chosen][order], scores[chosen][order], strict=True)
    ]
    places = torch.linspace(0, len(pairs) - 1, min(IMAGES_SHOWN, len(pairs))).round().long().tolist()
    return {
        "easiest": pairs[:IMAGES_SHOWN],
        "hardest": pairs[::-1][:IMAGES_SHOWN],
        "spread": [pairs[place] for place in places],
    }
