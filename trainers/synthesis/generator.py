"""The DCGAN generator of CuDFKD's official code, for any image size that its depth divides."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from trainers import seeding
from trainers.errors import ConfigError

Init = Literal["normal", "default"]
M = TypeVar("M", bound=nn.Module)


class Generator(nn.Module):
    """Latent vectors (B, Z) to images (B, C, H, H) in [0, 1].

    linear Z -> 64 * 2^depth maps of H / 2^depth, BN; then `depth` times { up x2, conv 3x3 to half the maps, BN, LeakyReLU 0.2 };
    conv 3x3 to C; sigmoid. Depth 2 at 32 pixels is CuDFKD-32, depth 3 at 64 pixels CuDFKD-64.

    Attributes:
        standardised: False: the images are pixels, to be standardised before a network sees them.
    """

    standardised = False

    def __init__(self, latent_dim: int, channels: int, size: int, depth: int, width: int = 64) -> None:
        super().__init__()
        if size % 2**depth:
            raise ConfigError(f"generator depth {depth} needs an image size divisible by {2**depth}, got {size}")
        maps = width * 2**depth
        self.start = (maps, size // 2**depth, size // 2**depth)
        self.project = nn.Linear(latent_dim, maps * (size // 2**depth) ** 2)
        layers: list[nn.Module] = [nn.BatchNorm2d(maps)]
        for _ in range(depth):
            layers += [
                nn.Upsample(scale_factor=2),
                nn.Conv2d(maps, maps // 2, 3, padding=1, bias=False),
                nn.BatchNorm2d(maps // 2),
                nn.LeakyReLU(0.2),
            ]
            maps //= 2
        layers += [nn.Conv2d(maps, channels, 3, padding=1), nn.Sigmoid()]
        self.layers = nn.Sequential(*layers)

    def forward(self, latent: Tensor) -> Tensor:
        images: Tensor = self.layers(self.project(latent).view(-1, *self.start))  # (B, C, H, H)
        return images


def build(
    latent_dim: int,
    channels: int,
    size: int,
    *,
    depth: int,
    width: int,
    init: Init,
    seed: int,
    device: torch.device,
) -> Generator:
    """A `Generator`, initialised as `fresh` does."""
    return fresh(lambda: Generator(latent_dim, channels, size, depth, width), init=init, seed=seed, device=device)


def fresh(make: Callable[[], M], *, init: Init, seed: int, device: torch.device) -> M:
    """A generator whose weights come from the trial's stream `weights/generator`.

    Args:
        make: builds it with its own init.
        init: "normal": conv and linear weights N(0, 0.02), biases 0, BN weights N(1, 0.02), as CuDFKD and CMI;
            "default": the one of `make`, PyTorch's for the GAN baselines.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.stream_seed(seed, "weights", "generator"))
        generator = make()
        if init == "normal":
            generator.apply(_normal)
    return generator.to(device)


def _normal(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.normal_(layer.weight, 0.0, 0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    elif isinstance(layer, nn.BatchNorm2d) and layer.affine:
        nn.init.normal_(layer.weight, 1.0, 0.02)
        nn.init.zeros_(layer.bias)
