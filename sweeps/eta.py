"""How long a launch still takes: what an epoch of each kind of trial takes is learned as epochs end, and the rest is laid out."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

ALIKE = 8.0
"""Weight of an observed kind for another one that shares its method or its networks, relative to one that shares nothing."""
RECENT = 6
"""Epochs of a running trial that tell how fast the machine is now."""
NOW = 0.5
"""How far the pace of now holds for what is to come: 0 not at all, 1 to the end."""
PRICE_WEIGHT = 0.5
"""How many kinds that share nothing the price weighs, which says that they run as priced."""


@dataclass(frozen=True)
class Work:
    """One trial as the estimate sees it.

    Attributes:
        kind: trials of one kind take the same time, but for luck.
        traits: what makes kinds alike: method, networks, where the price comes from.
        epochs: of the whole trial.
        price_s: seconds of the whole trial as priced before it ran; None where there is no price.
        after: trials that must be done before, by name.
    """

    kind: str
    traits: tuple[str, ...]
    epochs: int
    price_s: float | None
    after: tuple[str, ...] = ()


@dataclass
class Track:
    """What a launch has seen of one trial. Times are seconds of one clock.

    A place that several trials share is counted to each in equal parts: what an epoch takes of it is the time on the clock over
    their number.

    Attributes:
        before: epochs that an earlier launch finished.
        began_s: when it was started here; None before that.
        epochs: epochs that ended here.
        first_s, last_s: when the first and the last of them did.
        first_took_s: what the first took of the place by its own clock, without the start of its worker; None where that is not known.
        taken_s: what those after the first took of the place.
        recent_s: `taken_s` at the end of each of the last `RECENT`.
        ended_s: when the trial was over; None while it is not.
        place: what trials that share a place have in common; None for one that has its own.
        sharing: trials in its place.
    """

    work: Work
    before: int = 0
    began_s: float | None = None
    epochs: int = 0
    first_s: float = 0.0
    last_s: float = 0.0
    first_took_s: float | None = None
    taken_s: float = 0.0
    recent_s: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    ended_s: float | None = None
    place: Hashable = None
    sharing: int = 1

    def add(self, epochs: int, at_s: float) -> None:
        """Notes that `epochs` have ended here by now, the last of them at `at_s`."""
        if epochs > self.epochs:
            if self.epochs == 0:
                self.first_s = at_s
            else:
                self.taken_s += (at_s - self.last_s) / self.sharing
            self.epochs, self.last_s = epochs, at_s
            self.recent_s.append(self.taken_s)


@dataclass
class Pace:
    """Seconds of an epoch by kind, and of a trial beside its epochs, as far as a launch has shown them.

    Attributes:
        epoch_s: kind -> mean over its epochs, the first of each trial left out where there are more.
        start_s: median over finished trials of their time beside their epochs.
        lengths: kind -> epochs of a finished trial, first stages included.
    """

    epoch_s: dict[str, float] = field(default_factory=dict)
    start_s: float = 0.0
    lengths: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, tracks: Iterable[Track]) -> Pace:
        """From all trials of a launch, running ones included."""
        pace, known = cls(), [track for track in tracks if track.began_s is not None]
        sums: dict[str, tuple[float, int]] = {}
        single: dict[str, list[float]] = {}
        for track in known:
            seconds, count = sums.get(track.work.kind, (0.0, 0))
            if track.epochs > 1:
                sums[track.work.kind] = (seconds + track.taken_s, count + track.epochs - 1)
            elif track.epochs == 1 and track.began_s is not None:
                took = (track.first_s - track.began_s) / track.sharing
                first = took if track.first_took_s is None else min(took, track.first_took_s)
                single.setdefault(track.work.kind, []).append(first)
            if track.ended_s is not None and track.epochs:
                pace.lengths[track.work.kind] = track.before + track.epochs
        pace.epoch_s = {kind: min(times) for kind, times in single.items()}
        pace.epoch_s |= {kind: seconds / count for kind, (seconds, count) in sums.items()}
        beside = [
            (track.ended_s - track.began_s) / track.sharing - track.epochs * pace.epoch_s[track.work.kind]
            for track in known
            if track.ended_s is not None and track.began_s is not None and track.epochs
        ]
        pace.start_s = max(0.0, median(beside)) if beside else 0.0
        return pace


class Estimate:
    """Times of trials to come: as their kind has shown, else the price times what alike kinds took of theirs.

    For a kind k that has not run yet, with price p_k for an epoch, and kinds j that have, with e_j seconds an epoch:

        e_k = p_k exp( sum_j w_jk log(e_j / p_j) / (w_0 + sum_j w_jk) ),    w_jk = ALIKE ^ (number of traits they share)
    """

    def __init__(self, tracks: Sequence[Track]) -> None:
        self.pace = Pace.of(tracks)
        self._told: list[tuple[tuple[str, ...], float]] = []
        self._guessed: dict[str, float | None] = {}
        now, usual = 0.0, 0.0
        for track in tracks:
            if track.began_s is not None and track.ended_s is None and len(track.recent_s) > 1:
                now += track.recent_s[-1] - track.recent_s[0]
                usual += (len(track.recent_s) - 1) * self.pace.epoch_s[track.work.kind]
        self.load = (now / usual) ** NOW if now and usual else 1.0
        for work in {track.work.kind: track.work for track in tracks}.values():
            seconds, price = self.pace.epoch_s.get(work.kind), _epoch_price(work)
            if seconds and price:
                self._told.append((work.traits, math.log(seconds / price)))

    def trial_s(self, work: Work, done: int = 0) -> float | None:
        """Seconds of a trial's epochs after the first `done`, its start included; None where nothing tells."""
        epoch = self.pace.epoch_s.get(work.kind)
        if epoch is None:
            epoch = self._guess(work)
        if epoch is None:
            return None
        left = max(0, self.pace.lengths.get(work.kind, work.epochs) - done)
        return self.load * (left * epoch + self.pace.start_s)

    def _guess(self, work: Work) -> float | None:
        if work.kind not in self._guessed:
            price = _epoch_price(work)
            if price is not None:
                weights = [ALIKE ** len(set(traits) & set(work.traits)) for traits, _ in self._told]
                told = sum(weight * log for weight, (_, log) in zip(weights, self._told, strict=True))
                price *= math.exp(told / (PRICE_WEIGHT + sum(weights)))
            self._guessed[work.kind] = price
        return self._guessed[work.kind]


def _epoch_price(work: Work) -> float | None:
    return None if work.price_s is None else work.price_s / max(1, work.epochs)


def left_s(tracks: Mapping[str, Track], at_once: int, now_s: float, *, to_come: int = 0) -> float | None:
    """Seconds until the last trial is over, when trials start in order as soon as there is a place and their upstream is done.

    Args:
        tracks: by name, in the order of starting; those that are over, or will never run, have `ended_s`.
        at_once: places; trials that are still to start are laid out one by one, at what each takes of a place.
        to_come: trials that a search has yet to suggest; each is taken to cost what the others cost on average.

    Returns:
        None before there is anything to go by.
    """
    estimate = Estimate(list(tracks.values()))
    times = {name: estimate.trial_s(track.work, track.before + track.epochs) for name, track in tracks.items()}
    known = [seconds for seconds in times.values() if seconds is not None]
    if not estimate.pace.epoch_s or not known:
        return None
    usual = sum(known) / len(known)
    taken: dict[Hashable, float] = {}
    for name, track in tracks.items():
        if track.began_s is not None and track.ended_s is None:
            seconds, place = times[name], track.place or name
            since = (now_s - (track.last_s if track.epochs else track.began_s)) / track.sharing
            taken[place] = taken.get(place, 0.0) + max(0.0, (usual if seconds is None else seconds) - since)
    over = {  # those in one place go on side by side, and end about when it is free
        name: 0.0 if track.ended_s is not None else taken[track.place or name]
        for name, track in tracks.items()
        if track.ended_s is not None or track.began_s is not None
    }
    free = [*taken.values(), *[0.0] * max(0, at_once - len(taken))]
    heapq.heapify(free)
    waiting = [name for name in tracks if name not in over]
    for name in waiting:
        seconds = times[name]
        ready = max((over.get(up, 0.0) for up in tracks[name].work.after), default=0.0)
        over[name] = max(ready, heapq.heappop(free)) + (usual if seconds is None else seconds)
        heapq.heappush(free, over[name])
    for _ in range(to_come):
        heapq.heappush(free, heapq.heappop(free) + usual)
    return max(free)
