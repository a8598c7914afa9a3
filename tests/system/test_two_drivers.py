"""Two drivers at once over one state root: each trial is trained once, whoever is faster, stopped or wakes up too late."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.system.conftest import MINI
from tests.system.exactly_once import Work, print_of, tracking_faults, trial_faults, trials_in
from tests.system.servers import RayNode
from trainers import attempts
from trainers.attempts import State

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]

EPOCHS = 4
"""Of every trial here: `home.mini`'s teacher has as many."""
BETWEEN_EPOCHS_S = 0.5
"""Processor time that a worker spends between two epochs is a small part of this, and this of an epoch of 128 updates."""


def experiment(home: Any, name: str, alphas: list[float], *, updates: int = 8) -> str:
    """A small grid in a file of its own; grids share the teacher and the cells of equal alpha."""
    values = ", ".join(f'{{ label = "{alpha}", value = {alpha} }}' for alpha in alphas)
    (home.folder / name).write_text(MINI.format(alphas=values, epochs=EPOCHS, updates=updates))
    return name


def teachers(home: Any) -> list[str]:
    """Digests of the trials that train a teacher."""
    files = home.state.glob("??/*/trial.json")
    return [file.parent.name for file in files if json.loads(file.read_text())["trial"]["method"] == "ce"]


def faults(home: Any, *, parents: int) -> list[str]:
    """What is not as one undisturbed driver would have left it."""
    wrong: list[str] = []
    for digest in trials_in(home):
        wrong += trial_faults(home.state, digest, EPOCHS, Work())
    return wrong + tracking_faults(home, EPOCHS, Work(), parents=parents)


def finish(process: subprocess.Popen[str], timeout_s: float = 900) -> None:
    out, err = process.communicate(timeout=timeout_s)
    assert process.returncode == 0, out + err


def test_two_drivers_on_one_machine_train_each_trial_once(home):
    """Both experiments have the cells of alpha 0.2, and all cells the same teacher."""
    first = experiment(home, "first.toml", [0.1, 0.2])
    second = experiment(home, "second.toml", [0.2, 0.3])
    drivers = [home.start("run", name, "--profile", "paper") for name in (first, second)]
    for driver in drivers:
        finish(driver)
    assert len(trials_in(home)) == 1 + 6
    assert set(home.claims().values()) == {1}
    assert faults(home, parents=2) == []
    for name in (first, second):
        assert home.plan(name, "--profile", "paper")["counts"] == {"done": 5}


def test_two_clusters_that_share_a_state_root_train_the_teacher_once(home, short_folder):
    """No cell is in both experiments, only the teacher is."""
    first = experiment(home, "first.toml", [0.1])
    second = experiment(home, "second.toml", [0.4])
    here, there = (RayNode(home.folder / name, 1, temp=short_folder / name) for name in ("a", "b"))
    with here, there:
        drivers = []
        for name, head in ((first, here), (second, there)):
            home.environment |= head.environment
            drivers.append(home.start("run", name, "--profile", "paper"))
        for driver in drivers:
            finish(driver)
    assert len(trials_in(home)) == 1 + 4
    assert [home.claims()[digest] for digest in teachers(home)] == [1]
    assert set(home.claims().values()) == {1}
    assert faults(home, parents=2) == []


def partial_student(home: Any) -> tuple[str, int] | None:
    """Digest and owner of a student that has an epoch behind it and one before it."""
    for file in home.state.glob("??/*/trial.json"):
        digest = file.parent.name
        status = attempts.read_status(home.state, digest)
        young = status.state is State.PARTIAL and 1 <= len(attempts.rows(status)) < EPOCHS - 1
        if young and digest not in teachers(home):
            return digest, int(status.entry["pid"])
    return None


def cpu_s(pid: int) -> float:
    """Processor time of a process with its threads, in seconds."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def everything(home: Any) -> dict[str, Any]:
    """Results, weights, the journals that count, and what MLflow has."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=home.uri)
    found: dict[str, Any] = {
        str(file): print_of(file) for name in ("result.json", "weights.pt") for file in home.state.glob(f"??/*/{name}")
    }
    for digest in trials_in(home):
        status = attempts.read_status(home.state, digest)
        found[digest] = (status, attempts.rows(status))
    for run in home.runs():
        history = {
            name: [
                (point.step, point.timestamp, point.value) for point in client.get_metric_history(run.info.run_id, name)
            ]
            for name in run.data.metrics
        }
        found[run.info.run_id] = (run.info.status, run.info.end_time, dict(run.data.tags), history)
    return found


def test_an_owner_stopped_past_its_lease_changes_nothing_when_it_wakes(home):
    """It is stopped in the middle of an epoch: not between the row of one and its look at who owns the trial."""
    name = experiment(home, "mini.toml", [0.1], updates=128)
    command = ("run", name, "--profile", "paper", "--concurrency", "1")
    first = home.start(*command)
    home.wait_for(lambda: partial_student(home) is not None, first)
    stopped = partial_student(home)
    assert stopped is not None
    digest, pid = stopped
    worked = cpu_s(pid)
    home.wait_for(lambda: cpu_s(pid) > worked + BETWEEN_EPOCHS_S, first)
    os.kill(pid, signal.SIGSTOP)
    try:
        rows = len(attempts.rows(attempts.read_status(home.state, digest)))
        assert rows < EPOCHS, "it was over before it was stopped"
        second = home.start(*command)
        finish(second)
        assert first.poll() is None
        assert len(home.results()) == 3
        assert home.claims()[digest] == 2
        assert faults(home, parents=1) == []
        before = everything(home)
    finally:
        os.kill(pid, signal.SIGCONT)
    finish(first)
    after = everything(home)
    assert after == before
    assert home.claims()[digest] == 2
    assert faults(home, parents=1) == []
    own = attempts.trial_folder(home.state, digest) / "attempts" / "1"
    assert (own / "checkpoint.pt").exists(), "it never came to the end of the epoch that it was stopped in"
    assert (own / "log.txt").read_text().count("epoch=") == rows
