"""Cross-entropy under the preview strategy, without a teacher: the second row of PCKD's Table VII (arXiv 2410.14143)."""

from __future__ import annotations

from pathlib import Path

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from trainers.config import MethodConfig, PerEpoch
from trainers.methods import Batch, Context, DistillMethod, Terms
from trainers.methods._preview import Preview

KIND = "distill"
VERSION = 1
NEEDS_TEACHER = False


class Config(MethodConfig):
    """The threshold's growth is PCKD's."""

    eps: PerEpoch = Field(
        0.005, ge=0, le=2, description="growth of the threshold: lambda = (1 + eps)^epoch (PCKD's code; Fig. 5d)"
    )


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
    """L = preview-weighted CE; a file of its own, not a preset of pckd, since it needs no teacher."""

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.preview = Preview("preview", config.eps, 0.0, context.labels)

    def start_epoch(self, epoch: int) -> None:
        self.preview.start_epoch(epoch)

    def terms(self, batch: Batch) -> Terms:
        return {"ce": ce_preview_loss(batch.student_logits, batch.labels, self.preview.weigh(batch))}

    def end_epoch(self) -> dict[str, float]:
        return self.preview.end_epoch()

    def write_artifacts(self, folder: Path, epoch: int) -> None:
        self.preview.write(folder)
