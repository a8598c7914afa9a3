"""Cross-entropy on the labels: teachers, and students trained from scratch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from trainers.config import MethodConfig
from trainers.methods import Batch, DistillMethod, Terms

KIND = "distill"
VERSION = 1
NEEDS_TEACHER = False


class Config(MethodConfig):
    """Cross-entropy has no hyper-parameters."""


def ce_loss(student_logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with the labels, batch mean: -1/B sum_i log softmax(s_i)[y_i].

    Args:
        student_logits: s, shape (B, K), before softmax.
        labels: y, shape (B,), int64 in [0, K).

    Returns:
        Scalar in nats per sample.
    """
    return F.cross_entropy(student_logits.float(), labels)


class Method(DistillMethod):
    """Supervised training; a protocol with `stop_at_acc1_pct` makes the noisy teachers of CuDFKD, Sec. V-D."""

    def terms(self, batch: Batch) -> Terms:
        return {"ce": ce_loss(batch.student_logits, batch.labels)}
