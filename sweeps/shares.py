"""Who may hold how many places of a cluster that several sweeps share: priority first, weights among equals. Knows no Ray.

A place is what one Tune trial holds, whatever it carries: a bundle of CPUs and GPUs. Its size is the largest part it takes of what
the cluster has of any resource (dominant share, Ghodsi et al. 2011), so sweeps with trials of different needs compare.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

Bundle = tuple[float, float]
"""CPUs and GPUs of one place."""

LEASE_S = 20.0
"""A sweep that was not heard of for so long has no claim any more; it has a new one when it speaks again."""
PATIENCE_S = 5.0
"""How long sweeps of one priority wait for trials to end by themselves before some must yield."""
WARY_S = 2.0
"""How long a ledger that begins anew among sweeps that know each other waits for all of them to speak."""
TURN_S = 600.0
"""Over which time a part of a place is made good: two equal sweeps on one place take turns of half of it."""
SETTLE_S = 1.0
"""How often what is owed is counted."""
STICK = 0.25
"""Part of a place by which who has it is preferred, so that rounding moves no trial to and fro."""
MOST_OWED = 0.5
"""Places; more would let rounding outweigh a whole place."""
EPSILON = 1e-9


@dataclass(frozen=True)
class Claim:
    """What one sweep has and asks for.

    Attributes:
        name: one of its own for each driver.
        weight: its part among sweeps of equal priority, relative to theirs.
        priority: higher goes first.
        held: places it has, running or asked of Ray.
        wants: places for what it could start beside, in its order.
    """

    name: str
    weight: float
    priority: int
    held: tuple[Bundle, ...] = ()
    wants: tuple[Bundle, ...] = ()

    @cached_property
    def bundles(self) -> tuple[Bundle, ...]:
        """All it could use; an allocation is a number of the first of these."""
        return self.held + self.wants


@dataclass(frozen=True)
class Answer:
    """What a sweep may do until it asks again.

    Attributes:
        start: how many places it may fill up to by starting trials; None: as many as it likes.
        keep: how many it may go on with, the rest should yield; None: all.
        places: how many it could fill if it were alone.
        others: other sweeps on the cluster.
        equals: the sum of their weights, where the priority is this one's.
        above: how many of them have a higher priority.
    """

    start: int | None
    keep: int | None
    places: int
    others: int = 0
    equals: float = 0.0
    above: int = 0


def size_of(bundle: Bundle, total: Bundle) -> float:
    """Largest part that a place takes of what the cluster has; one that asks for what is not there is as large as all."""
    cpu = bundle[0] / total[0] if bundle[0] and total[0] else float(bundle[0] > 0)
    gpu = bundle[1] / total[1] if bundle[1] and total[1] else float(bundle[1] > 0)
    return max(cpu, gpu)


def fits(bundle: Bundle, free: Bundle) -> bool:
    """Whether there is room for a place."""
    return bundle[0] <= free[0] + EPSILON and bundle[1] <= free[1] + EPSILON


def less(free: Bundle, bundles: Sequence[Bundle]) -> Bundle:
    """What is left when these are taken; below zero where more is held than there is."""
    return free[0] - sum(cpu for cpu, _ in bundles), free[1] - sum(gpu for _, gpu in bundles)


def allocate(claims: Sequence[Claim], total: Bundle, owed: Mapping[str, float] | None = None) -> dict[str, int]:
    """How many places each sweep should hold: the higher priority takes all it can use, the next ones share what is left.

    Among equals each gets one place, as far as there are any, before one gets a second. Further places go one by one to the sweep
    with the smallest

        (s + d (1/2 - o - h)) / w,

    s being the size of what it was given, d that of its next place, w its weight, o what it is owed, h `STICK` where it has that
    place now: Webster's rounding of weighted max-min shares. What one sweep cannot use goes to the others.

    Args:
        total: CPUs and GPUs of the cluster.
        owed: places that a sweep lacks from the past, by name, for rounding.

    Returns:
        By name, how many of its `bundles`, from the first.
    """
    given: dict[str, int] = {}
    free = total
    for priority in sorted({claim.priority for claim in claims}, reverse=True):
        peers = [claim for claim in claims if claim.priority == priority]
        free = _share_out(peers, total, free, owed or {}, given)
    return given


def _share_out(
    peers: Sequence[Claim], total: Bundle, free: Bundle, owed: Mapping[str, float], given: dict[str, int]
) -> Bundle:
    """Adds to `given` what sweeps of one priority get of `free`; returns what is left."""
    sizes = dict.fromkeys((claim.name for claim in peers), 0.0)
    given.update(dict.fromkeys(sizes, 0))

    def turn(place: int) -> tuple[bool, float, int]:
        claim = peers[place]
        count = given[claim.name]
        part = 0.5 - owed.get(claim.name, 0.0) - (STICK if count < len(claim.held) else 0.0)
        return count > 0, (sizes[claim.name] + size_of(claim.bundles[count], total) * part) / claim.weight, place

    turns = [turn(place) for place, claim in enumerate(peers) if claim.bundles]
    heapq.heapify(turns)
    while turns:
        place = heapq.heappop(turns)[-1]
        claim = peers[place]
        bundle = claim.bundles[given[claim.name]]
        if not fits(bundle, free):
            continue
        free = (free[0] - bundle[0], free[1] - bundle[1])
        sizes[claim.name] += size_of(bundle, total)
        given[claim.name] += 1
        if given[claim.name] < len(claim.bundles):
            heapq.heappush(turns, turn(place))
    return free


def ideal(weights: Sequence[float], most: Sequence[float], whole: float) -> list[float]:
    """Weighted max-min shares of a whole that can be divided at will, where nobody gets more than their most."""
    shares = [0.0] * len(weights)
    open_ = [index for index, limit in enumerate(most) if limit > 0]
    while open_ and whole > EPSILON:
        each = whole / sum(weights[index] for index in open_)
        full = [index for index in open_ if most[index] <= weights[index] * each + EPSILON]
        for index in full or open_:
            shares[index] = most[index] if full else weights[index] * each
            whole -= shares[index]
        open_ = [index for index in open_ if index not in full] if full else []
    return shares


@dataclass
class Entry:
    """What the ledger knows of one sweep.

    Attributes:
        seen_s: when it spoke last.
        told: places up to which it was told that it may start trials, which it may have done since.
        over_s: since when it has more than it should; None where it has not.
        owed: see `allocate`.
    """

    claim: Claim
    seen_s: float
    told: int = 0
    over_s: float | None = None
    owed: float = 0.0

    @property
    def committed(self) -> int:
        """Places that it has, or may have by now."""
        return max(len(self.claim.held), self.told)


@dataclass(frozen=True)
class _View:
    """One moment of the ledger: targets, and what is held by nobody."""

    targets: dict[str, int]
    free: Bundle
    total: Bundle


class Ledger:
    """The claims of all sweeps on a cluster, and what follows from them.

    It keeps nothing that a sweep does not tell it again with each beat, but what is owed: one that is lost is replaced by an empty
    one. A place is given away only when it is free, so that trials do not queue in Ray, where they would start out of turn.

    Args:
        total: CPUs and GPUs of the cluster now.
        clock: seconds that only go forward.
    """

    def __init__(self, total: Callable[[], Bundle], clock: Callable[[], float] = time.monotonic) -> None:
        self._total, self._clock = total, clock
        self._entries: dict[str, Entry] = {}
        self._wary_until = self._settled = clock()

    def beat(self, claim: Claim, known: bool = False) -> Answer:
        """Takes a sweep's claim in place of its last one.

        Args:
            known: whether this sweep has had an answer before, from this ledger or one that was lost.
        """
        now, total = self._clock(), self._total()
        self._settle(now, total)
        entry = self._entries.get(claim.name)
        if entry is None:
            entry = self._entries[claim.name] = Entry(claim, now)
            if known and len(self._entries) == 1:
                self._wary_until = now + WARY_S
        entry.claim, entry.seen_s, entry.told = claim, now, 0
        places = self._fit_alone(claim, total)
        others = [each.claim for each in self._entries.values() if each is not entry]
        if now < self._wary_until:
            return Answer(len(claim.held), None, places, len(others))
        if not others:
            entry.told, entry.over_s, entry.owed = len(claim.bundles), None, 0.0
            return Answer(None, None, places)
        view = self._view(total)
        keep = self._keep(entry, view, now)
        entry.told = self._start(entry, view)
        equals = sum(each.weight for each in others if each.priority == claim.priority)
        above = sum(each.priority > claim.priority for each in others)
        return Answer(entry.told, keep, places, len(others), equals, above)

    def leave(self, name: str) -> int:
        """Drops a sweep's claim; how many are left."""
        self._settle(self._clock(), self._total())
        self._entries.pop(name, None)
        return len(self._entries)

    def claims(self) -> list[Claim]:
        """All that hold now."""
        self._settle(self._clock(), self._total())
        return [entry.claim for entry in self._entries.values()]

    def _settle(self, now: float, total: Bundle) -> None:
        """Drops claims that have run out, and counts what is owed since the last call."""
        self._entries = {name: entry for name, entry in self._entries.items() if now - entry.seen_s <= LEASE_S}
        passed = now - self._settled
        if passed < SETTLE_S:
            return
        self._settled = now
        targets = self._targets(total)
        for priority in {entry.claim.priority for entry in self._entries.values()}:
            peers = [entry for entry in self._entries.values() if entry.claim.priority == priority]
            sizes = [[size_of(bundle, total) for bundle in peer.claim.bundles] for peer in peers]
            whole = sum(sum(own[: targets[peer.claim.name]]) for peer, own in zip(peers, sizes, strict=True))
            fair = ideal([peer.claim.weight for peer in peers], [sum(own) for own in sizes], whole)
            for peer, own, share in zip(peers, sizes, fair, strict=True):
                if own:
                    lacks = (share - sum(own[: len(peer.claim.held)])) / (sum(own) / len(own))
                    peer.owed = max(-MOST_OWED, min(MOST_OWED, peer.owed + lacks * passed / TURN_S))

    def _targets(self, total: Bundle) -> dict[str, int]:
        owed = {name: entry.owed for name, entry in self._entries.items()}
        return allocate([entry.claim for entry in self._entries.values()], total, owed)

    def _view(self, total: Bundle) -> _View:
        free = total
        for entry in self._entries.values():
            free = less(free, entry.claim.bundles[: entry.committed])
        return _View(self._targets(total), free, total)

    def _start(self, wanted: Entry, view: _View) -> int:
        """Places up to which a sweep may start trials now: free ones go to the higher priority, then to who has least of its due."""
        free = view.free

        def due(entry: Entry) -> tuple[int, float]:
            return -entry.claim.priority, entry.committed / max(1, view.targets[entry.claim.name])

        for entry in sorted(self._entries.values(), key=due):
            count = entry.committed
            while count < view.targets[entry.claim.name] and fits(entry.claim.bundles[count], free):
                free = less(free, [entry.claim.bundles[count]])
                count += 1
            if entry is wanted:
                break
        return min(count, view.targets[wanted.claim.name])  # what ends of what it has too much is not replaced

    def _keep(self, wanted: Entry, view: _View, now: float) -> int | None:
        """Places that a sweep may go on with: it yields what others lack, the lowest priority first."""
        for entry in self._entries.values():
            over = len(entry.claim.held) > view.targets[entry.claim.name]
            entry.over_s = None if not over else now if entry.over_s is None else entry.over_s
        short = {entry.claim.name: self._lacking(entry, view) for entry in self._entries.values()}
        need = [0.0, 0.0]
        for bundles in short.values():
            need = [need[0] + sum(cpu for cpu, _ in bundles), need[1] + sum(gpu for _, gpu in bundles)]
        need = [amount - room for amount, room in zip(need, view.free, strict=True)]
        waiting = [entry.claim.priority for entry in self._entries.values() if short[entry.claim.name]]

        def rank(entry: Entry) -> tuple[int, float]:
            excess = len(entry.claim.held) - view.targets[entry.claim.name]
            return entry.claim.priority, -excess / entry.claim.weight

        for entry in sorted((each for each in self._entries.values() if each.over_s is not None), key=rank):
            held, target = entry.claim.held, view.targets[entry.claim.name]
            keep = len(held)
            while keep > target and any(
                lacks > EPSILON and part > 0 for lacks, part in zip(need, held[keep - 1], strict=True)
            ):
                keep -= 1
                need = [lacks - part for lacks, part in zip(need, held[keep], strict=True)]
            if entry is wanted:
                assert entry.over_s is not None
                urgent = any(priority > entry.claim.priority for priority in waiting)
                patient = not urgent and now - entry.over_s < PATIENCE_S
                return None if patient or keep == len(held) else keep
        return None

    @staticmethod
    def _lacking(entry: Entry, view: _View) -> tuple[Bundle, ...]:
        return entry.claim.bundles[entry.committed : view.targets[entry.claim.name]]

    @staticmethod
    def _fit_alone(claim: Claim, total: Bundle) -> int:
        """How many places like its largest one the whole cluster has."""
        if not claim.bundles:
            return 0
        largest = max(claim.bundles, key=lambda bundle: size_of(bundle, total))
        return int(1 / size_of(largest, total) + EPSILON)
