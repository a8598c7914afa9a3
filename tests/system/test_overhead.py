"""The benchmark of what a trial costs beside its training: both sides run, and their stores hold what it says."""

from __future__ import annotations

import importlib.util
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "scheduler.py"


@pytest.fixture(scope="module")
def scheduler():
    """`benchmarks/scheduler.py`, which is a script."""
    found = importlib.util.spec_from_file_location("scheduler_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(found)
    sys.modules["scheduler_benchmark"] = module
    found.loader.exec_module(module)
    return module


def names(database: Path) -> set[str]:
    with closing(sqlite3.connect(database)) as connection:
        return {name for (name,) in connection.execute("select distinct key from metrics")}


def test_both_sides_finish_every_trial_and_log_the_same_metrics(scheduler, tmp_path):
    ours, row = scheduler.ours(tmp_path / "ours", 8, 2)
    theirs = scheduler.stock(tmp_path / "stock", 3, 2, row)
    assert len(row) >= 8
    assert row.keys() <= names(tmp_path / "ours" / ".sweeps" / "mlflow.db")
    assert row.keys() <= names(tmp_path / "stock" / "mlflow.db")
    assert ours.log_bytes < 8 * 200 + 2000  # 100 kB for 500 trials, and what a launch says once
    assert 100 < ours.driver_mib < 2000
    for cost in (ours, theirs):
        assert 0 < cost.cpu_s < 2 * cost.seconds * 64
    assert theirs.each > 0
    with pytest.raises(RuntimeError, match="8 finished runs of 9"):
        scheduler.require_tracked(tmp_path / "ours" / ".sweeps" / "mlflow.db", 9, 0)


def test_a_failed_side_is_told_with_the_end_of_its_log(scheduler, tmp_path):
    with pytest.raises(RuntimeError, match="ended with 3:\nno trials today"):
        scheduler.timed([sys.executable, "-c", "print('no trials today'); exit(3)"], tmp_path, 1)


def test_flatness_is_one_where_every_trial_costs_the_same(scheduler):
    assert scheduler.flatness([10, 100, 1000], [21.0, 30.0, 120.0]) == pytest.approx(1.0)
    assert scheduler.flatness([10, 100, 1000], [21.0, 30.0, 210.0]) == pytest.approx(2.0)
