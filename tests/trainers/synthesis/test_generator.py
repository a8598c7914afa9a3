"""CuDFKD's generators: sizes, range, initial weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainers.errors import ConfigError
from trainers.synthesis.generator import Generator, build


@pytest.mark.parametrize(
    ("latent_dim", "size", "depth", "parameters"),
    [(512, 32, 2, 8_776_259), (256, 32, 2, 4_581_955), (1024, 64, 3, 35_139_139), (256, 64, 3, 9_973_315)],
)
def test_parameter_counts_of_the_papers(latent_dim: int, size: int, depth: int, parameters: int) -> None:
    with torch.device("meta"):
        generator = Generator(latent_dim, 3, size, depth)
        images = generator(torch.zeros(2, latent_dim))
    assert sum(p.numel() for p in generator.parameters()) == parameters
    assert images.shape == (2, 3, size, size)


@pytest.mark.parametrize(("channels", "size", "depth"), [(1, 8, 1), (1, 8, 2), (3, 12, 2)])
def test_images_lie_between_0_and_1(channels: int, size: int, depth: int) -> None:
    images = Generator(6, channels, size, depth, width=4)(50 * torch.randn(5, 6))
    assert images.shape == (5, channels, size, size)
    assert images.min() >= 0
    assert images.max() <= 1


def test_layers_of_depth_2() -> None:
    layers = [type(layer).__name__ for layer in Generator(8, 3, 8, 2).layers]
    block = ["Upsample", "Conv2d", "BatchNorm2d", "LeakyReLU"]
    assert layers == ["BatchNorm2d", *block, *block, "Conv2d", "Sigmoid"]
    up = next(layer for layer in Generator(8, 3, 8, 2).layers if isinstance(layer, nn.Upsample))
    assert (up.mode, up.scale_factor) == ("nearest", 2.0)


def test_depth_must_divide_the_size() -> None:
    with pytest.raises(ConfigError, match="generator depth 3 needs an image size divisible by 8, got 12"):
        Generator(8, 3, 12, 3)


def test_normal_init_is_the_official_one() -> None:
    generator = build(64, 3, 16, depth=2, width=32, init="normal", seed=0, device=torch.device("cpu"))
    for layer in generator.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
            assert abs(float(layer.weight.detach().mean())) < 0.002
            assert layer.bias is None or not layer.bias.any()
        elif isinstance(layer, nn.BatchNorm2d):
            assert float(layer.weight.detach().mean()) == pytest.approx(1, abs=0.02)
            assert not layer.bias.any()


def test_weights_derive_from_the_seed_and_leave_the_callers_state() -> None:
    before = torch.get_rng_state()
    one, same, other = (
        build(8, 1, 8, depth=1, width=4, init="normal", seed=seed, device=torch.device("cpu")).state_dict()
        for seed in (1, 1, 2)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["project.weight"], other["project.weight"])
    default = build(8, 1, 8, depth=1, width=4, init="default", seed=1, device=torch.device("cpu")).state_dict()
    assert float(default["project.weight"].std()) > 0.1  # uniform within 1 / sqrt(8)
