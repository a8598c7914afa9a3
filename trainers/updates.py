"""What the loops of every kind make their updates with: means over an epoch, learning rates, gradients, optimisers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from trainers.config import Trial
from trainers.errors import TrialError
from trainers.metrics import Row
from trainers.protocols import learning_rate


class Sums:
    """Means of scalars over an epoch, kept on the device and read once."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            value = value.detach().double()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self) -> Row:
        return {name: float(total) / self._counts[name] for name, total in self._sums.items()}


def require_finite(row: Row, epoch: int) -> None:
    """Ends a trial whose training has gone wrong.

    Raises:
        TrialError: names the epoch and every term that is not finite.
    """
    bad = [f"{name} = {value}" for name, value in row.items() if not math.isfinite(value)]
    if bad:
        raise TrialError(
            f"epoch {epoch}: {', '.join(bad)}: the loss is not finite; lower the learning rate or the weight of that term"
        )


def set_learning_rate(optimizer: torch.optim.Optimizer, trial: Trial, epoch: int) -> float:
    """Sets the protocol's learning rate of this epoch on every group, and returns it."""
    rate = learning_rate(trial.protocol, epoch)
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def clip_gradients(trial: Trial, parameters: Iterator[torch.nn.Parameter]) -> None:
    """Scales the gradient down to the protocol's norm, where it has one."""
    if trial.protocol.clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(parameters, trial.protocol.clip_norm)


def make_optimizer(
    trial: Trial, parameters: Iterator[torch.nn.Parameter], *, fused: bool = False
) -> torch.optim.Optimizer:
    """The protocol's optimiser, on the student and what trains with it; SGD for DOT, which `trainers.dot` makes.

    Args:
        fused: one kernel for the whole update. The same arithmetic up to rounding.
    """
    protocol = trial.protocol
    if protocol.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=protocol.lr, weight_decay=protocol.weight_decay, fused=fused or None)
    return torch.optim.SGD(
        parameters,
        lr=protocol.lr,
        momentum=protocol.momentum,
        weight_decay=protocol.weight_decay,
        nesterov=protocol.nesterov,
        fused=fused or None,
    )
