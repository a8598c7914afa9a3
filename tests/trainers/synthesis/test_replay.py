"""The ring of earlier batches: order, chances, checkpoint."""

from __future__ import annotations

import torch
from torch import Tensor

from trainers import checkpoint
from trainers.data.digits import INFO
from trainers.synthesis.replay import Ring

CPU = torch.device("cpu")


def batch(number: int) -> Tensor:
    return torch.full((2, 1, 8, 8), float(number))


def ring_of(pushed: int, slots: int = 3) -> Ring:
    ring = Ring(slots, 2, INFO, CPU)
    for number in range(pushed):
        ring.push(batch(number))
    return ring


def numbers(ring: Ring) -> list[int]:
    return sorted(set(ring.filled().flatten().int().tolist()))


def test_oldest_batch_makes_room() -> None:
    assert [len(ring_of(pushed)) for pushed in range(6)] == [0, 1, 2, 3, 3, 3]
    assert [numbers(ring_of(pushed)) for pushed in (1, 3, 4, 5, 7)] == [[0], [0, 1, 2], [1, 2, 3], [2, 3, 4], [4, 5, 6]]


def test_draws_whole_filled_slots_with_equal_chances() -> None:
    generator = torch.Generator().manual_seed(0)
    for pushed, expected in ((2, {0, 1}), (4, {1, 2, 3})):
        ring = ring_of(pushed)
        drawn = [ring.draw(generator) for _ in range(600)]
        assert all(torch.equal(each, batch(int(each[0, 0, 0, 0]))) for each in drawn)
        counts = {number: sum(int(each[0, 0, 0, 0]) == number for each in drawn) for number in expected}
        assert sum(counts.values()) == 600
        assert min(counts.values()) > 0.8 * 600 / len(expected)


def test_what_is_pushed_is_copied() -> None:
    images = batch(4)
    ring = ring_of(0)
    ring.push(images)
    images.zero_()
    assert numbers(ring) == [4]


def test_continues_from_a_checkpoint_at_the_same_slot(tmp_path) -> None:  # type: ignore[no-untyped-def]
    for pushed in (0, 2, 3, 5):
        one, two = ring_of(pushed), ring_of(0)
        checkpoint.save(tmp_path / "c.pt", one.state_dict())
        two.load_state_dict(checkpoint.load(tmp_path / "c.pt"))
        for ring in (one, two):
            ring.push(batch(9))
        assert torch.equal(one.filled(), two.filled())
        assert len(one) == len(two)
