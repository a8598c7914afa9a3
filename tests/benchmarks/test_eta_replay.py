"""The replay of finished sweeps: what it reads, how it parts them, and that a sweep without noise is foreseen."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sweeps import spec
from sweeps.eta import Work
from sweeps.plan import make
from trainers.run import run_trial

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
EXPERIMENT = """
title = "Trials that do nothing"
paper = "noop"
protocol = "demo-scratch"
teacher_protocol = "demo-scratch"
seeds = [0]

[report]
kind = "table"
metrics = ["test/acc1_pct"]
rows = "number"

[base]
data = { module = "noop.data" }
method = { module = "noop.method" }
student = { module = "noop.network" }
"protocol.epochs" = 3

[[axes]]
name = "number"
path = "hparams.number"
values = [{ label = "0", value = 0 }, { label = "1", value = 1 }]
"""


@pytest.fixture(scope="module")
def replay() -> Any:
    """`benchmarks/eta.py`, which is a script."""
    found = importlib.util.spec_from_file_location("eta_replay", BENCHMARKS / "eta.py")
    assert found is not None and found.loader is not None
    module: ModuleType = importlib.util.module_from_spec(found)
    sys.modules["eta_replay"] = module
    found.loader.exec_module(module)
    return module


def steady(replay: Any, number: int, *, epochs: int = 10, pace_s: float = 2.0, start: float = 0.0) -> list[Any]:
    """A sweep of equal trials in two places, without any time beside their epochs."""
    work = Work("kd", ("method kd",), epochs, 7.0)
    found = []
    for index in range(number):
        began = start + (index // 2) * epochs * pace_s
        ends = tuple(began + pace_s * (epoch + 1) for epoch in range(epochs))
        found.append(replay.Past(str(index), work, began, ends, ends[-1]))
    return found


def test_a_steady_sweep_is_foreseen_at_every_tenth(replay: Any) -> None:
    found = replay.errors(steady(replay, 20), 2)
    assert sorted(found) == list(range(1, 10))
    assert all(abs(error) < 0.02 for error in found.values())


def test_a_sweep_that_becomes_twice_as_slow_is_foreseen_too_short(replay: Any) -> None:
    quick = steady(replay, 10)
    slow = steady(replay, 10, pace_s=4.0, start=100.0)
    found = replay.errors(
        [*quick, *(replay.Past(f"s{p.digest}", p.work, p.began_s, p.epochs_s, p.ended_s) for p in slow)], 2
    )
    assert found[1] == pytest.approx(180 / 280 - 1, abs=0.05)  # of 300 s; 200 s were to be expected


def test_trials_that_began_together_share_a_place(replay: Any) -> None:
    """Groups of two in two processes, in turn: an epoch on the clock takes twice what it takes of the place."""
    work, found = Work("kd", ("method kd",), 10, 7.0), []
    for index in range(24):
        began, process = (index // 4) * 20.0, (str(index // 2 % 2),)
        ends = tuple(began + 2.0 * (epoch + 1) for epoch in range(10))
        found.append(replay.Past(str(index), work, began, ends, ends[-1], None, process, 2))
    places = replay.places_of(found)
    assert len(set(places.values())) == 12
    assert places["0"] == places["1"] != places["2"] == places["3"]
    assert places["4"] not in (places["0"], places["2"])
    assert all(abs(error) < 0.05 for error in replay.errors(found, 2).values())


def test_a_pause_parts_sweeps(replay: Any) -> None:
    one, two = steady(replay, 4), steady(replay, 2, start=140.0)
    assert [len(part) for part in replay.sweeps_of([*one, *two], 60.0)] == [4, 2]
    assert [len(part) for part in replay.sweeps_of([*one, *two], 101.0)] == [6]


def test_times_are_read_from_the_trial_directories(
    replay: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(BENCHMARKS / "noop", tmp_path / "noop")
    monkeypatch.syspath_prepend(tmp_path)
    file, state, data = tmp_path / "noop.toml", tmp_path / "state", tmp_path / "data"
    file.write_text(EXPERIMENT)
    plan = make(str(file), spec.load_profile("paper"), state, data)
    first, second = plan.trials.values()
    list(run_trial(first, state, data))
    stopped = run_trial(second, state, data)
    next(stopped)
    del stopped  # after an epoch
    past, others = replay.read(state, data)
    assert [each.digest for each in past] == [first.digest()]
    assert others == 1
    assert len(past[0].epochs_s) == 3
    assert past[0].began_s <= past[0].epochs_s[0] <= past[0].epochs_s[-1] <= past[0].ended_s
    assert past[0].work.epochs == 3
    assert past[0].sharing == 1
    assert past[0].process[1] == str(os.getpid())
    for name in [name for name in sys.modules if name.split(".")[0] == "noop"]:
        del sys.modules[name]
