"""Not a training: pooled features of the test images, drawn with t-SNE (van der Maaten and Hinton 2008; PCKD Fig. 8)."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from trainers.checkpoint import replace_bytes
from trainers.config import MethodConfig
from trainers.methods import Measurement
from trainers.methods._measure import drawn_classes, pooled_features

KIND = "evaluate"
VERSION = 1
NEEDS_TEACHER = False


class Config(MethodConfig):
    """Defaults: as in the figure of PCKD's authors, but for two components instead of the first two of three."""

    classes: int = Field(10, ge=2, description="how many classes are shown, drawn at random (Fig. 8 shows 10)")
    class_seed: int = Field(0, ge=0, description="of that draw (this project)")
    perplexity: float = Field(30.0, gt=1, description="of t-SNE (authors' code)")
    iterations: int = Field(5000, ge=250, description="of t-SNE (authors' code)")


def silhouette(features: Tensor, labels: Tensor) -> float:
    """Mean silhouette coefficient of the classes (Rousseeuw 1987), in [-1, 1]; higher is better separated.

    Args:
        features: shape (N, d); distances are Euclidean.
        labels: shape (N,), of at least two classes.
    """
    from sklearn.metrics import silhouette_score

    return float(silhouette_score(features.double().numpy(), labels.numpy()))


def tsne(features: Tensor, perplexity: float, iterations: int) -> Tensor:
    """Two coordinates for each row, from principal components as start, so that equal features give equal pictures.

    Args:
        features: shape (N, d).
        perplexity: lowered to (N - 1) / 3 where there are few points.
        iterations: at least 250.

    Returns:
        Shape (N, 2), float64.
    """
    from sklearn.manifold import TSNE

    fitted = TSNE(
        n_components=2,
        perplexity=min(perplexity, (len(features) - 1) / 3),
        max_iter=iterations,
        init="pca",
        random_state=0,
        n_jobs=1,
    ).fit_transform(features.double().numpy())
    return torch.from_numpy(fitted).double()


class Method(Measurement):
    """embedding.json: a point for each test image of the drawn classes; `test/silhouette`: of the same features, in all
    dimensions. Features have length 1, as in the authors' code.
    """

    @cached_property
    def _drawn(self) -> tuple[Tensor, Tensor]:
        """Features and labels of the drawn classes, on the CPU."""
        images, config = self.subject.images, self.config
        classes = torch.tensor(drawn_classes(images.info.classes, config.classes, config.class_seed))
        features = pooled_features(self.subject.network, images.test, images.info).cpu()
        labels = images.test.labels.cpu()
        chosen = torch.isin(labels, classes)
        return F.normalize(features[chosen], dim=1), labels[chosen]

    def measure(self) -> dict[str, float]:
        return {"test/silhouette": silhouette(*self._drawn)}

    def write_artifacts(self, folder: Path) -> None:
        features, labels = self._drawn
        points = tsne(features, self.config.perplexity, self.config.iterations)
        content = {
            "schema": 1,
            "quantity": "t-SNE of pooled features",
            "x": [round(value, 4) for value in points[:, 0].tolist()],
            "y": [round(value, 4) for value in points[:, 1].tolist()],
            "label": labels.tolist(),
            "silhouette": silhouette(features, labels),
        }
        replace_bytes(folder / "embedding.json", json.dumps(content).encode())
