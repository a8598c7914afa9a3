"""Killed drivers, full disks, grown grids and continued searches, on real trials over a real Ray."""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path

import pytest

from tests.system.exactly_once import Work, tracking_faults, trial_faults, trials_in
from trainers import attempts
from trainers.attempts import State

pytestmark = [pytest.mark.system, pytest.mark.timeout(1500)]


def _journal_lines(home) -> int:
    return sum(len(file.read_text().splitlines()) for file in home.state.glob("*/*/attempts/[0-9]*/journal.jsonl"))


def test_three_killed_drivers_lose_and_repeat_nothing(home):
    experiment = home.mini([0.1, 0.2], epochs=8, updates=16)
    command = ("run", experiment, "--profile", "paper")
    moments = [
        lambda: _journal_lines(home) >= 2,  # in the teacher
        lambda: len(home.results()) >= 1 and _journal_lines(home) >= 4 + 4,  # in the first students
        lambda: len(home.results()) >= 3,  # between students
    ]
    finished: dict[Path, int] = {}
    for moment in moments:
        process = home.start(*command)
        home.wait_for(moment, process)
        home.kill9(process)
        for file, stamp in finished.items():
            assert file.stat().st_mtime_ns == stamp, f"{file} was written again"
        finished = {file: file.stat().st_mtime_ns for file in home.results()}
    done = home.sweep(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    for file, stamp in finished.items():
        assert file.stat().st_mtime_ns == stamp, f"{file} was trained again"
    assert len(home.results()) == 5
    runs = home.runs()
    assert len(runs) == 5
    assert {run.info.status for run in runs} == {"FINISHED"}
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=home.uri)
    for run in runs:
        history = client.get_metric_history(run.info.run_id, "test/acc1_pct")
        epochs = 4 if run.data.tags["mlflow.runName"].startswith("teacher") else 8
        assert sorted(metric.step for metric in history) == list(range(epochs))
    continued = [
        json.loads(file.read_text())["accepted_epochs"]
        for file in home.state.glob("*/*/attempts/[0-9]*/claim.json")
        if json.loads(file.read_text()).get("from_attempt", 0) > 0
    ]
    assert continued, "no kill hit a trial in its middle; the moments are wrong"
    assert max(continued) >= 1, "an interrupted trial started over"


def test_a_value_added_to_an_axis_starts_only_its_cells(home):
    home.mini([0.1], epochs=3)
    assert home.sweep("run", "mini.toml", "--profile", "paper").returncode == 0
    before = {file: file.stat().st_mtime_ns for file in home.results()}
    assert len(before) == 3
    home.mini([0.1, 0.3], epochs=3)
    plan = home.plan("mini.toml", "--profile", "paper")
    assert plan["counts"] == {"done": 3, "new": 2}
    done = home.sweep("run", "mini.toml", "--profile", "paper")
    assert done.returncode == 0, done.stderr
    assert {file: file.stat().st_mtime_ns for file in home.results() if file in before} == before
    assert len(home.results()) == 5
    assert set(home.claims().values()) == {1}
    assert len(home.runs()) == 5


SEARCH = """
[search]
trials = 8
startup_trials = 3
sampler = "tpe"
metric = "last/test/loyalty"
space = [
    {{ path = "hparams.alpha", low = 0.02, high = 0.5, log = true }},
    {{ path = "hparams.lambda_0", low = 0.5, high = 5.0, log = true }},
]
direction = "{direction}"
seed = 1
"""


def _search_file(home, name: str, direction: str) -> str:
    home.mini([0.1], epochs=2, updates=4)
    text = (home.folder / "mini.toml").read_text()
    head, _, _ = text.partition("[[axes]]")
    head = head.replace('kind = "heatmap"', 'kind = "scatter"').replace(
        'rows = "alpha"\ncolumns = "k_end"', 'rows = "suggestion"'
    )
    (home.folder / name).write_text(head + SEARCH.format(direction=direction))
    return name


def _suggestions(home, experiment: str) -> list[dict]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=home.uri)
    ids = [found.experiment_id for found in client.search_experiments()]
    stem = Path(experiment).stem
    parent = client.search_runs(ids, f"tags.`sweeps.role` = 'parent' and tags.`sweeps.experiment` = 'mini/{stem}'")[0]
    path = client.download_artifacts(parent.info.run_id, "search.json", str(home.folder))
    return json.loads(Path(path).read_text())["cells"][0]["suggestions"]


def test_a_killed_search_goes_on_as_if_unbroken(home, tmp_path):
    command = ("--profile", "paper", "--trials", "8", "--concurrency", "1")
    experiment = _search_file(home, "tune.toml", "maximize")
    process = home.start("run", experiment, *command)
    home.wait_for(lambda: len(home.results()) >= 5, process)  # the teacher and four suggestions
    home.kill9(process)
    done = home.sweep("run", experiment, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    broken = _suggestions(home, experiment)
    assert len(broken) == 8
    assert len({json.dumps(each["params"], sort_keys=True) for each in broken}) == 8

    unbroken_home = type(home)(tmp_path / "unbroken")
    _search_file(unbroken_home, "tune.toml", "maximize")
    assert unbroken_home.sweep("run", "tune.toml", *command).returncode == 0
    unbroken = _suggestions(unbroken_home, "tune.toml")
    assert [each["params"] for each in broken] == [each["params"] for each in unbroken]

    _search_file(unbroken_home, "flipped.toml", "minimize")
    assert unbroken_home.sweep("run", "flipped.toml", *command).returncode == 0
    flipped = _suggestions(unbroken_home, "flipped.toml")
    assert [each["params"] for each in flipped[:3]] == [each["params"] for each in unbroken[:3]]
    assert flipped[4]["params"] != unbroken[4]["params"]


CLUMSY = """
from pathlib import Path

from trainers.methods import cudfkd
from trainers.methods.cudfkd import *


class Method(cudfkd.Method):
    def write_artifacts(self, folder, epoch):
        Path("/proc/no/such/folder").write_text("")
"""
"""A user's own method whose write the system refuses."""


def test_a_trial_that_cannot_write_fails_alone(home):
    """A write that the system refuses (ENOSPC itself is tested in `tests/trainers/test_train.py`) fails one trial with its cause."""
    (home.folder / "clumsy").mkdir()
    (home.folder / "clumsy" / "method.py").write_text(CLUMSY)
    experiment = home.mini([0.1, 0.2], epochs=2, updates=4)
    text = (home.folder / experiment).read_text()
    head, _, _ = text.partition('[[axes]]\nname = "k_end"')
    ill = '[[when]]\nmatch = { alpha = "0.2" }\nset = { method = { module = "clumsy.method" } }\n'
    (home.folder / experiment).write_text(head.replace('columns = "k_end"', 'columns = "alpha"') + ill)
    done = home.sweep("run", experiment, "--profile", "paper")
    assert done.returncode == 1, done.stdout + done.stderr
    why = home.sweep("why", experiment, "--profile", "paper")
    assert why.returncode == 1
    assert "1 failed" in why.stdout
    assert "/proc/no/such/folder" in why.stdout
    assert len(home.results()) == 2  # the teacher and the other cell


@pytest.fixture
def small_disk(home):
    """The state root on a file system of 48 MiB. Mounting one takes root's rights."""
    home.state.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", home.state], check=True)
    yield home.state
    subprocess.run(["umount", "--lazy", home.state], check=True)


def begun_student(home, teachers=1):
    """Whether a student has an epoch behind it: the teacher is done then."""
    return len(home.results()) >= teachers and any(
        len(attempts.rows(attempts.read_status(home.state, digest))) in range(1, 4)
        for digest in trials_in(home)
        if attempts.read_status(home.state, digest).state is State.PARTIAL
    )


def test_a_disk_that_fills_in_mid_sweep_costs_no_trial_and_no_epoch(home, small_disk):
    command = ("run", home.mini([0.1, 0.2], epochs=4, updates=48), "--profile", "paper")
    driver = home.start(*command)
    home.wait_for(lambda: begun_student(home), driver)
    with open(small_disk / "ballast", "wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(bytes(2**12))
    out, err = driver.communicate(timeout=600)
    assert driver.returncode == 1, out + err
    assert "No space left on device" in out
    states = [attempts.read_status(home.state, digest).state for digest in trials_in(home)]
    assert State.FAILED not in states, "a full disk is no fault of the trial"
    assert State.PARTIAL in states
    (small_disk / "ballast").unlink()
    done = home.sweep(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    work = Work()
    assert [fault for digest in trials_in(home) for fault in trial_faults(home.state, digest, 4, work)] == []
    assert (work.trials, work.epochs_again) == (5, 0)
    assert tracking_faults(home, 4, work) == []


def test_trials_of_ray_workers_replay_to_the_bit_and_the_launch_compares_its_price(home):
    done = home.sweep("run", home.mini([0.1], epochs=3), "--profile", "paper")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\nprice: planned " in done.stdout
    assert "took " in done.stdout
    for file in home.results():
        made = json.loads((file.parent / "attempts" / "1" / "made_with.json").read_text())
        assert made["device"] == "cpu"
        again = home.sweep("replay", file.parent.name[:12])
        assert again.returncode == 0, again.stdout + again.stderr
        assert "same, bit for bit" in again.stdout
        assert "as recorded" in again.stdout
