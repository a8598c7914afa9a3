"""PRE-DFKD's networks: the published sizes, the encoder's layers one by one, initial weights."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainers.errors import ConfigError
from trainers.synthesis.vae import Encoder, build_decoder, build_encoder, build_novel, latent_divergence, sample

CPU = torch.device("cpu")


def parameters(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())


def test_parameter_counts_of_the_released_code() -> None:
    with torch.device("meta"):
        encoder = Encoder(1000, 3, 32)
        mean, log_variance = encoder(torch.zeros(2, 3, 32, 32))
        generators = [
            build(1000, 3, 32, width=64, seed=0, device=torch.device("meta")) for build in (build_novel, build_decoder)
        ]
    assert parameters(encoder) == 4_321_872
    assert mean.shape == log_variance.shape == (2, 1000)
    assert [parameters(each) for each in generators] == [8_423_939, 8_423_939]


@pytest.mark.parametrize(
    ("channels", "size", "features"), [(1, 8, 8), (3, 12, 8), (1, 28, 72), (3, 32, 128), (3, 64, 512)]
)
def test_encoder_serves_every_size_that_4_divides(channels: int, size: int, features: int) -> None:
    encoder = Encoder(6, channels, size, width=4)
    mean, _ = encoder(torch.randn(3, channels, size, size))
    assert mean.shape == (3, 6)
    assert encoder.mean.in_features == features  # 2 width (size // 8)^2; at 32 pixels also 32 (size / 4)^2 of width 64


@pytest.mark.parametrize("size", [4, 10, 30, 33])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(ConfigError, match=f"at least 8 that 4 divides, got {size}"):
        Encoder(6, 3, size)


def test_encoder_layer_by_layer() -> None:
    encoder = build_encoder(6, 2, 16, width=4, seed=0, device=CPU).eval()
    images = torch.randn(5, 2, 16, 16)
    x = images / images.square().sum(dim=2, keepdim=True).sqrt()  # each column has norm 1
    for convolution, norm in ((0, 1), (3, 4)):
        x = F.conv2d(x, encoder.before[convolution].weight, padding=1) / math.sqrt(1 + 0.8)  # fresh statistics, eps 0.8
        assert encoder.before[norm].eps == 0.8
        x = torch.where(x > 0, x, 0.2 * x)
    x = F.conv2d(x[:, :, ::2, ::2], encoder.after[0].weight, stride=2, padding=1) / math.sqrt(1 + 1e-5)
    x = x[:, :, ::2, ::2].reshape(5, 8 * 2 * 2)
    mean, log_variance = encoder(images)
    assert torch.allclose(mean, x @ encoder.mean.weight.T, atol=1e-5)
    assert torch.allclose(log_variance, x @ encoder.log_variance.weight.T, atol=1e-5)


def test_encoder_does_not_see_brightness() -> None:
    encoder = build_encoder(6, 1, 8, width=4, seed=0, device=CPU).eval()
    images = torch.randn(4, 1, 8, 8)
    assert torch.allclose(encoder(images)[0], encoder(7 * images)[0], atol=1e-5)


def test_latent_divergence_by_hand() -> None:
    # (m, v) = (1, 0): -1/2 (1 + 0 - 1 - 1) = 1/2; (0, ln 2): -1/2 (1 + 0.693147 - 2) = 0.153426. Dimensions are summed, samples averaged.
    mean, log_variance = torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, math.log(2)], [0.0, 0.0]])
    assert float(latent_divergence(mean, log_variance)) == pytest.approx(0.653426 / 2, abs=1e-6)


def test_latent_divergence_equals_the_known_one_and_is_least_at_the_standard_normal() -> None:
    mean, log_variance = torch.randn(5, 3), torch.randn(5, 3)
    normal = torch.distributions.Normal(mean, (log_variance / 2).exp())
    known = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(dim=1).mean()
    assert float(latent_divergence(mean, log_variance)) == pytest.approx(float(known), rel=1e-5)
    assert float(latent_divergence(torch.zeros(5, 3), torch.zeros(5, 3))) == 0


def test_samples_have_the_mean_and_variance_asked_for() -> None:
    mean, log_variance = (
        torch.tensor([[3.0, -1.0]]).expand(20_000, 2),
        torch.tensor([[math.log(4), 0.0]]).expand(20_000, 2),
    )
    z = sample(mean, log_variance, torch.Generator().manual_seed(0))
    assert torch.allclose(z.mean(dim=0), torch.tensor([3.0, -1.0]), atol=0.05)
    assert torch.allclose(z.var(dim=0), torch.tensor([4.0, 1.0]), rtol=0.05)


def test_weights_are_uniform_and_derive_from_the_seed() -> None:
    before = torch.get_rng_state()
    modules = {
        "encoder": build_encoder(16, 3, 16, width=16, seed=1, device=CPU),
        "decoder": build_decoder(16, 3, 16, width=16, seed=1, device=CPU),
        "novel": build_novel(16, 3, 16, width=16, seed=1, device=CPU),
    }
    assert torch.equal(before, torch.get_rng_state())
    for module in modules.values():
        for name, each in module.named_parameters():
            if each.dim() > 1:
                assert 0.07 < float(each.abs().max()) <= 0.08, name
                assert float(each.detach().std()) == pytest.approx(0.16 / math.sqrt(12), rel=0.1), name
        assert all(not each.bias.any() for each in module.modules() if isinstance(each, nn.Conv2d | nn.Linear))
    again, other = (build_decoder(16, 3, 16, width=16, seed=seed, device=CPU) for seed in (1, 2))
    assert torch.equal(again.project.weight, modules["decoder"].project.weight)
    assert not torch.equal(other.project.weight, again.project.weight)
    assert not torch.equal(modules["novel"].project.weight, again.project.weight)


def test_only_the_novel_generator_is_spectrally_normalised() -> None:
    for build, expected in ((build_novel, 3), (build_decoder, 0)):
        module = build(8, 3, 16, width=4, seed=0, device=CPU)
        assert sum(nn.utils.parametrize.is_parametrized(each) for each in module.modules()) == expected
    novel = build_novel(8, 3, 16, width=4, seed=0, device=CPU)
    for each in novel.modules():
        if isinstance(each, nn.Conv2d):
            assert float(torch.linalg.matrix_norm(each.weight.flatten(1), ord=2).detach()) == pytest.approx(1, rel=0.05)


def test_images_of_a_batch_are_standardised() -> None:
    for build in (build_novel, build_decoder):
        images = build(8, 3, 16, width=4, seed=0, device=CPU)(torch.randn(64, 8)).detach()
        assert torch.allclose(images.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-4)
        assert torch.allclose(images.std(dim=(0, 2, 3)), torch.ones(3), atol=0.05)  # its eps weighs a little
