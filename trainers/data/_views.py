"""What the networks see of one training image: one view, or several that lie next to each other in the batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.data import Info
from trainers.data._augment import augment, cropped, draw, mirrored
from trainers.data._strong import strong_view

Make = Callable[[Tensor, Info, torch.Generator, bool], Tensor]


@dataclass(frozen=True)
class Views:
    """How a batch of images becomes a batch of views.

    Attributes:
        count: V, views of each image.
        make: (B, C, H, W) uint8, info, generator on the images' device, whether the protocol augments -> (B * V, C, H, W)
            uint8; rows i * V ... i * V + V - 1 are the views of image i, the first being the one that is distilled plainly.
    """

    count: int
    make: Make


def plain(images: Tensor, info: Info, generator: torch.Generator, augmented: bool) -> Tensor:
    """One view: a random crop and flip where the protocol augments."""
    return augment(images, info, generator) if augmented else images


def rotations(images: Tensor, info: Info, generator: torch.Generator, augmented: bool) -> Tensor:
    """Four views (SSKD, PCKD): flipped once, turned counter-clockwise by 0, 90, 180 and 270 degrees, then cropped one by one.

    View 0 has the bits of `plain`, so that methods with and without rotations see the same images; the crops of the others
    come from a stream of their own.

    Args:
        images: (B, C, H, W) uint8, square.

    Returns:
        (4 B, C, H, W) uint8.
    """
    if not augmented:
        return torch.stack([torch.rot90(images, turns, dims=(2, 3)) for turns in range(4)], dim=1).flatten(0, 1)
    own, drawn = _offspring(generator), draw(images, info, generator)
    views = [cropped(images, info, drawn)]
    flipped = mirrored(images, info, drawn)
    for turns in range(1, 4):
        turned = torch.rot90(flipped, turns, dims=(2, 3))
        views.append(cropped(turned, info, draw(turned, info, own), flips=False))
    return torch.stack(views, dim=1).flatten(0, 1)


def weak_strong(images: Tensor, info: Info, generator: torch.Generator, augmented: bool) -> Tensor:
    """Two views (MLD): the plain one, with the bits of `plain`; and one cropped and flipped by itself, then strongly changed.

    The strong view draws from a stream of its own that starts from the generator's state, so that it leaves no trace in
    the next batch's plain views.

    Returns:
        (2 B, C, H, W) uint8.
    """
    own = _offspring(generator)
    moved = augment(images, info, generator)  # drawn in either case: the next batch's strong views need another state
    strong = strong_view(augment(images, info, own) if augmented else images, own)
    return torch.stack([moved if augmented else images, strong], dim=1).flatten(0, 1)


def _offspring(generator: torch.Generator) -> torch.Generator:
    """A generator on the same device whose seed is a hash of `generator`'s state, which stays as it is."""
    digest = hashlib.sha256(generator.get_state().numpy().tobytes()).digest()
    own = torch.Generator(device=generator.device)
    own.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return own


VIEWS: Mapping[str, Views] = {
    "plain": Views(1, plain),
    "rotations": Views(4, rotations),
    "weak_strong": Views(2, weak_strong),
}
