"""A sweep's part of a cluster as its driver sees it, over a ledger in this process; Ray itself is not started."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import pytest

from sweeps import broker
from sweeps.broker import Share
from sweeps.shares import Answer, Bundle, Claim, Ledger

CPU: Bundle = (1.0, 0.0)


class Cluster:
    """Stands for the ledger's actor: answers, or is away."""

    def __init__(self, places: float = 4.0) -> None:
        self.total = places
        self.ledger = Ledger(lambda: (self.total, 0.0))
        self.away = False

    def beat(self, claim: Claim, known: bool) -> Answer:
        if self.away:
            raise TimeoutError("no answer")
        return self.ledger.beat(claim, known)

    def leave(self, name: str) -> None:
        if self.away:
            raise TimeoutError("no answer")
        self.ledger.leave(name)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "BEAT_S", 0.02)


def share(cluster: Cluster, wants: int = 9, at_once: int = 4, **options: Any) -> Share:
    return Share(cluster, lambda most: [CPU] * min(most, wants), at_once, **options)


def wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def fill(one: Share, most: int = 99) -> int:
    """Starts what it may; how many that were."""
    count = 0
    while count < most and one.may_start():
        one.took(f"{one.name}/{time.monotonic_ns()}", CPU)
        count += 1
    return count


def test_a_sweep_alone_starts_all_that_was_asked_for_and_says_nothing_of_others() -> None:
    cluster = Cluster()
    with share(cluster, at_once=7) as one:
        assert fill(one) == 7
        assert (one.excess(), one.contested, one.note(), one.places) == (0, False, "", 7)
        wait(lambda: len(cluster.ledger.claims()[0].held) == 7)
    assert cluster.ledger.claims() == []


def test_a_sweep_alone_fills_nodes_that_join_and_asks_for_none() -> None:
    cluster = Cluster()
    with share(cluster, wants=99, grows=True) as one:
        assert one.most == 4 * broker.GROWTH
        assert fill(one) == 4
        cluster.total = 6.0
        wait(one.may_start)
        assert one.places == 6
        assert fill(one) == 2
        cluster.away = True
        assert not one.may_start()


def test_two_sweeps_fill_the_cluster_by_their_weights() -> None:
    cluster = Cluster(6.0)
    with share(cluster, at_once=6, weight=2) as two, share(cluster, at_once=6) as one:
        wait(lambda: two.contested)
        started = 0
        end = time.monotonic() + 20
        while started < 6:
            assert time.monotonic() < end
            started += fill(two) + fill(one)
            assert started <= 6
            time.sleep(0.005)
        assert (len(two._held), len(one._held)) == (4, 2)
        wait(lambda: two.note() == "share 2:1 with 1 other sweep")
        assert (one.note(), one.held()) == ("share 1:2 with 1 other sweep", "2 of 6 places")


def test_a_sweep_that_has_too_much_is_told_how_many_are_to_yield() -> None:
    cluster = Cluster()
    with share(cluster) as low:
        for number in range(4):
            low.took(str(number), CPU)
        wait(lambda: len(cluster.ledger.claims()[0].held) == 4)
        with share(cluster, wants=3, priority=1) as high:
            assert not high.may_start()
            wait(lambda: low.excess() == 3)
            assert not low.may_start()
            assert low.note() == "after 1 of higher priority, 1 other sweep in all"
            assert high.note() == "before 1 other sweep"
            low.yielding.add("0")
            assert low.gave_back("0")
            assert not low.gave_back("1")
            wait(high.may_start)
            wait(lambda: low.excess() == 1)
        wait(lambda: low.excess() == 0 and low.may_start())


def test_a_trial_yields_only_after_it_was_worth_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    one = share(Cluster())
    one.took("a", CPU)
    assert not one.may_yield("a")
    monkeypatch.setattr(broker, "MIN_RUN_S", 0.0)
    assert one.may_yield("a")


def test_a_ledger_that_is_away_holds_nobody_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(broker, "AWAY_S", 0.5)
    cluster = Cluster()
    with share(cluster) as other, share(cluster) as one:
        wait(lambda: one.contested)
        fill(one)
        held = len(one._held)
        cluster.away = True
        assert not one.may_start()  # the last answer counts for a while
        with caplog.at_level(logging.WARNING):
            wait(one.may_start)
            wait(lambda: caplog.text.count("Ray alone decides") == 2)  # once for each sweep
        assert (one.contested, one.note(), one.places) == (False, "", 4)
        fill(one, 2)
        cluster.ledger = Ledger(lambda: (4.0, 0.0))  # a new one, which knows nobody
        cluster.away = False
        wait(lambda: one.contested and other.contested)
        wait(lambda: sorted(len(each.held) for each in cluster.ledger.claims()) == [0, held + 2])
    assert caplog.text.count("Ray alone decides") == 2


def test_a_launch_without_any_answer_begins_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "JOIN_S", 0.1)
    cluster = Cluster()
    cluster.away = True
    began = time.monotonic()
    with share(cluster) as one:
        assert one.may_start()
        assert one.held() == ""
    assert time.monotonic() - began < 5


def test_what_could_start_is_asked_for_and_no_more_than_fits_the_launch() -> None:
    cluster = Cluster()
    asked: list[int] = []

    def wanted(most: int) -> list[Bundle]:
        asked.append(most)
        return [CPU] * most

    with Share(cluster, wanted, 3) as one:
        one.took("a", CPU)
        wait(lambda: asked[-1] == 2)
        wait(lambda: [(len(c.held), len(c.wants)) for c in cluster.ledger.claims()] == [(1, 2)])


def test_a_queue_that_fails_ends_no_thread() -> None:
    cluster = Cluster()
    failing = [True]

    def wanted(most: int) -> list[Bundle]:
        if failing[0]:
            raise OSError("stale file handle")
        return [CPU]

    one = Share(cluster, wanted, 3)
    one._thread.start()
    time.sleep(0.1)
    assert one.answer is None
    failing[0] = False
    wait(lambda: one.answer is not None)
    one.__exit__()
