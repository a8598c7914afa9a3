"""DAFL's generator: the printed sizes, and how each form ends and begins."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from trainers.errors import ConfigError
from trainers.synthesis.dafl_generator import DaflGenerator
from trainers.synthesis.generator import fresh


def noise(samples: int, latent_dim: int) -> torch.Tensor:
    return torch.randn(samples, latent_dim, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("latent_dim", "size", "form", "parameters"),
    [
        (256, 32, {}, 2_328_899),  # CMI
        (256, 64, {}, 8_644_931),
        (1000, 32, {"output": "tanh_bn", "eps": 0.8}, 8_423_939),  # DAFL
        (100, 32, {"output": "bn"}, 1_051_145),  # ZSKT
        (256, 32, {"output": "tanh_bn"}, 2_329_091),  # DFAD
    ],
)
def test_parameter_counts_of_the_papers(latent_dim: int, size: int, form: dict[str, Any], parameters: int) -> None:
    with torch.device("meta"):
        generator = DaflGenerator(latent_dim, 3, size, **form)
        images = generator(torch.zeros(2, latent_dim))
    assert sum(p.numel() for p in generator.parameters()) == parameters
    assert images.shape == (2, 3, size, size)


def test_spectral_form_has_the_parameters_of_predfkd() -> None:
    generator = DaflGenerator(1000, 3, 32, output="tanh_bn", eps=0.8, spectral=True)
    assert sum(p.numel() for p in generator.parameters()) == 8_423_939


def test_layers() -> None:
    block = ["Upsample", "Conv2d", "BatchNorm2d", "LeakyReLU"]
    ends = {"sigmoid": ["Sigmoid"], "tanh_bn": ["Tanh", "BatchNorm2d"], "bn": ["BatchNorm2d"]}
    for output, end in ends.items():
        layers = DaflGenerator(8, 3, 8, output=output).layers  # type: ignore[arg-type]
        assert [type(layer).__name__ for layer in layers] == ["BatchNorm2d", *block, *block, "Conv2d", *end]
        assert layers[-1].affine is (output == "bn") if isinstance(layers[-1], nn.BatchNorm2d) else True
    slopes = [layer.negative_slope for layer in layers if isinstance(layer, nn.LeakyReLU)]
    assert slopes == [0.2, 0.2]


def test_eps_is_that_of_the_inner_norms() -> None:
    layers = DaflGenerator(8, 3, 8, eps=0.8, output="tanh_bn").layers
    assert [layer.eps for layer in layers if isinstance(layer, nn.BatchNorm2d)] == [1e-5, 0.8, 0.8, 1e-5]


def test_sigmoid_gives_pixels() -> None:
    generator = DaflGenerator(6, 1, 12, width=4)
    images = generator(50 * noise(5, 6))
    assert images.shape == (5, 1, 12, 12)
    assert not generator.standardised
    assert images.min() >= 0
    assert images.max() <= 1


@pytest.mark.parametrize("output", ["tanh_bn", "bn"])
def test_norm_at_the_end_gives_standardised_images(output: Any) -> None:
    generator = DaflGenerator(6, 3, 8, width=4, output=output)
    images = generator(noise(64, 6))  # train mode: by the batch
    assert generator.standardised
    assert torch.allclose(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(images.var((0, 2, 3), unbiased=False), torch.ones(3), atol=1e-2)


def test_spectral_form_bounds_the_convolutions_and_begins_uniform() -> None:
    generator = DaflGenerator(16, 1, 8, width=8, output="tanh_bn", spectral=True)
    convolutions = [layer for layer in generator.modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 3
    for layer in convolutions:
        original = layer.parametrizations.weight.original.detach()  # type: ignore[union-attr]
        assert 0.07 < original.abs().max() <= 0.08
        assert layer.bias is not None
        assert not layer.bias.any()
        norm = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), ord=2)
        assert float(norm) == pytest.approx(1, rel=0.1)  # power iteration, not exact
    assert 0.07 < generator.project.weight.detach().abs().max() <= 0.08
    assert not generator.project.bias.any()


def test_size_must_be_a_multiple_of_4() -> None:
    with pytest.raises(ConfigError, match="divisible by 4, got 10"):
        DaflGenerator(8, 3, 10)


def test_fresh_weights_derive_from_the_seed() -> None:
    one, same, other, normal = (
        fresh(
            lambda: DaflGenerator(8, 1, 8, width=4, output="tanh_bn"), init=init, seed=seed, device=torch.device("cpu")
        )
        for seed, init in ((1, "default"), (1, "default"), (2, "default"), (1, "normal"))
    )  # type: ignore[misc]
    assert torch.equal(one.project.weight, same.project.weight)
    assert not torch.equal(one.project.weight, other.project.weight)
    assert float(normal.project.weight.detach().std()) == pytest.approx(0.02, rel=0.2)
