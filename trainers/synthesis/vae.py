"""The VAE whose decoder remembers earlier synthetic images (PRE-DFKD's memory generator): encoder, sampling, penalty."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers import seeding
from trainers.errors import ConfigError
from trainers.synthesis.dafl_generator import SPECTRAL_INIT, DaflGenerator

EPS = 0.8
"""Of the BatchNorm after the first two convolutions, as in the decoder."""

Module = TypeVar("Module", bound=nn.Module)


class Encoder(nn.Module):
    """Standardised images (B, C, H, H) to mean and log-variance of their latents, each (B, Z).

    columns scaled to L2 norm 1; conv 3x3 to width, BN, LeakyReLU 0.2; conv 3x3 to 2 width, BN, LeakyReLU 0.2; x 1/2 nearest; conv 3x3
    with stride 2, BN; x 1/2 nearest; two linears.

    Args:
        width: maps of the first convolution (64 in print).

    Raises:
        ConfigError: the size is not a multiple of 4, or below 8.
    """

    def __init__(self, latent_dim: int, channels: int, size: int, width: int = 64) -> None:
        super().__init__()
        if size % 4 or size < 8:
            raise ConfigError(f"PRE-DFKD's encoder needs an image size of at least 8 that 4 divides, got {size}")
        self.before = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.BatchNorm2d(width, eps=EPS),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.BatchNorm2d(2 * width, eps=EPS),
            nn.LeakyReLU(0.2),
        )
        self.after = nn.Sequential(nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width))
        features = 2 * width * (size // 8) ** 2
        self.mean = nn.Linear(features, latent_dim)
        self.log_variance = nn.Linear(features, latent_dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = F.interpolate(self.before(F.normalize(images, dim=2)), scale_factor=0.5)
        features = F.interpolate(self.after(maps), scale_factor=0.5).flatten(1)  # (B, 2 width (H / 8)^2)
        return self.mean(features), self.log_variance(features)


def sample(mean: Tensor, log_variance: Tensor, generator: torch.Generator) -> Tensor:
    """z = mean + exp(log_variance / 2) * noise with noise ~ N(0, I) from `generator`; all of shape (B, Z)."""
    noise = torch.randn(mean.shape, generator=generator, device=mean.device)
    return mean + (log_variance / 2).exp() * noise


def latent_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence of N(mean, exp(log_variance)) from N(0, I): -1/2 sum_d (1 + v_d - m_d^2 - e^v_d), batch mean. Scalar in nats."""
    per_sample = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(dim=1)
    return per_sample.mean()


def build_encoder(latent_dim: int, channels: int, size: int, *, width: int, seed: int, device: torch.device) -> Encoder:
    """An encoder from the trial's stream `weights/encoder`: weights U(-0.08, 0.08), biases 0."""
    return _drawn(lambda: Encoder(latent_dim, channels, size, width).apply(_uniform), seed, "encoder").to(device)


def build_decoder(
    latent_dim: int, channels: int, size: int, *, width: int, seed: int, device: torch.device
) -> DaflGenerator:
    """The memory generator, from the trial's stream `weights/decoder`: the novel one without spectral norm."""
    return _drawn(
        lambda: DaflGenerator(latent_dim, channels, size, width=width, eps=EPS, output="tanh_bn").apply(_uniform),
        seed,
        "decoder",
    ).to(device)


def build_novel(
    latent_dim: int, channels: int, size: int, *, width: int, seed: int, device: torch.device
) -> DaflGenerator:
    """The novel generator, from the trial's stream `weights/generator`: spectral norm, weights U(-0.08, 0.08)."""
    return _drawn(
        lambda: DaflGenerator(latent_dim, channels, size, width=width, eps=EPS, output="tanh_bn", spectral=True),
        seed,
        "generator",
    ).to(device)


def _drawn(make: Callable[[], Module], seed: int, role: str) -> Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.stream_seed(seed, "weights", role))
        return make()


@torch.no_grad()
def _uniform(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.uniform_(layer.weight, -SPECTRAL_INIT, SPECTRAL_INIT)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)
