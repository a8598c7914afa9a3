"""How places of a shared cluster are divided: values worked out by hand, properties over many cases, and the ledger over time."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sweeps import shares
from sweeps.shares import Answer, Bundle, Claim, Ledger, allocate, ideal, size_of

CPU: Bundle = (1.0, 0.0)
GPU: Bundle = (2.0, 1.0)


def claim(
    name: str, *, weight: float = 1, priority: int = 0, held: int = 0, wants: int = 0, each: Bundle = CPU
) -> Claim:
    return Claim(name, weight, priority, (each,) * held, (each,) * wants)


def places(claims: list[Claim], total: Bundle, **owed: float) -> list[int]:
    """As `allocate`, in the order of the claims."""
    given = allocate(claims, total, owed)
    return [given[each.name] for each in claims]


# --- the allocation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "wanted", "total", "expected"),
    [
        ([2, 1], [9, 9], 6, [4, 2]),
        ([2, 1], [9, 9], 3, [2, 1]),
        # 3.33 : 1.67. After 3 : 1 the next place would cost 3.5 / 2 = 1.75 here and 1.5 / 1 there.
        ([2, 1], [9, 9], 5, [3, 2]),
        # 2.67 : 1.33. After 2 : 1 it would cost 2.5 / 2 = 1.25 here and 1.5 / 1 there.
        ([2, 1], [9, 9], 4, [3, 1]),
        ([2, 1], [9, 9], 1, [1, 0]),
        ([1, 1, 2], [9, 9, 9], 8, [2, 2, 4]),
        ([2, 1], [1, 9], 6, [1, 5]),  # what one cannot use goes to the other
        ([2, 1], [9, 0], 6, [6, 0]),
        ([1, 2, 1], [1, 9, 9], 7, [1, 4, 2]),  # 6 places at 2 : 1
        ([10, 1], [9, 9], 2, [1, 1]),  # each gets one before one gets a second
    ],
)
def test_places_by_weight(weights: list[float], wanted: list[int], total: int, expected: list[int]) -> None:
    claims = [claim(str(n), weight=w, wants=d) for n, (w, d) in enumerate(zip(weights, wanted, strict=True))]
    assert places(claims, (total, 0.0)) == expected


def test_the_higher_priority_takes_all_that_it_can_use() -> None:
    low, high = claim("low", held=6, wants=9, weight=100), claim("high", priority=1, wants=4)
    assert places([low, high], (6.0, 0.0)) == [2, 4]
    assert places([low, claim("high", priority=1, wants=40)], (6.0, 0.0)) == [0, 6]
    assert places([claim("lowest", priority=-3, wants=2), low, high], (8.0, 0.0)) == [0, 4, 4]


def test_sweeps_with_other_needs_compare_by_their_scarcest_resource() -> None:
    """8 GPUs and 64 CPUs: a place with a GPU is 1/8 of the cluster, one with a CPU 1/64.

    Equal parts x / 8 = y / 64 of all CPUs, 2 x + y = 64, would be x = 6.4, y = 51.2.
    """
    total = (64.0, 8.0)
    assert size_of(GPU, total) == 1 / 8
    assert size_of(CPU, total) == 1 / 64
    both = [claim("gpu", wants=99, each=GPU), claim("cpu", wants=999)]
    assert places(both, total) == [6, 52]
    halves = [claim("half", wants=99, each=(1.0, 0.5)), claim("whole", wants=99, each=(1.0, 1.0))]
    assert places(halves, total) == [8, 4]
    assert places([claim("gpu", wants=2, each=GPU)], (64.0, 0.0)) == [0]


def test_a_large_place_that_does_not_fit_leaves_room_to_small_ones() -> None:
    assert places([claim("large", wants=2, each=(4.0, 0.0)), claim("small", wants=9)], (6.0, 0.0)) == [1, 2]


def test_who_has_a_place_keeps_it_in_a_tie_and_who_is_owed_gets_it() -> None:
    first, second = claim("first", wants=5), claim("second", held=1, wants=4)
    assert places([first, second], (1.0, 0.0)) == [0, 1]
    assert places([first, second], (3.0, 0.0)) == [2, 1]
    held = claim("second", held=2, wants=4)
    assert places([first, held], (3.0, 0.0)) == [1, 2]
    assert places([first, held], (3.0, 0.0), first=0.2, second=-0.2) == [2, 1]
    assert places([first, second], (1.0, 0.0), first=0.2, second=-0.2) == [1, 0]


def cases(count: int) -> list[tuple[list[Claim], Bundle]]:
    rng = random.Random(0)
    made = []
    for _ in range(count):
        claims = [
            Claim(
                str(number),
                rng.choice([0.5, 1, 2, 3]),
                rng.choice([0, 0, 0, 1, -1]),
                ((each := rng.choice([CPU, CPU, GPU, (0.5, 0.25)])),) * rng.randrange(5),
                (each,) * rng.randrange(12),
            )
            for number in range(rng.randrange(1, 6))
        ]
        made.append((claims, (float(rng.randrange(1, 40)), float(rng.randrange(0, 9)))))
    return made


def test_never_more_than_there_is_and_nothing_left_that_somebody_could_use() -> None:
    for claims, total in cases(400):
        given = allocate(claims, total)
        free = total
        for each in claims:
            assert 0 <= given[each.name] <= len(each.bundles)
            free = shares.less(free, each.bundles[: given[each.name]])
        assert min(free) >= -1e-6
        for each in claims:
            rest = each.bundles[given[each.name] :]
            assert not rest or not shares.fits(rest[0], free), (claims, total)


def test_lower_priorities_change_nothing_for_the_higher_ones() -> None:
    for claims, total in cases(200):
        top = max(each.priority for each in claims)
        alone = allocate([each for each in claims if each.priority == top], total)
        given = allocate(claims, total)
        assert {name: given[name] for name in alone} == alone


def test_two_sweeps_are_within_one_place_of_their_weights_whatever_they_hold() -> None:
    for total in range(2, 16):
        for weight in (1.0, 1.5, 2.0, 3.0):
            for held in range(total + 1):
                pair = [claim("a", weight=weight, held=held, wants=40), claim("b", held=total - held, wants=40)]
                first, second = places(pair, (float(total), 0.0))
                due = total * weight / (weight + 1)
                assert first + second == total
                assert abs(first - due) <= 1 or second == 1


def test_every_equal_has_a_place_where_there_are_as_many() -> None:
    rng = random.Random(1)
    for _ in range(200):
        claims = [claim(str(n), weight=rng.choice([0.1, 1, 50]), wants=9, held=rng.randrange(9)) for n in range(5)]
        assert min(places(claims, (float(rng.randrange(5, 20)), 0.0))) >= 1


def test_a_whole_is_divided_by_weight_up_to_what_each_can_use() -> None:
    assert ideal([2, 1], [9, 9], 5) == pytest.approx([10 / 3, 5 / 3])
    assert ideal([2, 1, 1], [9, 0.5, 9], 5) == pytest.approx([3, 0.5, 1.5])
    assert ideal([1, 1], [0, 9], 4) == pytest.approx([0, 4])
    assert ideal([1, 1], [1, 2], 9) == pytest.approx([1, 2])
    assert ideal([], [], 3) == []


# --- the ledger ------------------------------------------------------------------------------------------------------


class World:
    """A ledger on a clock of ours, over sweeps that start what they may and whose trials end only when they yield."""

    def __init__(self, places: int = 6) -> None:
        self.now, self.total = 100.0, (float(places), 0.0)
        self.ledger = Ledger(lambda: self.total, lambda: self.now)
        self.sweeps: dict[str, dict[str, Any]] = {}
        self.yields, self.had = 0, dict[str, float]()  # the latter in place-seconds

    def join(self, name: str, most: int = 8, **what: Any) -> None:
        self.sweeps[name] = {"held": 0, "most": most, "known": False, **what}

    def beat(self, name: str) -> Answer:
        """One sweep tells what it has; its answer is not followed."""
        own = self.sweeps[name]
        what = {key: own[key] for key in ("weight", "priority") if key in own}
        return self.ledger.beat(claim(name, held=own["held"], wants=own["most"] - own["held"], **what), own["known"])

    def run(self, seconds: float, step_s: float = 0.5) -> None:
        """Each sweep beats and does what it is told."""
        for _ in range(int(seconds / step_s)):
            self.now += step_s
            for name, own in self.sweeps.items():
                answer = self.beat(name)
                own["known"] = True
                if answer.keep is not None and answer.keep < own["held"]:
                    self.yields += own["held"] - answer.keep
                    own["held"] = answer.keep
                else:
                    start = min(own["most"], self.total[0]) if answer.start is None else answer.start
                    own["held"] = max(own["held"], int(start))
            for name, own in self.sweeps.items():
                self.had[name] = self.had.get(name, 0.0) + own["held"] * step_s
            assert sum(own["held"] for own in self.sweeps.values()) <= self.total[0]

    @property
    def held(self) -> dict[str, int]:
        return {name: own["held"] for name, own in self.sweeps.items()}


def test_a_sweep_alone_is_not_limited() -> None:
    world = World()
    world.join("a")
    assert world.beat("a") == Answer(None, None, 6)


def test_a_second_sweep_gets_its_part_and_the_first_yields_no_more_than_that() -> None:
    world = World()
    world.join("a", weight=2)
    world.run(5)
    assert world.held == {"a": 6}
    world.join("b")
    world.run(shares.PATIENCE_S - 1)
    assert world.held == {"a": 6, "b": 0}  # trials may end by themselves
    world.run(3)
    assert world.held == {"a": 4, "b": 2}
    world.run(600)
    assert world.yields == 2  # 4 : 2 is as it should be, so nothing moves
    answer = world.beat("b")
    assert (answer.others, answer.equals, answer.above, answer.places) == (1, 2.0, 0, 6)


def test_a_higher_priority_gets_its_places_at_once_and_gives_them_back() -> None:
    world = World()
    world.join("a", weight=2)
    world.join("b")
    world.run(20)
    world.join("c", most=5, priority=1)
    world.run(2)
    assert world.held == {"a": 1, "b": 0, "c": 5}
    assert world.beat("a").above == 1
    del world.sweeps["c"]
    world.ledger.leave("c")
    world.run(2)
    assert world.held == {"a": 4, "b": 2}


def test_a_driver_that_was_killed_loses_its_claim_after_its_lease() -> None:
    world = World()
    world.join("a")
    world.join("b")
    world.run(20)
    assert world.held == {"a": 3, "b": 3}
    del world.sweeps["b"]
    world.run(shares.LEASE_S - 1)
    assert world.held == {"a": 3}
    world.run(2)
    assert world.held == {"a": 6}


def test_what_ends_of_what_a_sweep_has_too_much_is_not_replaced() -> None:
    world = World()
    world.join("a", weight=2)
    world.run(5)
    world.join("b")
    world.beat("b")
    answer = world.beat("a")
    assert (answer.start, answer.keep) == (4, None)  # it has six, of which two may end by themselves


def test_nobody_yields_where_nobody_waits() -> None:
    world = World()
    world.join("a", most=6)
    world.join("b", most=0)
    world.run(60)
    assert (world.held, world.yields) == ({"a": 6, "b": 0}, 0)


def test_places_that_are_not_there_any_more_are_given_up_by_those_who_have_too_many() -> None:
    """A node was lost, and its trials wait for another, or two sweeps were told the same: more is held than there is."""
    world = World()
    world.join("a", most=4)
    world.join("b", most=2)
    world.run(20)
    assert (world.held, world.yields) == ({"a": 4, "b": 2}, 0)
    world.total = (4.0, 0.0)
    assert world.beat("a").keep is None
    world.now += shares.PATIENCE_S
    assert world.beat("a").keep == 2
    assert world.beat("b").keep is None


def test_a_place_that_was_promised_is_not_promised_again() -> None:
    world = World(1)
    world.join("a", most=1)
    world.join("b", most=1)
    world.join("c", most=0)
    world.beat("c")
    assert world.beat("a").start is None or world.beat("a").start == 1
    assert world.beat("b").start == 0


def test_two_sweeps_take_turns_on_one_place_by_their_weights() -> None:
    world = World(1)
    world.join("a", weight=3)
    world.join("b")
    world.run(20 * shares.TURN_S, step_s=5)
    assert sum(world.had.values()) > 0.95 * 20 * shares.TURN_S
    assert world.had["a"] / world.had["b"] == pytest.approx(3, rel=0.15)
    assert 10 <= world.yields <= 40  # turns of minutes


def test_the_last_place_is_made_good_over_time() -> None:
    """Five places at 2 : 1 are 3.33 : 1.67."""
    world = World(5)
    world.join("a", weight=2)
    world.join("b")
    world.run(20)
    held = set()
    for _ in range(70):
        world.run(100, step_s=8)
        held.add(tuple(world.held.values()))
    assert held - {(3, 1)} == {(3, 2), (4, 1)}  # the former on the way
    assert world.had["a"] / world.had["b"] == pytest.approx(2, rel=0.08)
    assert world.yields <= 60


def test_five_sweeps_on_two_places_all_come_to_work() -> None:
    world = World(2)
    for name in "abcde":
        world.join(name)
    world.run(10 * shares.TURN_S, step_s=8)
    assert min(world.had.values()) > 0.7 * 2 * 10 * shares.TURN_S / 5


def test_a_new_ledger_promises_nothing_before_it_has_heard_of_all() -> None:
    world = World()
    world.join("a")
    world.join("b")
    world.run(20)
    world.ledger = Ledger(lambda: world.total, lambda: world.now)
    assert world.beat("a") == Answer(3, None, 6, 0)
    world.run(20)
    assert (world.held, world.yields) == ({"a": 3, "b": 3}, 3)


def test_a_trial_with_a_gpu_is_not_stopped_for_one_without() -> None:
    ledger = Ledger(lambda: (8.0, 2.0), lambda: 100.0)
    ledger.beat(claim("gpu", held=2, wants=5, each=GPU))
    assert ledger.beat(claim("cpu", held=4, wants=9, priority=1)).start == 4
    answer = ledger.beat(claim("gpu", held=2, wants=5, each=GPU))
    assert answer.keep == 0  # eight CPUs for the higher priority: there is no way round it
    ledger = Ledger(lambda: (16.0, 2.0), lambda: 100.0)
    ledger.beat(claim("gpu", held=2, wants=5, each=GPU))
    ledger.beat(claim("cpu", held=11, wants=1, priority=1))
    assert ledger.beat(claim("gpu", held=2, wants=5, each=GPU)).keep is None
