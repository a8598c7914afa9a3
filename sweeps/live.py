"""Progress of a launch, read from the trial directories by a thread of its own: a live table, or plain lines when piped."""

from __future__ import annotations

import logging
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sweeps.queue import Queue
from trainers import attempts
from trainers.attempts import State

logger = logging.getLogger(__name__)

PERIOD_S = 1.0


@dataclass
class Seen:
    """What is known of one trial.

    Attributes:
        epochs: finished ones.
        total: epochs of its protocol.
        acc1: newest test Acc@1 in percent, None before the first epoch.
    """

    name: str
    total: int
    state: State = State.NEW
    epochs: int = 0
    acc1: float | None = None
    first: int = 0
    started_at: float = 0.0


class Watch:
    """Follows a queue's trials while the launch runs.

    Args:
        at_once: how many trials run at a time, for the estimate of the end.
    """

    def __init__(self, queue: Queue, state_root: Path, at_once: int) -> None:
        self.queue, self.state_root, self.at_once = queue, state_root, at_once
        self.console = Console(file=sys.stdout)
        self.seen: dict[str, Seen] = {}
        self.expected = queue.expected()
        self.began = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)

    def __enter__(self) -> Watch:
        self._update(announce=False)
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        if self.console.is_terminal:
            with Live(self._table(), console=self.console, refresh_per_second=2, transient=True) as live:
                while not self._stop.wait(PERIOD_S):
                    self._update(announce=False)
                    live.update(self._table())
            return
        while not self._stop.wait(PERIOD_S):
            self._update(announce=True)
        self._update(announce=True)

    def _update(self, *, announce: bool) -> None:
        self.expected = self.queue.expected()
        for digest, trial in list(self.queue.trials.items()):
            total = 1 if trial.kind == "evaluate" else trial.protocol.epochs
            entry = self.seen.setdefault(digest, Seen(self.queue.names[digest], total))
            if entry.state in (State.DONE, State.FAILED, State.STOPPED) and digest not in self.queue.running:
                continue
            try:
                status = attempts.read_status(self.state_root, digest)
                rows = attempts.rows(status)
            except (OSError, ValueError):  # being written this moment; the next look will see it whole
                continue
            before = entry.state
            if entry.started_at == 0.0 and digest in self.queue.running:
                entry.started_at, entry.first = time.monotonic(), len(rows)
            entry.state, entry.epochs = status.state, len(rows)
            entry.acc1 = rows[-1].get("test/acc1_pct") if rows else None
            if announce and before is not status.state and entry.started_at:
                self._say(entry)

    def _say(self, entry: Seen) -> None:
        accuracy = "" if entry.acc1 is None else f" test Acc@1 {entry.acc1:.2f} %"
        word = {State.PARTIAL: "started", State.DONE: "done", State.FAILED: "FAILED", State.STOPPED: "stopped"}.get(
            entry.state, entry.state.value
        )
        done = sum(each.state is State.DONE for each in self.seen.values())
        sys.stdout.write(f"[{done}/{self.expected}] {word}: {entry.name}{accuracy}{self._eta_text()}\n")
        sys.stdout.flush()

    def eta_s(self) -> float | None:
        """Seconds to the end, from the pace of this launch; None before the first epoch."""
        ran = [
            (e.epochs - e.first, time.monotonic() - e.started_at)
            for e in self.seen.values()
            if e.started_at and e.epochs > e.first
        ]
        epochs = sum(n for n, _ in ran)
        if not epochs:
            return None
        elapsed = time.monotonic() - min(e.started_at for e in self.seen.values() if e.started_at)
        left = sum(max(e.total - e.epochs, 0) for e in self.seen.values() if e.state in (State.NEW, State.PARTIAL))
        left += (self.expected - len(self.seen)) * max((e.total for e in self.seen.values()), default=0)
        return left * elapsed / epochs

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
                    entry.name, f"{entry.epochs}/{entry.total}", "" if entry.acc1 is None else f"{entry.acc1:.2f}"
                )
        return Group(head, table)


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
