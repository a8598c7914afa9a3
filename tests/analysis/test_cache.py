"""The cache's file: what stays, what passes with the store's file, and how that file is known again."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from analysis.cache import KEPT, RUN_IDS, Cache, mark


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A database that stands for the store's."""
    path = tmp_path / "store.db"
    commit(path, "create table t (x)")
    return path


def commit(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(statement)


def cache(source: Path | None, address: str = "sqlite:///store.db") -> Cache:
    folder = (source.parent if source else Path.cwd()) / "cache"
    return Cache(folder, address, source)


def test_rows_are_kept_by_kind_and_address_and_the_first_one_stays(source: Path) -> None:
    cache(source).keep("runs", {"a": {"value": float("inf")}, "b": None})
    cache(source).keep("runs", {"a": 2})
    again = cache(source)
    assert again.get("runs", ["a", "b", "c"]) == {"a": {"value": float("inf")}, "b": None}
    assert again.get("curves", ["a"]) == {}
    assert (again.count("runs"), again.count("curves")) == (2, 0)
    assert cache(source, "http://host").get("runs", ["a"]) == {}


def test_a_thousand_keys_are_more_than_sqlite_takes_at_once(source: Path) -> None:
    rows = {f"{i:04}": i for i in range(1001)}
    cache(source).keep("runs", rows)
    assert cache(source).get("runs", list(rows)) == rows


def test_passing_rows_hold_while_the_file_is_the_same(source: Path) -> None:
    cache(source).keep_now("runs", {"a": None, "b": 1})
    assert cache(source).now("runs", ["a", "b", "c"]) == {"a": None, "b": 1}
    commit(source, "insert into t values (1)")
    later = cache(source)
    assert later.now("runs", ["a", "b"]) == {}
    later.keep_now("runs", {"b": 2})
    assert cache(source).now("runs", ["a", "b"]) == {"b": 2}


def test_nothing_passes_for_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    server = cache(None)
    server.keep_now("runs", {"a": 1})
    assert server.now("runs", ["a"]) == {}


def test_mark_changes_with_each_transaction_whatever_the_clock_says(source: Path) -> None:
    seen = [mark(source)]
    status = source.stat()
    for statement in ("insert into t values (1)", "update t set x = 2", "delete from t"):
        commit(source, statement)
        os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
        seen.append(mark(source))
    assert "" not in seen
    assert len(set(seen)) == 4
    with closing(sqlite3.connect(source)) as database:
        database.execute("select * from t").fetchall()
    assert mark(source) == seen[-1]


def test_no_mark_while_a_transaction_is_under_way_or_kept_elsewhere(source: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(source)) as database:
        database.execute("insert into t values (1)")
        assert mark(source) == ""
        database.commit()
        assert mark(source)
        database.execute("pragma journal_mode = wal")
        database.execute("insert into t values (2)")
        database.commit()
        assert mark(source) == ""
    assert mark(tmp_path / "none.db") == ""
    (tmp_path / "text.db").write_text("no database " * 20)
    assert mark(tmp_path / "text.db") == ""


def test_forgotten_run_takes_its_rows_along_and_no_other(source: Path) -> None:
    mine = cache(source)
    for digest, run_id in (("a" * 64, "r1"), ("a" * 63 + "b", "r2")):
        mine.keep(RUN_IDS, {run_id: digest})
        mine.keep("runs", {digest: 1})
        mine.keep("curves", {f"{digest} test/acc1_pct": 1})
        mine.keep("artifacts", {digest: 1})
        mine.keep("files", {f"{digest} epoch_0000/a.json": 1})
    mine.forget(["r1", "unknown"])
    assert [mine.count(kind) for kind in (*KEPT, RUN_IDS)] == [1, 1, 1, 1, 1]
    assert mine.get("runs", ["a" * 64, "a" * 63 + "b"]) == {"a" * 63 + "b": 1}
    mine.forget([])
    mine.clear()
    assert [mine.count(kind) for kind in (*KEPT, RUN_IDS)] == [0, 0, 0, 0, 0]


def test_damaged_file_is_made_anew(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    mine = cache(source)
    mine.keep("runs", {"a": 1})
    mine.file.write_bytes(b"not a database" * 100)
    assert mine.get("runs", ["a"]) == {}
    assert "cannot be read" in caplog.text
    mine.keep("runs", {"a": 2})
    assert mine.get("runs", ["a"]) == {"a": 2}


def test_cache_that_is_in_use_elsewhere_is_not_thrown_away(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    mine = cache(source)
    mine.keep("runs", {"a": 1})
    mine._drop_damaged(sqlite3.OperationalError("database is locked"))
    assert mine.get("runs", ["a"]) == {"a": 1}


def test_folder_that_cannot_be_made_costs_nothing_but_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    mine = Cache(tmp_path / "file" / "cache", "x", None)
    mine.keep("runs", {"a": 1})
    assert mine.get("runs", ["a"]) == {}
    assert "cannot be written" in caplog.text
