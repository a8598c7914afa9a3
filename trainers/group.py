"""Several trials in lockstep in one process: one teacher pass per batch for all of them, everything else each its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from trainers import feed
from trainers.attempts import LEASE_S
from trainers.config import Execution, Trial
from trainers.errors import ConfigError
from trainers.feed import Common
from trainers.run import run_steps
from trainers.train import Epoch, Step

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ended:
    """A trial of the group is over: sealed as done when `error` is None, else what `run_trial` would have raised."""

    error: Exception | None


class Stopwatch:
    """Seconds that a trial had the process to itself; what it waits for others does not count."""

    def __init__(self) -> None:
        self._before, self._since = 0.0, time.perf_counter()
        self._running = False

    def __call__(self) -> float:
        return self._before + (time.perf_counter() - self._since if self._running else 0.0)

    def __enter__(self) -> Stopwatch:
        self._since, self._running = time.perf_counter(), True
        return self

    def __exit__(self, *_: object) -> None:
        self._before, self._running = self(), False


class Member:
    """One trial of the group, standing before its next update."""

    def __init__(self, index: int, start: Callable[[Stopwatch], Iterator[Step | Epoch]]) -> None:
        self.index = index
        self.position = (-1, -1)
        self.clock = Stopwatch()
        self.events = start(self.clock)

    def turn(self, members: int) -> int:
        """Place among those that stand at the same update."""
        return (self.index + max(0, self.position[1])) % members

    def advance(self) -> Epoch | Ended | None:
        """Goes on to the next stop; None where that is only another update."""
        try:
            with self.clock:
                event = next(self.events)
        except StopIteration:
            return Ended(None)
        except Exception as error:  # whatever ends one trial leaves the others as they are
            return Ended(error)
        if isinstance(event, Epoch):
            self.position = (event.number + 1, -1)
            return event
        self.position = event
        return None


def run_group(
    trials: Sequence[Trial],
    state_root: Path,
    data_root: Path,
    *,
    device: str = "cpu",
    execution: Execution | None = None,
    lease_s: float = LEASE_S,
) -> Iterator[tuple[int, Epoch | Ended]]:
    """`run_trial` for several trials that see the same batches and the same teacher, or for any one.

    Each claims, trains, checkpoints and seals as if it were alone, and ends up with the same bits. The one that is furthest
    behind always makes the next update, so that a continued trial waits until the others have come to where it stands. Of
    those that stand together another one comes first in each update, so that each makes its share of the teacher's passes.

    Yields:
        Index of a trial with an epoch that is safe on disk, or with its end, of which each has one. One whose first claim fixed
        another `Execution` ends as busy.

    Raises:
        ConfigError: the trials do not share a teacher's answers.
    """
    if len(trials) > 1:
        require_common(trials)
    common = Common(len(trials))

    def starter(trial: Trial) -> Callable[[Stopwatch], Iterator[Step | Epoch]]:
        return lambda clock: run_steps(
            trial,
            state_root,
            data_root,
            device=device,
            execution=execution,
            lease_s=lease_s,
            common=common,
            clock=clock,
        )

    members = [Member(index, starter(trial)) for index, trial in enumerate(trials)]
    with ExitStack() as stack:
        for member in members:
            stack.enter_context(closing(member.events))  # type: ignore[type-var]
        while members:
            behind = min(members, key=lambda member: (member.position, member.turn(len(trials))))
            event = behind.advance()
            if isinstance(event, Ended):
                members.remove(behind)
            if event is not None:
                yield behind.index, event


def require_common(trials: Sequence[Trial]) -> None:
    """Refuses a group whose trials would not see the same.

    Raises:
        ConfigError: one message for each trial that differs from the first or shares with nobody.
    """
    keys = [feed.key(trial) for trial in trials]
    faults = [
        f"trial {trial.digest()[:12]} ({trial.method}) has another teacher, data set, seed, batch or views than the group's first"
        for trial, key in zip(trials, keys, strict=True)
        if key is None or key != keys[0]
    ]
    if faults:
        raise ConfigError(*faults)
