"""What is asked of MLflow, and that a kill or a lost answer between any two requests leaves one whole run."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from sweeps import tracking
from sweeps.tracking import Mirror, params
from tests.sweeps.test_tracking import Mirrored


@pytest.fixture
def mirrored(tracked_place: Any) -> Mirrored:
    return Mirrored(tracked_place)


class Killed(BaseException):
    """A process that ends here: no `except Exception` sees it."""


class Requests:
    """MLflow's store, with the names of all that is asked of it; dies before or after one of these requests.

    Over HTTP each is one request.
    """

    def __init__(self, store: Any, die_at: int | None = None, *, after: bool = False) -> None:
        self.store, self.die_at, self.after = store, die_at, after
        self.names: list[str] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.store, name)
        if name == "shut_down_async_logging" or not callable(found):
            return found

        def ask(*args: Any, **options: Any) -> Any:
            self.names.append(name)
            here = len(self.names) == self.die_at
            if here and not self.after:
                raise Killed
            answer = found(*args, **options)
            if here:
                raise Killed
            return answer

        return ask


@pytest.fixture
def requests_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Counts the requests of a call; with `die_at` the call is killed at that request."""
    from mlflow.tracking._tracking_service.client import TrackingServiceClient

    real = TrackingServiceClient.store

    def count(call: Any, die_at: int | None = None, *, after: bool = False) -> list[str]:
        made: list[Requests] = []

        def store(client: Any) -> Any:
            if not made:
                made.append(Requests(real.__get__(client), die_at, after=after))
            return made[0]

        with monkeypatch.context() as patch:
            patch.setattr(TrackingServiceClient, "store", property(store))
            if die_at is None:
                call()
            else:
                with pytest.raises(Killed):
                    call()
        return made[0].names if made else []

    return count


def test_a_trial_seen_once_costs_three_requests(mirrored: Mirrored, requests_of: Any) -> None:
    """Its run, all that it has to say, and its end; nothing where it is in step."""
    mirror = Mirror(mirrored.place.settings)
    mirror.parent(mirrored.plan)
    mirrored.place.train(mirrored.first, (50.0, 60.0, 55.0))
    tracked = replace(mirrored.tracked(mirrored.first), fresh=True)
    assert requests_of(lambda: mirror.trial(tracked, final=False)) == ["create_run", "log_batch", "update_run_info"]
    assert requests_of(lambda: mirror.trial(tracked, final=True)) == []
    run = mirrored.run(mirrored.first)
    assert (run.data.params, run.info.status) == (params(mirrored.first), "FINISHED")


def test_a_trial_that_is_followed_costs_a_request_a_look(
    mirrored: Mirrored, requests_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = Mirror(mirrored.place.settings)
    mirror.parent(mirrored.plan)
    tracked = replace(mirrored.tracked(mirrored.first), fresh=True)
    mirrored.place.train(mirrored.first, (50.0,), end=None)
    assert requests_of(lambda: mirror.trial(tracked, final=False)) == ["create_run", "log_batch"]
    mirrored.place.train(mirrored.first, (60.0,), end=None)
    mirror.trial(tracked, final=False)  # too soon after the last look
    assert mirrored.curve(mirrored.run(mirrored.first), "val/acc1_pct") == [(0, 50.0)]
    monkeypatch.setattr(tracking, "SPACING_S", 0.0)
    assert requests_of(lambda: mirror.trial(tracked, final=False)) == ["log_batch"]
    assert requests_of(lambda: mirror.trial(tracked, final=True)) == ["update_run_info"]  # KILLED
    mirrored.place.train(mirrored.first, (70.0,))
    assert requests_of(lambda: mirror.trial(tracked, final=False)) == ["log_batch", "update_run_info"]
    run = mirrored.run(mirrored.first)
    assert mirrored.curve(run, "val/acc1_pct") == [(0, 50.0), (1, 60.0), (2, 70.0)]
    assert (run.info.status, run.data.tags["sweeps.state"]) == ("FINISHED", "done")


def test_a_launch_costs_six_requests_beside_its_trials(mirrored: Mirrored, requests_of: Any) -> None:
    def launch(mirror: Mirror) -> None:
        mirror.open_parent(mirrored.plan)
        mirror.describe_parent(mirrored.plan, None)
        mirror.close_parent(mirrored.plan, True)

    first = requests_of(lambda: launch(Mirror(mirrored.place.settings)))
    assert sorted(first) == [
        *("create_experiment", "create_run", "get_experiment_by_name"),
        *("search_experiments", "search_runs", "update_run_info"),
    ]
    again = requests_of(lambda: launch(Mirror(mirrored.place.settings)))
    assert sorted(again) == [
        *("get_experiment_by_name", "search_experiments", "search_runs"),
        *("update_run_info", "update_run_info"),
    ]


@pytest.mark.parametrize("fresh", [True, False])
def test_a_kill_before_or_after_any_request_leaves_one_whole_run(
    fresh: bool, mirrored: Mirrored, requests_of: Any
) -> None:
    warm = ", ".join(f'{{ label = "{t}", value = {t}.0 }}' for t in range(2, 14))
    cold = '{ label = "2", value = 2.0 }, { label = "4", value = 4.0 }'
    mirrored.place.write(swap={cold: warm})
    mirrored.plan = mirrored.place.plan("grid.toml", pair="A")
    students = [trial for trial in mirrored.plan.trials.values() if trial.method == "kd"]

    def sync(trial: Any) -> None:
        Mirror(mirrored.place.settings).trial(replace(mirrored.tracked(trial), fresh=fresh), final=True)

    mirrored.place.train(mirrored.teacher)
    sync(mirrored.teacher)  # makes experiment and parent
    mirrored.place.train(students[0])
    whole = requests_of(lambda: sync(students[0]))
    assert len(whole) == 6 if fresh else 8
    moments = [(number, after) for number in range(len(whole) - 2, len(whole) + 1) for after in (False, True)]
    for (number, after), trial in zip(moments, students[1:], strict=False):
        mirrored.place.train(trial)
        requests_of(lambda trial=trial: sync(trial), number, after=after)  # type: ignore[misc]
        sync(trial)
        run = mirrored.run(trial)  # exactly one
        assert run.data.params == params(trial), (number, after)
        assert (run.info.status, run.data.metrics["best/val/acc1_pct"]) == ("FINISHED", 60.0)
        assert mirrored.curve(run, "val/acc1_pct") == [(0, 50.0), (1, 60.0)]
        assert requests_of(lambda trial=trial: sync(trial)) == ["search_experiments"]  # type: ignore[misc]
    assert len(moments) == 6
    assert len(mirrored.runs()) == 1 + 1 + len(moments)


def test_of_two_runs_that_came_of_a_lost_answer_one_is_left(
    mirrored: Mirrored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that hangs makes the run when it wakes, long after the mirror has asked again."""
    from mlflow.exceptions import MlflowException

    asked: list[Any] = []
    original = MlflowClient.create_run

    def hang(self: MlflowClient, *args: Any, **options: Any) -> Run:
        asked.append((args, options))
        raise MlflowException("timed out")

    mirror = Mirror(mirrored.place.settings)
    tracked = replace(mirrored.tracked(mirrored.first), fresh=True)
    mirrored.place.train(mirrored.first, (50.0,), end=None)
    for _ in range(2):  # of the parent, then of the trial
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, "create_run", hang)
            with pytest.raises(MlflowException):
                mirror.trial(tracked, final=False)
        mirror.parent(mirrored.plan)
    mirror.trial(tracked, final=False)
    for args, options in asked:
        original(mirrored.client, *args, **options)
    assert (len(mirrored.runs("parent")), len(mirrored.runs())) == (2, 2)
    mirrored.place.train(mirrored.first, (60.0,))
    mirror.trial(tracked, final=True)
    mirror.describe_parent(mirrored.plan, None)
    (parent,) = mirrored.runs("parent")
    run = mirrored.run(mirrored.first)
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id == mirror.parent(mirrored.plan)[1]
    assert mirrored.curve(run, "val/acc1_pct") == [(0, 50.0), (1, 60.0)]
    assert len(mirrored.runs()) == 1


def test_mlflow_itself_never_repeats_the_making_of_a_run(mirrored: Mirrored, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, str] = {}
    original = MlflowClient.create_run

    def look(self: MlflowClient, *args: Any, **options: Any) -> Run:
        seen["create_run"] = os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]
        return original(self, *args, **options)

    monkeypatch.setattr(MlflowClient, "create_run", look)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "5")
    Mirror(mirrored.place.settings).parent(mirrored.plan)
    assert seen == {"create_run": "0"}
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "5"
