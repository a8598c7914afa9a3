"""What was read of a store, in a file beside it: finished runs for good, all else while the store's file stays as it is."""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

SCHEMA = 3
TABLES = (
    "create table if not exists rows (kind text, key text, row text, primary key (kind, key))",
    "create table if not exists passing (kind text, key text, mark text, row text, primary key (kind, key))",
)
KEPT = ("runs", "curves", "artifacts", "files")
"""Kinds that are for good; their keys begin with a trial's digest."""
RUN_IDS = "run ids"
"""Kind that leads from a run's id to the digest that its rows are kept under."""
SHARE = 500
"""Keys in one query; SQLite takes 999 parameters at least."""


class Cache:
    """Rows by kind and key.

    A cache that cannot be read or written costs time, nothing else.
    """

    def __init__(self, folder: Path, address: str, source: Path | None) -> None:
        """
        Args:
            address: of the store; each has a file of its own.
            source: the store's SQLite file; None for a server or another database, whose changes nobody can see from here.
        """
        name = hashlib.sha256(f"{SCHEMA} {address}".encode()).hexdigest()
        self.file = folder / f"{name[:32]}.sqlite3"
        self.mark = "" if source is None else mark(source)

    def get(self, kind: str, keys: Sequence[str]) -> dict[str, Any]:
        """Rows that are kept for good."""
        return self._select("select key, row from rows where kind = ?", (kind,), keys)

    def keep(self, kind: str, rows: Mapping[str, Any]) -> None:
        """Adds rows; one that is there already stays, for other rows may have been made from it."""
        packed = [(kind, key, json.dumps(row)) for key, row in rows.items()]
        if packed:
            self._write(lambda database: database.executemany("insert or ignore into rows values (?, ?, ?)", packed))

    def now(self, kind: str, keys: Sequence[str]) -> dict[str, Any]:
        """Rows that hold because the store's file is the one they were read from; a row may be None."""
        if not self.mark:
            return {}
        return self._select("select key, row from passing where kind = ? and mark = ?", (kind, self.mark), keys)

    def keep_now(self, kind: str, rows: Mapping[str, Any]) -> None:
        if not self.mark or not rows:
            return

        def write(database: sqlite3.Connection) -> None:
            database.execute("delete from passing where mark != ?", (self.mark,))
            packed = [(kind, key, self.mark, json.dumps(row)) for key, row in rows.items()]
            database.executemany("insert or replace into passing values (?, ?, ?, ?)", packed)

        self._write(write)

    def count(self, kind: str) -> int:
        """Rows of a kind that are kept for good."""
        found = self._select("select 'n', count(*) from rows where kind = ?", (kind,), None)
        return int(found.get("n", 0))

    def forget(self, run_ids: Iterable[str]) -> None:
        """Drops all rows of these runs; of a digest that another run has meanwhile nothing is dropped."""
        digests = self.get(RUN_IDS, list(run_ids))

        def write(database: sqlite3.Connection) -> None:
            for run_id, digest in digests.items():
                database.execute("delete from rows where kind = ? and key = ?", (RUN_IDS, run_id))
                for kind in KEPT:  # the keys are the digest, or go on with a space
                    database.execute(
                        "delete from rows where kind = ? and key >= ? and key < ?", (kind, digest, f"{digest}!")
                    )

        if digests:
            self._write(write)

    def clear(self) -> None:
        def write(database: sqlite3.Connection) -> None:
            for table in ("rows", "passing"):
                database.execute(f"delete from {table}")

        self._write(write)

    # --- the file -----------------------------------------------------------------------------------------------------

    def _select(self, query: str, arguments: Sequence[str], keys: Sequence[str] | None) -> dict[str, Any]:
        if not self.file.is_file():
            return {}
        rows: dict[str, Any] = {}
        try:
            with self._database() as database:
                if keys is None:
                    return dict(database.execute(query, arguments).fetchall())
                for start in range(0, len(keys), SHARE):
                    part = keys[start : start + SHARE]
                    found = database.execute(
                        f"{query} and key in ({','.join('?' * len(part))})", (*arguments, *part)
                    ).fetchall()
                    rows |= {key: json.loads(row) for key, row in found}
        except (OSError, sqlite3.Error, ValueError) as error:
            log.warning("cache %s cannot be read, runs are read from the store: %s", self.file, error)
            self._drop_damaged(error)
            return {}
        return rows

    def _write(self, change: Callable[[sqlite3.Connection], object]) -> None:
        try:
            with self._database() as database, database:
                change(database)
        except (OSError, sqlite3.Error) as error:
            log.warning("cache %s cannot be written, runs will be read again: %s", self.file, error)
            self._drop_damaged(error)

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self.file, timeout=10)) as database:
            for table in TABLES:
                database.execute(table)
            yield database

    def _drop_damaged(self, error: Exception) -> None:
        """A file that is no database would be in the way for ever; one that is only locked would not."""
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            self.file.unlink(missing_ok=True)


def mark(file: Path) -> str:
    """Which state of a SQLite file this is: two equal marks are two equal contents. "" where the file alone cannot tell.

    Each transaction raises the counter in the file's header (SQLite's file format, 1.3.7). With a write-ahead log the newest
    ones are not in the file; a journal means that one is under way.
    """
    if any(file.with_name(f"{file.name}-{ending}").exists() for ending in ("wal", "journal")):
        return ""
    try:
        with file.open("rb") as handle:
            head = handle.read(100)
        status = file.stat()
    except OSError:
        return ""
    if not head.startswith(b"SQLite format 3\0"):
        return ""
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {head[24:28].hex()}"
