"""A sweep as a group runs it: MLflow's server with a login, its store and Optuna's studies in a real PostgreSQL."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from mlflow.tracking import MlflowClient

from tests.system.away import outcome
from tests.system.conftest import Home
from tests.system.servers import MlflowServer, Postgres
from tests.system.test_faults import SEARCH

pytestmark = [pytest.mark.system, pytest.mark.timeout(2400)]

BUDGET = 100
"""Requests for 12 trials x 5 epochs, artifacts aside; Ray's own MLflow callback takes 1,044, the bare minimum is 44."""
STUDENTS = 12


@dataclass
class Group:
    """Both servers, and a researcher's folder whose environment points to them."""

    postgres: Postgres
    server: MlflowServer
    home: Home
    ray_logs: Path

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(tracking_uri=self.server.uri)

    def runs(self, role: str) -> list:  # type: ignore[type-arg]
        ids = [each.experiment_id for each in self.client.search_experiments()]
        return list(self.client.search_runs(ids, f"tags.`sweeps.role` = '{role}'", max_results=1000))


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    folder = tmp_path_factory.mktemp("group")
    ray_logs = Path(tempfile.mkdtemp(prefix="ray-"))  # short: sockets in it have at most 107 characters
    with (
        Postgres(folder / "postgres") as postgres,
        MlflowServer(folder / "server", postgres.create("mlflow"), auth=True) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in server.environment.items():
            patch.setenv(name, value)
        home = Home(folder / "home")
        home.environment |= {**server.environment, "SWEEPS_STUDY_URL": postgres.create("studies")}
        home.environment |= {"RAY_TMPDIR": str(ray_logs)}
        home.uri = server.uri
        yield Group(postgres, server, home, ray_logs)
    shutil.rmtree(ray_logs, ignore_errors=True)


@dataclass
class Swept:
    """A finished sweep of the group's.

    Attributes:
        requests: what its command asked of the server.
    """

    experiment: str
    done: subprocess.CompletedProcess[str]
    requests: list[str]


@pytest.fixture(scope="module")
def swept(group: Group) -> Swept:
    """12 students x 5 epochs and their teacher."""
    made = group.home.mini([round(0.1 * n, 1) for n in range(1, 1 + STUDENTS // 2)], epochs=5, updates=4)
    experiment = (group.home.folder / made).rename(group.home.folder / "grid.toml").name
    before = len(group.server.requests())
    done = group.home.sweep("run", experiment, "--profile", "paper", timeout_s=2000)
    assert done.returncode == 0, done.stdout + done.stderr
    return Swept(experiment, done, group.server.requests()[before:])


def test_every_run_is_on_the_server(group: Group, swept: Swept) -> None:
    found = outcome(group.home, group.client, swept.done.returncode, trials=STUDENTS + 1)
    assert (found.failed, found.faults) == (0, [])
    (parent,) = group.runs("parent")
    assert parent.info.status == "FINISHED"
    assert {run.data.tags["mlflow.parentRunId"] for run in group.runs("trial")} == {parent.info.run_id}
    assert parent.info.artifact_uri.startswith("mlflow-artifacts:")
    names = {file.path for file in group.client.list_artifacts(parent.info.run_id)}
    assert {"experiment.toml", "plan.json", "runs.json", "table.md"} <= names
    assert list(group.server.artifacts.rglob("plan.json"))
    with psycopg.connect(group.postgres.url("mlflow").replace("+psycopg", "")) as database:
        count = database.execute("select count(*) from runs where status = 'FINISHED'").fetchone()
    assert count == (STUDENTS + 2,)


def test_tracking_keeps_to_its_budget_of_requests(swept: Swept) -> None:
    asked = [request for request in swept.requests if "artifacts" not in request]
    counts = {each: asked.count(each) for each in sorted(set(asked))}
    assert len([each for each in asked if each.endswith("/runs/create")]) == STUDENTS + 2
    assert len(asked) <= BUDGET, json.dumps(counts, indent=1)


def test_running_again_starts_nothing(group: Group, swept: Swept) -> None:
    before = [run.to_dictionary() for run in group.runs("trial")]
    again = group.home.sweep("run", swept.experiment, "--profile", "paper")
    assert again.returncode == 0, again.stderr
    assert "nothing to run" in again.stdout
    assert [run.to_dictionary() for run in group.runs("trial")] == before
    assert set(group.home.claims().values()) == {1}


def test_tables_are_read_from_the_server(group: Group, swept: Swept) -> None:
    command = [str(Path(swept.done.args[0]).parent / "paper"), "table", swept.experiment, "--profile", "paper"]
    shutil.rmtree(group.home.folder / ".sweeps" / "cache", ignore_errors=True)
    table = subprocess.run(
        command, cwd=group.home.folder, env=group.home.environment, capture_output=True, text=True, timeout=600
    )
    assert table.returncode == 0, table.stderr
    best = max(
        run.data.metrics["best/test/acc1_pct"]
        for run in group.runs("trial")
        if "mlflow.parentRunId" in run.data.tags and not run.info.run_name.startswith("teacher")
    )
    assert f"{best:.2f}" in table.stdout


@pytest.mark.parametrize("password", ["wrong-" + "x" * 8, ""])
def test_a_wrong_password_starts_nothing(password: str, group: Group, tmp_path: Path) -> None:
    stranger = Home(tmp_path / "stranger")
    stranger.environment |= {**group.server.environment, "MLFLOW_TRACKING_PASSWORD": password}
    refused = stranger.sweep("run", stranger.mini([0.1]), "--profile", "paper")
    assert refused.returncode == 2
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert group.server.uri in line
    assert "MLFLOW_TRACKING_PASSWORD" in line
    assert "Traceback" not in refused.stderr
    assert not password or password not in refused.stdout + refused.stderr
    assert not list(stranger.state.glob("*/*"))


def search_file(home: Home) -> str:
    """Writes a search over the students of the small grid, each of two epochs, and returns its path."""
    home.mini([0.1], epochs=2, updates=4)
    head, _, _ = (home.folder / "mini.toml").read_text().partition("[[axes]]")
    for old, new in (
        ('kind = "heatmap"', 'kind = "scatter"'),
        ('rows = "alpha"\ncolumns = "k_end"', 'rows = "suggestion"'),
    ):
        assert head.count(old) == 1
        head = head.replace(old, new)
    (home.folder / "tune.toml").write_text(head + SEARCH.format(direction="maximize"))
    return "tune.toml"


def test_a_search_keeps_its_study_in_the_database(group: Group, swept: Swept) -> None:
    home, experiment = group.home, search_file(group.home)
    command = ("run", experiment, "--profile", "paper", "--trials")
    before = len(home.results())
    for wanted, fresh in ((3, 3), (3, 0), (4, 1)):
        done = home.sweep(*command, str(wanted), timeout_s=1200)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(home.results()) == before + fresh, wanted
        before += fresh
        with psycopg.connect(group.postgres.url("studies").replace("+psycopg", "")) as database:
            states = database.execute("select state::text, count(*) from trials group by state").fetchall()
        assert states == [("COMPLETE", wanted)]
    assert not (home.state / "studies").exists()
    assert len(group.runs("trial")) == STUDENTS + 1 + 4


def test_no_password_is_written_down_anywhere(group: Group, swept: Swept, tmp_path: Path) -> None:
    """Not in the output, not in any file of the researcher's, not in Ray's logs, not in MLflow."""
    secrets = (group.server.password, group.postgres.password)
    told = swept.done.stdout + swept.done.stderr
    for verb in ("status", "why", "sync", "plan"):
        done = group.home.sweep(verb, swept.experiment, "--profile", "paper")
        assert done.returncode == 0, done.stderr
        told += done.stdout + done.stderr
    unreachable = Home(tmp_path / "unreachable")
    unreachable.environment |= {**group.server.environment, "SWEEPS_STUDY_URL": group.postgres.url("not_there")}
    refused = unreachable.sweep("run", search_file(unreachable), "--profile", "paper")
    assert refused.returncode == 2
    assert "SWEEPS_STUDY_URL" in refused.stderr
    told += refused.stdout + refused.stderr
    for run in [*group.runs("trial"), *group.runs("parent")]:
        told += json.dumps(run.to_dictionary())
    files = [
        file
        for folder in (group.home.folder, unreachable.folder, group.ray_logs, group.server.artifacts)
        for file in folder.rglob("*")
        if file.is_file() and not file.is_symlink()
    ]
    assert len(files) > 13 * 5
    assert any("session_" in str(file) for file in files), "Ray logged elsewhere"
    for secret in secrets:
        assert secret not in told
        assert not [str(file) for file in files if secret.encode() in file.read_bytes()]
