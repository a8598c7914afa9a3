"""Reading the store: what is asked for, how often, and what it says when it cannot be read."""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from analysis import grid, runs
from analysis.errors import StoreError
from sweeps import spec


def demo(bench: Any, name: str, **overrides: Any) -> grid.Grid:
    profile = spec.load_profile("demo")
    experiment = spec.load(name, profile)
    store = runs.connect(bench.settings)
    return grid.load(experiment, "demo", store.sweep(experiment.name, "demo"), store, **overrides)


class Counting:
    """MLflow's client, counting calls by name."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.calls: dict[str, int] = {}

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if not (name == "search_runs" and "'parent'" in args[1]):
                self.calls[name] = self.calls.get(name, 0) + 1
            return getattr(self.client, name)(*args, **kwargs)

        return call


def counted(bench: Any) -> tuple[runs.Store, Counting]:
    store = runs.connect(bench.settings)
    counting = Counting(store.client)
    return runs.Store(bench.settings, counting), counting  # type: ignore[arg-type]


def test_finished_run_is_read_once(bench: Any) -> None:
    bench.trial("a" * 64, {"best/test/acc1_pct": 91.0})
    first, calls = counted(bench)
    found = first.runs({"a" * 64})
    assert calls.calls["search_runs"] == 1
    second, calls = counted(bench)
    assert second.runs({"a" * 64}) == found
    assert "search_runs" not in calls.calls


@pytest.mark.parametrize("state", ["partial", "failed", "stopped"])
def test_unfinished_run_is_never_cached(bench: Any, state: str) -> None:
    run_id = bench.trial("a" * 64, state=state)
    assert runs.connect(bench.settings).runs({"a" * 64})["a" * 64].state == state
    bench.client.set_tag(run_id, "sweeps.state", "done")
    assert runs.connect(bench.settings).runs({"a" * 64})["a" * 64].state == "done"


def test_curve_of_a_finished_run_is_read_once(bench: Any) -> None:
    bench.trial("a" * 64, curves={"test/acc1_pct": [10.0, 30.0, 20.0]})
    for expected in (1, 0):
        store, calls = counted(bench)
        found = store.runs({"a" * 64})
        assert store.curves(list(found.values()), "test/acc1_pct") == {"a" * 64: [(0, 10.0), (1, 30.0), (2, 20.0)]}
        assert calls.calls.get("get_metric_history", 0) == expected


def test_artifacts_of_a_finished_run_are_read_once(bench: Any) -> None:
    files = {
        "epoch_0000/a.json": b"{}",
        "epoch_0010/b.png": b"png",
        "epoch_0010/a.json": b"[]",
        "else/c": b"",
        "d": b"",
    }
    bench.trial("a" * 64, artifacts=files)
    for expected in (3, 0):  # the top and the two epochs
        store, calls = counted(bench)
        run = store.runs({"a" * 64})["a" * 64]
        assert store.artifacts(run) == {0: ["a.json"], 10: ["a.json", "b.png"]}
        assert store.artifact(run, 10, "b.png") == b"png"
        assert calls.calls.get("list_artifacts", 0) == expected
        assert calls.calls.get("download_artifacts", 0) == (expected > 0)


def test_artifacts_of_an_unfinished_run_are_never_cached(bench: Any) -> None:
    run_id = bench.trial("a" * 64, state="partial", artifacts={"epoch_0000/a.json": b"1"})
    for content in (b"1", b"2"):
        store = runs.connect(bench.settings)
        run = store.runs({"a" * 64})["a" * 64]
        (bench.folder / "kept" / run_id / "epoch_0000" / "a.json").write_bytes(content)
        bench.client.log_artifacts(run_id, str(bench.folder / "kept" / run_id))
        assert store.artifacts(run) == {0: ["a.json"]}
        assert store.artifact(run, 0, "a.json") == content


def test_artifact_that_is_gone_is_an_error(bench: Any) -> None:
    bench.trial("a" * 64)
    store = runs.connect(bench.settings)
    with pytest.raises(StoreError, match=r"mlflow.db: cannot be read: .*a.json"):
        store.artifact(store.runs({"a" * 64})["a" * 64], 3, "a.json")


def test_store_made_anew_does_not_show_the_old_runs(bench: Any) -> None:
    bench.trial("a" * 64, {"best/test/acc1_pct": 91.0})
    assert runs.connect(bench.settings).runs({"a" * 64})
    with sqlite3.connect(bench.folder / ".sweeps" / "mlflow.db") as database:  # what a new file would hold
        for table in ("latest_metrics", "metrics", "tags", "runs"):
            database.execute(f"delete from {table}")
        database.execute("update experiments set creation_time = creation_time + 1")
    assert runs.connect(bench.settings).runs({"a" * 64}) == {}


@pytest.mark.parametrize("damage", [b"not a database", b""])
def test_damaged_cache_costs_time_only(bench: Any, damage: bytes) -> None:
    bench.trial("a" * 64, {"best/test/acc1_pct": 91.0})
    runs.connect(bench.settings).runs({"a" * 64})
    (file,) = (bench.folder / ".sweeps" / "cache").iterdir()
    file.write_bytes(damage)
    assert runs.connect(bench.settings).runs({"a" * 64})["a" * 64].metrics == {"best/test/acc1_pct": 91.0}


def test_run_of_another_mlflow_experiment_is_found(bench: Any) -> None:
    bench.trial("a" * 64, {"best/test/acc1_pct": 91.0}, experiment="other-paper")
    assert runs.connect(bench.settings).runs({"a" * 64})["a" * 64].metrics == {"best/test/acc1_pct": 91.0}


def test_finished_run_wins_where_two_have_one_digest(bench: Any) -> None:
    bench.trial("a" * 64, state="partial")
    done = bench.trial("a" * 64, {"best/test/acc1_pct": 91.0})
    assert runs.connect(bench.settings).runs({"a" * 64})["a" * 64].run_id == done


def test_link_leads_to_the_server_without_its_password(bench: Any) -> None:
    run_id = bench.trial("a" * 64)
    run = bench.client.get_run(run_id)
    settings = replace(bench.settings, tracking_uri="http://me:secret@host:5000")
    link = runs.Store(settings, bench.client)._run(run).link
    assert link == f"http://me:***@host:5000/#/experiments/{run.info.experiment_id}/runs/{run_id}"
    assert runs.connect(bench.settings).runs({"a" * 64})["a" * 64].link == f"runs:/{run_id}"


def test_missing_store_is_an_error_and_is_not_created(bench: Any) -> None:
    missing = bench.folder / "none.db"
    with pytest.raises(StoreError, match=r"none.db: no such store; nothing was swept here yet, start with `sweep run`"):
        runs.connect(replace(bench.settings, tracking_uri=f"sqlite:///{missing}"))
    assert not missing.exists()


def test_file_that_is_no_store_is_an_error(bench: Any) -> None:
    broken = bench.folder / "broken.db"
    broken.write_text("no database " * 100)
    with pytest.raises(StoreError, match=r"broken.db: cannot be read: .*not a database.*; check MLFLOW_TRACKING_URI"):
        runs.connect(replace(bench.settings, tracking_uri=f"sqlite:///{broken}"))


def test_store_of_another_version_names_the_remedy(bench: Any) -> None:
    with sqlite3.connect(bench.folder / ".sweeps" / "mlflow.db") as database:
        database.execute("update alembic_version set version_num = '451aebb31d03'")
    # a path of its own, since MLflow keeps opened stores
    moved = (bench.folder / ".sweeps" / "mlflow.db").rename(bench.folder / "old.db")
    with pytest.raises(StoreError, match=r"out-of-date database schema.*mlflow db upgrade"):
        runs.connect(replace(bench.settings, tracking_uri=f"sqlite:///{moved}"))


def test_server_that_does_not_answer_is_an_error(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    store = runs.connect(replace(bench.settings, tracking_uri="http://127.0.0.1:9"))
    with pytest.raises(StoreError, match=r"http://127.0.0.1:9: cannot be read: .*; check MLFLOW_TRACKING_URI"):
        store.sweep("cudfkd/fig9", "demo")


def test_never_swept_names_the_command(bench: Any) -> None:
    store = runs.connect(bench.settings)
    message = r"cudfkd/fig9: never swept with profile 'demo' in sqlite.*`sweep run cudfkd/fig9 --profile demo`"
    with pytest.raises(StoreError, match=message):
        store.sweep("cudfkd/fig9", "demo")
    bench.mlflow_experiment("cudfkd-demo")
    with pytest.raises(StoreError, match=message):
        store.sweep("cudfkd/fig9", "demo")


def test_plan_of_another_schema_is_an_error(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a"]))
    bench.plan(name, edit=lambda plan: plan.update(schema=7))
    with pytest.raises(
        StoreError, match=r"plan.json of run \w+ has schema 7, known is 1; `sweep sync` writes it again"
    ):
        runs.connect(bench.settings).sweep("tiny/grid", "demo")


def test_experiment_name_with_a_quote_is_found(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a"]), name="bob's")
    bench.plan(name)
    assert runs.connect(bench.settings).sweep("tiny/bob's", "demo").plan["experiment"] == "tiny/bob's"


def test_500_runs_are_read_in_seconds_and_again_from_the_cache(bench: Any) -> None:
    """Bounds are ten times what was measured on one core, so that a busy machine passes."""
    labels = [f"v{i}" for i in range(500)]
    name = bench.write(bench.axis("row", labels))
    bench.plan(name)
    home = bench.mlflow_experiment("tiny-demo")
    template = bench.trial("0" * 64, {f"{s}/test/m{i}": 1.0 for i in range(10) for s in ("last", "best")})
    with sqlite3.connect(bench.folder / ".sweeps" / "mlflow.db") as database:
        for label in labels:
            clone(database, template, bench.digest("demo", f"row={label}", 0))
    assert home
    start = time.perf_counter()
    first = demo(bench, name, metrics=["test/m3"])
    middle = time.perf_counter()
    second = demo(bench, name, metrics=["test/m3"])
    end = time.perf_counter()
    assert len(first.frame) == 500
    assert first.holes.empty
    assert first.frame.equals(second.frame)
    assert middle - start < 10
    assert end - middle < 3


def clone(database: sqlite3.Connection, run_id: str, digest: str) -> None:
    """A copy of a run under another digest; a hundred times faster than through MLflow."""
    fresh = uuid.uuid4().hex
    for table in ("runs", "latest_metrics", "tags"):
        cursor = database.execute(f"select * from {table} where run_uuid = ?", (run_id,))
        names = [column[0] for column in cursor.description]
        for row in cursor.fetchall():
            record = dict(zip(names, row, strict=True)) | {"run_uuid": fresh}
            if record.get("key") == "sweeps.digest":
                record["value"] = digest
            database.execute(f"insert into {table} values ({', '.join('?' * len(names))})", tuple(record.values()))
