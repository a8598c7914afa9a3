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
    counting = Counting(bench.client)
    return runs.Store(bench.settings, counting), counting  # type: ignore[arg-type]


def test_finished_run_is_read_once(bench: Any) -> None:
    bench.trial("a" * 64, {"best/test/acc1_pct": 91.0})
    first, calls = counted(bench)
    found = first.runs({"a" * 64})
    assert calls.calls["search_runs"] == 1
    second, calls = counted(bench)
    assert second.runs({"a" * 64}) == found
    assert calls.calls == {}  # the store's file has not changed


def test_store_that_changed_is_asked_only_for_what_is_gone(bench: Any) -> None:
    bench.trial("a" * 64, {"best/test/acc1_pct": 91.0})
    found = runs.connect(bench.settings).runs({"a" * 64})
    bench.trial("b" * 64, {"best/test/acc1_pct": 92.0})
    store, calls = counted(bench)
    assert store.runs({"a" * 64}) == found
    assert calls.calls["search_runs"] == 2  # deleted and superseded ones
    assert store.runs({"a" * 64, "b" * 64})["b" * 64].metrics == {"best/test/acc1_pct": 92.0}
    assert calls.calls["search_runs"] == 3


def test_superseded_run_gives_way_to_the_new_one(bench: Any) -> None:
    old = bench.trial("a" * 64, {"best/test/acc1_pct": 91.0}, curves={"test/acc1_pct": [1.0]})
    other = bench.trial("b" * 64, {"best/test/acc1_pct": 80.0})
    store = runs.connect(bench.settings)
    assert store.curves(list(store.runs({"a" * 64, "b" * 64}).values()), "test/acc1_pct")["a" * 64] == [(0, 1.0)]
    bench.client.set_tag(old, "sweeps.superseded", "its trial was started over")  # as sweeps.tracking does
    bench.client.delete_tag(old, "sweeps.digest")
    assert list(runs.connect(bench.settings).runs({"a" * 64, "b" * 64})) == ["b" * 64]
    new = bench.trial("a" * 64, {"best/test/acc1_pct": 93.0}, curves={"test/acc1_pct": [3.0]})
    for _ in range(2):  # from the store, then from the cache
        store = runs.connect(bench.settings)
        found = store.runs({"a" * 64, "b" * 64})
        assert [(run.run_id, run.metrics["best/test/acc1_pct"]) for run in found.values()] == [(new, 93), (other, 80)]
        assert store.curves([found["a" * 64]], "test/acc1_pct") == {"a" * 64: [(0, 3.0)]}


def test_deleted_run_leaves_a_hole_until_it_is_restored(bench: Any) -> None:
    run_id = bench.trial("a" * 64, {"best/test/acc1_pct": 91.0})
    assert runs.connect(bench.settings).runs({"a" * 64})
    bench.client.delete_run(run_id)
    assert runs.connect(bench.settings).runs({"a" * 64}) == {}
    bench.client.restore_run(run_id)
    assert runs.connect(bench.settings).runs({"a" * 64})["a" * 64].run_id == run_id
    bench.client.delete_experiment(bench.mlflow_experiment("tiny-demo"))
    assert runs.connect(bench.settings).runs({"a" * 64}) == {}


def test_trial_without_a_run_is_asked_for_again_when_the_store_changes(bench: Any) -> None:
    bench.trial("b" * 64)
    assert runs.connect(bench.settings).runs({"a" * 64}) == {}
    store, calls = counted(bench)
    assert (store.runs({"a" * 64}), calls.calls) == ({}, {})
    bench.trial("a" * 64, {"best/test/acc1_pct": 91.0})
    assert runs.connect(bench.settings).runs({"a" * 64})["a" * 64].metrics == {"best/test/acc1_pct": 91.0}


def test_pages_over_all_trials_are_read_once_for_every_experiment(bench: Any) -> None:
    digests = [bench.digest(i) for i in range(40)]
    for i, digest in enumerate(digests):
        bench.trial(digest, {"best/test/acc1_pct": float(i)})
    store, calls = counted(bench)
    assert len(store.runs(digests[:20])) == 20
    assert calls.calls["search_runs"] == 1
    bench.mlflow_experiment("else")
    store, calls = counted(bench)
    assert [store.runs({digest})[digest].metrics["best/test/acc1_pct"] for digest in digests[20:]] == list(
        range(20, 40)
    )
    assert calls.calls["search_runs"] == 2  # what is gone; no run is read again


def test_new_plan_is_seen_though_the_database_did_not_change(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a"]))
    run_id = bench.plan(name)
    assert runs.connect(bench.settings).sweep("tiny/grid", "demo").plan["cells"][0]["labels"] == {"row": "a"}
    bench.client.log_text(run_id, '{"schema": 1, "cells": []}', "plan.json")
    store, calls = counted(bench)
    assert store.sweep("tiny/grid", "demo").plan["cells"] == []
    assert calls.calls == {}


def test_parent_whose_artifacts_only_the_store_has(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a"]))
    run_id = bench.plan(name, search={"schema": 1, "cells": []})
    trial = bench.trial("a" * 64)
    bench.client.log_text(run_id, f'{{"row=a seed=0": "{trial}", "row=b seed=0": "{"0" * 32}"}}', "runs.json")
    local = runs.connect(bench.settings)
    here = local.sweep("tiny/grid", "demo")
    assert here.folder
    there = replace(here, folder="")
    assert local._artifact({"run_id": run_id, "folder": ""}, "search.json") == here.search
    assert local._artifact({"run_id": run_id, "folder": ""}, "other.json") is None
    assert list(local.serving(there)) == list(local.serving(here)) == ["row=a seed=0"]  # the other run is gone


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
    with pytest.raises(StoreError, match=r"http://127.0.0.1:9: cannot be read: .*; check MLFLOW_TRACKING_URI"):
        runs.connect(replace(bench.settings, tracking_uri="http://127.0.0.1:9"))


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
