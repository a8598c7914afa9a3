"""Progress of a launch, read from the trial directories by a thread of its own: a live table, or plain lines when piped."""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sweeps import prices
from sweeps.eta import Track, Work, left_s
from sweeps.queue import Queue
from trainers import attempts
from trainers.attempts import State
from trainers.config import Trial

if TYPE_CHECKING:
    from sweeps.broker import Share

logger = logging.getLogger(__name__)

PERIOD_S = 1.0
ENDED = (State.DONE, State.FAILED, State.STOPPED)
WORDS = {State.PARTIAL: "started", State.DONE: "done", State.FAILED: "FAILED", State.STOPPED: "stopped"}
NAME_LENGTH = 60
"""Of a trial in a log; a terminal shows what fits."""
STARTS_TOLD = 100
"""A log says when a trial starts only in launches of up to so many trials, and so stays under 100 kB for 500."""
MOST_LINES = 3
"""Trials of one look that a log has a line for; of more it only has the number."""


@dataclass(eq=False)
class Seen:
    """What is known of one trial.

    Attributes:
        acc1: newest test Acc@1 in percent, None before the first epoch.
        track: its epochs in this launch, for the estimate of the end.
    """

    name: str
    track: Track
    state: State = State.NEW
    acc1: float | None = None

    @property
    def epochs(self) -> int:
        """Finished ones, earlier launches' included."""
        return self.track.before + self.track.epochs

    @property
    def short(self) -> str:
        return self.name if len(self.name) <= NAME_LENGTH else f"{self.name[: NAME_LENGTH - 1]}…"


class Watch:
    """Follows a queue's trials while the launch runs.

    Args:
        at_once: how many trials run at a time, for the estimate of the end.
        share: part of a cluster that others may use.
    """

    def __init__(
        self, queue: Queue, state_root: Path, data_root: Path, at_once: int, share: Share | None = None
    ) -> None:
        self.queue, self.state_root, self.at_once, self.share = queue, state_root, at_once, share
        self._told = ""
        self.console = Console(file=sys.stdout)
        self.seen: dict[str, Seen] = {}
        self.expected = queue.expected()
        self.began = time.monotonic()
        self._wall = time.time() - self.began  # journals have the time of day
        self._price = prices.expectations(state_root, data_root)
        self._running: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)

    def __enter__(self) -> Watch:
        self.update()
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        if self.console.is_terminal:
            with Live(self._table(), console=self.console, refresh_per_second=2, transient=True) as live:
                while not self._stop.wait(PERIOD_S):
                    self.update()
                    live.update(self._table())
            return
        while not self._stop.wait(PERIOD_S):
            self._say(self.update())
        self._say(self.update())

    def update(self) -> list[Seen]:
        """Looks at the trials that may have moved since the last look; returns those that are in another state now."""
        self.expected = self.queue.expected()
        running, waiting = set(self.queue.running), set(self.queue.waiting)
        changed = []
        for digest in list(self.queue.trials):
            entry, before = self.seen.get(digest), State.NEW
            if entry is None:
                entry = self._meet(digest)
            elif (
                digest in running or digest in self._running or (entry.track.ended_s is None and digest not in waiting)
            ):
                before = entry.state
                self._look(digest, entry, digest in running)
            else:
                continue
            if before is not entry.state:
                changed.append(entry)
        self._running = running
        return changed

    def _meet(self, digest: str) -> Seen:
        """Takes in a trial as it stands; what is running is of this launch."""
        trial = self.queue.trials[digest]
        key, source, seconds = self._price(trial, self.queue.resources(digest))
        epochs = 1 if trial.kind == "evaluate" else trial.protocol.epochs
        upstream = tuple(up.digest() for up in trial.upstreams())
        work = Work(key, traits(trial, source or ""), epochs, None if source is None else seconds, upstream)
        entry = self.seen[digest] = Seen(self.queue.names[digest], Track(work))
        try:
            status = attempts.read_status(self.state_root, digest)
            rows = attempts.rows(status)
        except (OSError, ValueError):  # being written this moment; the next look will see it whole
            return entry
        entry.state, entry.acc1 = status.state, rows[-1].get("test/acc1_pct") if rows else None
        if digest in self.queue.running:
            entry.track.before = int(status.entry.get("accepted_epochs", 0))
        else:
            entry.track.before = 0 if status.state is State.FAILED else len(rows)  # a failed one starts over
            entry.track.ended_s = None if digest in self.queue.waiting else self.began
        return entry

    def _look(self, digest: str, entry: Seen, running: bool) -> None:
        track, now = entry.track, time.monotonic()
        if running:
            group = self.queue.groups[digest]
            track.place, track.sharing = group, len(group)
            track.began_s = now if track.began_s is None else track.began_s
        try:
            status = attempts.read_status(self.state_root, digest)
            rows = attempts.rows(status)
        except (OSError, ValueError):  # being written this moment; the next look will see it whole
            return
        for number, row in enumerate(rows[track.before + track.epochs :], start=track.epochs + 1):
            at = min(now, float(row["timestamp_ms"]) / 1000 - self._wall)
            if track.began_s is None or at < track.began_s:  # it was quicker than a look
                track.began_s = max(self.began, at - float(row.get("time/total_s", 0.0)))
            if track.first_took_s is None:
                earlier = float(rows[track.before - 1].get("time/total_s", 0.0)) if track.before else 0.0
                track.first_took_s = max(0.0, float(row.get("time/total_s", math.inf)) - earlier)
            track.add(number, at)
        entry.state = status.state
        entry.acc1 = rows[-1].get("test/acc1_pct") if rows else None
        over = status.state in ENDED or digest in self.queue.failed
        track.ended_s = now if over and not running and digest not in self.queue.waiting else None
        if not running and digest in self.queue.waiting:  # it yielded, or its worker died
            entry.track = Track(track.work, before=len(rows))

    def _say(self, changed: list[Seen]) -> None:
        """Lines of a log: each trial that ended, and where there are few, each that started."""
        told = [e for e in changed if e.state is not State.PARTIAL or self.expected <= STARTS_TOLD]
        quiet = [e for e in told if e.state is State.DONE] if len(told) > MOST_LINES else []
        done = sum(each.state is State.DONE for each in self.seen.values()) - sum(e.state is State.DONE for e in told)
        eta = self._eta_text() if told else ""
        for entry in [each for each in told if each not in quiet]:
            done += entry.state is State.DONE
            accuracy = "" if entry.acc1 is None else f" test Acc@1 {entry.acc1:.2f} %"
            word = WORDS.get(entry.state, entry.state.value)
            sys.stdout.write(f"[{done}/{self.expected}] {word}: {entry.short}{accuracy}{eta}\n")
        if quiet:
            done += len(quiet)
            sys.stdout.write(f"[{done}/{self.expected}] done: {len(quiet)} trials, the last {quiet[-1].short}{eta}\n")
        note = "" if self.share is None else self.share.note()
        if note != self._told:
            sys.stdout.write(f"cluster: {note or 'this sweep alone'}\n")
            self._told = note
        sys.stdout.flush()

    def eta_s(self) -> float | None:
        """Seconds to the end; None before the first epoch."""
        tracks = {digest: entry.track for digest, entry in self.seen.items()}
        at_once = self.at_once if self.share is None else self.share.places
        return left_s(tracks, at_once, time.monotonic(), to_come=max(0, self.expected - len(tracks)))

    def _eta_text(self) -> str:
        eta = self.eta_s()
        return "" if not eta else f" (about {_span(eta)} left)"

    def _table(self) -> Group:
        states = [entry.state for entry in self.seen.values()]
        best = max(
            (e.acc1 for e in self.seen.values() if e.acc1 is not None and not e.name.startswith("teacher")),
            default=None,
        )
        eta = self.eta_s()
        head = Text(
            f"{sum(s is State.DONE for s in states)}/{self.expected} done"
            + (f", {sum(s is State.FAILED for s in states)} failed" if State.FAILED in states else "")
            + (f" | best Acc@1 so far {best:.2f} %" if best is not None else "")
            + f" | {_span(time.monotonic() - self.began)} elapsed"
            + (f" | about {_span(eta)} left" if eta else ""),
            overflow="ellipsis",
            no_wrap=True,
        )
        table = Table(box=None, pad_edge=False, show_edge=False)
        table.add_column("running", overflow="ellipsis", no_wrap=True, ratio=1)
        table.add_column("epoch", justify="right", no_wrap=True)
        table.add_column("Acc@1 %", justify="right", no_wrap=True)
        for digest in sorted(self.queue.running, key=lambda d: self.queue.names[d]):
            entry = self.seen.get(digest)
            if entry is not None:
                table.add_row(
                    entry.name,
                    f"{entry.epochs}/{max(entry.epochs, entry.track.work.epochs)}",
                    "" if entry.acc1 is None else f"{entry.acc1:.2f}",
                )
        note = "" if self.share is None else self.share.note()
        shared = [] if self.share is None or not note else [Text(f"{self.share.held()}, {note}", no_wrap=True)]
        return Group(head, *shared, table)


def traits(trial: Trial, source: str) -> tuple[str, ...]:
    """What makes the times of two trials alike: the method, the networks, and where their prices come from."""
    teacher = "" if trial.teacher is None else trial.teacher.network
    return (f"method {trial.method}", f"networks {teacher} {trial.student}", f"price {source}")


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
