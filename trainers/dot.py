"""DOT, the Distillation-Oriented Trainer (Zhao et al. 2023): SGD with a momentum buffer for each of two gradients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trainers.config import Protocol
from trainers.errors import ConfigError

TASK = "ce"
"""The term whose gradient is the task's; all others distil."""

Gradients = Sequence[Tensor | None]


class DOT(torch.optim.Optimizer):
    """The task's buffer forgets faster, the distillation's slower, so that this one leads (mdistiller's `dot.py`).

        b_task <- (m - d) b_task + g_task + w theta
        b_rest <- (m + d) b_rest + g_rest
        theta  <- theta - lr (b_task + b_rest)

    A parameter that only one of the losses reaches (an adapter, or the classifier of a method on maps) has nothing to
    trade off: it moves as in plain SGD, with m and with weight decay on its one buffer. A buffer starts as its first
    gradient.

    Args:
        parameters: what is trained.
        lr: learning rate.
        momentum: m.
        delta: d; m - d >= 0 and m + d < 1.
        weight_decay: w.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, lr: float, momentum: float, delta: float, weight_decay: float
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "delta": delta, "weight_decay": weight_decay})

    @classmethod
    def of(cls, protocol: Protocol, parameters: Iterable[nn.Parameter]) -> DOT:
        """With the values of a recipe."""
        return cls(
            parameters,
            lr=protocol.lr,
            momentum=protocol.momentum,
            delta=protocol.dot_delta,
            weight_decay=protocol.weight_decay,
        )

    def parameters(self) -> list[nn.Parameter]:
        """Of all groups, in the order of the gradients that `step` takes."""
        return [parameter for group in self.param_groups for parameter in group["params"]]

    @torch.no_grad()
    def step(self, task: Gradients, rest: Gradients) -> None:  # type: ignore[override]
        """One update.

        Args:
            task: gradient of the task's loss for each of `parameters`; None where it does not depend on the parameter.
            rest: likewise, of everything else.
        """
        pairs = iter(zip(task, rest, strict=True))
        for group in self.param_groups:
            for parameter in group["params"]:
                self._move(parameter, *next(pairs), group)

    def _move(
        self, parameter: nn.Parameter, task: Tensor | None, rest: Tensor | None, group: Mapping[str, Any]
    ) -> None:
        both = task is not None and rest is not None
        momentum, delta = group["momentum"], group["delta"] if both else 0.0
        buffers = []
        if task is not None:
            task = task.add(parameter, alpha=group["weight_decay"])
            buffers.append(self._buffer(parameter, "task", task, momentum - delta))
        if rest is not None:
            rest = rest if both else rest.add(parameter, alpha=group["weight_decay"])
            buffers.append(self._buffer(parameter, "rest", rest, momentum + delta))
        for buffer in buffers:
            parameter.add_(buffer, alpha=-group["lr"])

    def _buffer(self, parameter: nn.Parameter, name: str, gradient: Tensor, momentum: float) -> Tensor:
        state = self.state[parameter]
        if name in state:
            state[name].mul_(momentum).add_(gradient)
        else:
            state[name] = gradient.clone()
        buffer: Tensor = state[name]
        return buffer


def dot_step(optimizer: DOT, terms: Mapping[str, Tensor]) -> None:
    """One update from a method's terms: the gradients of the term `ce` and of the sum of all others, in two passes.

    Args:
        terms: weighted scalars.

    Raises:
        ConfigError: there is no term `ce`.
    """
    if TASK not in terms:
        raise ConfigError(
            f"optimizer 'dot' keeps the gradient of the term {TASK!r} apart, and this method has only "
            f"{', '.join(terms)}; use 'sgd'"
        )
    parameters = optimizer.parameters()
    others = [value for name, value in terms.items() if name != TASK]
    rest: Gradients = [None] * len(parameters)
    if others:
        rest = torch.autograd.grad(torch.stack(others).sum(), parameters, retain_graph=True, allow_unused=True)
    optimizer.step(torch.autograd.grad(terms[TASK], parameters, allow_unused=True), rest)
