"""Features of a teacher as CMI takes them: the mean over space of what chosen layers are given."""

from __future__ import annotations

from functools import lru_cache
from types import TracebackType
from typing import Literal

import torch
from torch import Tensor, nn

from trainers import models
from trainers.data import Info
from trainers.errors import ConfigError
from trainers.models._outline import Outline

Layers = Literal["auto", "stages", "norms"]
DEEP_STAGES = 4
"""A network of as many stages is an ImageNet-style ResNet, for which CMI takes the stages instead of every norm."""


def chosen_layers(network: nn.Module, layers: Layers) -> list[nn.Module]:
    """The layers whose inputs are looked at.

    A network has stages where its family keeps them as `stages`, a list of lists of blocks that it calls one by one;
    the input of a stage is that of its first block.

    Args:
        network: the teacher.
        layers: "norms": every BatchNorm2d; "stages": every stage; "auto": the stages of a network that has four
            (CMI names ResNet34 there), the norms of any other.

    Raises:
        ConfigError: there are no such layers.
    """
    stages = getattr(network, "stages", None)
    count = len(stages) if isinstance(stages, nn.ModuleList) else 0
    if layers == "stages" or (layers == "auto" and count == DEEP_STAGES):
        if not count:
            raise ConfigError(
                f"{type(network).__name__} has no stages to take features from; set feature_layers to norms"
            )
        assert isinstance(stages, nn.ModuleList)
        return [next(iter(stage.children())) for stage in stages]
    norms: list[nn.Module] = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    if not norms:
        raise ConfigError(f"{type(network).__name__} has no BatchNorm2d layer to take features from")
    return norms


class InputMeans:
    """Collects the features of the forward passes inside a `with` block.

    Raises:
        ConfigError: see `chosen_layers`.
    """

    def __init__(self, network: nn.Module, layers: Layers) -> None:
        self.layers = chosen_layers(network, layers)
        self._means: list[Tensor] = []
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> InputMeans:
        self._means = []
        self._hooks = [layer.register_forward_pre_hook(self._collect) for layer in self.layers]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def _collect(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._means.append(inputs[0].float().mean(dim=(2, 3)))

    def features(self) -> Tensor:
        """Means of the last pass, layer after layer. Shape (B, d), with gradient to the images.

        Raises:
            ConfigError: the network does not call each of the layers once.
        """
        if len(self._means) != len(self.layers):
            raise ConfigError(
                f"{len(self._means)} calls of the {len(self.layers)} layers that features are taken from, not one of each; "
                f"set feature_layers to another value"
            )
        return torch.cat(self._means, dim=1)


@lru_cache(maxsize=64)
def dims(network: str, channels: int, size: int, layers: Layers) -> int:
    """d of the network called `network`; allocates none of its weights.

    Raises:
        ConfigError: see `chosen_layers`.
    """
    with torch.device("meta"), Outline(), torch.no_grad():
        built = models.build(network, classes=2, channels=channels, size=size).eval()
        with InputMeans(built, layers) as means:
            built(torch.empty((1, channels, size, size)))
        return means.features().shape[1]


def layer_faults(network: str, info: Info, layers: Layers) -> list[str]:
    """Why a teacher gives no such features; empty where it does."""
    try:
        dims(network, info.channels, info.size, layers)
    except ConfigError as error:
        return [f"teacher {network!r}: {fault}" for fault in error.faults]
    return []
