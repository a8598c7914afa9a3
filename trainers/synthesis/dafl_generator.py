"""DAFL's generator: in the original forms of DAFL, ZSKT, DFAD and PRE-DFKD, and the sigmoid form of CMI."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from trainers.errors import ConfigError

SPECTRAL_INIT = 0.08
"""PRE-DFKD draws its weights from U(-0.08, 0.08)."""


class DaflGenerator(nn.Module):
    """Latent vectors (B, Z) to images (B, C, H, H).

    linear Z -> 2 width maps of H / 4, BN; twice { up x2, conv 3x3, BN(eps), LeakyReLU 0.2 }, first to 2 width, then to width maps;
    conv 3x3 to C; then the output. All maps keep the layout 2 width, 2 width, width.

    Args:
        width: maps before the last convolution; 64 everywhere in print.
        eps: of the BatchNorm after each convolution; DAFL and PRE-DFKD have 0.8 there.
        output: "sigmoid": pixels in [0, 1], convolutions before BN without bias (CMI); "tanh_bn": tanh and BN without
            affine weights (DAFL, DFAD, PRE-DFKD); "bn": BN with affine weights, no tanh (ZSKT).
        spectral: spectral norm on every convolution (PRE-DFKD's novel generator), and its init.

    Attributes:
        standardised: whether the images are as networks take them; else they are pixels in [0, 1], to be standardised.

    Raises:
        ConfigError: the size is not a multiple of 4.
    """

    def __init__(
        self,
        latent_dim: int,
        channels: int,
        size: int,
        *,
        width: int = 64,
        eps: float = 1e-5,
        output: Literal["sigmoid", "tanh_bn", "bn"] = "sigmoid",
        spectral: bool = False,
    ) -> None:
        super().__init__()
        if size % 4:
            raise ConfigError(f"DAFL's generator needs an image size divisible by 4, got {size}")
        self.standardised = output != "sigmoid"
        self.start = (2 * width, size // 4, size // 4)
        self.project = nn.Linear(latent_dim, 2 * width * (size // 4) ** 2)
        layers: list[nn.Module] = [nn.BatchNorm2d(2 * width)]
        for maps in (2 * width, width):
            layers += [
                nn.Upsample(scale_factor=2),
                nn.Conv2d(2 * width, maps, 3, padding=1, bias=self.standardised),
                nn.BatchNorm2d(maps, eps=eps),
                nn.LeakyReLU(0.2),
            ]
        layers.append(nn.Conv2d(width, channels, 3, padding=1))
        if output == "sigmoid":
            layers.append(nn.Sigmoid())
        elif output == "tanh_bn":
            layers += [nn.Tanh(), nn.BatchNorm2d(channels, affine=False)]
        else:
            layers.append(nn.BatchNorm2d(channels))
        self.layers = nn.Sequential(*layers)
        if spectral:
            self.apply(_uniform)
            self.apply(_spectral)

    def forward(self, latent: Tensor) -> Tensor:
        images: Tensor = self.layers(self.project(latent).view(-1, *self.start))  # (B, C, H, H)
        return images


@torch.no_grad()
def _uniform(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.uniform_(layer.weight, -SPECTRAL_INIT, SPECTRAL_INIT)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def _spectral(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d):
        nn.utils.parametrizations.spectral_norm(layer)
