"""A real `mlflow server` that dies or freezes under a sweep: no trial notices, and no value is lost, doubled or out of order."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.away import client_of, outcome, sweep_through
from tests.system.conftest import Home
from tests.system.servers import MlflowServer

pytestmark = [pytest.mark.system, pytest.mark.timeout(2400)]


@pytest.fixture
def server(tmp_path: Path):
    with MlflowServer(tmp_path / "server", f"sqlite:///{tmp_path / 'server.db'}") as started:
        yield started


def test_a_server_that_is_away_in_mid_sweep_loses_nothing(tmp_path: Path) -> None:
    found = sweep_through(tmp_path, seconds=10)
    assert not found.ended_meanwhile, "the sweep was too short to tell"
    assert (found.code, found.failed, found.faults) == (0, 0, []), (tmp_path / "sweep.log").read_text()
    assert found.down_s >= 10
    assert found.values >= found.trials * 4 * 5  # a teacher's 4 epochs at least, of more than 5 metrics


def test_what_a_server_missed_is_brought_up_by_sync(home: Home, server: MlflowServer) -> None:
    client = client_of(home, server)
    experiment = home.mini([0.1, 0.2], epochs=4)
    process = home.start("run", experiment, "--profile", "paper")
    home.wait_for(lambda: len(home.results()) >= 1, process)
    server.kill9()
    output, errors = process.communicate(timeout=1200)
    assert process.returncode == 0, output + errors
    assert "MLflow could not be reached" in output
    assert "Traceback" not in errors
    early = home.sweep("sync", experiment, "--profile", "paper")
    assert early.returncode == 2
    assert server.uri in early.stderr
    server.start()
    for _ in range(2):  # the second time there is nothing to do
        sync = home.sweep("sync", experiment, "--profile", "paper")
        assert sync.returncode == 0, sync.stderr
        assert "5 trials in step" in sync.stdout
        found = outcome(home, client, sync.returncode, trials=5)
        assert (found.failed, found.faults) == (0, [])


def test_a_frozen_server_holds_up_no_trial(home: Home, server: MlflowServer) -> None:
    """Its answers may take for ever: a request of the sweep would then wait as long, and a trial that waits for one too."""
    client = client_of(home, server)
    home.environment |= {"MLFLOW_HTTP_REQUEST_TIMEOUT": "100000"}
    process = home.start("run", home.mini([0.1, 0.2], epochs=4), "--profile", "paper")
    home.wait_for(lambda: bool(list(home.state.glob("*/*/attempts/1/journal.jsonl"))), process)
    server.freeze()
    home.wait_for(lambda: len(home.results()) == 5, process, timeout_s=1200)
    assert not server.ready()
    server.thaw()
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, output + errors
    found = outcome(home, client, process.returncode, trials=5)
    assert (found.failed, found.faults) == (0, [])
    assert set(home.claims().values()) == {1}
