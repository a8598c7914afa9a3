"""Networks run for their shapes alone."""

from __future__ import annotations

import contextlib
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


_Pair = int | tuple[int, ...]
_ADD = frozenset({torch.add, torch.Tensor.add})


class Outline(TorchFunctionMode):
    """Inside `torch.device("meta")`: leaves out initialisation, batch norm, activations, sums and biases, which change no shape.

    PyTorch answers these for the meta device in Python; with them resnet110 takes 0.56 s of CPU time, without 0.13 s
    (2 busy cores, PyTorch 2.13, best of 4). Most of the other layers would also make it import its compiler, half a second.
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
        found = None
        if func in _SHAPES:
            with contextlib.suppress(TypeError):  # called with arguments that are not in the table below
                found = _SHAPES[func](*args, **named)
        return func(*args, **named) if found is None else found


def _alike(left: Any, right: Any) -> bool:
    both = isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor)
    return both and left.shape == right.shape and left.dtype == right.dtype


def _convolved(
    images: torch.Tensor,
    weight: torch.Tensor,
    bias: object = None,
    stride: _Pair = 1,
    padding: _Pair | str = 0,
    dilation: _Pair = 1,
    groups: int = 1,
) -> torch.Tensor | None:
    if images.dim() != 4:
        return None
    size = _slid(images, weight.shape[2:], stride, padding, dilation)
    return images.new_empty((images.shape[0], weight.shape[0], *size))


def _largest(
    images: torch.Tensor,
    kernel_size: _Pair,
    stride: _Pair | None = None,
    padding: _Pair = 0,
    dilation: _Pair = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> torch.Tensor | None:
    if ceil_mode or return_indices:
        return None
    size = _slid(images, _pair(kernel_size), stride or kernel_size, padding, dilation)
    return images.new_empty((*images.shape[:-2], *size))


def _averaged(
    images: torch.Tensor,
    kernel_size: _Pair,
    stride: _Pair | None = None,
    padding: _Pair = 0,
    ceil_mode: bool = False,
    **divisor: object,
) -> torch.Tensor | None:
    return _largest(images, kernel_size, stride, padding, 1, ceil_mode)


def _scaled(
    images: torch.Tensor, size: object = None, scale_factor: object = None, **kind: object
) -> torch.Tensor | None:
    if not isinstance(scale_factor, int | float):
        return None
    return images.new_empty((*images.shape[:2], *(int(side * scale_factor) for side in images.shape[2:])))


def _slid(
    images: torch.Tensor, kernel: Sequence[int], stride: _Pair, padding: _Pair | str, dilation: _Pair
) -> list[int]:
    """Height and width of what a window leaves that moves over the images."""
    spans = [gap * (side - 1) for gap, side in zip(_pair(dilation), kernel, strict=True)]
    if isinstance(padding, str):
        added = spans if padding == "same" else [0, 0]
    else:
        added = [2 * each for each in _pair(padding)]
    sides = zip(images.shape[-2:], added, spans, _pair(stride), strict=True)
    return [(side + more - span - 1) // step + 1 for side, more, span, step in sides]


def _mapped(features: torch.Tensor, weight: torch.Tensor, bias: object = None) -> torch.Tensor:
    return features.new_empty((*features.shape[:-1], weight.shape[0]))


def _pair(value: _Pair) -> Sequence[int]:
    return (value, value) if isinstance(value, int) else value


def _reduced(tensor: torch.Tensor, dim: _Pair | None = None, keepdim: bool = False) -> torch.Tensor | None:
    if dim is None:
        return None
    gone = {axis % tensor.dim() for axis in _pair(dim)}
    kept = [1 if axis in gone else size for axis, size in enumerate(tensor.shape) if keepdim or axis not in gone]
    return tensor.new_empty(kept)


def _joined(tensors: Sequence[torch.Tensor], dim: int = 0) -> torch.Tensor:
    shape = list(tensors[0].shape)
    shape[dim] = sum(tensor.shape[dim] for tensor in tensors)
    return tensors[0].new_empty(shape)


_SHAPES: Mapping[Callable[..., Any], Callable[..., torch.Tensor | None]] = {
    F.conv2d: _convolved,
    F.linear: _mapped,
    F.max_pool2d: _largest,
    F.avg_pool2d: _averaged,
    F.interpolate: _scaled,
    torch.cat: _joined,
    torch.mean: _reduced,
    torch.sum: _reduced,
    torch.Tensor.mean: _reduced,
    torch.Tensor.sum: _reduced,
}
"""What a layer answers, by its arguments; None where PyTorch has to say it."""
