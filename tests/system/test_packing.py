"""Shares of a GPU over a real Ray that is told of GPUs this machine need not have: trials of a launch never hold more than there is."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeps import launch, packing, spec
from sweeps.groups import Grouping, Room
from sweeps.plan import make
from sweeps.queue import DEVICE_MEMORY, Queue
from sweeps.settings import Settings
from trainers import attempts
from trainers.attempts import State, read_status
from trainers.config import Execution

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

NOOP = Path(__file__).resolve().parents[2] / "benchmarks" / "noop"
EXPERIMENT = """
title = "Trials that do nothing, on a part of a GPU"
paper = "noop"
protocol = "demo-scratch"
teacher_protocol = "demo-scratch"
seeds = [0, 1, 2, 3, 4, 5]
resources = { cpu = 1, gpu = 1 }

[report]
kind = "table"
metrics = ["test/acc1_pct"]
rows = "number"

[base]
data = { module = "noop.data" }
method = { module = "noop.method" }
student = { module = "noop.network" }
"protocol.epochs" = 2

[[axes]]
name = "number"
path = "hparams.number"
values = [{ label = "0", value = 0 }]
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Of an empty place, with a Ray that believes in one GPU; what it puts there runs on the CPU."""
    shutil.copytree(NOOP, tmp_path / "noop")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(spec.Resources, "device", property(lambda self: "cpu"))
    monkeypatch.setattr(launch.preflight, "device_bytes", lambda: 16_000.0 * packing.MIB)
    honest = launch.ray.init
    monkeypatch.setattr(launch.ray, "init", lambda **options: honest(**{**options, "num_cpus": 6, "num_gpus": 1}))
    home = tmp_path / ".sweeps"
    return Settings(home, home / "state", home / "data", f"sqlite:///{home / 'mlflow.db'}", None, None)


def test_trials_are_packed_by_what_a_probe_measured_and_one_that_ran_out_runs_alone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("noop.toml").write_text(EXPERIMENT)
    plan = make("noop.toml", spec.load_profile("paper"), settings.state, settings.data)
    full = next(iter(plan.trials.values()))
    with attempts.claim(full, settings.state, Execution.of_new(1)) as attempt:  # an earlier launch's
        attempt.note_machine_fault("CUDA out of memory", DEVICE_MEMORY)
    queue = Queue([plan], [], settings.state)
    asked: dict[str, float] = {}
    honest = launch.QueueSearcher.suggest

    def suggest(self: Any, trial_id: str) -> Any:
        config = honest(self, trial_id)
        if isinstance(config, dict):
            (digest,) = config["digests"]  # without a teacher there is nothing to share
            asked[digest] = config["gpu"]
        return config

    monkeypatch.setattr(launch.QueueSearcher, "suggest", suggest)
    cluster = launch.start(settings)
    try:
        assert (cluster.cpus, cluster.gpus) == (6.0, 1.0)
        assert launch.device_bytes(replace(settings, ray_address="joined")) == 16_000.0 * packing.MIB  # by a task
        launch.require_resources(queue, cluster)
        launch.pack(queue, settings)
        share = queue.resources(full.digest()).gpu
        assert 1 / packing.MOST <= share < 0.5  # what a process of nothing but torch takes
        places = launch.concurrency(queue, cluster)
        assert places == min(6, int(1 / share))
        launch.fit(queue, settings, Grouping(places, Room(None, None), settings.data))
    finally:
        launch.stop()
    assert queue.failed == {}
    assert {read_status(settings.state, digest).state for digest in plan.trials} == {State.DONE}
    assert asked == {digest: 1.0 if digest == full.digest() else share for digest in plan.trials}
    for file in settings.state.glob("*/*/attempts/*/made_with.json"):
        assert json.loads(file.read_text())["device"] == "cpu"
