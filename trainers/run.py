"""One trial from claim to seal, in this process: what a worker of a cluster does, and `python -m trainers run` alone."""

from __future__ import annotations

import errno
import logging
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from contextvars import ContextVar
from pathlib import Path

from trainers.attempts import LEASE_S, Attempt, Busy, claim, heal
from trainers.config import Execution, Trial
from trainers.errors import Fenced
from trainers.feed import Common
from trainers.train import Epoch, Row, Step, result_of, rows_in, train_steps

logger = logging.getLogger(__name__)

MACHINE_FAULTS = (MemoryError,)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
_LOG: ContextVar[Path | None] = ContextVar("log", default=None)
"""Attempt whose turn it is, where several take turns in one process."""


def run_trial(
    trial: Trial,
    state_root: Path,
    data_root: Path,
    *,
    device: str = "cpu",
    execution: Execution | None = None,
    lease_s: float = LEASE_S,
) -> Iterator[Epoch]:
    """Claims the trial, yields its epochs as they become safe, and seals it as done or failed.

    A caller that stops early (closing the iterator) leaves the trial partial and free for anybody to continue.

    Raises:
        Busy: somebody else has it.
        Fenced: somebody has taken the trial over meanwhile.
        Exception: any other is the fault of the trial, raised after the trial was sealed as failed; or of the machine, where
            memory or disk ran out, raised after that was noted beside the journal, and the trial stays free to be continued.
    """
    events = run_steps(trial, state_root, data_root, device=device, execution=execution, lease_s=lease_s)
    with closing(events):
        for event in events:
            if isinstance(event, Epoch):
                yield event


def run_steps(
    trial: Trial,
    state_root: Path,
    data_root: Path,
    *,
    device: str,
    execution: Execution | None,
    lease_s: float,
    common: Common | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Generator[Step | Epoch, None, None]:
    """`run_trial` with a stop before every update of a trial that may share its teacher's answers: see `train_steps`."""
    with claim(trial, state_root, execution or Execution(), lease_s=lease_s) as attempt:
        first = attempt.execution if common is None else common.once("execution", lambda: attempt.execution)
        if first != attempt.execution:
            raise Busy(f"its first claim fixed {_others(attempt.execution, first)}")
        handler = _log_to(attempt)
        try:
            rows = yield from _epochs(attempt, trial, state_root, data_root, device, common, clock)
        except Fenced:
            raise
        except MACHINE_FAULTS as error:
            attempt.note_machine_fault(f"out of memory: {error}", "memory")
            raise
        except Exception as error:  # also a fault in a user's method: without a seal it would be claimed again for ever
            if _out_of_device_memory(error):
                attempt.note_machine_fault(str(error).splitlines()[0], "device_memory")
                raise
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                attempt.note_machine_fault(str(error), "disk")
                raise
            logger.error("trial %s failed: %s", trial.digest()[:12], error)
            attempt.fail(str(error), type(error).__name__, traceback.format_exc(limit=20))
            raise
        else:  # a fault while sealing or publishing is no failed trial: the next claim goes on from here
            attempt.finish(result_of(trial, rows), len(rows))
        finally:
            logging.getLogger("trainers").removeHandler(handler)
            handler.close()


def _epochs(
    attempt: Attempt,
    trial: Trial,
    state_root: Path,
    data_root: Path,
    device: str,
    common: Common | None,
    clock: Callable[[], float],
) -> Generator[Step | Epoch, None, list[Row]]:
    name, threads = trial.digest()[:12], attempt.execution.threads
    logger.info(
        "trial=%s attempt=%d continues_after=%d threads=%d", name, attempt.number, attempt.resumed_epochs, threads
    )
    for upstream in trial.upstreams():
        heal(state_root, upstream.digest())
    rows: list[Row] = []
    if attempt.resumed_epochs:
        rows = rows_in(attempt.folder / "checkpoint.pt")
    events = train_steps(
        trial,
        state_root,
        attempt.folder,
        data_root=data_root,
        device=device,
        execution=attempt.execution,
        common=common,
        clock=clock,
    )
    with closing(events):
        for event in events:
            if isinstance(event, Epoch):
                attempt.append(event.number, event.row)
                rows.append(event.row)
                logger.info("epoch=%d %s", event.number, _shown(event.row))
            yield event
            _LOG.set(attempt.folder)
            if isinstance(event, Epoch):
                attempt.require_ownership()  # a pruner may have cut it meanwhile: the next epoch is not for it
    return rows


def _others(own: Execution, groups: Execution) -> str:
    """In what a trial is computed otherwise than its group, as `threads 2, its group has 1`."""
    mine, theirs = own.model_dump(), groups.model_dump()
    return ", ".join(
        f"{name} {mine[name]}, its group has {theirs[name]}" for name in mine if mine[name] != theirs[name]
    )


def _shown(row: Row) -> str:
    names = ("test/acc1_pct", "train/loss", "train/lr")
    return " ".join(f"{name}={row[name]:.4g}" for name in names if name in row)


def _log_to(attempt: Attempt) -> logging.Handler:
    handler = logging.FileHandler(attempt.folder / "log.txt")
    _LOG.set(attempt.folder)
    handler.addFilter(lambda record: _LOG.get() in (attempt.folder, None))
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    package = logging.getLogger("trainers")
    package.setLevel(min(package.level or logging.INFO, logging.INFO))
    package.addHandler(handler)
    return handler


def _out_of_device_memory(error: Exception) -> bool:
    return type(error).__name__ == "OutOfMemoryError"
