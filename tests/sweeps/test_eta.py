"""The estimate of the end: values worked out by hand, and what must hold for any launch."""

from __future__ import annotations

import math
import random

import pytest

from sweeps.eta import NOW, PRICE_WEIGHT, RECENT, Estimate, Track, Work, left_s

STUDENT = Work("student", ("method kd", "networks t s"), 5, None)


def track(work: Work, began: float | None = None, ends: tuple[float, ...] = (), ended: float | None = None) -> Track:
    """A trial that began at a time, whose epochs ended at these."""
    found = Track(work, began_s=began, ended_s=ended)
    for number, at in enumerate(ends, start=1):
        found.add(number, at)
    return found


def test_nothing_is_told_before_an_epoch_has_ended() -> None:
    assert left_s({"a": track(STUDENT, 0.0), "b": track(STUDENT)}, 2, 30.0) is None


def test_equal_trials_in_two_places() -> None:
    # 2 s an epoch, no start: a is over; b has 2 epochs left and is 1 s into one of them (3 s); c and d take 10 s each.
    # Places: the one that is free takes c (10 s), that of b takes d after 3 s: 13 s.
    tracks = {
        "a": track(STUDENT, 0.0, (2, 4, 6, 8, 10), 10.0),
        "b": track(STUDENT, 4.0, (6, 8, 10)),
        "c": track(STUDENT),
        "d": track(STUDENT),
    }
    assert left_s(tracks, 2, 11.0) == pytest.approx(13.0)


def test_the_start_of_a_trial_is_the_median_of_what_finished_ones_took_beside_their_epochs() -> None:
    # 1 s an epoch; three trials took 5 s for their epochs and 20, 1 and 3 s beside them: 3 s for the next one
    tracks = {
        "first": track(STUDENT, 0.0, (21, 22, 23, 24, 25), 25.0),
        "second": track(STUDENT, 0.0, (2, 3, 4, 5, 6), 6.0),
        "third": track(STUDENT, 6.0, (8, 9, 10, 11, 12), 14.0),
        "next": track(STUDENT),
    }
    assert left_s(tracks, 1, 25.0) == pytest.approx(5 + 3)


def test_students_wait_for_their_teacher() -> None:
    teacher = Work("teacher", ("method ce", "networks  t"), 4, 8.0)
    student = Work("student", ("method kd", "networks t s"), 5, 10.0, after=("t",))
    # the teacher runs at its price of 2 s an epoch and has 2 left; alike nothing, students too cost what they are priced at
    tracks = {"t": track(teacher, 0.0, (2.0, 4.0)), "a": track(student), "b": track(student), "c": track(student)}
    assert left_s(tracks, 2, 4.0) == pytest.approx(4 + 10 + 10)
    assert left_s(tracks, 3, 4.0) == pytest.approx(4 + 10)


def test_a_kind_that_has_not_run_costs_its_price_times_what_alike_kinds_took_of_theirs() -> None:
    # kd took 3 times its price; mld shares the networks (weight 8 against 0.5 for the price itself), ce shares nothing (1)
    kd = Work("kd", ("method kd", "networks t s"), 10, 10.0)
    alike = Work("mld", ("method mld", "networks t s"), 10, 20.0)
    other = Work("ce", ("method ce", "networks  s"), 10, 20.0)
    estimate = Estimate([track(kd, 0.0, (3, 6, 9)), track(alike), track(other)])
    assert estimate.trial_s(alike) == pytest.approx(20 * 3 ** (8 / (8 + PRICE_WEIGHT)))
    assert estimate.trial_s(other) == pytest.approx(20 * 3 ** (1 / (1 + PRICE_WEIGHT)))
    assert estimate.trial_s(Work("bare", (), 10, None)) is None


def test_a_first_epoch_does_not_count_the_start_of_its_worker() -> None:
    # the worker took 8 s to come up, the epoch 1 s; 4 more of them, and 5 of b behind it
    tracks = {"a": track(STUDENT, 0.0, (9,)), "b": track(STUDENT)}
    assert left_s(tracks, 1, 9.0) == pytest.approx(4 * 9.0 + 5 * 9.0)
    tracks["a"].first_took_s = 1.0
    assert left_s(tracks, 1, 9.0) == pytest.approx(4 * 1.0 + 5 * 1.0)
    tracks["a"].first_took_s = 20.0  # a clock that ran on where nothing was trained
    assert left_s(tracks, 1, 9.0) == pytest.approx(9 * 9.0)


def test_a_machine_that_has_become_slower_counts_in_part() -> None:
    # 1 s an epoch for 20 epochs, then 4 s for RECENT of them: the mean of gaps is m, those of now are 4 s
    work = Work("kd", (), 100, None)
    ends = [float(number) for number in range(1, 21)]
    ends += [ends[-1] + 4.0 * number for number in range(1, RECENT + 1)]
    mean = (ends[-1] - ends[0]) / (len(ends) - 1)
    left = left_s({"a": track(work, 0.0, tuple(ends))}, 1, ends[-1])
    assert left == pytest.approx((4.0 / mean) ** NOW * mean * (100 - len(ends)))


def test_a_finished_trial_tells_how_long_its_kind_really_is() -> None:
    # a first stage of 2 epochs comes before the 5 of the recipe
    tracks = {"a": track(STUDENT, 0.0, (1, 2, 3, 4, 5, 6, 7), 7.0), "b": track(STUDENT)}
    assert left_s(tracks, 1, 7.0) == pytest.approx(7.0)


def test_epochs_of_an_earlier_launch_are_not_to_be_done_again() -> None:
    continued = Track(STUDENT, before=3, began_s=0.0)
    continued.add(1, 2.0)
    tracks = {"a": track(STUDENT, 0.0, (2, 4)), "b": continued}
    assert left_s(tracks, 2, 4.0) == pytest.approx(3 * 2.0)  # a's; b has one left


def test_trials_that_share_a_place_are_counted_in_parts() -> None:
    # a and b share a place: 4 s on the clock for an epoch of each, so 2 s of the place. Each has 3 epochs left, so the place is
    # free in 12 s; the other one is free now. c and d take 5 * 2 s: one after the other there, 20 s; so d goes to the first, 22 s.
    tracks = {name: track(STUDENT, 0.0) for name in "ab"} | {name: track(STUDENT) for name in "cd"}
    for each in (tracks["a"], tracks["b"]):
        each.place, each.sharing = "ab", 2
        each.add(1, 4.0)
        each.add(2, 8.0)
    assert left_s(tracks, 2, 8.0) == pytest.approx(20.0)
    assert left_s(tracks, 1, 8.0) == pytest.approx(12.0 + 20.0)
    assert left_s(tracks, 1, 10.0) == pytest.approx(10.0 + 20.0)  # 2 s of an epoch are over, 1 s of either's part


def test_suggestions_to_come_cost_what_the_others_do() -> None:
    tracks = {"a": track(STUDENT, 0.0, (1, 2, 3, 4, 5), 5.0), "b": track(STUDENT)}
    assert left_s(tracks, 1, 5.0) == pytest.approx(5.0)
    more = left_s(tracks, 1, 5.0, to_come=2)
    assert more is not None and more > 5.0


def test_any_launch_ends_and_more_places_never_make_it_later() -> None:
    draw = random.Random(0)
    for _ in range(50):
        works = [Work(f"k{kind}", (f"m{kind % 2}",), 4, draw.choice([None, 3.0 + kind])) for kind in range(4)]
        tracks = {}
        for number in range(12):
            began = draw.choice([None, 1.0 * number])
            count = 0 if began is None else draw.randrange(5)
            ends = tuple((began or 0.0) + 1.5 * (epoch + 1) for epoch in range(count))
            tracks[str(number)] = track(draw.choice(works), began, ends, 30.0 if count == 4 else None)
        found = [left_s(tracks, at_once, 30.0) for at_once in (12, 24, 48)]
        if found[0] is not None:
            values = [value for value in found if value is not None]
            assert len(values) == 3 and all(math.isfinite(value) and value >= 0 for value in values)
            assert values == sorted(values, reverse=True)
