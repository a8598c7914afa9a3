"""Cross-entropy whose samples are weighted, without a teacher: PCKD's Table VII and Figure 6 (arXiv 2410.14143)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch.nn.functional as F
from pydantic import Field, JsonValue
from torch import Tensor

from trainers.config import MethodConfig, PerEpoch
from trainers.data import DataSet
from trainers.methods import Batch, Context, DistillMethod, Terms
from trainers.methods._preview import Preview

KIND = "distill"
VERSION = 1
NEEDS_TEACHER = False


class Config(MethodConfig):
    """The threshold's growth is PCKD's."""

    weighting: Literal["preview", "focal"] = Field(
        "preview", description="v: PCKD's Eq. 6 (Table VII), or (1 - p_y)^gamma (Fig. 6)"
    )
    eps: PerEpoch = Field(
        0.005, ge=0, le=2, description="growth of the threshold: lambda = (1 + eps)^epoch (PCKD's code; Fig. 5d)"
    )
    gamma: float = Field(2.0, gt=0, description="exponent of the focal weight (authors' code)")

    def inactive(self) -> frozenset[str]:
        return frozenset({"gamma"} if self.weighting == "preview" else {"eps"})

    def active(self) -> dict[str, JsonValue]:
        values = super().active()
        if self.weighting == "preview":
            del values["weighting"]  # the field came later than the first digests
        return values


PRESETS: Mapping[str, Mapping[str, Any]] = {"focal": {"weighting": "focal"}}
"""focal: the other curve of PCKD's Figure 6."""


def ce_preview_loss(student_logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Weighted cross-entropy, batch mean: 1/B sum_i v_i CE_i (PCKD Sec. IV-F).

    Args:
        student_logits: shape (B, K).
        labels: shape (B,).
        weights: v, shape (B,); receives no gradient.

    Returns:
        Scalar in nats.
    """
    return (weights.detach() * F.cross_entropy(student_logits.float(), labels, reduction="none")).mean()


class Method(DistillMethod):
    """L = weighted CE; a file of its own, not a preset of pckd, since it needs no teacher."""

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.preview = Preview(config.weighting, config.eps, config.gamma, context.labels)

    def start_epoch(self, epoch: int) -> None:
        self.preview.start_epoch(epoch)

    def terms(self, batch: Batch) -> Terms:
        return {"ce": ce_preview_loss(batch.student_logits, batch.labels, self.preview.weigh(batch))}

    def end_epoch(self) -> dict[str, float]:
        return self.preview.end_epoch()

    def write_artifacts(self, folder: Path, epoch: int, images: DataSet) -> None:
        self.preview.write(folder, images.train)
