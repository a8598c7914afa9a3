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
from trainers import attempts, checkpoint, provenance
from trainers.attempts import State, read_status, rows
from trainers.config import Execution, Trial
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


def config(place: Any, *trials: Trial, watch: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "digests": [trial.digest() for trial in trials],
        "trials": [trial.model_dump_json() for trial in trials],
        "watch": [list(watch) for _ in trials],
        "state": str(place.state),
        "data": str(place.settings.data),
        "device": "cpu",
        "threads": 1,
        "passes": "eager",
        "path": [],
    }


def run(runner: TrialRunner) -> dict[str, tuple[str, str]]:
    """Steps to the end; outcome and cause of each trial."""
    found: dict[str, tuple[str, str]] = {}
    while True:
        result = runner.step()
        for digest, outcome, cause in result["ended"]:
            assert digest not in found
            found[digest] = outcome, cause
        if result.get("done"):
            runner.cleanup()
            return found


def test_quick_epochs_that_nobody_watches_come_in_one_step(
    place: Any, trials: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.worker.STEP_S", 600.0)  # however slow this machine is
    runner = TrialRunner(config(place, trials[0]))
    assert runner.step() == {"done": True, "ended": [(trials[0].digest(), "done", "")]}
    assert read_status(place.state, trials[0].digest()).state is State.DONE


def test_a_pruner_sees_every_epoch_but_the_last(place: Any, trials: list[Trial]) -> None:
    runner = TrialRunner(config(place, trials[0], watch=("test/acc1_pct",)))
    steps = [runner.step() for _ in range(3)]
    assert [step.get("epoch") for step in steps] == [0, 1, None]
    assert [step.get("digest") for step in steps] == [trials[0].digest(), trials[0].digest(), None]
    assert steps[2]["ended"] == [(trials[0].digest(), "done", "")]
    assert all(0 <= step["test/acc1_pct"] <= 100 for step in steps[:2])


def test_slow_epochs_are_reported_though_nobody_watches(
    place: Any, trials: list[Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.worker.STEP_S", 0.0)
    runner = TrialRunner(config(place, trials[0]))
    assert [runner.step().get("done", False) for _ in range(3)] == [False, False, True]


def test_a_reused_runner_leaves_an_unfinished_trial_free(place: Any, trials: list[Trial]) -> None:
    runner = TrialRunner(config(place, trials[0], watch=("test/acc1_pct",)))
    runner.step()
    assert runner.reset_config(config(place, trials[1]))
    assert run(runner) == {trials[1].digest(): ("done", "")}
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
    assert run(TrialRunner(config(whole, trial))) == {trial.digest(): ("done", "")}
    runner = TrialRunner(config(part, trial))
    for _ in range(epochs):
        assert not runner.step().get("done")
    assert runner.reset_config(config(part, trials[0]))
    status = read_status(part.state, trial.digest())
    assert (status.state, len(rows(status))) == (State.PARTIAL, epochs)
    again = TrialRunner(config(part, trial))
    assert [again.step().get("done", False) for _ in range(3 - epochs)] == [False] * (2 - epochs) + [True]
    states = [read_status(each.state, trial.digest()) for each in (whole, part)]
    assert [status.state for status in states] == [State.DONE] * 2
    first, second = (
        [{k: v for k, v in row.items() if not k.startswith(MEASURED)} for row in rows(status)] for status in states
    )
    assert first == second
    assert first[0]["train/loss"] > first[2]["train/loss"] > 0
    weights = [(trial_folder(each.state, trial.digest()) / "weights.pt").read_bytes() for each in (whole, part)]
    assert weights[0] == weights[1]


# --- groups: real trials that share a teacher pass -------------------------------------------------------------------

GROUP = """
title = "Methods under one teacher"
paper = "tiny"
protocol = "demo-scratch"
teacher_protocol = "demo-scratch"
seeds = [0]

[report]
kind = "table"
metrics = ["test/acc1_pct"]
rows = "method"

[base]
data = { name = "digits", train_per_class = 8 }
teacher = "resnet8"
student = "resnet8"
"protocol.epochs" = 3
"protocol.batch_size" = 16
"teacher_protocol.epochs" = 1

[[axes]]
name = "method"
values = [
    { label = "KD", method = "kd" },
    { label = "DKD", method = "dkd" },
    { label = "CRD", method = "crd", hparams = { negatives = 16 } },
    { label = "PCKD", method = "pckd" },
    { label = "PCKD, other beta", method = "pckd", hparams = { beta_cc = 0.1 } },
]
"""


@pytest.fixture
def grouped(place: Any) -> dict[str, Trial]:
    """Trials of `GROUP` by label; their teacher is done."""
    plan = place.plan(place.write(GROUP, "group.toml"))
    teacher = next(iter(plan.trials.values()))
    assert set(run(TrialRunner(config(place, teacher))).values()) == {("done", "")}
    return {plan.names[digest].removesuffix(" seed=0").removeprefix("method="): t for digest, t in plan.trials.items()}


def bits(state: Path, trial: Trial) -> tuple[list[dict[str, float]], bytes]:
    """Rows without times, and weights, of a finished trial."""
    weights = checkpoint.load(trial_folder(state, trial.digest()) / "weights.pt")["state"]
    return (
        [
            {k: v for k, v in row.items() if not k.startswith(MEASURED)}
            for row in rows(read_status(state, trial.digest()))
        ],
        b"".join(tensor.numpy().tobytes() for tensor in weights.values()),
    )


def alone(place: Any, trials: list[Trial], folder: Path) -> Any:
    """A place in another folder where each of the trials was trained by a worker of its own."""
    other = type(place)(folder)
    for trial in trials:
        for upstream in trial.upstreams():
            source = trial_folder(place.state, upstream.digest())
            shutil.copytree(source, trial_folder(other.state, upstream.digest()), dirs_exist_ok=True)
        assert run(TrialRunner(config(other, trial))) == {trial.digest(): ("done", "")}
    return other


def test_a_worker_s_group_has_the_bits_of_workers_for_each(
    place: Any, grouped: dict[str, Trial], tmp_path: Path
) -> None:
    members = [grouped[name] for name in ("KD", "DKD", "CRD")]
    others = [grouped["PCKD"], grouped["PCKD, other beta"]]  # which see four views of each image
    solo = alone(place, [*members, *others], tmp_path / "alone")
    for group in (members, others):
        assert run(TrialRunner(config(place, *group))) == {trial.digest(): ("done", "") for trial in group}
    for trial in (*members, *others):
        assert bits(solo.state, trial) == bits(place.state, trial), trial.method
        made = provenance.read(read_status(place.state, trial.digest()).folder)
        assert made["together"] == (3 if trial in members else 2)


def test_a_killed_group_goes_on_with_the_same_bits_though_one_is_further(
    place: Any, grouped: dict[str, Trial], tmp_path: Path
) -> None:
    members = [grouped[name] for name in ("KD", "DKD", "CRD")]
    solo = alone(place, members, tmp_path / "alone")
    runner = TrialRunner(config(place, *members, watch=("test/acc1_pct",)))
    for _ in range(4):  # the first epoch of each, and the second one of one
        runner.step()
    runner.cleanup()
    stand = [len(rows(read_status(place.state, trial.digest()))) for trial in members]
    assert sorted(stand) == [1, 1, 2]
    assert set(run(TrialRunner(config(place, *reversed(members)))).values()) == {("done", "")}
    for trial in members:
        assert bits(solo.state, trial) == bits(place.state, trial), trial.method


def test_a_group_that_yields_is_between_epochs_so_that_no_member_loses_one(
    place: Any, grouped: dict[str, Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeps.worker.STEP_S", 0.0)
    members = [grouped[name] for name in ("KD", "DKD", "CRD")]
    runner = TrialRunner(config(place, *members))
    for epochs in (1, 2):
        assert runner.step() == {"ended": []}
        assert [len(rows(read_status(place.state, trial.digest()))) for trial in members] == [epochs] * 3
    runner.cleanup()


def test_a_member_that_a_pruner_cuts_makes_no_further_epoch(place: Any, grouped: dict[str, Trial]) -> None:
    cut, other = grouped["KD"], grouped["DKD"]
    runner = TrialRunner(config(place, cut, other, watch=("test/acc1_pct",)))
    assert runner.step()["digest"] == cut.digest()
    assert attempts.stop(place.state, cut.digest(), "cut")
    ended = run(runner)
    assert ended[other.digest()] == ("done", "")
    assert ended[cut.digest()][0] == "fenced"
    status = read_status(place.state, cut.digest())
    assert status.state is State.STOPPED
    assert len(rows(status)) == 1
    assert len(checkpoint.load(status.folder / "checkpoint.pt")["rows"]) == 1  # type: ignore[operator]


def test_members_end_each_in_its_own_way(
    place: Any, grouped: dict[str, Trial], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is busy elsewhere, one runs out of the device's memory, one has a loss that is not finite; the last one is done."""
    busy, full, broken, good = (grouped[name] for name in ("KD", "DKD", "CRD", "KD"))
    broken = broken.model_copy(update={"protocol": broken.protocol.model_copy(update={"lr": 1e30})})
    good = good.model_copy(update={"student": "resnet14"})

    class OutOfMemoryError(RuntimeError):
        """As torch names it."""

    def dkd_loss(*_: Any, **__: Any) -> Any:
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of it.")

    monkeypatch.setattr("trainers.methods.dkd.dkd_loss", dkd_loss)
    with attempts.claim(busy, place.state, Execution()):
        ended = run(TrialRunner(config(place, busy, full, broken, good)))
    assert {digest: outcome for digest, (outcome, _) in ended.items()} == {
        busy.digest(): "busy",
        full.digest(): "crashed",
        broken.digest(): "failed",
        good.digest(): "done",
    }
    fault = attempts.machine_fault(read_status(place.state, full.digest()))
    assert fault is not None and fault["kind"] == "device_memory"
    with pytest.raises(OutOfMemoryError):  # alone, it takes the worker with it
        run(TrialRunner(config(place, full)))


def test_a_member_with_other_threads_than_its_group_goes_back(place: Any, grouped: dict[str, Trial]) -> None:
    with attempts.claim(grouped["DKD"], place.state, Execution(threads=2)):
        pass
    ended = run(TrialRunner(config(place, grouped["KD"], grouped["DKD"])))
    assert ended[grouped["KD"].digest()] == ("done", "")
    assert ended[grouped["DKD"].digest()][0] == "busy"
    assert "its first claim fixed threads 2, its group has 1" in ended[grouped["DKD"].digest()][1]
