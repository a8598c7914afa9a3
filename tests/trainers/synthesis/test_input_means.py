"""Features that CMI compares: of which layers, by a naive pass, and how many."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainers import models
from trainers.data.digits import INFO
from trainers.errors import ConfigError
from trainers.synthesis.input_means import InputMeans, Layers, chosen_layers, dims, layer_faults


def network(name: str) -> models.Network:
    return models.build(name, classes=10, channels=3, size=32, seed=0).eval()


@pytest.mark.parametrize(
    ("name", "layers", "count"),
    [
        ("resnet34", "auto", 64 + 64 + 128 + 256), ("resnet18", "auto", 512), ("resnet18", "norms", 4800), ("vgg11", "auto", 2752),
        ("wrn_40_2", "auto", 2704), ("wrn_16_2", "auto", 912), ("wrn_40_2", "stages", 16 + 32 + 64), ("resnet34", "norms", 8512),
    ],
)  # fmt: skip
def test_dimensions_are_the_published_ones(name: str, layers: Layers, count: int) -> None:
    assert dims(name, 3, 32, layers) == count


def test_stage_features_are_means_of_the_stages_inputs() -> None:
    net, images = network("resnet8"), torch.randn(2, 3, 32, 32)
    with torch.no_grad(), InputMeans(net, "stages") as means:
        net(images)
    with torch.no_grad():
        stem = torch.relu(net.norm(net.conv(images)))
        maps = (stem, *net.features(images).stages[:-1])
    assert torch.allclose(means.features(), torch.cat([each.mean((2, 3)) for each in maps], dim=1), atol=1e-5)


def test_norm_features_are_means_of_the_norms_inputs_with_gradient() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.BatchNorm2d(2)).eval()
    images = torch.randn(3, 1, 4, 4, requires_grad=True)
    with InputMeans(net, "auto") as means:
        net(images)
    first = net[0](images)
    expected = torch.cat([first.mean((2, 3)), torch.relu(net[1](first)).mean((2, 3))], dim=1)
    assert torch.allclose(means.features(), expected)
    means.features().sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


def test_hooks_are_gone_after_the_pass() -> None:
    net = network("resnet8")
    with InputMeans(net, "norms"):
        net(torch.zeros(1, 3, 32, 32))
    assert all(not layer._forward_pre_hooks for layer in chosen_layers(net, "norms"))


def test_teachers_without_such_layers_are_faults() -> None:
    (fault,) = layer_faults("vgg8", INFO, "stages")
    assert fault == "teacher 'vgg8': VGG has no stages to take features from; set feature_layers to norms"
    assert layer_faults("vgg8", INFO, "auto") == layer_faults("resnet8", INFO, "stages") == []
    with pytest.raises(ConfigError, match="no BatchNorm2d layer"):
        chosen_layers(nn.Linear(1, 1), "auto")
    twice = nn.BatchNorm2d(1).eval()
    with InputMeans(nn.Sequential(twice, nn.ReLU()), "norms") as means:
        twice(twice(torch.zeros(1, 1, 2, 2)))
    with pytest.raises(ConfigError, match="2 calls of the 1 layers"):
        means.features()
