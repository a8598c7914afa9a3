"""A trial as its run in MLflow shows it: parameters, metrics and tags, from its configuration and its directory alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps import provenance
from trainers.attempts import State, Status
from trainers.config import Trial
from trainers.train import trial_folder

if TYPE_CHECKING:
    from mlflow.entities import Metric


def log_folder(digest: str, status: Status) -> str:
    """Where a trial's log lies below the state root, which may be another folder where somebody reads this."""
    return (trial_folder(Path(), digest) / "attempts" / str(status.entry["attempt"])).as_posix()


def params(trial: Trial) -> dict[str, str]:
    """A trial's parameters as MLflow shows them: flat names, values as JSON so that types survive."""
    flat: dict[str, Any] = {
        "method": trial.method,
        "student": trial.student,
        "seed": trial.seed,
        "precision": trial.precision,
        "protocol": trial.protocol.name,
    }
    if trial.teacher is not None:
        flat |= {"teacher": trial.teacher.network, "teacher_digest": trial.teacher.name}
    flat |= {f"hparams.{key}": value for key, value in trial.hparams.items()}
    flat |= {f"data.{key}": value for key, value in trial.data.model_dump(mode="json", exclude_none=True).items()}
    flat |= {f"protocol.{key}": value for key, value in trial.protocol.digest_fields().items() if value is not None}
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in flat.items()}


def metrics_of(rows: list[dict[str, float]]) -> list[Metric]:
    """The values of epochs, at their own times."""
    from mlflow.entities import Metric

    return [
        Metric(name, float(value), int(row["timestamp_ms"]), int(row["epoch"]))
        for row in rows
        for name, value in row.items()
        if name not in ("epoch", "timestamp_ms")
    ]


def results_of(status: Status, epochs: int) -> list[Metric]:
    """The result of a done trial, at its last epoch; times are left out, the rows hold them."""
    from mlflow.entities import Metric

    end_ms = int(status.entry.get("timestamp_ms", 0))
    found = {name: float(value) for name, value in status.result.items() if not name.startswith("time/")}
    return [Metric(name, value, end_ms, max(epochs - 1, 0)) for name, value in found.items()]


def state_tags(digest: str, status: Status) -> dict[str, str]:
    """How far a trial is, what it was made with, and why it failed."""
    tags = {"sweeps.state": status.state.value, "sweeps.attempt": str(status.number)}
    tags |= provenance.tags_of(status.folder)
    if status.state is State.FAILED:
        tags["sweeps.error"] = str(status.entry["error"]["cause"])[:4000]
        tags["sweeps.log"] = f"{log_folder(digest, status)}/log.txt"
    return tags
