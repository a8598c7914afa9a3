"""The log of claims and seals: one owner at a time, whoever is killed or frozen, and nothing that counts is lost."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from trainers import attempts, checkpoint
from trainers.attempts import (
    Attempt,
    Busy,
    State,
    claim,
    heal,
    is_gone,
    newest,
    publish,
    read_status,
    rows,
    stop,
    whoami,
)
from trainers.config import Execution, Trial
from trainers.errors import Fenced
from trainers.train import trial_folder

FORK = multiprocessing.get_context(
    "fork"
)  # nothing here computes, so a copy of this process is safe and starts at once
ONE = Execution(threads=1)


@pytest.fixture(autouse=True)
def _fast_heart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "BEAT_S", 0.02)


@pytest.fixture
def trial(tiny: Any) -> Trial:
    made: Trial = tiny.ce()
    return made


def row(number: int) -> dict[str, float]:
    return {"test/acc1_pct": 10.0 * number}


def epoch(attempt: Attempt, number: int) -> None:
    """What the loop does for one epoch: the checkpoint first, then the journal."""
    save(attempt, number)
    attempt.append(number, row(number))


def save(attempt: Attempt, number: int) -> None:
    checkpoint.save(attempt.folder / "checkpoint.pt", {"rows": [row(each) for each in range(number + 1)]})


def finish(attempt: Attempt, epochs: int) -> None:
    checkpoint.save(attempt.folder / "weights.pt", {"state": {}})
    attempt.finish({"last/test/acc1_pct": 1.0}, epochs)


def accuracies(root: Path, trial: Trial) -> list[float]:
    return [each["test/acc1_pct"] for each in rows(read_status(root, trial.digest()))]


# ---- one life ----


def test_states_of_a_life(trial: Trial, tmp_path: Path) -> None:
    digest = trial.digest()
    assert read_status(tmp_path, digest).state is State.NEW
    assert rows(read_status(tmp_path, digest)) == []
    with claim(trial, tmp_path, ONE) as attempt:
        assert (attempt.number, attempt.resumed_epochs) == (1, 0)
        assert read_status(tmp_path, digest).state is State.PARTIAL
        epoch(attempt, 0)
        epoch(attempt, 1)
        finish(attempt, 2)
    status = read_status(tmp_path, digest)
    assert (status.state, status.number, status.result) == (State.DONE, 2, {"last/test/acc1_pct": 1.0})
    assert accuracies(tmp_path, trial) == [0, 10]
    folder = trial_folder(tmp_path, digest)
    assert folder == tmp_path / digest[:2] / digest
    assert (folder / "weights.pt").exists()
    assert (folder / "result.json").exists()
    assert not list(folder.rglob("checkpoint.pt"))
    assert not list(folder.rglob("*.tmp"))
    with pytest.raises(Busy, match="done"):
        claim(trial, tmp_path, ONE)


def test_released_trial_goes_on_at_once_with_its_timestamps(trial: Trial, tmp_path: Path) -> None:
    with claim(trial, tmp_path, ONE) as attempt:
        epoch(attempt, 0)
        epoch(attempt, 1)
    before = rows(read_status(tmp_path, trial.digest()))
    started = time.monotonic()
    with claim(trial, tmp_path, ONE, lease_s=60) as attempt:
        assert time.monotonic() - started < 5
        assert (attempt.number, attempt.resumed_epochs) == (2, 2)
        assert rows(read_status(tmp_path, trial.digest())) == before
        epoch(attempt, 2)
    assert accuracies(tmp_path, trial) == [0, 10, 20]


def test_living_owner_is_left_alone(trial: Trial, tmp_path: Path) -> None:
    with claim(trial, tmp_path, ONE) as attempt:
        for _ in range(2):
            with pytest.raises(Busy, match=r"attempt 1 on .* is alive"):
                claim(trial, tmp_path, ONE, lease_s=5)
        epoch(attempt, 0)
    assert [name for name in os.listdir(attempt.folder.parent) if not name.isdigit()] == []


def test_a_clock_that_jumps_takes_no_trial_from_its_owner(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of day goes on by a year, then back by two; leases are judged on the observer's own monotonic clock."""
    now, year = time.time(), 365 * 24 * 3600
    with claim(trial, tmp_path, ONE) as attempt:
        for number, jump in enumerate((0, year, -year)):
            monkeypatch.setattr(attempts.time, "time", lambda jump=jump: now + jump)
            epoch(attempt, number)
            with pytest.raises(Busy, match=r"attempt 1 on .* is alive"):
                claim(trial, tmp_path, ONE, lease_s=2)
        finish(attempt, 3)
    status = read_status(tmp_path, trial.digest())
    assert (status.state, status.number) == (State.DONE, 2)
    stamps = [each["timestamp_ms"] - int(now * 1000) for each in rows(status)]
    assert stamps == [0, year * 1000, -year * 1000]
    assert accuracies(tmp_path, trial) == [0, 10, 20]


def test_threads_are_fixed_by_the_first_claim(trial: Trial, tmp_path: Path) -> None:
    with claim(trial, tmp_path, Execution(threads=3)):
        pass
    with claim(trial, tmp_path, ONE) as attempt:
        assert attempt.execution.threads == 3
    content = json.loads((attempt.trial_dir / "trial.json").read_text())
    assert content["execution"] == Execution(threads=3).model_dump()
    assert Trial.model_validate(content["trial"]).digest() == trial.digest()


def test_trial_json_is_written_by_the_next_when_the_first_was_killed(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "_write_trial_json", lambda *arguments: None)
    claim(trial, tmp_path, Execution(threads=3)).release()
    monkeypatch.undo()
    claim(trial, tmp_path, ONE).release()
    content = json.loads((trial_folder(tmp_path, trial.digest()) / "trial.json").read_text())
    assert content["execution"] == Execution(threads=3).model_dump()


# ---- several processes ----


def try_to_claim(trial: Trial, root: Path, barrier: Any, answers: Any) -> None:
    barrier.wait()
    try:
        attempt = claim(trial, root, Execution(threads=os.getpid() % 7 + 1), lease_s=5)
    except Busy:
        answers.put((os.getpid(), 0))
        barrier.wait()
        return
    with attempt:
        answers.put((os.getpid(), attempt.number))
        barrier.wait()  # alive until everybody has had an answer


def race(trial: Trial, root: Path, parties: int = 8) -> list[tuple[int, int]]:
    """Process and attempt number (0: busy) of everybody who tried at the same moment."""
    barrier, answers = FORK.Barrier(parties), FORK.Queue()
    processes = [FORK.Process(target=try_to_claim, args=(trial, root, barrier, answers)) for _ in range(parties)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    return found


def test_one_of_eight_wins_a_new_trial(tiny: Any, tmp_path: Path) -> None:
    for seed in range(4):
        trial = tiny.ce(seed_of_trial=seed)
        found = race(trial, tmp_path)
        winners = [pid for pid, number in found if number]
        assert len(winners) == 1
        assert [number for _, number in found if number] == [1]
        folder = trial_folder(tmp_path, trial.digest())
        entry = json.loads((folder / "attempts" / "1" / "claim.json").read_text())
        assert entry["pid"] == winners[0]
        threads = json.loads((folder / "trial.json").read_text())["execution"]["threads"]
        assert threads == winners[0] % 7 + 1  # the winner's, not that of somebody who lost
        assert os.listdir(folder / "attempts") == ["1"]


def die(trial: Trial, root: Path) -> None:
    attempt = claim(trial, root, ONE)
    with attempt:
        epoch(attempt, 0)
        save(attempt, 1)
        os._exit(9)  # between checkpoint and journal, without a word


def killed_owner(trial: Trial, root: Path) -> None:
    process = FORK.Process(target=die, args=(trial, root))
    process.start()
    process.join(60)
    assert process.exitcode == 9


def test_dead_owner_is_replaced_at_once_by_one_of_eight(trial: Trial, tmp_path: Path) -> None:
    killed_owner(trial, tmp_path)
    started = time.monotonic()
    found = race(trial, tmp_path)
    assert time.monotonic() - started < 20
    assert sorted(number for _, number in found) == [0] * 7 + [2]


def test_dead_owner_is_not_waited_for(trial: Trial, tmp_path: Path) -> None:
    killed_owner(trial, tmp_path)
    assert accuracies(tmp_path, trial) == [0]
    started = time.monotonic()
    with claim(trial, tmp_path, ONE, lease_s=3600) as attempt:
        assert time.monotonic() - started < 5
        assert attempt.resumed_epochs == 2
        assert accuracies(tmp_path, trial) == [0, 10]  # rebuilt from the checkpoint


def test_dead_child_that_nobody_has_reaped_is_gone(trial: Trial, tmp_path: Path) -> None:
    process = FORK.Process(target=die, args=(trial, tmp_path))
    process.start()
    os.waitid(os.P_PID, int(process.pid or 0), os.WEXITED | os.WNOWAIT)
    status = read_status(tmp_path, trial.digest())
    assert Path(f"/proc/{status.entry['pid']}").exists()
    assert is_gone(status.entry)
    process.join()


def own_and_obey(trial: Trial, root: Path, orders: Connection) -> None:
    """Owns the trial, and after each order says what became of trying to go on."""
    with claim(trial, root, ONE) as attempt:
        epoch(attempt, 0)
        orders.send("ready")
        orders.recv()
        outcome = []
        save(attempt, 1)
        checkpoint.save(attempt.folder / "weights.pt", {"state": {"stale": True}})
        for act in (
            lambda: attempt.append(1, {"test/acc1_pct": -1.0}),
            lambda: attempt.finish({"stale": 1.0}, 2),
            lambda: attempt.fail("stale", "Stale"),
        ):
            try:
                act()
                outcome.append("done")
            except Fenced:
                outcome.append("fenced")
        orders.send(outcome)


def test_frozen_owner_is_taken_over_and_has_no_effect_when_it_wakes(trial: Trial, tmp_path: Path) -> None:
    mine, its = FORK.Pipe()
    process = FORK.Process(target=own_and_obey, args=(trial, tmp_path, its))
    process.start()
    try:
        assert mine.poll(60)
        assert mine.recv() == "ready"
        with pytest.raises(Busy):
            claim(trial, tmp_path, ONE, lease_s=5)
        os.kill(int(process.pid or 0), signal.SIGSTOP)
        started = time.monotonic()
        with claim(trial, tmp_path, ONE, lease_s=0.4) as attempt:
            assert time.monotonic() - started >= 0.4
            assert (attempt.number, attempt.resumed_epochs) == (2, 1)
            epoch(attempt, 1)
            os.kill(int(process.pid or 0), signal.SIGCONT)
            mine.send("go on")
            assert mine.poll(60)
            assert mine.recv() == ["fenced", "fenced", "fenced"]
            assert accuracies(tmp_path, trial) == [0, 10]
            epoch(attempt, 2)
            finish(attempt, 3)
    finally:
        os.kill(int(process.pid or 0), signal.SIGCONT)
        process.join(60)
    status = read_status(tmp_path, trial.digest())
    assert (status.state, status.number) == (State.DONE, 3)
    assert status.result == {"last/test/acc1_pct": 1.0}
    assert accuracies(tmp_path, trial) == [0, 10, 20]
    assert checkpoint.load(attempt.trial_dir / "weights.pt") == {"state": {}}
    assert not (attempt.trial_dir / "error.json").exists()


def test_owner_frozen_between_look_and_write_has_no_effect(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with claim(trial, tmp_path, ONE) as old:
        epoch(old, 0)
        (old.folder / "released").touch()
        with claim(trial, tmp_path, ONE) as new:
            monkeypatch.setattr(Attempt, "require_ownership", lambda self: None)  # it had looked before it froze
            old.append(1, {"test/acc1_pct": -1.0})
            assert accuracies(tmp_path, trial) == [0]
            with pytest.raises(Fenced):
                finish(old, 2)
            finish(new, 1)
    assert accuracies(tmp_path, trial) == [0]


# ---- who counts as gone ----


def test_known_to_be_gone_only_where_it_can_be_known() -> None:
    me = whoami()
    assert not is_gone(me)
    dead = {**me, "pid_start": "0"}  # the number was given to another process since
    assert is_gone(dead)
    for elsewhere in ({"host": "other"}, {"boot": "other"}, {"pids": "pid:[1]"}):
        assert not is_gone({**dead, **elsewhere})


# ---- journals ----


def test_torn_last_line_is_left_out_and_healed(trial: Trial, tmp_path: Path) -> None:
    with claim(trial, tmp_path, ONE) as attempt:
        for number in range(3):
            epoch(attempt, number)
    journal = attempt.folder / "journal.jsonl"
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    for torn in (whole[:-1], whole[:-20], lines[0] + lines[1] + b"\0\0\0", lines[0] + lines[1] + b"{\n"):
        journal.write_bytes(torn)
        assert accuracies(tmp_path, trial) == [0, 10]
    with claim(trial, tmp_path, ONE) as attempt:
        assert accuracies(tmp_path, trial) == [0, 10, 20]
        healed = (attempt.folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
        assert healed[:2] == lines[:2]  # with the timestamps of the first time
        assert all(json.loads(line)["epoch"] == number for number, line in enumerate(healed))


def test_rows_of_a_done_trial_end_with_its_seal(trial: Trial, tmp_path: Path) -> None:
    with claim(trial, tmp_path, ONE) as attempt:
        epoch(attempt, 0)
        finish(attempt, 1)
        with open(attempt.folder / "journal.jsonl", "a") as file:
            file.write(json.dumps({"epoch": 1, "test/acc1_pct": -1.0}) + "\n")
    assert accuracies(tmp_path, trial) == [0]


# ---- seals ----


def test_stopped_trial_can_be_continued_from_its_checkpoint(trial: Trial, tmp_path: Path) -> None:
    digest = trial.digest()
    assert not stop(tmp_path, digest, "pruned")  # nothing there
    with claim(trial, tmp_path, ONE) as attempt:
        epoch(attempt, 0)
        epoch(attempt, 1)
        assert stop(tmp_path, digest, "pruned at epoch 1")
        with pytest.raises(Fenced):
            epoch(attempt, 2)
        with pytest.raises(Fenced):
            finish(attempt, 3)
    status = read_status(tmp_path, digest)
    assert (status.state, status.entry["reason"], status.entry["epochs"]) == (State.STOPPED, "pruned at epoch 1", 2)
    assert accuracies(tmp_path, trial)[:2] == [0, 10]
    assert not stop(tmp_path, digest, "again")
    with claim(trial, tmp_path, ONE) as attempt:
        assert (attempt.number, attempt.resumed_epochs) == (3, 3)  # epoch 2 was in the checkpoint when the seal fell
        assert read_status(tmp_path, digest).state is State.PARTIAL


def test_failed_trial_claimed_again_starts_afresh(trial: Trial, tmp_path: Path) -> None:
    with claim(trial, tmp_path, ONE) as attempt:
        epoch(attempt, 0)
        attempt.fail("the loss is not finite", "TrialError", "trace")
    status = read_status(tmp_path, trial.digest())
    assert (status.state, status.entry["error"]["cause"]) == (State.FAILED, "the loss is not finite")
    assert json.loads((attempt.trial_dir / "error.json").read_text())["type"] == "TrialError"
    assert accuracies(tmp_path, trial) == [0]
    with claim(trial, tmp_path, ONE) as attempt:
        assert (attempt.number, attempt.resumed_epochs) == (3, 0)
        assert accuracies(tmp_path, trial) == []
        epoch(attempt, 0)
    with claim(
        trial, tmp_path, ONE
    ) as attempt:  # an interrupted second try goes on from itself, not from the failed one
        assert attempt.resumed_epochs == 1
        finish(attempt, 1)
    assert not (attempt.trial_dir / "error.json").exists()


def test_publishing_is_idempotent(trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "publish", lambda folder: None)  # killed right after the seal
    with claim(trial, tmp_path, ONE) as attempt:
        epoch(attempt, 0)
        finish(attempt, 1)
    monkeypatch.undo()
    folder = attempt.trial_dir
    assert not (folder / "weights.pt").exists()
    contents = []
    for _ in range(3):
        heal(tmp_path, trial.digest())
        publish(folder)
        contents.append((folder / "result.json").read_bytes() + (folder / "weights.pt").read_bytes())
    assert len(set(contents)) == 1
    (folder / "result.json").unlink()  # killed between weights and result
    heal(tmp_path, trial.digest())
    assert (folder / "result.json").exists()


def test_healing_needs_no_directory(trial: Trial, tmp_path: Path) -> None:
    heal(tmp_path, trial.digest())
    assert not list(tmp_path.iterdir())


def publish_many_times(folder: Path, barrier: Any) -> None:
    barrier.wait()
    for _ in range(20):
        publish(folder)


def test_two_may_publish_at_once(trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "publish", lambda folder: None)
    with claim(trial, tmp_path, ONE) as attempt:
        epoch(attempt, 0)
        finish(attempt, 1)
    monkeypatch.undo()
    barrier = FORK.Barrier(4)
    processes = [FORK.Process(target=publish_many_times, args=(attempt.trial_dir, barrier)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert (attempt.trial_dir / "weights.pt").exists()


def test_litter_of_killed_writers_goes_with_the_seal(trial: Trial, tmp_path: Path) -> None:
    with claim(trial, tmp_path, ONE) as attempt:
        epoch(attempt, 0)
        (attempt.folder / ".checkpoint.pt.1234.tmp").write_bytes(b"half")
        (attempt.folder.parent / ".new-1234").mkdir()
        (attempt.folder.parent / ".new-1234" / "checkpoint.pt").write_bytes(b"half")
        finish(attempt, 1)
    assert sorted(os.listdir(attempt.folder.parent)) == ["1", "2"]
    assert not [name for name in os.listdir(attempt.folder) if name.endswith(".tmp") and "heartbeat" not in name]


def test_trial_sealed_while_it_is_claimed_is_busy(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The owner comes back and finishes while its checkpoint is being copied."""
    with claim(trial, tmp_path, ONE) as old:
        epoch(old, 0)
        (old.folder / "released").touch()
        real = Path.read_bytes

        def finished_meanwhile(self: Path) -> bytes:
            if self.name == "checkpoint.pt":
                monkeypatch.undo()
                finish(old, 1)
            return real(self)

        monkeypatch.setattr(Path, "read_bytes", finished_meanwhile)
        with pytest.raises(Busy):
            claim(trial, tmp_path, ONE)
    assert read_status(tmp_path, trial.digest()).state is State.DONE
    assert sorted(os.listdir(old.folder.parent)) == ["1", "2"]


def test_claim_survives_a_kill_before_its_rename(trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(
            os, "rename", lambda *arguments: os.kill(os.getpid(), 0) or (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            claim(trial, tmp_path, ONE)
    assert read_status(tmp_path, trial.digest()).state is State.NEW
    with claim(trial, tmp_path, ONE) as attempt:
        assert attempt.number == 1


def test_read_only_state_root_says_so(trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checkpoint, "replace_bytes", refused)
    with pytest.raises(PermissionError):
        claim(trial, tmp_path, ONE)
    assert newest(trial_folder(tmp_path, trial.digest()) / "attempts") == 0


def test_release_on_a_full_disk_hides_no_other_fault(
    trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, *arguments: Any, **named: Any) -> None:
        raise OSError(28, "No space left on device")

    with contextlib.suppress(KeyError), claim(trial, tmp_path, ONE):
        monkeypatch.setattr(Path, "touch", full)
        raise KeyError("the first fault")


def test_heart_stops_with_the_claim(trial: Trial, tmp_path: Path) -> None:
    with claim(trial, tmp_path, ONE) as attempt:
        seen = wait_for(lambda: (attempt.folder / "heartbeat").exists() and (attempt.folder / "heartbeat").read_text())
        wait_for(lambda: (attempt.folder / "heartbeat").read_text() != seen)
    last = (attempt.folder / "heartbeat").read_text()
    time.sleep(0.1)
    assert (attempt.folder / "heartbeat").read_text() == last


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 20
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return value
