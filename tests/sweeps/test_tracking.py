"""Trial directories mirrored into a real MLflow store: once, whole, and again after anything went wrong."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from sweeps import tracking
from sweeps.errors import SetupError
from sweeps.plan import Plan
from sweeps.store import will_be_new
from sweeps.tracking import Mirror, Tracked, Tracker, params
from trainers import attempts
from trainers.train import trial_folder


class Mirrored:
    """A place whose grid is planned, with what is needed to sync and to look at the store."""

    def __init__(self, place: Any) -> None:
        self.place = place
        place.write()
        self.plan: Plan = place.plan("grid.toml", pair="A")
        self.teacher, self.first, self.second = self.plan.trials.values()
        self.client = MlflowClient(tracking_uri=place.settings.tracking_uri)

    def tracked(self, trial: Any) -> Tracked:
        digest = trial.digest()
        return Tracked(self.plan, digest, trial, self.plan.names[digest])

    def sync(self, *trials: Any, final: bool = False) -> None:
        mirror = Mirror(self.place.settings)  # a new process would have a new one
        for trial in trials or (self.teacher, self.first, self.second):
            mirror.trial(self.tracked(trial), final=final)

    def runs(self, role: str = "trial") -> list[Run]:
        experiments = [each.experiment_id for each in self.client.search_experiments()]
        return list(self.client.search_runs(experiments, f"tags.`sweeps.role` = '{role}'"))

    def run(self, trial: Any) -> Run:
        (found,) = [run for run in self.runs() if run.data.tags.get("sweeps.digest") == trial.digest()]
        return found

    def curve(self, run: Run, metric: str) -> list[tuple[int, float]]:
        history = self.client.get_metric_history(run.info.run_id, metric)
        return sorted((point.step, point.value) for point in history)

    def record(self, trial: Any) -> Path:
        return trial_folder(self.place.state, trial.digest()) / "mlflow.json"


@pytest.fixture
def mirrored(tracked_place: Any) -> Mirrored:
    return Mirrored(tracked_place)


def test_a_new_trial_has_no_run(mirrored: Mirrored) -> None:
    mirrored.sync()
    assert mirrored.runs() == []


def test_a_run_has_a_readable_name_its_place_and_its_tags(mirrored: Mirrored) -> None:
    mirrored.place.train(mirrored.first)
    mirrored.sync()
    run = mirrored.run(mirrored.first)
    (parent,) = mirrored.runs("parent")
    assert run.info.run_name == "pair=A temperature=2 seed=0"
    assert mirrored.client.get_experiment(run.info.experiment_id).name == "tiny-paper"
    tags = run.data.tags
    assert tags["sweeps.digest"] == mirrored.first.digest()
    assert tags["mlflow.parentRunId"] == parent.info.run_id
    assert (tags["sweeps.experiment"], tags["sweeps.profile"]) == ("tiny/grid", "paper")
    assert (tags["sweeps.state"], tags["sweeps.device"]) == ("done", "cpu")
    assert "torch==" in tags["sweeps.versions"]
    assert "python==" in tags["sweeps.versions"]
    assert "sweeps.commit" in tags


def test_a_run_says_what_its_own_worker_was_made_with(mirrored: Mirrored) -> None:
    """Not what this process is: the trial may have been trained by another launch."""
    attempt = mirrored.place.train(mirrored.first)
    made = {"commit": "abc+dirty", "patch": "f" * 64, "versions": {"python": "3.11.1", "torch": "2.11.0"}}
    made |= {"device": "cuda", "device_name": "NVIDIA H200", "data_sha256": "e" * 64}
    made |= {"stayed_eager": ["VGG in eval mode: no compiler"]}
    (attempt.folder / "made_with.json").write_text(json.dumps(made))
    (mirrored.place.state / "patches").mkdir()
    (mirrored.place.state / "patches" / f"{'f' * 64}.patch").write_text("diff --git a/x b/x\n")
    mirrored.sync()
    run = mirrored.run(mirrored.first)
    tags = run.data.tags
    assert (tags["sweeps.commit"], tags["sweeps.patch"]) == ("abc+dirty", "f" * 64)
    assert tags["sweeps.versions"] == "python==3.11.1 torch==2.11.0"
    assert (tags["sweeps.device"], tags["sweeps.device_name"]) == ("cuda", "NVIDIA H200")
    assert tags["sweeps.data_sha256"] == "e" * 64
    assert tags["sweeps.stayed_eager"] == "VGG in eval mode: no compiler"
    file = mirrored.client.download_artifacts(run.info.run_id, "code.patch")
    assert Path(file).read_text() == "diff --git a/x b/x\n"


def test_parameters_keep_their_types(mirrored: Mirrored) -> None:
    mirrored.place.train(mirrored.first)
    mirrored.sync()
    shown = mirrored.run(mirrored.first).data.params
    assert shown == params(mirrored.first)
    assert shown["method"] == "kd"
    assert shown["teacher"] == "resnet14"
    assert shown["teacher_digest"] == mirrored.teacher.digest()
    assert json.loads(shown["seed"]) == 0
    assert json.loads(shown["hparams.temperature"]) == 2.0
    assert json.loads(shown["hparams.ce_weight"]) == 0.25
    assert json.loads(shown["protocol.nesterov"]) is False
    assert "protocol.source" not in shown


def test_metrics_have_epochs_as_steps_and_the_journals_times(mirrored: Mirrored) -> None:
    mirrored.place.train(mirrored.first, (50.0, 60.0, 55.0))
    mirrored.sync()
    run = mirrored.run(mirrored.first)
    assert mirrored.curve(run, "val/acc1_pct") == [(0, 50.0), (1, 60.0), (2, 55.0)]
    rows = attempts.rows(attempts.read_status(mirrored.place.state, mirrored.first.digest()))
    points = mirrored.client.get_metric_history(run.info.run_id, "val/acc1_pct")
    assert [point.timestamp for point in points] == [row["timestamp_ms"] for row in rows]
    assert run.info.start_time == rows[0]["timestamp_ms"]
    assert (run.data.metrics["best/val/acc1_pct"], run.data.metrics["last/val/acc1_pct"]) == (60.0, 55.0)
    assert set(run.data.metrics) == {
        *("train/loss", "val/acc1_pct", "test/acc1_pct", "time/total_s"),
        *(f"{which}/{split}/acc1_pct" for which in ("best", "last") for split in ("val", "test")),
    }
    assert run.info.status == "FINISHED"
    assert run.info.end_time >= run.info.start_time


def test_epochs_stay_in_order_when_the_clock_jumps(mirrored: Mirrored, monkeypatch: pytest.MonkeyPatch) -> None:
    now, hour = time.time(), 3600
    for jump, end in ((0, None), (5 * hour, None), (-3 * 24 * hour, "done")):
        monkeypatch.setattr(attempts.time, "time", lambda jump=jump: now + jump)
        mirrored.place.train(mirrored.first, (50.0 + jump / hour,), end=end)
        mirrored.sync(final=end == "done")
    run = mirrored.run(mirrored.first)
    assert mirrored.curve(run, "test/acc1_pct") == [(0, 49.5), (1, 54.5), (2, -22.5)]
    assert run.data.metrics["test/acc1_pct"] == -22.5  # the last epoch's, not the latest by the clock
    assert run.info.status == "FINISHED"


def test_syncing_twice_changes_nothing(mirrored: Mirrored) -> None:
    mirrored.place.train(mirrored.teacher)
    mirrored.place.train(mirrored.first, end="failed")
    mirrored.sync()
    before = [run.to_dictionary() for run in mirrored.runs()]
    mirrored.sync()
    mirrored.sync(final=True)
    assert [run.to_dictionary() for run in mirrored.runs()] == before
    assert len(before) == 2


def test_rows_are_added_as_they_come(mirrored: Mirrored) -> None:
    mirrored.place.train(mirrored.first, (50.0,), end=None)
    mirrored.sync()
    run = mirrored.run(mirrored.first)
    assert (run.info.status, run.data.tags["sweeps.state"]) == ("RUNNING", "partial")
    mirrored.place.train(mirrored.first, (60.0, 65.0))  # continues from the checkpoint in a new attempt
    mirrored.sync()
    (run,) = mirrored.runs()
    assert mirrored.curve(run, "val/acc1_pct") == [(0, 50.0), (1, 60.0), (2, 65.0)]
    assert run.info.status == "FINISHED"
    assert run.data.tags["sweeps.attempt"] == "3"  # two claims and the seal


def test_a_run_that_somebody_deleted_in_the_middle_is_made_again(mirrored: Mirrored) -> None:
    mirrored.place.train(mirrored.first, (50.0,), end=None)
    mirrored.sync()
    first = mirrored.run(mirrored.first).info.run_id
    mirrored.client.delete_run(first)
    mirrored.place.train(mirrored.first, (60.0,))
    mirrored.sync()
    run = mirrored.run(mirrored.first)
    assert run.info.run_id != first
    assert run.info.status == "FINISHED"
    assert mirrored.curve(run, "val/acc1_pct") == [(0, 50.0), (1, 60.0)]


def test_a_torn_last_line_is_left_out_until_it_is_whole(mirrored: Mirrored) -> None:
    attempt = mirrored.place.train(mirrored.first, (50.0,), end=None)
    with open(attempt.folder / "journal.jsonl", "a") as file:
        file.write('{"epoch": 1, "timestamp_ms": 5, "val/acc')
    mirrored.sync()
    assert mirrored.curve(mirrored.run(mirrored.first), "val/acc1_pct") == [(0, 50.0)]


@pytest.mark.parametrize(
    ("end", "status", "state"),
    [("failed", "FAILED", "failed"), ("stopped", "KILLED", "stopped"), (None, "KILLED", "partial")],
)
def test_how_a_trial_ended_is_shown(end: str | None, status: str, state: str, mirrored: Mirrored) -> None:
    mirrored.place.train(mirrored.first, end=end, cause="epoch 1: train/loss = nan")
    mirrored.sync(final=True)
    run = mirrored.run(mirrored.first)
    assert (run.info.status, run.data.tags["sweeps.state"]) == (status, state)
    assert run.data.tags.get("sweeps.error") == ("epoch 1: train/loss = nan" if end == "failed" else None)
    digest = mirrored.first.digest()
    log = f"{digest[:2]}/{digest}/attempts/1/log.txt"
    assert run.data.tags.get("sweeps.log") == (log if end == "failed" else None)
    assert not any(name.startswith("best/") for name in run.data.metrics)
    assert len(mirrored.curve(run, "val/acc1_pct")) == 2


def test_a_run_left_partial_runs_again_when_somebody_goes_on(mirrored: Mirrored) -> None:
    mirrored.place.train(mirrored.first, (50.0,), end=None)
    mirrored.sync(final=True)
    assert mirrored.run(mirrored.first).info.status == "KILLED"
    mirrored.place.train(mirrored.first, (60.0,), end=None)
    mirrored.sync()
    assert mirrored.run(mirrored.first).info.status == "RUNNING"


def test_a_stopped_trial_that_a_grid_continues_ends_finished(mirrored: Mirrored) -> None:
    mirrored.place.train(mirrored.first, (50.0,), end="stopped")
    mirrored.sync(final=True)
    mirrored.place.train(mirrored.first, (60.0,))
    mirrored.sync(final=True)
    (run,) = mirrored.runs()
    assert (run.info.status, run.data.tags["sweeps.state"]) == ("FINISHED", "done")
    assert mirrored.curve(run, "val/acc1_pct") == [(0, 50.0), (1, 60.0)]


# --- nothing twice ---------------------------------------------------------------------------------------------------


def test_a_lost_record_is_found_again_by_the_digest(mirrored: Mirrored) -> None:
    mirrored.place.train(mirrored.first)
    mirrored.sync()
    before = mirrored.run(mirrored.first)
    mirrored.record(mirrored.first).unlink()
    mirrored.sync()
    after = mirrored.run(mirrored.first)
    assert after.info.run_id == before.info.run_id
    assert mirrored.curve(after, "val/acc1_pct") == [(0, 50.0), (1, 60.0)]  # no point twice
    assert after.data.metrics == before.data.metrics


def test_a_damaged_record_counts_as_lost(mirrored: Mirrored) -> None:
    mirrored.place.train(mirrored.first)
    mirrored.sync()
    mirrored.record(mirrored.first).write_text("{")
    mirrored.sync()
    assert len(mirrored.runs()) == 1


@pytest.mark.parametrize("seen_between", [False, True])
def test_a_trial_started_over_gets_a_new_run_and_the_old_one_says_so(seen_between: bool, mirrored: Mirrored) -> None:
    mirrored.place.train(mirrored.first, (10.0, 20.0), end="failed")
    mirrored.sync(final=True)
    old = mirrored.run(mirrored.first)
    if seen_between:  # the mirror looks after the new claim and before its first epoch
        mirrored.place.train(mirrored.first, (), end=None)
        mirrored.sync()
    mirrored.place.train(mirrored.first, (50.0, 60.0, 70.0))  # a failed trial starts over
    mirrored.sync(final=True)
    new = mirrored.run(mirrored.first)
    assert new.info.run_id != old.info.run_id
    assert mirrored.curve(new, "val/acc1_pct") == [(0, 50.0), (1, 60.0), (2, 70.0)]
    assert new.info.status == "FINISHED"
    old = mirrored.client.get_run(old.info.run_id)
    assert "sweeps.superseded" in old.data.tags
    assert "sweeps.digest" not in old.data.tags
    assert mirrored.curve(old, "val/acc1_pct") == [(0, 10.0), (1, 20.0)]
    assert len(mirrored.runs()) == 2


# --- parents ---------------------------------------------------------------------------------------------------------


def parent_file(mirrored: Mirrored, name: str, folder: Path) -> str:
    (parent,) = mirrored.runs("parent")
    return Path(mirrored.client.download_artifacts(parent.info.run_id, name, str(folder))).read_text()


def test_the_parent_carries_file_plan_and_links_and_is_never_doubled(mirrored: Mirrored, tmp_path: Path) -> None:
    mirrored.place.train_all(mirrored.plan)
    for _ in range(2):
        mirrored.sync()
        mirror = Mirror(mirrored.place.settings)
        mirror.describe_parent(mirrored.plan, None)
        mirror.close_parent(mirrored.plan, True)
    (parent,) = mirrored.runs("parent")
    assert (parent.info.run_name, parent.info.status) == ("grid", "FINISHED")
    assert parent.data.tags["mlflow.note.content"].startswith("Small grid")
    out = tmp_path / "out"
    out.mkdir()
    assert parent_file(mirrored, "experiment.toml", out) == (mirrored.place.folder / "grid.toml").read_text()
    assert json.loads(parent_file(mirrored, "plan.json", out)) == json.loads(json.dumps(mirrored.plan.as_json()))
    links = json.loads(parent_file(mirrored, "runs.json", out))
    assert links == {run.info.run_name: run.info.run_id for run in mirrored.runs()}
    assert len(links) == 3


def test_each_profile_has_a_parent_and_an_mlflow_experiment(mirrored: Mirrored) -> None:
    own = mirrored.place.write('title = "own"\n', "own.toml")
    mirror = Mirror(mirrored.place.settings)
    first, second = mirror.parent(mirrored.plan), mirror.parent(mirrored.place.plan("grid.toml", own))
    assert first[0] != second[0]
    assert first[1] != second[1]
    assert {each.name for each in mirrored.client.search_experiments()} == {"Default", "tiny-paper", "tiny-own"}


def test_a_trial_that_two_experiments_share_hangs_under_the_first(mirrored: Mirrored) -> None:
    mirrored.place.train(mirrored.teacher)
    mirrored.sync()
    text = (mirrored.place.folder / "grid.toml").read_text()
    other = mirrored.place.plan(mirrored.place.write(text, "other.toml"), pair="A")
    mirror = Mirror(mirrored.place.settings)
    digest = mirrored.teacher.digest()
    mirror.trial(Tracked(other, digest, mirrored.teacher, other.names[digest]), final=True)
    run = mirrored.run(mirrored.teacher)
    assert run.data.tags["sweeps.experiment"] == "tiny/grid"
    mirror.describe_parent(other, None)
    (parent,) = [run for run in mirrored.runs("parent") if run.data.tags["sweeps.experiment"] == "tiny/other"]
    links = mirrored.client.download_artifacts(parent.info.run_id, "runs.json", str(mirrored.place.folder))
    assert json.loads(Path(links).read_text()) == {"teacher resnet14 seed=0": run.info.run_id}


def test_parent_shows_running_then_how_it_ended(mirrored: Mirrored) -> None:
    mirror = Mirror(mirrored.place.settings)
    for complete, status in ((False, "FAILED"), (True, "FINISHED")):
        mirror.open_parent(mirrored.plan)
        assert mirrored.runs("parent")[0].info.status == "RUNNING"
        mirror.close_parent(mirrored.plan, complete)
        assert mirrored.runs("parent")[0].info.status == status


def test_artifacts_of_a_done_trial_and_tables_of_a_parent_are_there(mirrored: Mirrored) -> None:
    picture = trial_folder(mirrored.place.state, mirrored.first.digest()) / "artifacts" / "epoch_0001" / "samples.png"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"png")
    mirrored.place.train(mirrored.first)
    mirrored.sync()
    run = mirrored.run(mirrored.first)
    assert [file.path for file in mirrored.client.list_artifacts(run.info.run_id, "epoch_0001")] == [
        "epoch_0001/samples.png"
    ]
    assert Path(run.info.artifact_uri.removeprefix("file://")).is_relative_to(mirrored.place.settings.artifacts)
    table = mirrored.place.folder / "table.md"
    table.write_text("| a |")
    mirror = Mirror(mirrored.place.settings)
    mirror.attach(mirrored.plan, [table])
    assert [file.path for file in mirrored.client.list_artifacts(mirror.parent(mirrored.plan)[1])] == ["table.md"]


# --- a store that is away --------------------------------------------------------------------------------------------


def test_a_store_that_comes_back_is_brought_in_step(mirrored: Mirrored, caplog: pytest.LogCaptureFixture) -> None:
    place = mirrored.place
    whole = place.folder / "whole.db"
    place.database.rename(whole)
    place.database.write_bytes(
        b"no database, but long enough that its header is read and found to be none of SQLite's " * 9
    )
    place.train_all(mirrored.plan)
    tracked = [mirrored.tracked(trial) for trial in mirrored.plan.trials.values()]
    tracker = Tracker(place.settings, [mirrored.plan], lambda: tracked)
    tracker.start()
    assert tracker.finish() is None
    assert tracker.problem is not None
    assert sum("MLflow is away" in record.message for record in caplog.records) == 1
    shutil.move(whole, place.database)
    tracker = Tracker(place.settings, [mirrored.plan], lambda: tracked)
    tracker.start()
    assert tracker.finish() is not None
    assert {run.info.status for run in mirrored.runs()} == {"FINISHED"}
    assert len(mirrored.runs()) == 3


def test_the_tracker_follows_trials_that_appear_meanwhile(mirrored: Mirrored) -> None:
    tracked: list[Tracked] = []
    tracker = Tracker(mirrored.place.settings, [mirrored.plan], lambda: list(tracked))
    tracker.start()
    mirrored.place.train(mirrored.first)
    tracked.append(mirrored.tracked(mirrored.first))
    assert tracker.finish() is not None
    assert [run.info.status for run in mirrored.runs()] == ["FINISHED"]


def test_two_stores_have_records_of_their_own(mirrored: Mirrored, migrated_store: Path) -> None:
    mirrored.place.train(mirrored.first)
    mirrored.sync()
    other = mirrored.place.folder / "other.db"
    shutil.copy(migrated_store, other)
    settings = replace(mirrored.place.settings, tracking_uri=f"sqlite:///{other}")
    Mirror(settings).trial(mirrored.tracked(mirrored.first), final=True)
    found = MlflowClient(tracking_uri=settings.tracking_uri)
    experiments = [each.experiment_id for each in found.search_experiments()]
    assert len(found.search_runs(experiments, "tags.`sweeps.role` = 'trial'")) == 1
    assert len(mirrored.runs()) == 1
    assert len(json.loads(mirrored.record(mirrored.first).read_text())) == 2


def test_a_server_that_does_not_answer_is_told_without_its_password(
    mirrored: Mirrored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    settings = replace(mirrored.place.settings, tracking_uri="http://user:s3cret@127.0.0.1:9")
    with pytest.raises(SetupError) as caught:
        tracking.client(settings)
    assert "127.0.0.1:9" in str(caught.value)
    assert "MLFLOW_TRACKING_URI" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "new"),
    [
        ("sqlite:///{folder}/deep/own.db", True),
        ("sqlite:///{folder}/there.db", False),
        ("sqlite:///{folder}/there.db/own.db", False),
        ("sqlite:///own.db", False),
        ("postgresql://host/mlflow", False),
        ("http://127.0.0.1:9", False),
    ],
)
def test_only_a_sqlite_file_that_can_be_made_is_new(uri: str, new: bool, tmp_path: Path, mirrored: Mirrored) -> None:
    (tmp_path / "there.db").touch()
    settings = replace(mirrored.place.settings, tracking_uri=uri.format(folder=tmp_path))
    assert will_be_new(settings) is new
    assert not list(tmp_path.rglob("own.db"))


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("postgresql+psycopg://user:s3cret@127.0.0.1:9/mlflow", "refused"),
        ("mysql+pymysql://user:s3cret@127.0.0.1:9/mlflow", "install its driver"),
    ],
)
def test_a_database_that_cannot_be_opened_is_told_at_once(uri: str, told: str, mirrored: Mirrored) -> None:
    """MLflow alone tries a database that is away ten times, for a minute and a half."""
    started = time.monotonic()
    with pytest.raises(SetupError) as caught:
        tracking.client(replace(mirrored.place.settings, tracking_uri=uri))
    assert time.monotonic() - started < 60
    assert told in str(caught.value)
    assert "user:***@127.0.0.1:9/mlflow" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_store_that_goes_away_during_a_sync_is_one_message(
    mirrored: Mirrored, run_sweep: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*args: Any, **options: Any) -> None:
        raise MlflowException("connection refused")

    mirrored.place.train_all(mirrored.plan)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", gone)
        code, _, errors = run_sweep("sync", "grid.toml", "--profile", "paper")
    assert code == 2
    assert "connection refused" in errors
    assert "`sweep sync` goes on" in errors
    code, out, _ = run_sweep("sync", "grid.toml", "--profile", "paper")
    assert (code, "3 trials in step" in out) == (0, True)
    assert {run.info.status for run in mirrored.runs()} == {"FINISHED"}
    assert len(mirrored.runs()) == 3


def test_no_secret_reaches_tags_or_params(mirrored: Mirrored, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "s3cret")
    monkeypatch.setenv("SWEEPS_STUDY_URL", "postgresql://user:s3cret@host/studies")
    mirrored.place.train_all(mirrored.plan)
    mirrored.sync()
    Mirror(mirrored.place.settings).describe_parent(mirrored.plan, None)
    for run in [*mirrored.runs(), *mirrored.runs("parent")]:
        assert "s3cret" not in json.dumps(run.to_dictionary())
    assert len(mirrored.runs()) == 3
