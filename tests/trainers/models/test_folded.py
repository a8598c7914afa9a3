"""A teacher without BatchNorm layers answers like the one it was made of, and what cannot be folded stays."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers import models
from trainers.models import Features, Network
from trainers.models._folded import folded, folded_alike

FOLDED = {"resnet8": (9, 9), "resnet32x4": (34, 34), "wrn_16_2": (6, 13), "vgg8": (5, 5), "mobilenetv2": (53, 53)}
"""Of how many BatchNorm layers; those of a WRN that follow a sum have no convolution to go into."""


def teacher(name: str, dtype: torch.dtype) -> Network:
    """With statistics and affine maps that are no identity, frozen."""
    network = models.build(name, classes=10, channels=3, size=32, seed=0).to(dtype).eval().requires_grad_(False)
    source = torch.Generator().manual_seed(1)
    for norm in norms(network):
        for tensor, low, high in (
            (norm.running_mean, -0.5, 0.5),
            (norm.running_var, 0.5, 2.0),
            (norm.weight, 0.5, 1.5),
            (norm.bias, -0.5, 0.5),
        ):
            assert tensor is not None
            tensor.uniform_(low, high, generator=source)
    return network


def norms(network: nn.Module) -> Iterator[nn.BatchNorm2d]:
    return (layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d))


def shown(dtype: torch.dtype) -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(2), dtype=dtype)


@torch.no_grad()
def error(one: Network, other: Network, images: Tensor) -> float:
    """Largest of all answers, relative to the largest value of each."""
    pairs = zip(one.features(images).tensors(), other.features(images).tensors(), strict=True)
    return max(float((ours - theirs).abs().max() / theirs.abs().max()) for ours, theirs in pairs)


@pytest.mark.parametrize("name", models.known())
def test_every_network_answers_alike(name: str) -> None:
    exact = teacher(name, torch.float64)
    assert error(folded(exact, shown(torch.float64)[:1]), exact, shown(torch.float64)) < 1e-12
    single = teacher(name, torch.float32)
    assert error(folded(single, shown(torch.float32)[:1]), single, shown(torch.float32)) < 1e-4


@pytest.mark.parametrize("name", FOLDED)
def test_how_many_are_folded(name: str) -> None:
    network = teacher(name, torch.float32)
    left = len(list(norms(folded(network, shown(torch.float32)[:1]))))
    gone, before = FOLDED[name]
    assert (before - left, before) == (gone, len(list(norms(network))))


def test_the_original_stays_as_it_is() -> None:
    network = teacher("resnet8", torch.float32).to(memory_format=torch.channels_last)
    before = copy.deepcopy(network.state_dict())
    own = folded(network, shown(torch.float32)[:1])
    after = network.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(layer._forward_hooks for layer in (*network.modules(), *own.modules()))
    weights = [weight for weight in own.parameters() if weight.dim() == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert not any(weight.requires_grad for weight in own.parameters())
    assert not own.training


class Odd(Network):
    """Layers that must not be folded, and one that can be."""

    def __init__(self) -> None:
        super().__init__()
        self.shortcut, self.shown, self.tied, self.watched, self.plain = (
            nn.Conv2d(3, 3, 3, padding=1) for _ in range(5)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(6))
        self.classifier = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images).logits

    def features(self, images: Tensor) -> Features:
        start = self.shortcut(images)  # a shortcut looks at it
        maps = start + F.relu(self.norms[0](start))
        stem = self.shown(maps)  # a method looks at it
        maps = F.relu(self.norms[1](stem))
        maps = F.relu(self.norms[2](self.tied(maps)))  # one convolution, two layers after it
        maps = F.relu(self.norms[3](self.tied(maps)))
        maps = F.relu(self.norms[4](self.watched(maps)))  # somebody's hook looks at it
        total = self.norms[5](self.plain(maps))
        pooled = F.relu(total).mean((2, 3))
        return Features(self.classifier(pooled), pooled, (F.relu(total),), (total,), stem)


def test_what_somebody_else_looks_at_is_not_folded() -> None:
    torch.manual_seed(0)
    network = Odd().double().eval().requires_grad_(False)
    for norm in norms(network):
        norm.running_mean = torch.rand(3, dtype=torch.float64)
        norm.running_var = torch.rand(3, dtype=torch.float64) + 0.5
    network.watched.register_forward_hook(lambda *_: None)
    own = folded(network, shown(torch.float64)[:1])
    assert error(own, network, shown(torch.float64)) < 1e-12
    assert isinstance(own, Odd)
    kept = [isinstance(layer, nn.BatchNorm2d) for layer in own.norms]
    assert kept == [True, True, True, True, True, False]


def test_a_layer_without_running_statistics_stays() -> None:
    network = Odd().eval().requires_grad_(False)
    network.norms[5] = nn.BatchNorm2d(3, track_running_stats=False)
    own = folded(network, shown(torch.float32)[:1])
    assert isinstance(own, Odd)
    assert isinstance(own.norms[5], nn.BatchNorm2d)


class Users(Network):
    """One convolution and BatchNorm, and what a user may do with them."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.convolution, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.again = nn.ModuleList([self.convolution])
        self.classifier = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images).logits

    def features(self, images: Tensor) -> Features:
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.how != "without a graph"):
            made = self.again[0](images)
        total = self.norm(made)
        if self.how == "a mask of it":
            total = total * (made > 0)
        if self.how == "its weights":
            total = total * self.convolution.weight.sum()
        if self.how == "its type":
            total = total + self.norm.running_mean.sum()
        pooled = F.relu(total).mean((2, 3))
        return Features(self.classifier(pooled), pooled, (F.relu(total),), (total,), images)


@pytest.mark.parametrize(
    ("how", "left"),
    [("nothing", 0), ("without a graph", 1), ("a mask of it", None), ("its weights", None), ("its type", None)],
)
def test_a_network_that_answers_otherwise_is_not_folded(
    how: str, left: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Named twice, its convolution is replaced in both places; what no graph shows is found by comparing, and logged."""
    torch.manual_seed(0)
    network = Users(how).eval().requires_grad_(False)
    network.norm.running_mean = torch.rand(3)
    network.norm.running_var = torch.rand(3) + 0.5
    own = folded_alike(network, 3, 8)
    assert (own is None) is (left is None)
    assert ("the teacher keeps its BatchNorm layers" in caplog.text) is (left is None)
    if own is not None:
        assert len(list(norms(own))) == left
        assert error(own, network, shown(torch.float32)) < 1e-5
