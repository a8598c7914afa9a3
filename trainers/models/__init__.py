"""Networks: one file for each family, with `NAMES`, `serves(name)` and `build(name, classes, channels, size)`."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack
from functools import lru_cache
from typing import NamedTuple, cast
from typing import Protocol as Interface

import torch
from torch import Tensor, nn

from trainers import registry, seeding
from trainers.errors import ConfigError
from trainers.models._outline import Outline


class Features(NamedTuple):
    """What a method may declare that it looks at.

    Attributes:
        logits: (B, K), before softmax.
        pooled: (B, d), input of the classifier.
        stages: stage maps in order, post-activation as the family defines it, without the stem.
        pre_relu: the same maps before their last ReLU.
        stem: the map that the first stage starts from, likewise; where a max-pool follows the stem, before it.
    """

    logits: Tensor
    pooled: Tensor
    stages: tuple[Tensor, ...]
    pre_relu: tuple[Tensor, ...]
    stem: Tensor

    def tensors(self) -> list[Tensor]:
        """All of them, in order."""
        return [self.logits, self.pooled, *self.stages, *self.pre_relu, self.stem]


Map = tuple[int, int, int]  # C, H, W


class Shapes(NamedTuple):
    """What `Features` of one image measure; `pre_relu` as `stages`.

    Attributes:
        pooled: d.
        stages: (C, H, W) of each.
        stem: (C, H, W).
    """

    pooled: int
    stages: tuple[Map, ...]
    stem: Map


class Network(nn.Module, ABC):
    """Interface of every classifier; `classifier.weight` is (K, d)."""

    classifier: nn.Linear

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of standardised images (B, C, H, W)."""

    @abstractmethod
    def features(self, images: Tensor) -> Features:
        """All of `Features` in one pass; `logits` has the bits of `forward`, and batch norms move once."""


class Family(Interface):
    """What a file of this package provides."""

    NAMES: tuple[str, ...]  # those that messages and listings show; a family may serve more

    def serves(self, name: str) -> bool: ...

    def build(self, name: str, classes: int, channels: int, size: int) -> Network: ...


def known() -> tuple[str, ...]:
    """Names to show, by family and size; of wrn_<depth>_<width>, which has no end, the usual ones."""
    return tuple(name for family in _families() for name in family.NAMES)


def exists(name: str) -> bool:
    """Whether `build` would find `name`; builds nothing."""
    if "." in name:
        try:
            return importlib.util.find_spec(name) is not None
        except (ImportError, ValueError):  # a parent package that is not there; an empty part
            return False
    return any(family.serves(name) for family in _families())


def build(
    name: str, *, classes: int, channels: int = 3, size: int = 32, seed: int | None = None, role: str = "student"
) -> Network:
    """A network with fresh weights, on the CPU; inside `torch.device("meta")` one without weights, which nothing initialises.

    The weights come from the stream ("weights", `role`) of `seed`; the caller's random state stays as it was.

    Args:
        name: a network's name, or a dotted module of the user's with `build(classes=, channels=, size=)`.
        classes: K.
        channels: of the images.
        size: height and width of the images in pixels.
        seed: the trial's; None where the weights do not matter, for they will be loaded.
        role: whose weights: "student", "teacher", ...

    Raises:
        ConfigError: unknown name, images too small, or a user's module without a network.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=()))
        if torch.get_default_device().type == "meta":
            stack.enter_context(Outline())
        if seed is not None:
            # Not torch.manual_seed, which would seed the GPUs too.
            torch.default_generator.manual_seed(seeding.stream_seed(seed, "weights", role))
        if "." in name:
            return _users(name, classes, channels, size)
        for family in _families():
            if family.serves(name):
                return family.build(name, classes, channels, size)
    raise ConfigError(registry.unknown("network", name, known()))


def parameters(name: str, *, classes: int, channels: int = 3, size: int = 32) -> int:
    """Number of trained parameters; allocates none of them.

    Raises:
        ConfigError: as in `build`.
    """
    with torch.device("meta"):
        network = build(name, classes=classes, channels=channels, size=size)
    return sum(parameter.numel() for parameter in network.parameters())


@lru_cache(maxsize=256)
def shapes(name: str, *, classes: int, channels: int = 3, size: int = 32) -> Shapes:
    """Shapes of a network's features; allocates no weights and computes nothing.

    Raises:
        ConfigError: as in `build`.
    """
    with torch.device("meta"), Outline(), torch.no_grad():
        network = build(name, classes=classes, channels=channels, size=size).eval()
        found = network.features(torch.empty(1, channels, size, size))
    return Shapes(found.pooled.shape[1], tuple(_measure(maps) for maps in found.stages), _measure(found.stem))


def _measure(maps: Tensor) -> Map:
    _, channels, height, width = maps.shape
    return channels, height, width


def _families() -> Iterator[Family]:
    for file in registry.names("models"):
        yield cast(Family, registry.load("models", file))


def _users(name: str, classes: int, channels: int, size: int) -> Network:
    module = registry.load("models", name)
    if not callable(getattr(module, "build", None)):
        raise ConfigError(f"network {name!r}: the module has no build(classes=, channels=, size=)")
    network = module.build(classes=classes, channels=channels, size=size)
    if not isinstance(network, Network):
        raise ConfigError(
            f"network {name!r}: build returned {type(network).__name__}; allowed is a trainers.models.Network"
        )
    return network
