"""What is measured on a split every epoch, and what a finished trial is summed up by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.data import Info, Split
from trainers.data._augment import standardise
from trainers.models import Network

EVALUATION_BATCH = 1000
EVALUATION_PIXELS = EVALUATION_BATCH * 112 * 112  # 250 images of 224x224, whose maps would fill a GPU otherwise
Row = dict[str, float]


def acc_pct(logits: Tensor, labels: Tensor, k: int = 1) -> Tensor:
    """Percent of samples whose label is among the k largest logits (CuDFKD Eq. 14 for k = 1).

    Args:
        logits: shape (N, K).
        labels: shape (N,), int64.
        k: at most K; larger values count as K.

    Returns:
        Scalar in [0, 100].
    """
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return 100 * (best == labels[:, None]).any(dim=1).double().mean()


def agree1_pct(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Percent of samples on which both networks decide alike (CuDFKD Eq. 15). Scalar in [0, 100]."""
    return 100 * (student_logits.argmax(dim=1) == teacher_logits.argmax(dim=1)).double().mean()


def jsd_nat(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Jensen-Shannon divergence of the two predictions at temperature 1, per sample, in nats.

        JSD = 1/2 KL(P || M) + 1/2 KL(Q || M), M = (P + Q) / 2

    Returns:
        Shape (N,), in [0, ln 2].
    """
    p, q = (F.softmax(logits.double(), dim=1) for logits in (student_logits, teacher_logits))
    m = (p + q) / 2
    parts = torch.xlogy(p, p) - torch.xlogy(p, m) + torch.xlogy(q, q) - torch.xlogy(q, m)
    return (0.5 * parts.sum(dim=1)).clamp(0, math.log(2))


def loyalties(student_logits: Tensor, teacher_logits: Tensor) -> dict[str, Tensor]:
    """Loyalty L_p per sample in the three readings of CuDFKD Eq. 16.

        loyalty: 1 - sqrt(JSD in bits), range [0, 1];  loyalty_nat: 1 - sqrt(JSD in nats);
        loyalty_code: 1 - JSD_nat^(1/4), which the official code computes and the printed tables hold

    Returns:
        Each of shape (N,).
    """
    jsd = jsd_nat(student_logits, teacher_logits)
    return {"loyalty": 1 - (jsd / math.log(2)).sqrt(), "loyalty_nat": 1 - jsd.sqrt(), "loyalty_code": 1 - jsd**0.25}


def evaluation_chunks(split: Split, info: Info) -> tuple[Tensor, ...]:
    """Rows of a whole split in order, on its device, as many at a time as a network is shown without gradient."""
    images = max(1, min(EVALUATION_BATCH, EVALUATION_PIXELS // info.size**2))
    rows: tuple[Tensor, ...] = torch.arange(len(split), device=split.labels.device).split(images)
    return rows


@torch.no_grad()
def predict(network: Network, split: Split, info: Info) -> Tensor:
    """Logits of a whole split in eval mode, shape (N, K), float32, on the split's device."""
    network.eval()
    chunks = evaluation_chunks(split, info)
    return torch.cat([network(standardise(images, info)).float() for images in split.batches(chunks)])


def evaluate(name: str, logits: Tensor, labels: Tensor, teacher_logits: Tensor | None) -> tuple[Row, dict[str, Tensor]]:
    """Every metric of one split, and the per-sample loyalties behind the mean ones.

    Args:
        name: the split, which the metrics' names begin with.
        logits: shape (N, K), of the student.
        labels: shape (N,).
        teacher_logits: shape (N, K), or None where there is no teacher.
    """
    values = {"acc1_pct": acc_pct(logits, labels), "acc5_pct": acc_pct(logits, labels, 5)}
    per_sample: dict[str, Tensor] = {}
    if teacher_logits is not None:
        values["agree1_pct"] = agree1_pct(logits, teacher_logits)
        per_sample = loyalties(logits, teacher_logits)
        values |= {key: value.mean() for key, value in per_sample.items()}
    return {f"{name}/{key}": float(value) for key, value in values.items()}, per_sample


@dataclass(frozen=True)
class Window:
    """Epochs over which mean and variance of a curve are taken, `first` included, `last` excluded."""

    name: str
    first: int
    last: int


def windows(epochs: int, first: int, drop_last: int) -> tuple[Window, ...]:
    """The three windows of a run: from `first` on, the same without the last epochs, and all."""
    return (Window("from", first, epochs), Window("inner", first, epochs - drop_last), Window("all", 0, epochs))


def summarise(rows: Sequence[Row], stats_windows: Sequence[Window]) -> Row:
    """A trial's result: last and best of every test and val metric, and mean, variance and std of its accuracies.

    `best` is the maximum over epochs of each metric by itself (all of them are better when larger). The variance is the
    population variance in percent squared, as CuDFKD's Table V has it; a window without an epoch gives no value.
    """
    result: Row = {}
    if not rows:
        return result
    for key in rows[-1]:
        if key.split("/")[0] in ("test", "val", "classifier"):
            curve = np.array([row[key] for row in rows])
            result[f"last/{key}"] = float(curve[-1])
            result[f"best/{key}"] = float(curve.max())
            if key.endswith("acc1_pct"):
                for window in stats_windows:
                    part = curve[window.first : max(window.last, 0)]
                    if len(part):
                        result[f"stats/{window.name}/{key}_mean"] = float(part.mean())
                        result[f"stats/{window.name}/{key}_var"] = float(part.var())
                        result[f"stats/{window.name}/{key}_std"] = float(part.std())
    for key in ("time/train_s", "time/total_s"):
        result[key] = rows[-1][key]
    return result
