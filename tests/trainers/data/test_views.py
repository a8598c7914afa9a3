"""Views of training images: which rows belong together, and what each is."""

from __future__ import annotations

import torch

from trainers.data import Info
from trainers.data._augment import augment
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


def test_view_0_of_rotations_has_the_bits_of_plain_and_so_has_the_next_batch() -> None:
    padded = Info(classes=2, channels=1, size=8, mean=(0.5,), std=(0.5,), crop_padding=2, flip=True)
    for augmented in (True, False):
        one, two = stream(2), stream(2)
        for _ in range(2):
            views = VIEWS["rotations"].make(IMAGES, padded, one, augmented)
            assert torch.equal(views[::4], VIEWS["plain"].make(IMAGES, padded, two, augmented))


def test_flip_is_drawn_also_where_the_set_has_no_flips() -> None:
    still = Info(classes=2, channels=1, size=8, mean=(0.5,), std=(0.5,), crop_padding=0, flip=False)
    one, two = stream(), stream()
    assert torch.equal(augment(IMAGES, still, one), IMAGES)
    augment(IMAGES, INFO, two)
    assert torch.equal(torch.rand(1, generator=one), torch.rand(1, generator=two))


def test_weak_view_has_the_bits_of_plain_and_the_next_batch_too() -> None:
    padded = Info(classes=2, channels=1, size=8, mean=(0.5,), std=(0.5,), crop_padding=2, flip=True)
    one, two = stream(2), stream(2)
    for _ in range(2):
        views = VIEWS["weak_strong"].make(IMAGES, padded, one, True)
        assert views.shape == (12, 1, 8, 8)
        assert views.dtype == torch.uint8
        assert torch.equal(views[::2], VIEWS["plain"].make(IMAGES, padded, two, True))
        assert not torch.equal(views[1::2], views[::2])


def test_strong_views_differ_from_batch_to_batch_and_come_from_the_generator_alone() -> None:
    for augmented in (True, False):
        one, two = stream(3), stream(3)
        first, second = (VIEWS["weak_strong"].make(IMAGES, INFO, one, augmented) for _ in range(2))
        assert not torch.equal(first[1::2], second[1::2])
        state = torch.random.get_rng_state()
        assert torch.equal(first, VIEWS["weak_strong"].make(IMAGES, INFO, two, augmented))
        assert torch.equal(torch.random.get_rng_state(), state)


def test_weak_view_is_the_image_itself_where_nothing_is_augmented() -> None:
    views = VIEWS["weak_strong"].make(IMAGES, INFO, stream(), False)
    assert VIEWS["weak_strong"].count == 2
    assert torch.equal(views[::2], IMAGES)
