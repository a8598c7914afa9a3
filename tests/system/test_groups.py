"""Trials that share a teacher pass over a real Ray: killed in the middle, they end with the bits that each has alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from trainers import attempts, checkpoint
from trainers.attempts import read_status
from trainers.config import Execution, Trial
from trainers.run import run_trial
from trainers.train import trial_folder

pytestmark = [pytest.mark.system, pytest.mark.timeout(1200)]

METHODS = """
title = "Four methods under one teacher"
paper = "mini"
protocol = "demo-scratch"
teacher_protocol = "demo-scratch"
seeds = [0]

[report]
kind = "table"
metrics = ["test/acc1_pct"]
rows = "method"

[base]
data = "digits"
teacher = "resnet14"
student = "resnet8"
"protocol.epochs" = 6
"teacher_protocol.epochs" = 2

[[axes]]
name = "method"
values = [
    { label = "KD", method = "kd" },
    { label = "DKD", method = "dkd" },
    { label = "CRD", method = "crd", hparams = { negatives = 64 } },
    { label = "PCKD", method = "pckd" },
    { label = "PCKD, other beta", method = "pckd", hparams = { beta_cc = 0.1 } },
]
"""
MEASURED = ("time/", "train/images_per_s", "train/peak_memory_mib", "timestamp_ms")


def bits(state: Path, digest: str):
    rows = attempts.rows(read_status(state, digest))
    weights = checkpoint.load(trial_folder(state, digest) / "weights.pt")["state"]
    return (
        [{name: value for name, value in row.items() if not name.startswith(MEASURED)} for row in rows],
        b"".join(tensor.numpy().tobytes() for tensor in weights.values()),
    )


def students(home) -> dict[str, int]:
    """Digest -> most trials that one of its attempts was begun together with, itself included."""
    found: dict[str, int] = {}
    for file in home.state.glob("*/*/trial.json"):
        if Trial.model_validate(json.loads(file.read_text())["trial"]).teacher is not None:
            made = [json.loads(each.read_text()) for each in file.parent.glob("attempts/*/made_with.json")]
            found[file.parent.name] = max((each["together"] for each in made), default=0)
    return found


def test_a_killed_group_goes_on_and_has_the_bits_of_lone_trials(home, tmp_path):
    (home.folder / "methods.toml").write_text(METHODS)
    command = ("run", "methods.toml", "--profile", "paper", "--concurrency", "1", "--group", "4")
    process = home.start(*command)
    home.wait_for(lambda: sum(len(_rows(home, digest)) for digest in students(home)) >= 4, process)
    home.kill9(process)
    done = home.sweep(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    together = students(home)
    assert sorted(together.values()) == [2, 2, 3, 3, 3]
    runs = home.runs()
    assert len(runs) == 6
    assert {run.info.status for run in runs} == {"FINISHED"}

    state = tmp_path / "alone"
    for digest in together:
        trial = Trial.model_validate(json.loads((trial_folder(home.state, digest) / "trial.json").read_text())["trial"])
        (teacher,) = trial.upstreams()
        source = trial_folder(home.state, teacher.digest())
        shutil.copytree(source, trial_folder(state, teacher.digest()), dirs_exist_ok=True)
        list(run_trial(trial, state, home.folder / ".sweeps" / "data", execution=Execution.of_new(1)))
        assert bits(home.state, digest) == bits(state, digest), trial.method


def _rows(home, digest: str):
    return attempts.rows(read_status(home.state, digest))
