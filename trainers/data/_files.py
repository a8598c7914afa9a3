"""Files that several processes may want to make at once."""

from __future__ import annotations

import fcntl
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

log = logging.getLogger(__name__)


@contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Hold the lock file `lock`; a second process waits. The system lets go of it when the holder dies.

    Raises:
        OSError: the file cannot be made.
    """
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("waiting=%s reason='another process prepares the same data'", lock)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file releases the lock


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then put it in place, so that no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        os.chmod(name, 0o644)  # mkstemp makes it private; the data root is shared
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
