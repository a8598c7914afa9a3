"""Steps of a trial as Tune asks for them; Ray itself is not started."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sweeps.worker import TrialRunner
from trainers.attempts import State, read_status
from trainers.config import Trial

NOOP = Path(__file__).resolve().parents[2] / "benchmarks" / "noop"
EXPERIMENT = """
title = "Trials that do nothing"
paper = "noop"
protocol = "demo-scratch"
teacher_protocol = "demo-scratch"
seeds = [0, 1]

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
values = [{ label = "0", value = 0 }]
"""


@pytest.fixture
def trials(place: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Trial]]:
    """Two real trials of three epochs of nothing."""
    shutil.copytree(NOOP, place.folder / "noop")
    monkeypatch.syspath_prepend(place.folder)
    yield list(place.plan(place.write(EXPERIMENT, "noop.toml")).trials.values())
    for name in [name for name in sys.modules if name.split(".")[0] == "noop"]:
        del sys.modules[name]


def config(place: Any, trial: Trial, *watch: str) -> dict[str, Any]:
    return {
        "trial": trial.model_dump_json(),
        "state": str(place.state),
        "data": str(place.settings.data),
        "device": "cpu",
        "threads": 1,
        "watch": list(watch),
        "path": [],
    }


def test_quick_epochs_that_nobody_watches_come_in_one_step(
    place: Any, trials: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.worker.STEP_S", 600.0)  # however slow this machine is
    runner = TrialRunner(config(place, trials[0]))
    assert runner.step() == {"done": True, "outcome": "done"}
    assert read_status(place.state, trials[0].digest()).state is State.DONE


def test_a_pruner_sees_every_epoch_but_the_last(place: Any, trials: list[Trial]) -> None:
    runner = TrialRunner(config(place, trials[0], "test/acc1_pct"))
    steps = [runner.step() for _ in range(3)]
    assert [step.get("epoch") for step in steps] == [0, 1, None]
    assert [step["outcome"] for step in steps] == ["running", "running", "done"]
    assert all(0 <= step["test/acc1_pct"] <= 100 for step in steps[:2])


def test_slow_epochs_are_reported_though_nobody_watches(
    place: Any, trials: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.worker.STEP_S", 0.0)
    runner = TrialRunner(config(place, trials[0]))
    assert [runner.step()["outcome"] for _ in range(3)] == ["running", "running", "done"]


def test_a_reused_runner_leaves_an_unfinished_trial_free(place: Any, trials: list[Trial]) -> None:
    runner = TrialRunner(config(place, trials[0], "test/acc1_pct"))
    runner.step()
    assert runner.reset_config(config(place, trials[1]))
    assert runner.step()["outcome"] == "done"
    states = [read_status(place.state, trial.digest()).state for trial in trials]
    assert states == [State.PARTIAL, State.DONE]
    assert (read_status(place.state, trials[0].digest()).folder / "released").exists()  # type: ignore[operator]
