"""Views of training images: which rows belong together, and what each is."""

from __future__ import annotations

import torch

from trainers.data import Info
from trainers.data._augment import augment, flip
from trainers.data._views import VIEWS

INFO = Info(classes=2, channels=1, size=8, mean=(0.5,), std=(0.5,), crop_padding=0, flip=True)
IMAGES = torch.arange(6 * 64, dtype=torch.int64).remainder(251).to(torch.uint8).view(6, 1, 8, 8)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_plain_is_one_augmented_view_or_the_image_itself() -> None:
    assert VIEWS["plain"].count == 1
    assert torch.equal(VIEWS["plain"].make(IMAGES, INFO, stream(), False), IMAGES)
    assert torch.equal(VIEWS["plain"].make(IMAGES, INFO, stream(), True), augment(IMAGES, INFO, stream()))


def test_rotations_lie_next_to_each_other_and_turn_counter_clockwise() -> None:
    views = VIEWS["rotations"].make(IMAGES, INFO, stream(), False)
    assert views.shape == (24, 1, 8, 8)
    assert torch.equal(views[::4], IMAGES)
    one = torch.tensor([[1, 2], [3, 4]], dtype=torch.uint8).view(1, 1, 2, 2)
    turned = VIEWS["rotations"].make(one, INFO, stream(), False)
    assert turned[1, 0].tolist() == [[2, 4], [1, 3]]  # counter-clockwise: the right column comes to the top
    assert turned[2, 0].tolist() == [[4, 3], [2, 1]]
    assert turned[3, 0].tolist() == [[3, 1], [4, 2]]


def test_all_rotations_of_an_image_share_its_flip() -> None:
    views = VIEWS["rotations"].make(IMAGES, INFO, stream(1), True).view(6, 4, 1, 8, 8)
    flipped = [not torch.equal(views[i, 0], IMAGES[i]) for i in range(6)]
    assert 0 < sum(flipped) < 6
    for i in range(6):
        own = IMAGES[i].flip(2) if flipped[i] else IMAGES[i]
        assert all(torch.equal(views[i, turns], torch.rot90(own, turns, dims=(1, 2))) for turns in range(4))


def test_every_rotated_view_is_cropped_by_itself() -> None:
    padded = Info(classes=2, channels=1, size=8, mean=(0.5,), std=(0.5,), crop_padding=2, flip=False)
    views = VIEWS["rotations"].make(IMAGES, padded, stream(), True).view(6, 4, 1, 8, 8)
    back = [torch.rot90(views[:, turns], -turns, dims=(2, 3)) for turns in range(4)]
    assert any(not torch.equal(back[0], other) for other in back[1:])


def test_flip_draws_also_where_the_set_has_no_flips() -> None:
    still = Info(classes=2, channels=1, size=8, mean=(0.5,), std=(0.5,), crop_padding=0, flip=False)
    one, two = stream(), stream()
    assert torch.equal(flip(IMAGES, still, one), IMAGES)
    flip(IMAGES, INFO, two)
    assert torch.equal(torch.rand(1, generator=one), torch.rand(1, generator=two))
