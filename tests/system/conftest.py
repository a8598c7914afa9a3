"""A small experiment of real trials, and the `sweep` command as a process that a test can kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.browser import chromium

MINI = """
title = "A small grid of real trials"
paper = "mini"
protocol = "demo-cudfkd"
teacher_protocol = "demo-scratch"
seeds = [0]

[report]
kind = "heatmap"
metrics = ["test/acc1_pct"]
rows = "alpha"
columns = "k_end"

[base]
data = "digits"
method = "cudfkd"
teacher = "resnet14"
student = "resnet8"
hparams = {{ latent_dim = 16, generator_width = 8, student_steps = 4, lambda_slope = 1e-3 }}
"protocol.epochs" = {epochs}
"protocol.updates_per_epoch" = {updates}
"teacher_protocol.epochs" = 4

[[axes]]
name = "alpha"
path = "hparams.alpha"
values = [{alphas}]

[[axes]]
name = "k_end"
path = "hparams.k_end"
values = [{{ label = "1/2", value = 0.5 }}, {{ label = "3/4", value = 0.75 }}]
"""


class Home:
    """A folder with a `.sweeps` of its own, and commands run in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / ".sweeps").mkdir(parents=True, exist_ok=True)
        self.state = folder / ".sweeps" / "state"
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("SWEEPS_", "MLFLOW_", "RAY_"))}
        self.uri = f"sqlite:///{folder / '.sweeps' / 'mlflow.db'}"

    def mini(self, alphas: list[float], *, epochs: int = 6, updates: int = 8) -> str:
        """Writes the small experiment and returns its path."""
        values = ", ".join(f'{{ label = "{a}", value = {a} }}' for a in alphas)
        (self.folder / "mini.toml").write_text(MINI.format(alphas=values, epochs=epochs, updates=updates))
        return "mini.toml"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        command = [str(Path(sys.executable).parent / "sweep"), *arguments]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def sweep(self, *arguments: str, timeout_s: float = 900) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).parent / "sweep"), *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=timeout_s
        )

    def plan(self, *arguments: str) -> dict:  # type: ignore[type-arg]
        done = self.sweep("plan", *arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    def results(self) -> list[Path]:
        return sorted(self.state.glob("*/*/result.json"))

    def claims(self) -> dict[str, int]:
        """Digest -> number of times somebody began to train it (seals not counted)."""
        counts: dict[str, int] = {}
        for file in self.state.glob("*/*/attempts/[0-9]*/claim.json"):
            if json.loads(file.read_text())["kind"] == "claim":
                digest = file.parents[2].name
                counts[digest] = counts.get(digest, 0) + 1
        return counts

    def runs(self) -> list:  # type: ignore[type-arg]
        """Every trial run in MLflow."""
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=self.uri)
        ids = [experiment.experiment_id for experiment in client.search_experiments()]
        return list(client.search_runs(ids, "tags.`sweeps.role` = 'trial'", max_results=1000))

    @staticmethod
    def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str], timeout_s: float = 300) -> None:
        """Waits until `condition` holds; fails when the process ends or the time is up first."""
        end = time.monotonic() + timeout_s
        while not condition():
            assert process.poll() is None, f"ended with {process.returncode}: {process.communicate()}"
            assert time.monotonic() < end, "timed out"
            time.sleep(0.05)

    @staticmethod
    def kill9(process: subprocess.Popen[str]) -> None:
        """Kills the driver as a power cut would: nothing of it gets to clean up."""
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Ray puts sockets below its folder, whose names may have 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def demo_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The main job, run once for all tests that look at what it left."""
    home = Home(tmp_path_factory.mktemp("demo"))
    done = home.sweep("run", "cudfkd/fig9", "--profile", "demo", timeout_s=1500)
    (home.folder / "first.log").write_text(done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    return home


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """Chromium without a window, whose console and network are on record."""
    with chromium(tmp_path / "profile") as driver:
        yield driver
