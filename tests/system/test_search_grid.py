"""Grid x Optuna x seeds in one file: real trials under Ray with racing over the seeds, and the same studies in PostgreSQL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.sweeps.conftest import SEARCH, Place
from tests.sweeps.searching import Launch, curve, noisy, racing
from tests.system.servers import Postgres

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]

RACE = """
title = "Learning rate at two temperatures"
paper = "mini"
protocol = "demo-scratch"
teacher_protocol = "demo-scratch"
seeds = [0, 1, 2, 3, 4]

[report]
kind = "scatter"
metrics = ["val/acc1_pct"]
rows = "suggestion"
columns = "temperature"

[base]
data = "digits"
method = "kd"
teacher = "resnet14"
student = "resnet8"
"protocol.epochs" = 2
"teacher_protocol.epochs" = 2

[[axes]]
name = "temperature"
path = "hparams.temperature"
values = [{ label = "2", value = 2.0 }, { label = "4", value = 4.0 }]

[search]
trials = 3
sampler = "random"
seed = 3                 # suggests 0.075, then two rates at which nothing is learnt in two epochs
pruner = "wilcoxon"
space = [{ path = "protocol.lr", low = 1e-6, high = 0.2, log = true }]
"""


def cells(home) -> dict[str, list[dict]]:
    """Suggestions by the cell's temperature, as search.json has them."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=home.uri)
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    (parent,) = client.search_runs(ids, "tags.`sweeps.role` = 'parent'")
    content = json.loads(Path(client.download_artifacts(parent.info.run_id, "search.json")).read_text())
    return {cell["labels"]["temperature"]: cell["suggestions"] for cell in content["cells"]}


def test_a_grid_of_races_trains_what_it_must_once_and_nothing_of_what_lost(home):
    (home.folder / "race.toml").write_text(RACE)
    done = home.sweep("run", "race.toml", "--profile", "paper", "--concurrency", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "search: 3 suggestions in all by random, maximize best/val/acc1_pct, cut by wilcoxon" in done.stdout
    found = cells(home)
    assert list(found) == ["2", "4"]
    trained = set()
    for suggestions in found.values():
        assert len(suggestions) == 3
        assert suggestions[0]["state"] == "complete"
        assert "pruned" in [each["state"] for each in suggestions]
        for each in suggestions:
            lengths = {"complete": 5, "pruned": 4}
            assert list(each["trials"]) == ["0", "1", "2", "3", "4"][: lengths[each["state"]]]
            results = [json.loads(_result(home, digest).read_text()) for digest in each["trials"].values()]
            if each["state"] == "complete":
                mean = sum(result["best/val/acc1_pct"] for result in results) / 5
                assert each["value"] == pytest.approx(mean, rel=1e-12)
            trained |= set(each["trials"].values())
    claims = home.claims()
    assert set(claims.values()) == {1}
    assert len(claims) == len(trained) + 1 == len(home.results())  # and the teacher, which all share
    runs = home.runs()
    assert len(runs) == len(claims)
    assert {run.info.status for run in runs} == {"FINISHED"}
    again = home.sweep("run", "race.toml", "--profile", "paper")
    assert again.returncode == 0, again.stderr
    assert "nothing to run" in again.stdout
    assert home.claims() == claims
    assert cells(home) == found


def _result(home, digest: str) -> Path:
    return home.state / digest[:2] / digest / "result.json"


def test_a_killed_race_goes_on_alike_in_postgresql_sqlite_and_a_journal_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Postgres(tmp_path / "postgres") as server:
        urls = {
            "journal": None,
            "sqlite": f"sqlite:///{tmp_path / 'studies.db'}",
            "postgresql": server.create("studies"),
        }
        found = {}
        for kind, url in urls.items():
            (tmp_path / kind / ".sweeps").mkdir(parents=True)
            trained = []
            for most in (4, 6, 1, 100):
                launch = Launch(Place(tmp_path / kind), racing(SEARCH), 7, study_url=url).go(most, epochs=noisy)
                trained += launch.trained
                launch.queue.next()  # handed out, never trained
            found[kind] = (launch.rows, trained)
    rows, trained = found["journal"]
    assert {row["state"] for row in rows} == {"complete", "pruned"}
    assert len(rows) == 7
    assert len(trained) == len(set(trained)) == 1 + sum(len(row["trials"]) for row in rows)
    assert found["sqlite"] == found["journal"]
    assert found["postgresql"] == found["journal"]


@pytest.mark.parametrize("pruner", ["asha", "wilcoxon"])
def test_a_search_waits_for_a_database_that_was_killed_and_goes_on_alike(pruner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = racing(SEARCH).replace('"wilcoxon"', f'"{pruner}"')
    worth = curve if pruner == "asha" else noisy
    for folder in ("calm", "stormy"):
        (tmp_path / folder / ".sweeps").mkdir(parents=True)
    calm = Launch(Place(tmp_path / "calm"), text, 6).go(epochs=worth)
    assert set(calm.states) == {"complete", "pruned"}
    with Postgres(tmp_path / "postgres") as server:
        launch = Launch(Place(tmp_path / "stormy"), text, 6, study_url=server.create("studies"))
        queue = launch.queue

        def train(digest: str, **how) -> str:
            return launch.run(digest, queue.trials[digest], worth(queue.trials[digest]), **how)

        for _ in range(3):
            launch.go(1, epochs=worth)
            server.kill9()
            for digest in iter(queue.next, None):  # what was suggested before goes on
                queue.release(digest, train(digest))
            assert not queue.finished()
            server.start()
            digest = queue.next()
            server.kill9()
            train(digest, most=1)  # nobody hears of its first epoch
            queue.release(digest, "crashed")
            server.start()
        launch.go(epochs=worth)
        assert queue.finished()
        assert launch.rows == calm.rows
