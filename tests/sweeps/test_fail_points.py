"""A driver killed between MLflow's answer and the record of it: the next one finds what is there and doubles nothing."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from sweeps.plan import Plan
from sweeps.queue import Queue
from sweeps.store import HeldError, locked
from sweeps.tracking import Mirror, Tracked, Tracker
from trainers import attempts
from trainers.attempts import State
from trainers.faults import DRIVER, VARIABLE
from trainers.train import trial_folder

FORK = multiprocessing.get_context("fork")
MIRRORED = [name for name in DRIVER if name not in ("suggested", "trial-ended")]
"""The two others are Tune's, whose driver is killed there in `tests/system/chaos.py`."""


def mirror_all(place: Any, plan: Plan) -> None:
    mirror = Mirror(place.settings)
    mirror.open_parent(plan)
    for digest, trial in plan.trials.items():
        mirror.trial(Tracked(plan, digest, trial, plan.names[digest]), final=True)


def killed_at(name: str, place: Any, plan: Plan) -> None:
    """Mirrors in a copy of this process, which dies at the point; this one has not opened the store yet."""

    def work() -> None:
        os.environ[VARIABLE] = f"{name}:1:{place.folder / name}"
        mirror_all(place, plan)

    process = FORK.Process(target=work)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def plan_of(place: Any) -> Plan:
    place.write()
    found: Plan = place.plan("grid.toml", pair="A")
    return found


@pytest.mark.parametrize("name", MIRRORED)
def test_a_driver_killed_at_a_point_leaves_one_run_with_each_value_once(name: str, tracked_place: Any) -> None:
    plan = plan_of(tracked_place)
    teacher, first, _ = plan.trials.values()
    tracked_place.train(teacher, (50.0, 60.0))
    tracked_place.train(first, (70.0,), end=None)
    killed_at(name, tracked_place, plan)
    tracked_place.train(first, (80.0,))
    mirror_all(tracked_place, plan)

    client = Mirror(tracked_place.settings).client
    ids = [each.experiment_id for each in client.search_experiments()]
    runs = {run.data.tags["sweeps.digest"]: run for run in client.search_runs(ids, "tags.`sweeps.role` = 'trial'")}
    assert runs.keys() == {teacher.digest(), first.digest()}
    assert len(client.search_runs(ids)) == 3  # these and the parent
    for digest, accuracies in ((teacher.digest(), (50.0, 60.0)), (first.digest(), (70.0, 80.0))):
        run = runs[digest]
        assert run.info.status == "FINISHED"
        history = client.get_metric_history(run.info.run_id, "val/acc1_pct")
        assert sorted((point.step, point.value) for point in history) == list(enumerate(accuracies))
        (best,) = client.get_metric_history(run.info.run_id, "best/val/acc1_pct")
        assert (best.step, best.value) == (1, max(accuracies))


def test_files_of_a_trial_that_died_between_seal_and_files_are_made_by_the_next_launch(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(place)
    with monkeypatch.context() as patch:
        patch.setattr(attempts, "publish", lambda folder: None)
        for trial in plan.trials.values():
            place.train(trial)
    assert not list(place.state.glob("??/*/result.json"))
    assert Queue([plan_of(place)], [], place.state).finished()
    results = list(place.state.glob("??/*/result.json"))
    assert len(results) == 3
    for file in results:
        assert json.loads(file.read_text()) == attempts.read_status(place.state, file.parent.name).result
        assert (file.parent / "weights.pt").exists()


def test_a_lock_that_a_stopped_process_holds_is_waited_for_and_then_named(tmp_path: Path) -> None:
    held, again = (
        locked(tmp_path / "lock"),
        locked(tmp_path / "lock", 0.3),
    )  # another open file stands for another process
    with held, pytest.raises(HeldError, match=r"another process holds .*lock; end it if"), again:
        pass
    with locked(tmp_path / "lock", 0):
        pass


def test_a_trial_that_another_driver_mirrors_keeps_no_other_from_its_turn(tracked_place: Any) -> None:
    plan = plan_of(tracked_place)
    teacher, first, _ = plan.trials.values()
    tracked_place.train(teacher)
    tracked_place.train(first, end=None)
    listed = [Tracked(plan, each.digest(), each, plan.names[each.digest()]) for each in (teacher, first)]
    tracker = Tracker(tracked_place.settings, [plan], lambda: listed)
    with locked(trial_folder(tracked_place.state, teacher.digest()) / ".mlflow.lock"):
        tracker._attempt(final=False)
    assert tracker.problem is None
    records = tracked_place.state.glob("??/*/mlflow.json")
    assert [file.parent.name for file in records] == [first.digest()]
    tracker._attempt(final=False)
    assert (trial_folder(tracked_place.state, teacher.digest()) / "mlflow.json").exists()


def test_a_record_is_never_brought_up_from_an_attempt_that_was_overtaken(
    tracked_place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver looks, waits for the lock of another one that mirrors the next attempt, and only then writes."""
    plan = plan_of(tracked_place)
    teacher = next(iter(plan.trials.values()))
    digest = teacher.digest()
    tracked = Tracked(plan, digest, teacher, plan.names[digest])
    tracked_place.train(teacher, (50.0,), end=None)
    journal = attempts.read_status(tracked_place.state, digest).folder / "journal.jsonl"
    journal.write_text("")  # killed between checkpoint and journal: the next attempt stamps the epoch anew
    late, real = Mirror(tracked_place.settings), attempts.read_status
    stale = real(tracked_place.state, digest)
    tracked_place.train(teacher, (60.0,), end=None)
    Mirror(tracked_place.settings).trial(tracked, final=False)
    with monkeypatch.context() as patch:
        answers = iter([stale])
        patch.setattr(attempts, "read_status", lambda *where: next(answers, None) or real(*where))
        late.trial(tracked, final=False)
    assert real(tracked_place.state, digest).state is State.PARTIAL
    (run,) = late.client.search_runs([late.parent(plan)[0]], "tags.`sweeps.role` = 'trial'")
    history = late.client.get_metric_history(run.info.run_id, "val/acc1_pct")
    assert [(point.step, point.value) for point in history] == [(0, 50.0), (1, 60.0)]
    assert "sweeps.superseded" not in run.data.tags
