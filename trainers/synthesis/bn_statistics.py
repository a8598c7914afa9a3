"""Distance between a batch's statistics and those a teacher's BatchNorm layers keep (DeepInversion; CuDFKD L_bn)."""

from __future__ import annotations

from functools import lru_cache
from types import TracebackType

import torch
from torch import Tensor, nn

from trainers import models
from trainers.data import Info
from trainers.errors import ConfigError


def bn_statistics_loss(inputs: Tensor, running_mean: Tensor, running_var: Tensor) -> Tensor:
    """One layer's term: ||running_var - q||_2 + ||running_mean - m||_2, not squared.

    Args:
        inputs: input of the layer, shape (B, C, H, W); m and q are its mean and biased variance over B, H, W.
        running_mean: shape (C,).
        running_var: shape (C,).

    Returns:
        Scalar; layers are summed, not averaged.
    """
    inputs = inputs.float()
    mean = inputs.mean(dim=(0, 2, 3))
    if inputs.device.type == "cpu" and not inputs.is_contiguous():  # channels-last: `var` takes five times as long
        var = (inputs - mean[:, None, None]).square().mean(dim=(0, 2, 3))
    else:
        var = inputs.var(dim=(0, 2, 3), unbiased=False)
    distance: Tensor = torch.linalg.vector_norm(running_var - var) + torch.linalg.vector_norm(running_mean - mean)
    return distance


@lru_cache(maxsize=64)
def bn_layers(network: str, channels: int, size: int) -> int:
    """How many BatchNorm2d layers a network has; allocates none of its weights."""
    with torch.device("meta"):
        return sum(
            isinstance(layer, nn.BatchNorm2d)
            for layer in models.build(network, classes=2, channels=channels, size=size).modules()
        )


def bn_layer_faults(teacher: str | None, info: Info) -> list[str]:
    """Why a teacher cannot be matched in its BatchNorm statistics; empty where it can."""
    if teacher is None or bn_layers(teacher, info.channels, info.size):
        return []
    return [f"the BatchNorm statistics need a teacher with BatchNorm2d layers, and {teacher!r} has none; set bn to 0"]


class BNStatistics:
    """Collects the term over all BatchNorm2d layers of a teacher during the forward passes inside a `with` block.

    Raises:
        ConfigError: the network has no BatchNorm2d layer.
    """

    def __init__(self, teacher: nn.Module) -> None:
        self.layers = [layer for layer in teacher.modules() if isinstance(layer, nn.BatchNorm2d)]
        if not self.layers:
            raise ConfigError(f"BN statistics need a teacher with BatchNorm layers; {type(teacher).__name__} has none")
        self.terms: list[Tensor] = []
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> BNStatistics:
        self.terms = []
        self._hooks = [layer.register_forward_pre_hook(self._collect) for layer in self.layers]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def _collect(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None and layer.running_var is not None
        self.terms.append(bn_statistics_loss(inputs[0], layer.running_mean, layer.running_var))

    def total(self) -> Tensor:
        """Sum over the layers of what was collected. Scalar."""
        return torch.stack(self.terms).sum()
