"""Kills at each named place of a trial's life, and clocks that jump: what is there afterwards is what an unbroken trial leaves."""

from __future__ import annotations

import ast
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainers import attempts, checkpoint
from trainers.attempts import Busy, State, claim, heal, read_status, rows
from trainers.config import Execution, Trial
from trainers.faults import DRIVER, POINTS, VARIABLE, WORKER, point
from trainers.run import run_trial
from trainers.train import trial_folder

REPOSITORY = Path(__file__).parents[2]
FORK = multiprocessing.get_context("fork")
ONE = Execution(threads=1)
MEASURED = ("time/", "train/images_per_s", "train/peak_memory_mib", "timestamp_ms")


def in_child(work: Callable[[], object], *entries: str) -> int:
    """Runs `work` in a copy of this process with these entries armed; its exit code, negative for a signal."""

    def armed() -> None:
        os.environ[VARIABLE] = " ".join(entries)
        work()

    process = FORK.Process(target=armed)
    process.start()
    process.join(120)
    assert process.exitcode is not None, "the child hangs"
    return process.exitcode


# ---- the points ----


def test_every_listed_point_is_passed_in_one_place_of_the_source() -> None:
    called: list[str] = []
    for package in ("trainers", "sweeps"):
        files = sorted((REPOSITORY / package).rglob("*.py"))
        assert len(files) > 15
        for file in files:
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "faults.point":
                    (name,) = node.args
                    each = [name.body, name.orelse] if isinstance(name, ast.IfExp) else [name]
                    assert all(isinstance(one, ast.Constant) for one in each), f"{file}:{node.lineno}: not written out"
                    called += [ast.literal_eval(one) for one in each]
    assert Counter(called) == Counter(list(POINTS))
    assert not WORKER.keys() & DRIVER.keys()


def test_nothing_happens_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(os, "kill", lambda *arguments: pytest.fail("killed"))
    for name in POINTS:
        point(name)


def test_the_named_passage_kills_once_over_all_processes(tmp_path: Path) -> None:
    passed = tmp_path / "passed"

    def pass_four_times() -> None:
        for _ in range(4):
            point("claimed")  # another point does not count
            point("sealed")
            with open(passed, "a") as file:
                file.write(".")

    entry = f"sealed:3:{tmp_path / 'marker'}"
    assert in_child(pass_four_times, entry) == -signal.SIGKILL
    assert passed.read_text() == ".."
    assert (tmp_path / "marker").read_text().strip().isdigit()
    assert in_child(pass_four_times, entry) == 0
    assert passed.read_text() == "......"
    second = f"sealed:1:{tmp_path / 'other'}"
    assert in_child(pass_four_times, entry, second) == -signal.SIGKILL
    assert passed.read_text() == "......"


def test_a_misspelt_variable_is_refused_with_every_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "seeled:1:/m claimed:0:/m claimed:1:m sealed")
    with pytest.raises(ValueError, match="unknown point 'seeled'") as error:
        point("row-written")
    lines = str(error.value).splitlines()
    assert len(lines) == 4
    assert "known: claim-prepared, claimed, " in lines[0]
    for line, entry in zip(lines[1:], ("claimed:0:/m", "claimed:1:m", "sealed"), strict=True):
        assert line == f"{VARIABLE}: '{entry}' must be POINT:COUNT:MARKER, a count above 0 and an absolute path"


# ---- a trial killed at each of them ----


def settled(trial: Trial, root: Path) -> dict[str, Any]:
    """All of a done trial that must not depend on how often it was killed."""
    folder = trial_folder(root, trial.digest())
    status = read_status(root, trial.digest())
    assert status.state is State.DONE
    result = json.loads((folder / "result.json").read_text())
    assert result == status.result
    weights = checkpoint.load(folder / "weights.pt")["state"]
    shown = {str(file.relative_to(folder)): file.read_bytes() for file in (folder / "artifacts").rglob("*.*")}
    assert shown
    return {
        "rows": [{k: v for k, v in row.items() if not k.startswith(MEASURED)} for row in rows(status)],
        "result": {k: v for k, v in result.items() if not k.startswith(MEASURED)},
        "weights": {name: tensor.numpy().tobytes() for name, tensor in weights.items()},
        "artifacts": shown,
        "leftovers": sorted(
            file.name
            for file in folder.rglob("*")
            if file.name in ("checkpoint.pt", "weights.pt", "pool", "artifacts", "error.json")
            or file.name.startswith(".new-")
            or file.suffix == ".tmp"
        ),
    }


@pytest.fixture(scope="module")
def unbroken(tiny: Any, tmp_path_factory: pytest.TempPathFactory, _teacher_folder: Path) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("unbroken")
    shutil.copytree(_teacher_folder, trial_folder(root, tiny.teacher().digest()))
    list(run_trial(a_trial(tiny), root, root))
    found = settled(a_trial(tiny), root)
    assert found["leftovers"] == ["artifacts", "weights.pt"]  # those of the trial itself
    return found


def a_trial(tiny: Any) -> Trial:
    made: Trial = tiny.kd(epochs=3, artifact_epochs=(0,))
    return made


@pytest.mark.parametrize("name", WORKER)
def test_a_trial_killed_at_a_point_ends_as_if_unbroken(
    name: str, tiny: Any, unbroken: dict[str, Any], root: Path, tmp_path: Path
) -> None:
    trial = a_trial(tiny)
    passage = 2 if name in ("checkpoint-written", "row-written") else 1
    entry = f"{name}:{passage}:{tmp_path / 'marker'}"
    assert in_child(lambda: list(run_trial(trial, root, root)), entry) == -signal.SIGKILL
    sealed = read_status(root, trial.digest()).state is State.DONE
    assert sealed is (name in ("sealed", "weights-published", "checkpoints-freed", "result-written"))
    if sealed:
        heal(root, trial.digest())  # as the next launch does
    else:
        again = [epoch.number for epoch in run_trial(trial, root, root)]
        assert again == {"checkpoint-written": [2], "row-written": [2], "weights-written": []}.get(name, [0, 1, 2])
    assert settled(trial, root) == unbroken


def test_what_was_published_is_never_written_again(tiny: Any, root: Path) -> None:
    trial = a_trial(tiny)
    list(run_trial(trial, root, root))
    folder = trial_folder(root, trial.digest())
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}
    with pytest.raises(Busy, match="done"):  # a second driver that had not heard of it
        claim(trial, root, ONE)
    attempts.publish(folder)
    heal(root, trial.digest())
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()} == before


def test_artifacts_of_an_owner_that_was_shut_out_are_nobodys(tiny: Any, root: Path, unbroken: dict[str, Any]) -> None:
    trial = a_trial(tiny)
    old = run_trial(trial, root, root)
    next(old)  # epoch 0 has artifacts
    status = read_status(root, trial.digest())
    assert status.folder is not None
    (status.folder / "released").touch()  # as if its lease had run out
    list(run_trial(trial, root, root))
    late = status.folder / "artifacts" / "epoch_0002" / "loyalty.json"
    checkpoint.replace_bytes(late, b"late")  # it wakes and goes on writing
    checkpoint.replace_bytes(status.folder / "weights.pt", b"late")
    old.close()  # type: ignore[attr-defined]
    attempts.publish(trial_folder(root, trial.digest()))
    assert settled(trial, root) == unbroken


# ---- clocks ----


@pytest.fixture
def jumping_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wall clock that jumps by a day at every look, to and fro."""
    real, looks = time.time, iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: real() + (86_400 if next(looks) % 2 else -86_400))


def keep_setting_mtime(file: Path, stop: threading.Event) -> None:
    """Gives a heartbeat file times of last year and of next year, as clocks of other machines might."""
    sign = 1
    while not stop.wait(0.01):
        sign = -sign
        moment = 1_790_000_000 + sign * 31_536_000
        try:
            os.utime(file, (moment, moment))
        except FileNotFoundError:
            continue


@pytest.mark.usefixtures("jumping_clock")
def test_no_jump_of_a_clock_takes_a_trial_from_a_living_owner(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "BEAT_S", 0.05)
    trial, stop = a_trial(tiny), threading.Event()
    with claim(trial, tmp_path, ONE) as attempt:
        thread = threading.Thread(target=keep_setting_mtime, args=(attempt.folder / "heartbeat", stop))
        thread.start()
        try:
            for _ in range(3):
                with pytest.raises(Busy, match="is alive"):
                    claim(trial, tmp_path, ONE, lease_s=30)
            for number in range(3):
                checkpoint.save(attempt.folder / "checkpoint.pt", {"rows": [{"x": 0.0}] * (number + 1)})
                attempt.append(number, {"x": 0.0})
        finally:
            stop.set()
            thread.join()
    assert attempts.newest(attempt.folder.parent) == 1
    assert [row["epoch"] for row in rows(read_status(tmp_path, trial.digest()))] == [0, 1, 2]


@pytest.mark.usefixtures("jumping_clock")
def test_no_jump_of_a_clock_keeps_a_silent_owner_in_its_place(tiny: Any, tmp_path: Path) -> None:
    """The owner's machine is another one and is gone; its heartbeat file has the newest of times, but its count stands still."""
    trial, stop = a_trial(tiny), threading.Event()
    silent = claim(trial, tmp_path, ONE)
    entry = json.loads((silent.folder / "claim.json").read_text())
    (silent.folder / "claim.json").write_text(json.dumps({**entry, "host": "elsewhere"}))
    (silent.folder / "heartbeat").write_text("7")
    thread = threading.Thread(target=keep_setting_mtime, args=(silent.folder / "heartbeat", stop))
    thread.start()
    try:
        started = time.monotonic()
        with claim(trial, tmp_path, ONE, lease_s=0.5) as attempt:
            assert 0.5 <= time.monotonic() - started < 20
            assert attempt.number == 2
    finally:
        stop.set()
        thread.join()
