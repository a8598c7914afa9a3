"""How many trials large grids start: extended, shared and raced for. The trials take next to no work (`benchmarks/noop`)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.system.exactly_once import Work, tracking_faults, trial_faults, trials_in

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]

NOOP = Path(__file__).resolve().parents[2] / "benchmarks" / "noop"
EPOCHS = 2
GRID = """
title = "A grid of quick trials"
paper = "counts"
protocol = "demo-scratch"
teacher_protocol = "demo-scratch"
seeds = [0]
resources = {{ cpu = 1 }}

[report]
kind = "heatmap"
metrics = ["test/acc1_pct"]
rows = "temperature"
columns = "weight"
panels = "teacher"

[base]
data = {{ module = "noop.data" }}
method = "kd"
student = {{ module = "noop.network" }}
"protocol.epochs" = {epochs}
"protocol.batch_size" = 8
"teacher_protocol.epochs" = {epochs}
"teacher_protocol.batch_size" = 8

[[axes]]
name = "teacher"
path = "teacher"
values = [{teachers}]

[[axes]]
name = "temperature"
path = "hparams.temperature"
values = [{temperatures}]

[[axes]]
name = "weight"
path = "hparams.kd_weight"
values = [{weights}]
"""


def grid(home: Any, name: str, *, teachers: int, temperatures: range, weights: int) -> str:
    """Writes an experiment of teachers x temperatures x weights cells; grids share teachers and equal cells."""
    package = home.folder / "noop"
    if not package.exists():
        shutil.copytree(NOOP, package, ignore=shutil.ignore_patterns("__pycache__"))
        for number in range(2):  # networks of their own names, and so teachers of their own
            (package / f"teacher{number}.py").write_text(
                (package / "network.py").read_text() + f"\nNUMBER = {number}\n"
            )
    named = [f'{{ label = "{n}", value = {{ module = "noop.teacher{n}" }} }}' for n in range(teachers)]
    warm = [f'{{ label = "{t}", value = {t} }}' for t in temperatures]
    heavy = [f'{{ label = "{w}", value = 0.{w} }}' for w in range(1, weights + 1)]
    text = GRID.format(epochs=EPOCHS, teachers=", ".join(named), temperatures=", ".join(warm), weights=", ".join(heavy))
    (home.folder / name).write_text(text)
    return name


def trained_by(home: Any, method: str) -> list[str]:
    """Digests of the begun trials of a method."""
    files = sorted(home.state.glob("??/*/trial.json"))
    return [file.parent.name for file in files if json.loads(file.read_text())["trial"]["method"] == method]


def test_a_4x4_grid_made_5x4_starts_exactly_4_trials(home):
    name = grid(home, "grid.toml", teachers=1, temperatures=range(1, 5), weights=4)
    assert home.sweep("run", name, "--profile", "paper").returncode == 0
    before = set(trials_in(home))
    assert len(before) == 16 + 1
    grid(home, name, teachers=1, temperatures=range(1, 6), weights=4)
    assert home.plan(name, "--profile", "paper")["counts"] == {"done": 17, "new": 4}
    done = home.sweep("run", name, "--profile", "paper")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(set(trials_in(home)) - before) == 4
    assert set(home.claims().values()) == {1}
    assert len(home.claims()) == 21


def test_72_cells_train_their_two_teachers_once_also_when_two_sweeps_race(home):
    """Each sweep has 72 cells; 48 of them and both teachers are in both."""
    names = [
        grid(home, "first.toml", teachers=2, temperatures=range(1, 7), weights=6),
        grid(home, "second.toml", teachers=2, temperatures=range(3, 9), weights=6),
    ]
    for name in names:
        assert home.plan(name, "--profile", "paper")["counts"] == {"new": 74}
    drivers = [home.start("run", name, "--profile", "paper") for name in names]
    for driver in drivers:
        out, err = driver.communicate(timeout=900)
        assert driver.returncode == 0, out + err
    assert len(trained_by(home, "ce")) == 2
    assert len(trained_by(home, "kd")) == 2 * 72 - 48
    assert set(home.claims().values()) == {1}
    work = Work()
    assert [fault for digest in trials_in(home) for fault in trial_faults(home.state, digest, EPOCHS, work)] == []
    assert tracking_faults(home, EPOCHS, work, parents=2) == []
    for name in names:
        assert home.plan(name, "--profile", "paper")["counts"] == {"done": 74}
