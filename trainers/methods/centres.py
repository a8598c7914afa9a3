"""Not a training: class centres of a finished network, the rows of its last weight (PCKD, arXiv 2410.14143, Fig. 1a)."""

from __future__ import annotations

import json
from pathlib import Path

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from trainers.checkpoint import replace_bytes
from trainers.config import MethodConfig
from trainers.methods import Measurement
from trainers.methods._measure import drawn_classes

KIND = "evaluate"
VERSION = 1
NEEDS_TEACHER = False


class Config(MethodConfig):
    """Which centres are shown."""

    classes: int = Field(10, ge=2, description="how many classes are shown, drawn at random (Fig. 1a shows 10)")
    class_seed: int = Field(0, ge=0, description="of that draw (this project)")


def mean_cosine(centres: Tensor) -> Tensor:
    """Mean cosine between two different class centres; 0 where they are orthogonal. Scalar in [-1, 1].

    Args:
        centres: W, shape (K, d), K at least 2.
    """
    unit = F.normalize(centres.double(), dim=1)
    cosines = unit @ unit.T
    return (cosines.sum() - cosines.diagonal().sum()) / (len(centres) * (len(centres) - 1))


class Method(Measurement):
    """centres.json: the drawn centres; `classifier/mean_cosine`: over all classes."""

    def measure(self) -> dict[str, float]:
        return {"classifier/mean_cosine": float(mean_cosine(self._centres()))}

    def write_artifacts(self, folder: Path) -> None:
        centres = self._centres()
        classes = drawn_classes(len(centres), self.config.classes, self.config.class_seed)
        content = {
            "schema": 1,
            "classes": classes,
            "values": [[round(value, 6) for value in row] for row in centres[classes].tolist()],
            "mean_cosine": float(mean_cosine(centres)),
        }
        replace_bytes(folder / "centres.json", json.dumps(content).encode())

    def _centres(self) -> Tensor:
        return self.subject.network.classifier.weight.detach().float().cpu()
