"""What must hold of a sweep that was disturbed: every trial finished once, every epoch trained and shown once."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.system.conftest import Home
from trainers import attempts
from trainers.attempts import State


@dataclass
class Work:
    """What was done for a sweep, summed over its trials.

    Attributes:
        claims: how often a worker began or went on with a trial.
        epochs_needed: of all trials.
        epochs_trained: to their end, by any owner that counted.
        epochs_again: of those, the ones that an earlier attempt had already trained to their end.
        values: in MLflow, of all trial runs.
    """

    trials: int = 0
    claims: int = 0
    epochs_needed: int = 0
    epochs_trained: int = 0
    epochs_again: int = 0
    values: int = 0


def trials_in(home: Home) -> list[str]:
    """Digests of the trials that anybody began."""
    return sorted(folder.parent.name for folder in home.state.glob("??/*/attempts"))


def print_of(file: Path) -> tuple[int, str]:
    """Time and SHA-256 of a file: a file that is never written again keeps both."""
    return file.stat().st_mtime_ns, hashlib.sha256(file.read_bytes()).hexdigest()


def trial_faults(state: Path, digest: str, epochs: int, work: Work) -> list[str]:
    """What is wrong in the directory of a trial that should be done; adds to `work`.

    Every attempt must go on from all that the one before has in its journal, or from one epoch more: that one was in the
    checkpoint. So what a kill costs is the epoch it fell into, and no other.
    """
    folder, status = attempts.trial_folder(state, digest), attempts.read_status(state, digest)
    if status.state is not State.DONE:
        return [f"{digest[:12]}: {status.state.value}"]
    wrong = [
        f"{digest[:12]}: no {name}"
        for name in ("result.json", "weights.pt", "trial.json")
        if not (folder / name).is_file()
    ]
    entries = [
        json.loads((folder / "attempts" / f"{n}" / "claim.json").read_text()) for n in range(1, status.number + 1)
    ]
    kinds = [entry["kind"] for entry in entries]
    if kinds != ["claim"] * (len(kinds) - 1) + ["done"]:
        wrong.append(f"{digest[:12]}: its log is {kinds}")
    before = trained = 0
    for number, entry in enumerate(entries[:-1], 1):
        accepted, lines = entry["accepted_epochs"], _lines(folder / "attempts" / str(number) / "journal.jsonl")
        if accepted not in (before, before + 1):
            wrong.append(
                f"{digest[:12]}: attempt {number} goes on after {accepted} epochs, the one before had {before}"
            )
        trained += lines - accepted + max(0, accepted - before)
        work.epochs_again += max(0, before - accepted)
        before = lines
    shown = [int(row["epoch"]) for row in attempts.rows(status)]
    if shown != list(range(epochs)) or trained != epochs:
        wrong.append(f"{digest[:12]}: {trained} epochs were trained for {epochs}, its journal has {shown}")
    work.trials, work.claims = work.trials + 1, work.claims + len(entries) - 1
    work.epochs_needed, work.epochs_trained = work.epochs_needed + epochs, work.epochs_trained + trained
    return wrong


def _lines(journal: Path) -> int:
    """Whole lines; a torn one is no epoch."""
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def tracking_faults(home: Home, epochs: int, work: Work, *, parents: int = 1) -> list[str]:
    """What MLflow shows and the trials' directories do not say, or the reverse; adds to `work`."""
    from mlflow.tracking import MlflowClient

    client, wrong = MlflowClient(tracking_uri=home.uri), []
    digests, runs = trials_in(home), home.runs()
    shown = Counter(run.data.tags.get("sweeps.digest", f"none ({run.info.run_name})") for run in runs)
    wrong += [f"{digest[:12]}: {shown[digest]} runs in MLflow" for digest in digests if shown[digest] != 1]
    wrong += [f"a run of no trial: {digest}" for digest in shown if digest not in digests]
    for run in runs:
        wrong += _run_faults(client, home, run, epochs, work)
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    states = [run.info.status for run in client.search_runs(ids, "tags.`sweeps.role` = 'parent'")]
    return wrong if states == ["FINISHED"] * parents else [*wrong, f"parent runs are {states}"]


def _run_faults(client: Any, home: Home, run: Any, epochs: int, work: Work) -> Iterator[str]:
    """Compares every value of a run, by step, with its trial's journal and result."""
    status = attempts.read_status(home.state, run.data.tags["sweeps.digest"])
    name = run.info.run_name
    if run.info.status != "FINISHED" or run.data.tags["sweeps.state"] != "done":
        yield f"{name}: {run.info.status}, {run.data.tags['sweeps.state']}"
    if status.state is not State.DONE:
        return
    wanted = {f"{key}": [(epochs - 1, value)] for key, value in status.result.items() if not key.startswith("time/")}
    for row in attempts.rows(status):
        for key, value in row.items():
            if key not in ("epoch", "timestamp_ms"):
                wanted.setdefault(key, []).append((int(row["epoch"]), value))
    for key in sorted({*wanted, *run.data.metrics}):
        found = sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, key))
        work.values += len(found)
        if found != wanted.get(key, []):
            yield f"{name}, {key}: MLflow has {found}, the journal {wanted.get(key, [])}"
