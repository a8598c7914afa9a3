"""Steps of a trial as Tune asks for them; Ray itself is not started."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeps.worker import TrialRunner
from trainers.attempts import State, read_status, rows
from trainers.config import Trial
from trainers.train import trial_folder

MEASURED = ("time/", "timestamp", "train/images_per_s", "train/peak_memory")
"""Beginnings of what differs from run to run."""
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


@pytest.mark.parametrize("epochs", [1, 2])
def test_a_trial_that_yielded_has_the_bits_of_one_that_did_not(
    place: Any, trials: list[Trial], monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    """It is stopped as Tune stops it, the actor goes to another trial, and a second actor takes it up."""
    monkeypatch.setattr("sweeps.worker.STEP_S", 0.0)
    learning = {'{ module = "noop.method" }': '"ce"', "hparams.number": "protocol.lr", "value = 0": "value = 0.05"}
    (trial,) = place.plan(place.write(EXPERIMENT, "learning.toml", swap=learning), seeds=[0]).trials.values()
    whole, part = replace(place, folder=place.folder / "whole"), replace(place, folder=place.folder / "part")
    runner = TrialRunner(config(whole, trial))
    while runner.step()["outcome"] == "running":
        pass
    runner = TrialRunner(config(part, trial))
    for _ in range(epochs):
        assert runner.step()["outcome"] == "running"
    assert runner.reset_config(config(part, trials[0]))
    status = read_status(part.state, trial.digest())
    assert (status.state, len(rows(status))) == (State.PARTIAL, epochs)
    again = TrialRunner(config(part, trial))
    steps = [again.step()["outcome"] for _ in range(3 - epochs)]
    assert steps == ["running"] * (2 - epochs) + ["done"]
    states = [read_status(each.state, trial.digest()) for each in (whole, part)]
    assert [status.state for status in states] == [State.DONE] * 2
    first, second = (
        [{k: v for k, v in row.items() if not k.startswith(MEASURED)} for row in rows(status)] for status in states
    )
    assert first == second
    assert first[0]["train/loss"] > first[2]["train/loss"] > 0
    weights = [(trial_folder(each.state, trial.digest()) / "weights.pt").read_bytes() for each in (whole, part)]
    assert weights[0] == weights[1]
