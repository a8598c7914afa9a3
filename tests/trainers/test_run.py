"""From claim to seal, and what a kill between seal and files leaves to the next one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainers import attempts
from trainers.attempts import Busy, State, read_status
from trainers.errors import Fenced
from trainers.run import run_trial
from trainers.train import trial_folder


class Killed(BaseException):
    """Stands for a kill: nothing in the code may catch it."""


def killed(*arguments: object) -> None:
    raise Killed


def test_done_trial_is_not_run_again(tiny: Any, root: Path) -> None:
    assert len(list(run_trial(tiny.kd(), root, root))) == 3
    before = {file: file.stat().st_mtime_ns for file in trial_folder(root, tiny.kd().digest()).rglob("weights.pt")}
    with pytest.raises(Busy, match="done"):
        next(run_trial(tiny.kd(), root, root))
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_living_owner_keeps_its_trial(tiny: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "BEAT_S", 0.05)
    epochs = run_trial(tiny.kd(), root, root)
    next(epochs)
    with pytest.raises(Busy, match="is alive"):
        next(run_trial(tiny.kd(), root, root))
    assert [epoch.number for epoch in epochs] == [1, 2]


def test_overtaken_owner_stops_without_a_seal(tiny: Any, root: Path) -> None:
    old = run_trial(tiny.kd(), root, root)
    next(old)
    folder = read_status(root, tiny.kd().digest()).folder
    assert folder is not None
    (folder / "released").touch()  # as if its lease had run out
    new = run_trial(tiny.kd(), root, root)
    assert next(new).number == 1
    with pytest.raises(Fenced, match=r"attempt 1 of .* was taken over"):
        next(old)
    assert [epoch.number for epoch in new] == [2]
    assert read_status(root, tiny.kd().digest()).state is State.DONE


def test_killed_between_seal_and_files_is_healed_by_the_next_claim(
    tiny: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = tiny.kd()
    monkeypatch.setattr(attempts, "publish", killed)
    with pytest.raises(Killed):
        list(run_trial(trial, root, root))
    monkeypatch.undo()
    folder = trial_folder(root, trial.digest())
    assert read_status(root, trial.digest()).state is State.DONE
    assert not (folder / "weights.pt").exists()
    assert not (folder / "result.json").exists()
    with pytest.raises(Busy, match="done"):
        next(run_trial(trial, root, root))
    assert (folder / "weights.pt").exists()
    assert (folder / "result.json").exists()


def test_upstream_killed_between_seal_and_files_is_healed_by_what_needs_it(
    tiny: Any, new_root: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject, root = tiny.ce(), new_root()
    monkeypatch.setattr(attempts, "publish", killed)
    with pytest.raises(Killed):
        list(run_trial(subject, root, root))
    monkeypatch.undo()
    assert len(list(run_trial(tiny.evaluate(subject), root, root))) == 1
    assert (trial_folder(root, subject.digest()) / "result.json").exists()


def test_fault_while_publishing_does_not_unmake_the_result(
    tiny: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(trial_dir: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(attempts, "publish", full)
    with pytest.raises(OSError, match="No space left"):
        list(run_trial(tiny.kd(), root, root))
    monkeypatch.undo()
    assert read_status(root, tiny.kd().digest()).state is State.DONE


def test_failed_trial_starts_afresh(tiny: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = tiny.kd()
    epochs = run_trial(trial, root, root)
    next(epochs)
    with monkeypatch.context() as patch:
        patch.setattr(attempts.Attempt, "append", lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            next(epochs)
    assert read_status(root, trial.digest()).state is State.FAILED
    assert [epoch.number for epoch in run_trial(trial, root, root)] == [0, 1, 2]


def test_log_handlers_do_not_pile_up(tiny: Any, root: Path) -> None:
    before = list(logging.getLogger("trainers").handlers)
    list(run_trial(tiny.kd(), root, root))
    assert logging.getLogger("trainers").handlers == before


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [(OutOfMemoryError("CUDA out of memory.\nMore of it"), "device_memory"), (MemoryError("no room"), "memory")],
)
def test_memory_faults_are_noted_and_leave_the_trial_free(
    error: Exception, kind: str, tiny: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    trial = tiny.kd()
    with monkeypatch.context() as patch:
        patch.setattr(attempts.Attempt, "append", fail)
        with pytest.raises(type(error)):
            list(run_trial(trial, root, root))
    status = read_status(root, trial.digest())
    fault = attempts.machine_fault(status)
    assert status.state is State.PARTIAL
    assert fault is not None
    assert fault["kind"] == kind
    assert fault["cause"] in ("CUDA out of memory.", "out of memory: no room")
    assert [epoch.number for epoch in run_trial(trial, root, root)] == [1, 2]  # epoch 0 was safe in the checkpoint
    assert attempts.machine_fault(read_status(root, trial.digest())) is None
