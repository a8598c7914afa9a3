"""A Ray that a launch starts for itself: what of it runs, and where trials go."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

STARTED = """
import json, os, tempfile
from pathlib import Path

from sweeps import cluster, settings

import psutil  # Ray brings it

cluster.start(settings.load())

from ray import tune
from sweeps import launch


class Where(tune.Trainable):
    def step(self):
        return {"pid": os.getpid(), "done": True}


def below():
    return psutil.Process().children(recursive=True)


before = {process.pid for process in below()}
with launch.waiting_workers(settings.load()):
    tuner = tune.Tuner(
        tune.with_resources(Where, {"cpu": 1}),
        run_config=tune.RunConfig(storage_path=tempfile.mkdtemp(dir=Path.cwd()), verbose=0),
    )
    pid = tuner.fit()[0].metrics["pid"]
print(json.dumps({"commands": [" ".join(process.cmdline()) for process in below()], "waited": pid in before}))
cluster.stop()
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Commands of all processes, and whether the trial went into a worker that was there before it."""
    folder = tmp_path_factory.mktemp("start")
    (folder / "start.py").write_text(STARTED)
    root = str(Path(__file__).resolve().parents[2])
    environment = {"PYTHONPATH": root, "SWEEPS_STATE": str(folder / "state"), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        (sys.executable, "start.py"), cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_only_what_a_launch_uses_is_started(seen: dict[str, Any]) -> None:
    commands = "\n".join(seen["commands"])
    for name in ("gcs_server", "raylet"):
        assert f"/{name} " in commands
    for name in ("dashboard.py", "monitor.py", "log_monitor.py"):
        assert name not in commands


def test_a_trial_goes_into_a_worker_that_waits_for_it(seen: dict[str, Any]) -> None:
    assert seen["waited"]
