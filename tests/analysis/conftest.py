"""A real MLflow store on SQLite, filled as a sweep fills it."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import logging
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag
from PIL import Image

from sweeps import spec
from sweeps.settings import Settings

logging.getLogger("alembic").setLevel(logging.WARNING)
logging.getLogger("mlflow").setLevel(logging.ERROR)

FILE = """
title = "Small grid"
paper = "tiny"
protocol = "none"
seeds = {seeds}

[report]
kind = "{kind}"
metrics = {metrics}
select = "{select}"
over_seeds = "{over_seeds}"
rows = "row"
{report}

[base]
method = "kd"
{axes}
"""


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def axis(name: str, labels: Iterable[str], references: Mapping[str, str] | None = None) -> str:
    """An axis of the experiment file whose labels set a hyper-parameter each."""
    known = {label: f", reference = {json.dumps(text)}" for label, text in (references or {}).items()}
    values = [f"{{ label = {json.dumps(label)}, value = {i}{known.get(label, '')} }}" for i, label in enumerate(labels)]
    return f'[[axes]]\nname = "{name}"\npath = "hparams.{name}"\nvalues = [{", ".join(values)}]\n'


@dataclass
class Bench:
    """A folder with a store, and the calls by which tests fill it."""

    folder: Path
    client: MlflowClient

    axis = staticmethod(axis)
    digest = staticmethod(digest)
    histogram = staticmethod(lambda *arguments, **options: histogram(*arguments, **options))
    samples = staticmethod(lambda *arguments, **options: samples(*arguments, **options))
    extremes = staticmethod(lambda *arguments, **options: extremes(*arguments, **options))
    embedding = staticmethod(lambda *arguments, **options: embedding(*arguments, **options))
    centres = staticmethod(lambda *arguments, **options: centres(*arguments, **options))

    @property
    def settings(self) -> Settings:
        home = self.folder / ".sweeps"
        return Settings(home, home / "state", home / "data", f"sqlite:///{home / 'mlflow.db'}", None, None)

    def write(
        self,
        axes: str,
        *,
        name: str = "grid",
        report: str = "",
        kind: str = "table",
        metrics: Iterable[str] = ("test/acc1_pct",),
        seeds: Iterable[int] = (0,),
        select: str = "best",
        over_seeds: str = "mean_std",
        more: str = "",
    ) -> str:
        """An experiment file; returns its path."""
        path = self.folder / f"{name}.toml"
        text = FILE.format(
            seeds=list(seeds),
            kind=kind,
            metrics=json.dumps(list(metrics)),
            select=select,
            over_seeds=over_seeds,
            report=report,
            axes=axes,
        )
        path.write_text(text + more)
        return str(path)

    def mlflow_experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        return str(self.client.create_experiment(name, artifact_location=(self.folder / "artifacts" / name).as_uri()))

    def plan(
        self,
        name: str,
        profile: str = "demo",
        *,
        comparable: bool = False,
        edit: Callable[[dict[str, Any]], None] = lambda plan: None,
        search: dict[str, Any] | None = None,
    ) -> str:
        """A parent run with the plan of all cells and the file's seeds; digests are made of labels and seed."""
        experiment = spec.load(name, spec.load_profile(profile))
        cells = [
            {
                "labels": dict(cell.labels),
                "status": cell.status,
                "reason": cell.reason,
                "trials": {
                    str(seed): digest(profile, cell.name, seed)
                    for seed in cell.seeds or experiment.file.seeds
                    if cell.status == "run"
                },
            }
            for cell in experiment.cells
        ]
        plan = {
            "schema": 1,
            "experiment": experiment.name,
            "profile": profile,
            "sha256": experiment.sha256,
            "scale": {"comparable": comparable, "note": "" if comparable else "data cifar100 -> digits"},
            "cells": cells,
        }
        edit(plan)
        paper, figure = experiment.name.split("/")
        tags = {"sweeps.role": "parent", "sweeps.experiment": experiment.name, "sweeps.profile": profile}
        run = self.client.create_run(self.mlflow_experiment(f"{paper}-{profile}"), run_name=figure, tags=tags)
        self.client.log_text(run.info.run_id, json.dumps(plan), "plan.json")
        if search is not None:
            self.client.log_text(run.info.run_id, json.dumps(search), "search.json")
        return str(run.info.run_id)

    def trial(
        self,
        digest_: str,
        metrics: Mapping[str, float] | None = None,
        *,
        state: str = "done",
        error: str = "",
        experiment: str = "tiny-demo",
        curves: Mapping[str, Iterable[float]] | None = None,
        artifacts: Mapping[str, bytes] | None = None,
    ) -> str:
        """A trial's run; `metrics` are results, `curves` are per epoch, `artifacts` are files by path."""
        run = self.client.create_run(
            self.mlflow_experiment(experiment), tags={"sweeps.role": "trial", "sweeps.digest": digest_}
        )
        points = [Metric(name, value, 1, 0) for name, value in (metrics or {}).items()]
        for name, curve in (curves or {}).items():
            points += [Metric(name, value, 1 + epoch, epoch) for epoch, value in enumerate(curve)]
        if artifacts:
            folder = self.folder / "kept" / run.info.run_id
            for path, content in artifacts.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(content)
            self.client.log_artifacts(run.info.run_id, str(folder))
        tags = [RunTag("sweeps.state", state)] + ([RunTag("sweeps.error", error)] if error else [])
        for first in range(0, len(points), 1000):
            self.client.log_batch(run.info.run_id, points[first : first + 1000])
        self.client.log_batch(run.info.run_id, tags=tags)
        if state != "partial":
            self.client.set_terminated(run.info.run_id, "FINISHED" if state == "done" else "FAILED")
        return str(run.info.run_id)

    def learn(self, digest_: str, accuracy: Iterable[float], *, first: int = 0, experiment: str = "tiny-demo") -> str:
        """A done run of these accuracies in percent, with the results that a trial sums them up by."""
        curve = np.array(list(accuracy), dtype=float)
        part = curve[first:]
        results = {"best/test/acc1_pct": curve.max(), "last/test/acc1_pct": curve[-1]}
        results |= {f"stats/from/test/acc1_pct_{name}": getattr(part, name)() for name in ("mean", "var", "std")}
        memory, seconds = np.full(len(curve), 2048.0), 30.0 * (1 + np.arange(len(curve)))
        curves = {"test/acc1_pct": curve, "train/peak_memory_mib": memory, "time/train_s": seconds}
        values = {name: float(value) for name, value in results.items()}
        return self.trial(digest_, values, curves=curves, experiment=experiment)

    def fill(
        self, name: str, profile: str = "demo", *, skip: Iterable[str] = (), results: Mapping[str, float] | None = None
    ) -> None:
        """Done runs for all cells and seeds but those whose cell name is skipped; values rise from cell to cell."""
        experiment = spec.load(name, spec.load_profile(profile))
        start = results or {f"{s}/{m}": v for s in ("best", "last") for m, v in DEFAULTS.items()}
        step = itertools.count()
        for cell in experiment.cells:
            for position, seed in enumerate(cell.seeds or experiment.file.seeds):
                if cell.status == "run" and cell.name not in skip:
                    i = next(step)
                    values = {
                        key: value + (0.37 * i + 0.11 * position) * (1 if "pct" in key else 0.01)
                        for key, value in start.items()
                    }
                    home = f"{experiment.file.paper}-{profile}"
                    self.trial(digest(profile, cell.name, seed), values, experiment=home)


def histogram(values: Iterable[float], low: float | None = None, high: float | None = None) -> bytes:
    """What `trainers.artifacts.write_histogram` writes."""
    array = np.array(list(values), dtype=float)
    low = float(array.min()) if low is None else low
    high = max(float(array.max()), low + 1e-6) if high is None else high
    counts, edges = np.histogram(array, bins=50, range=(low, high))
    content = {
        "quantity": "test",
        "n": len(array),
        "mean": float(array.mean()),
        "edges": [round(float(edge), 6) for edge in edges],
        "counts": [int(count) for count in counts],
    }
    return json.dumps(content).encode()


def samples(seed: int, rows: int = 8, pixels: int = 32, grey: bool = False) -> bytes:
    """A grid of coloured noise with white lines, as `trainers.artifacts.write_samples` writes it."""
    random = np.random.default_rng(seed)
    side = rows * (2 * pixels + 2)
    image = np.full((side, side, 3), 255, dtype=np.uint8)
    for i, j in itertools.product(range(rows), repeat=2):
        base = random.integers(0, 255, (4, 4, 3))
        tile = np.kron(base, np.ones((pixels // 2, pixels // 2, 1))).astype(np.uint8)
        top, left = i * (2 * pixels + 2) + 1, j * (2 * pixels + 2) + 1
        image[top : top + 2 * pixels, left : left + 2 * pixels] = tile
    buffer = io.BytesIO()
    Image.fromarray(image[:, :, 0] if grey else image).save(buffer, format="PNG")
    return buffer.getvalue()


def extremes(
    scores: Mapping[str, Mapping[str, list[float]]], *, columns: int = 8, pixels: int = 4, grey: bool = False
) -> dict[str, bytes]:
    """extremes.json and its three grids of tiles for class -> sort -> g, the border one pixel; tiles are coloured noise."""
    random = np.random.default_rng(0)
    tile = pixels + 2
    classes = {
        label: {sort: [[row, g] for row, g in enumerate(values)] for sort, values in sorts.items()}
        for label, sorts in scores.items()
    }
    content = {"quantity": "[row, g]", "columns": columns, "tile": tile, "border": 1, "classes": classes}
    files = {"extremes.json": json.dumps(content).encode()}
    for sort in ("easiest", "hardest", "spread"):
        image = np.full((len(classes) * tile, columns * tile, 3), 255, dtype=np.uint8)
        for i, sorts in enumerate(classes.values()):
            for j in range(len(sorts[sort])):
                part = random.integers(0, 255, (pixels, pixels, 3), dtype=np.uint8)
                image[i * tile + 1 : (i + 1) * tile - 1, j * tile + 1 : (j + 1) * tile - 1] = part
        buffer = io.BytesIO()
        Image.fromarray(image[:, :, 0] if grey else image).save(buffer, format="PNG")
        files[f"{sort}.png"] = buffer.getvalue()
    return files


def embedding(per_class: int = 5, numbers: Iterable[int] = range(10), apart: float = 10.0, **content: Any) -> bytes:
    """embedding.json: clouds of points on a circle of radius `apart`."""
    random = np.random.default_rng(1)
    labels = np.repeat(list(numbers), per_class)
    angles = 2 * np.pi * labels / (labels.max() + 1)
    x, y = (apart * wave(angles) + random.normal(size=len(labels)) for wave in (np.cos, np.sin))
    known = {"schema": 1, "quantity": "t-SNE of pooled features", "x": x.round(4).tolist(), "y": y.round(4).tolist()}
    return json.dumps(known | {"label": labels.tolist(), "silhouette": 0.4375} | content).encode()


def centres(features: int = 6, numbers: Iterable[int] = range(10), **content: Any) -> bytes:
    """centres.json: value i + j / 10 for class i in order and feature j."""
    shown = list(numbers)
    values = [[i + j / 10 for j in range(features)] for i in range(len(shown))]
    known = {"schema": 1, "classes": shown, "values": values, "mean_cosine": 0.125}
    return json.dumps(known | content).encode()


DEFAULTS = {"test/acc1_pct": 90.25, "test/agree1_pct": 91.5, "test/loyalty_code": 0.7512}


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database after its migrations, which take seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def bench(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    home = tmp_path / ".sweeps"
    home.mkdir()
    shutil.copy(empty_store, home / "mlflow.db")
    for name in ("MLFLOW_TRACKING_URI", "SWEEPS_STATE", "SWEEPS_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path, MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}"))


@pytest.fixture
def pdflatex(tmp_path: Path) -> Callable[[str], str]:
    """Compiles a document and returns its text; a warning of something beyond the margin is a failure too."""

    def compile_(document: str) -> str:
        (tmp_path / "document.tex").write_text(document, encoding="utf-8")
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "document.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
        log = (tmp_path / "document.log").read_text(errors="replace")
        assert done.returncode == 0, log[-3000:]
        assert "Overfull" not in log, [line for line in log.splitlines() if "Overfull" in line]
        read = subprocess.run(
            ["pdftotext", "-layout", "document.pdf", "-"], cwd=tmp_path, capture_output=True, text=True
        )
        return read.stdout

    return compile_
