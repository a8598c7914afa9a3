"""Who shares a teacher pass, and how many: values worked out by hand, and what must hold for any counts."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from sweeps import groups
from sweeps.groups import MOST, Grouping, Room, gain, layout, likeness, size, useful
from sweeps.spec import Resources

CPU = Resources(cpu=1)


def test_gain_by_hand() -> None:
    # t = s: eight alone take 8 (1 + 1) = 16, together 1 + 8 = 9
    assert gain(0.5, 8) == pytest.approx(16 / 9)
    assert gain(0.5, 1) == gain(0.0, 8) == 1.0


def test_a_group_is_as_large_as_pays() -> None:
    # t/(t + s) = 0.5: gains 1.33, 1.5, 1.6, 1.667, 1.714 for 2 to 6, and 0.95 * 1.778 = 1.689 is asked for
    assert useful(0.5) == 6
    assert useful(0.95) == MOST
    assert useful(0.1) == 1  # 8 gain 9.6 %
    assert useful(0.0) == 1


@pytest.mark.parametrize(
    ("case", "members"),
    [
        ({"alike": 8, "ready": 8, "running": 0, "free": 2, "places": 2}, 4),  # the first of two places: half of them
        ({"alike": 4, "ready": 4, "running": 4, "free": 1, "places": 2}, 4),  # and the other half
        ({"alike": 3, "ready": 3, "running": 0, "free": 4, "places": 4}, 1),  # a place for each
        ({"alike": 5, "ready": 5, "running": 0, "free": 4, "places": 4}, 2),  # 2, 1, 1, 1
        ({"alike": 3, "ready": 3, "running": 2, "free": 3, "places": 4}, 1),
        ({"alike": 2, "ready": 7, "running": 0, "free": 2, "places": 2}, 2),  # strangers fill the other place
        ({"alike": 20, "ready": 20, "running": 0, "free": 1, "places": 1}, 8),  # no more than allowed
        ({"alike": 1, "ready": 9, "running": 0, "free": 1, "places": 1}, 1),
    ],
)
def test_sizes_by_hand(case: dict[str, int], members: int) -> None:
    assert size(**case, most=8) == members


def test_a_group_leaves_no_place_empty_and_is_never_larger_than_allowed() -> None:
    for alike, strangers, running, places, most in itertools.product(
        range(1, 9), range(4), range(4), range(1, 5), (2, 8)
    ):
        for free in range(1, places + 1):
            ready = alike + strangers
            members = size(alike=alike, ready=ready, running=running, free=free, places=places, most=most)
            assert 1 <= members <= min(alike, most)
            assert members == 1 or ready - members >= free - 1


def test_layout_of_two_teachers_in_two_places() -> None:
    found = layout(["a"] * 8 + ["b"] * 3 + [None], [4] * 12, 2)
    assert found == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10], [11]]


def trials_of(place: Any, **swap: str) -> list[Any]:
    return list(place.plan(place.write(swap=swap), pair="A").trials.values())


def test_trials_of_one_teacher_are_alike_and_their_teacher_is_like_nobody(place: Any) -> None:
    teacher, one, other = trials_of(place)
    assert likeness(teacher, CPU) is None
    assert likeness(one, CPU) == likeness(other, CPU) is not None
    assert likeness(one, CPU) != likeness(other, Resources(cpu=2))
    assert likeness(one, CPU) != likeness(other, Resources(cpu=1, passes="compiled"))
    assert likeness(one, CPU) != likeness(one.model_copy(update={"seed": 1}), CPU)


@pytest.mark.parametrize(("host_mib", "most"), [(10_000, 4), (130, 3), (20, 1), (None, 1)])
def test_memory_bounds_a_group(place: Any, monkeypatch: pytest.MonkeyPatch, host_mib: float | None, most: int) -> None:
    _, trial, _ = trials_of(place)
    monkeypatch.setattr(groups.preflight, "gpu_bytes", lambda trial, info: 20 * 2**20)
    monkeypatch.setattr(groups.cost, "teacher_share", lambda *_, **__: 0.3)  # of which groups of 4 are worth it
    room = Room(None if host_mib is None else host_mib * 2**20, None)
    assert useful(0.3) == 4
    assert Grouping(1, room, place.settings.data).most(trial, CPU) == most
    assert Grouping(1, room, place.settings.data).most(trial, Resources(cpu=1, gpu=1)) == 1  # a GPU of unknown size
    assert Grouping(1, room, place.settings.data, asked=7).most(trial, CPU) == 7


def test_a_share_of_a_gpu_bounds_a_group(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    _, trial, _ = trials_of(place)
    monkeypatch.setattr(groups.preflight, "gpu_bytes", lambda trial, info: 1000.0)
    monkeypatch.setattr(groups.cost, "teacher_share", lambda *_, **__: 0.9)
    grouping = Grouping(4, Room(None, 16_000.0), place.settings.data)
    assert [grouping.most(trial, Resources(gpu=gpu)) for gpu in (1, 0.5, 0.25)] == [MOST, 4, 2]


def test_what_is_planned_leaves_out_what_is_done_and_what_reports_its_cost(place: Any) -> None:
    seeds = {"seeds = [0]": "seeds = [0, 10]"}
    plan = place.plan(place.write(swap=seeds))
    grouping = Grouping(1, Room(None, None), place.settings.data, asked=8)
    found = groups.planned([plan], grouping)
    assert [len(group) for group in found] == [2, 2, 2, 2]  # pairs of networks times seeds: both temperatures
    assert groups.summary(found) == "8 trials share teacher passes in 4 groups of 2"
    place.train_all(plan)
    assert groups.planned([place.plan("grid.toml", seeds=[0, 10])], grouping) == []
    timed = place.plan(place.write(swap={'["test/acc1_pct"]': '["test/acc1_pct", "time/train_s"]', **seeds}), seeds=[1])
    assert groups.measured(timed) and not groups.measured(plan)
    assert groups.planned([timed], grouping) == []


def test_summary_names_each_size() -> None:
    assert groups.summary([["a", "b"], ["c", "d", "e"], ["f", "g"]]) == (
        "7 trials share teacher passes in 1 group of 3, 2 groups of 2"
    )
