"""How long a table takes beside `mlflow.search_runs` and the same pivot, with 10,000 finished runs of 20 metrics in the store.

    python benchmarks/analysis.py [--runs 10000] [--repeat 3] [--folder DIR]

Builds a store on SQLite as `sweep run` leaves it: 20 experiments, each a parent run with its plan.json and the runs of 500
trials, and one experiment of five seeds over all 10,000. Two runs in full and every parent are written through MLflow, the
rest are copies of such a run under other ids, digests, parameters and values, inserted into MLflow's own tables. Then it
measures in processes of their own, one after the other: `paper table` the first time and again, as a command; the same call
a second time within one process; and `mlflow.search_runs` followed by the pivot to the same numbers, which are compared. A
second time is also measured after somebody else has written to the store, when what is kept has to be checked. Prints
Markdown; exit code 1 where a table takes more than 2 s the second time or is less than 5 times faster than the pivot.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import logging
import math
import os
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PARTS = 20
METHODS = tuple(f"M{i:02}" for i in range(10))
SEEDS = tuple(range(5))
PROFILE = "demo"
HOME = f"bench-{PROFILE}"
"""The MLflow experiment of the paper `bench` at that profile."""
SHOWN = "best/test/acc1_pct"
METRICS = (
    *(f"{select}/test/{name}" for select in ("last", "best") for name in ("acc1_pct", "acc5_pct", "agree1_pct")),
    *(f"{select}/test/{name}" for select in ("last", "best") for name in ("loyalty", "loyalty_nat", "loyalty_code")),
    *(f"stats/from/test/acc1_pct_{name}" for name in ("mean", "var", "std")),
    *("test/acc1_pct", "train/loss", "train/peak_memory_mib", "time/train_s", "time/total_s"),
)
"""The twenty of each run."""
CURVES = ("test/acc1_pct", "train/loss")
"""Those that have a value for each epoch too."""
EPOCHS = 20
LIMIT_S, RATIO = 2.0, 5.0
"""What is asked of the second time."""
FILE = """
title = "{title}"
paper = "bench"
protocol = "none"
seeds = {seeds}

[report]
kind = "table"
metrics = ["test/acc1_pct"]
rows = "method"
columns = "pair"
{panels}
[base]
method = "kd"
"""
AXIS = '\n[[axes]]\nname = "{name}"\npath = "hparams.{name}"\nvalues = [{values}]\n'


@dataclass(frozen=True)
class Trial:
    """One of the runs that are made."""

    part: str
    method: str
    pair: str
    seed: int

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.part} {self.method} {self.pair} {self.seed}".encode()).hexdigest()

    @property
    def name(self) -> str:
        return f"method={self.method} pair={self.pair} seed={self.seed}"


@dataclass(frozen=True)
class Layout:
    """What is built: `runs` trials in `PARTS` experiments, and one experiment of all of them."""

    runs: int

    @property
    def parts(self) -> list[str]:
        return [f"part{i:02}" for i in range(PARTS)]

    @property
    def pairs(self) -> list[str]:
        count = max(1, self.runs // (PARTS * len(METHODS) * len(SEEDS)))
        return [f"T{i} / S{i}" for i in range(count)]

    @property
    def trials(self) -> Iterator[Trial]:
        return itertools.starmap(Trial, itertools.product(self.parts, METHODS, self.pairs, SEEDS))


# --- the store --------------------------------------------------------------------------------------------------------


def axis(name: str, labels: Sequence[str]) -> str:
    values = ", ".join(f"{{ label = {json.dumps(label)}, value = {i} }}" for i, label in enumerate(labels))
    return AXIS.format(name=name, values=values)


def write_files(layout: Layout, folder: Path) -> None:
    """The experiment files: `part00.toml` and so on, and `all.toml`, whose panels are the parts."""
    common = axis("method", METHODS) + axis("pair", layout.pairs)
    for part in layout.parts:
        text = FILE.format(title=f"Part {part}", seeds=list(SEEDS), panels="")
        (folder / f"{part}.toml").write_text(text + common, encoding="utf-8")
    text = FILE.format(title="All parts", seeds=list(SEEDS), panels='panels = "part"')
    (folder / "all.toml").write_text(text + common + axis("part", layout.parts), encoding="utf-8")


def plan(layout: Layout, name: str) -> dict[str, Any]:
    """Content of plan.json of `part00` and so on, or of `all`."""
    cells = []
    for part in layout.parts if name == "all" else [name]:
        for method, pair in itertools.product(METHODS, layout.pairs):
            labels = {"method": method, "pair": pair} | ({"part": part} if name == "all" else {})
            trials = {str(seed): Trial(part, method, pair, seed).digest for seed in SEEDS}
            cells.append({"labels": labels, "status": "run", "reason": "", "trials": trials})
    scale = {"comparable": False, "note": "data cifar100 -> digits"}
    head = {"schema": 1, "experiment": f"bench/{name}", "profile": PROFILE, "sha256": "0" * 64}
    return head | {"scale": scale, "cells": cells}


def tags(trial: Trial, parent: str) -> dict[str, str]:
    """As `sweeps.tracking` sets them."""
    return {
        "sweeps.role": "trial",
        "sweeps.digest": trial.digest,
        "sweeps.record": trial.digest[:32],
        "sweeps.state": "done",
        "sweeps.experiment": f"bench/{trial.part}",
        "sweeps.profile": PROFILE,
        "sweeps.device": "cpu",
        "sweeps.attempt": "0",
        "sweeps.commit": "0" * 40,
        "sweeps.versions": "python==3.11 torch==2.13 torchvision==0.28 ray==2.60 mlflow==3.17 optuna==5.0 pandas==3.1",
        "sweeps.machine": "Linux x86_64",
        "mlflow.parentRunId": parent,
        "mlflow.runName": trial.name,
    }


def params(trial: Trial) -> dict[str, str]:
    """The labels as a researcher logs them, and the settings of a protocol."""
    protocol = ("epochs", "batch_size", "lr", "momentum", "weight_decay", "nesterov", "schedule", "augment")
    return {"part": trial.part, "method": trial.method, "pair": trial.pair, "seed": str(trial.seed)} | {
        f"protocol.{name}": "0.1" for name in protocol
    }


def values(trial: Trial) -> dict[str, float]:
    """A number for each metric, the same for the same trial."""
    drawn = random.Random(trial.digest)
    return {name: round(drawn.uniform(60.0, 80.0), 6) for name in METRICS}


def build(layout: Layout, folder: Path) -> dict[str, str]:
    """The store of a sweep that is done; returns the parents' run ids by name."""
    from mlflow import MlflowClient

    write_files(layout, folder)
    home = folder / ".sweeps"
    home.mkdir()
    client = MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}")
    experiment = client.create_experiment(HOME, artifact_location=(home / "artifacts" / HOME).as_uri())
    parents = {}
    for name in [*layout.parts, "all"]:
        mine = {"sweeps.role": "parent", "sweeps.experiment": f"bench/{name}", "sweeps.profile": PROFILE}
        run = client.create_run(experiment, tags=mine, run_name=name)
        client.log_text(run.info.run_id, json.dumps(plan(layout, name), indent=1), "plan.json")
        client.set_terminated(run.info.run_id)
        parents[name] = str(run.info.run_id)
    trials = list(layout.trials)
    for trial in trials[:2]:
        template = write_whole(client, experiment, trial, parents[trial.part])
    copy(home / "mlflow.db", template, trials[2:], parents)
    return parents


def write_whole(client: Any, experiment: str, trial: Trial, parent: str) -> str:
    """One run through MLflow's store; returns its id."""
    from mlflow.entities import Metric, Param

    run_id = str(client.create_run(experiment, tags=tags(trial, parent), run_name=trial.name).info.run_id)
    points = [Metric(name, value, 1, EPOCHS - 1) for name, value in values(trial).items()]
    points += [Metric(name, 50.0, epoch, epoch) for name in CURVES for epoch in range(EPOCHS - 1)]
    client.log_batch(run_id, points, [Param(name, text) for name, text in params(trial).items()])
    client.set_terminated(run_id)
    return run_id


def copy(database: Path, template: str, trials: Sequence[Trial], parents: Mapping[str, str]) -> None:
    """The template's rows in MLflow's tables once more for each trial, with what is the trial's own in them."""
    from sqlalchemy import MetaData, create_engine, insert, select

    engine = create_engine(f"sqlite:///{database}")
    names = ("runs", "params", "tags", "metrics", "latest_metrics")
    known = MetaData()
    known.reflect(engine, only=names)
    with engine.begin() as connection:
        rows = {}
        for name in names:
            table = known.tables[name]
            found = connection.execute(select(table).where(table.c.run_uuid == template))
            rows[name] = [dict(row) for row in found.mappings()]
        for first in range(0, len(trials), 500):
            part = trials[first : first + 500]
            ids = [uuid.UUID(int=random.Random(trial.digest).getrandbits(128)).hex for trial in part]
            own = {
                "params": [params(trial) for trial in part],
                "tags": [tags(trial, parents[trial.part]) for trial in part],
                "latest_metrics": [values(trial) for trial in part],
            }
            own["metrics"] = own["latest_metrics"]
            for name in names:
                fresh = [
                    row | {"run_uuid": run_id} | changed(name, row, template, run_id, own.get(name, ids)[i])
                    for i, run_id in enumerate(ids)
                    for row in rows[name]
                ]
                connection.execute(insert(known.tables[name]), fresh)
    engine.dispose()


def changed(table: str, row: Mapping[str, Any], template: str, run_id: str, own: Any) -> dict[str, Any]:
    """What differs from the template's row."""
    if table == "runs":
        return {"artifact_uri": row["artifact_uri"].replace(template, run_id)}
    earlier = table == "metrics" and row["step"] < EPOCHS - 1
    return {} if earlier else {"value": own[row["key"]]}


# --- measuring, in processes of their own ------------------------------------------------------------------------------


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB on Linux


def measure_table(name: str, calls: int) -> dict[str, Any]:
    """`paper table` as many times, in this process."""
    from analysis import cli

    with open(os.devnull, "w") as null:
        seconds = []
        for _ in range(calls):
            start = time.perf_counter()
            before, sys.stdout = sys.stdout, null
            try:
                code = cli.main(["table", f"{name}.toml", "--profile", PROFILE, "--out", "out"])
            finally:
                sys.stdout = before
            seconds.append(time.perf_counter() - start)
            assert code == 0, code
    return {"seconds": seconds, "cpu_s": time.process_time(), "peak_mib": peak_mib()}


def measure_pivot(parent: str, calls: int) -> dict[str, Any]:
    """`mlflow.search_runs` and the pivot to mean, std and n of each cell; `parent` "" is all trials."""
    import mlflow

    logging.getLogger("alembic").setLevel(logging.WARNING)
    mlflow.set_tracking_uri(f"sqlite:///{Path('.sweeps/mlflow.db').absolute()}")
    where = "tags.`sweeps.role` = 'trial'" + (f" and tags.`mlflow.parentRunId` = '{parent}'" if parent else "")
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        frame = mlflow.search_runs(experiment_names=[HOME], filter_string=where, max_results=100_000)
        table = frame.pivot_table(
            index=["params.part", "params.method"],
            columns="params.pair",
            values=f"metrics.{SHOWN}",
            aggfunc=["mean", "std", "count"],
        )
        seconds.append(time.perf_counter() - start)
    cells = {" | ".join((*row, column)): value for column, cell in table["mean"].items() for row, value in cell.items()}
    spent = {"seconds": seconds, "cpu_s": time.process_time(), "peak_mib": peak_mib()}
    return {**spent, "rows": len(frame), "means": cells}


def elsewhere(folder: Path) -> None:
    """Somebody writes to the store: from now on what is kept has to be checked."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / '.sweeps' / 'mlflow.db'}")
    client.create_run(client.create_experiment(f"other-{uuid.uuid4().hex[:8]}"))


@dataclass(frozen=True)
class Measured:
    """One process: its wall time from start to end, that of each call inside, its CPU time, and the most memory it held."""

    process_s: float
    calls_s: Sequence[float]
    cpu_s: float
    peak_mib: float
    answer: Mapping[str, Any]


def process(folder: Path, *arguments: str) -> Measured:
    """This file once more, told what to measure."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SWEEPS_", "MLFLOW_"))}
    command = [sys.executable, "-P", str(Path(__file__).absolute()), *arguments]  # beside it, `analysis` is this file
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, check=True, text=True)
    wall = time.perf_counter() - start
    answer = json.loads(done.stdout)
    return Measured(wall, answer["seconds"], answer["cpu_s"], answer["peak_mib"], answer)


@dataclass(frozen=True)
class Row:
    """What was measured of one table; seconds, medians over processes."""

    name: str
    runs: int
    first: float
    second: float
    warm: float
    checked: float
    pivot: float
    pivot_call: float
    second_cpu: float
    pivot_cpu: float
    table_mib: float
    pivot_mib: float

    @property
    def met(self) -> bool:
        return self.second <= LIMIT_S and self.pivot >= RATIO * self.second


def compare(folder: Path, name: str, parent: str, repeat: int) -> Row:
    """One table by both ways.

    Raises:
        SystemExit: their numbers differ.
    """
    first = process(folder, "table", name, "1")
    again = [process(folder, "table", name, "1") for _ in range(repeat)]
    warm = process(folder, "table", name, str(1 + repeat))
    pivots = [process(folder, "pivot", parent, "1") for _ in range(repeat)]
    pivot_calls = process(folder, "pivot", parent, "2").calls_s
    same_numbers(folder, name, pivots[0].answer["means"])
    checked = []
    for _ in range(repeat):
        elsewhere(folder)
        checked.append(process(folder, "table", name, "1").process_s)
    return Row(
        name,
        pivots[0].answer["rows"],
        first.process_s,
        statistics.median(each.process_s for each in again),
        statistics.median(warm.calls_s[1:]),
        statistics.median(checked),
        statistics.median(each.process_s for each in pivots),
        pivot_calls[1],
        statistics.median(each.cpu_s for each in again),
        statistics.median(each.cpu_s for each in pivots),
        max(each.peak_mib for each in again),
        max(each.peak_mib for each in pivots),
    )


def same_numbers(folder: Path, name: str, means: Mapping[str, float]) -> None:
    """Compares the table's means with the pivot's, cell by cell."""
    import csv

    with (folder / "out" / "bench" / name / PROFILE / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    ours = {" | ".join((row.get("part") or name, row["method"], row["pair"])): float(row["value"]) for row in rows}
    far = [cell for cell in ours.keys() | means.keys() if not math.isclose(ours.get(cell, 0), means.get(cell, 1))]
    if far:
        raise SystemExit(f"{name}: table and pivot differ in {len(far)} cells: {', '.join(sorted(far)[:5])}")


def report(rows: Sequence[Row], built_s: float, megabytes: float) -> str:
    """Markdown: a table, and the verdict for each of its rows."""
    heads = ("table", "runs", "first time", "second time", "again in one process", "second time, store changed")
    heads += ("`search_runs` + pivot", "the same in a warm process", "ratio, second time", "ratio, warm")
    heads += ("CPU, second time", "CPU, pivot", "peak memory, ours", "peak memory, pivot")
    lines = [f"Store: {megabytes:.0f} MB, built in {built_s:.0f} s.", "", "| " + " | ".join(heads) + " |"]
    lines.append("|---|" + "---:|" * (len(heads) - 1))
    for row in rows:
        seconds = (row.first, row.second, row.warm, row.checked, row.pivot, row.pivot_call)
        cells = [f"bench/{row.name}", f"{row.runs:,}", *(f"{each:.2f} s" for each in seconds)]
        cells += [f"{row.pivot / row.second:.1f}", f"{row.pivot_call / row.warm:.1f}"]
        cells += [f"{row.second_cpu:.2f} s", f"{row.pivot_cpu:.2f} s"]
        cells += [f"{row.table_mib:.0f} MiB", f"{row.pivot_mib:.0f} MiB"]
        lines.append("| " + " | ".join(cells) + " |")
    lines.append("")
    asked = f"second time at most {LIMIT_S:g} s and at least {RATIO:g} times faster"
    lines += [f"bench/{row.name}: {asked}: {'met' if row.met else 'NOT met'}" for row in rows]
    return "\n".join(lines) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] in (["table"], ["pivot"]):
        what, name, calls = arguments
        measure = measure_table if what == "table" else measure_pivot
        sys.stdout.write(json.dumps(measure(name, int(calls))))
        return 0
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000, help="trials in the store (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=3, help="processes for each median (default: %(default)s)")
    parser.add_argument(
        "--folder",
        type=Path,
        help="where the store is built and left; one that is there is used again (default: a temporary folder)",
    )
    options = parser.parse_args(arguments)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    layout = Layout(options.runs)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        kept = folder / "parents.json"
        if not kept.is_file():
            kept.write_text(json.dumps(build(layout, folder)), encoding="utf-8")
        shutil.rmtree(folder / ".sweeps" / "cache", ignore_errors=True)
        parents = json.loads(kept.read_text(encoding="utf-8"))
        built = time.perf_counter() - start
        megabytes = (folder / ".sweeps" / "mlflow.db").stat().st_size / 1e6
        first, *_ = layout.parts
        rows = [compare(folder, first, parents[first], options.repeat), compare(folder, "all", "", options.repeat)]
    sys.stdout.write(report(rows, built, megabytes))
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
