"""Mirrors trial directories into MLflow: idempotent, in a thread of its own, and never needed by a trial."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps import provenance
from sweeps.errors import SetupError
from sweeps.plan import Plan
from sweeps.settings import Settings, shown
from trainers import attempts
from trainers.attempts import State, Status
from trainers.checkpoint import replace_bytes
from trainers.config import Trial
from trainers.train import trial_folder

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

logger = logging.getLogger(__name__)

PERIOD_S = 5.0
RUN_STATUS = {State.DONE: "FINISHED", State.FAILED: "FAILED", State.STOPPED: "KILLED", State.PARTIAL: "RUNNING"}
VIEW = "results"
"""Share key of the view that `sweep ui` links to: the run list with the metrics that the papers report."""
COLUMNS = (
    "metrics.`best/test/acc1_pct`",
    "metrics.`best/test/agree1_pct`",
    "metrics.`best/test/loyalty_code`",
    "metrics.`last/test/acc1_pct`",
    "attributes.`Duration`",
)
QUIET = {
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


@dataclass(frozen=True)
class Tracked:
    """A trial to mirror: its plan gives the parent run, its name the run's."""

    plan: Plan
    digest: str
    trial: Trial
    name: str


def client(settings: Settings) -> MlflowClient:
    """A client of the settings' store, with MLflow's own chatter off.

    Raises:
        SetupError: the store is of another version or cannot be opened.
    """
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        if settings.tracking_uri.startswith("sqlite:///"):
            _make_sqlite(Path(settings.tracking_uri.removeprefix("sqlite:///")))
        found = MlflowClient(tracking_uri=settings.tracking_uri)
        found.search_experiments(max_results=1)
    except MlflowException as error:
        first = str(error).strip().splitlines()[0].replace(settings.tracking_uri, shown(settings.tracking_uri))
        if "schema" in first:
            remedy = "upgrade it with `mlflow db upgrade <uri>` after a backup, or point MLFLOW_TRACKING_URI to another store"
        else:
            remedy = "check MLFLOW_TRACKING_URI and the login"
        raise SetupError(
            f"the MLflow store {shown(settings.tracking_uri)} cannot be used: {first}; {remedy}"
        ) from error
    except Exception as error:  # a database driver's own
        first = str(error).strip().splitlines()[0].replace(settings.tracking_uri, shown(settings.tracking_uri))
        raise SetupError(
            f"the MLflow store {shown(settings.tracking_uri)} cannot be opened: {first}; check MLFLOW_TRACKING_URI"
        ) from error
    return found


def _make_sqlite(database: Path) -> None:
    """Makes a new store whole before it gets its name: MLflow's migrations survive neither a kill nor a second process."""
    from mlflow.tracking import MlflowClient

    database.parent.mkdir(parents=True, exist_ok=True)
    with locked(database.with_name(f".{database.name}.lock")):
        if database.exists():
            return
        with tempfile.TemporaryDirectory(dir=database.parent, prefix=".new-store-") as scratch:
            draft, whole = Path(scratch) / "draft.db", Path(scratch) / "whole.db"
            MlflowClient(tracking_uri=f"sqlite:///{draft}").search_experiments(max_results=1)
            with closing(sqlite3.connect(draft)) as source, closing(sqlite3.connect(whole)) as target:
                source.backup(target)
            os.replace(whole, database)


def links(found: MlflowClient, address: str) -> list[str]:
    """One line for each paper and profile in the store: its name and the page of its runs."""
    experiments = [each for each in found.search_experiments() if f"mlflow.sharedViewState.{VIEW}" in each.tags]
    return [
        f"{each.name}: {address}/#/experiments/{each.experiment_id}/runs?viewStateShareKey={VIEW}"
        for each in experiments
    ]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on a file; a killed holder frees it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Mirror:
    """Brings MLflow in step with the trial directories, as often as one likes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.client = client(settings)
        self.store = hashlib.sha256(settings.tracking_uri.encode()).hexdigest()[:16]
        self._parents: dict[str, tuple[str, str]] = {}
        self._tags = provenance.tags()

    def parent(self, plan: Plan) -> tuple[str, str]:
        """MLflow experiment id and run id of the parent run of an experiment at a profile; found or made."""
        key = f"{plan.experiment.name}@{plan.profile.name}"
        if key not in self._parents:
            with locked(self.settings.state / ".parents.lock"):
                experiment_id = self._experiment(f"{plan.experiment.file.paper}-{plan.profile.name}")
                wanted = {
                    "sweeps.role": "parent",
                    "sweeps.experiment": plan.experiment.name,
                    "sweeps.profile": plan.profile.name,
                }
                query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in wanted.items())
                found = self.client.search_runs(
                    [experiment_id], query, max_results=1, order_by=["attributes.start_time ASC"]
                )
                run = (
                    found[0]
                    if found
                    else self._create(experiment_id, plan.experiment.name.split("/")[-1], wanted | self._tags)
                )
            self._parents[key] = (experiment_id, run.info.run_id)
        return self._parents[key]

    def describe_parent(self, plan: Plan, search: dict[str, Any] | None) -> None:
        """Puts the experiment file, the plan and the links to the serving runs on the parent run."""
        _, run_id = self.parent(plan)
        self.client.log_text(run_id, plan.experiment.text, "experiment.toml")
        self.client.log_text(run_id, json.dumps(plan.as_json(), indent=1), "plan.json")
        if search is not None:
            self.client.log_text(run_id, json.dumps(search, indent=1), "search.json")
        links = {name: self._record(digest).get("run_id", "") for digest, name in plan.names.items()}
        self.client.log_text(
            run_id, json.dumps({name: run for name, run in links.items() if run}, indent=1), "runs.json"
        )
        self.client.set_tag(
            run_id, "mlflow.note.content", f"{plan.experiment.file.title}\n\n{plan.experiment.file.source}"
        )

    def close_parent(self, plan: Plan, complete: bool) -> None:
        """Ends the parent run: FINISHED when no cell is missing, else FAILED."""
        _, run_id = self.parent(plan)
        self.client.set_terminated(run_id, "FINISHED" if complete else "FAILED")

    def open_parent(self, plan: Plan) -> None:
        """Shows the parent run as running."""
        self.client.update_run(self.parent(plan)[1], status="RUNNING")

    def attach(self, plan: Plan, files: list[Path]) -> None:
        """Adds finished tables and figures to the parent run."""
        _, run_id = self.parent(plan)
        for file in files:
            self.client.log_artifact(run_id, str(file))

    def trial(self, tracked: Tracked, *, final: bool) -> None:
        """Mirrors one trial: new rows, its end, its artifacts.

        Args:
            final: nobody of this launch trains it any more; what is still partial is shown as KILLED, not RUNNING.
        """
        from mlflow.exceptions import MlflowException

        status = attempts.read_status(self.settings.state, tracked.digest)
        if status.state is State.NEW:
            return
        record = self._record(tracked.digest)
        if (
            record.get("state") == status.state.value
            and status.state is not State.PARTIAL
            and record.get("attempt") == status.number
        ):
            return
        with locked(trial_folder(self.settings.state, tracked.digest) / ".mlflow.lock"):
            record = self._record(tracked.digest)
            rows = attempts.rows(status)
            origin = int(rows[0]["timestamp_ms"]) if rows else None
            if record.get("run_id") and record.get("epochs") and record.get("origin") != origin:
                self._supersede(record["run_id"])  # started over: its old rows would be doubled
                record = {}
            try:
                self._bring_up(tracked, status, record, rows, final)
            except MlflowException:
                if not record.get("run_id") or self._is_active(record["run_id"]):
                    raise
                self._bring_up(tracked, status, {}, rows, final)  # somebody deleted the run in the middle: a new one

    def _bring_up(
        self, tracked: Tracked, status: Status, record: dict[str, Any], rows: list[dict[str, float]], final: bool
    ) -> None:
        origin = int(rows[0]["timestamp_ms"]) if rows else None
        if not record.get("run_id"):
            record = self._begin(tracked, origin)
        self._rows(record, rows)
        record |= {"origin": origin, "epochs": len(rows)}
        self._state(tracked, status, record, final)
        self._write(tracked.digest, record)

    def _is_active(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return str(self.client.get_run(run_id).info.lifecycle_stage) == "active"
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _begin(self, tracked: Tracked, start_ms: int | None) -> dict[str, Any]:
        """Finds the run by its digest, or creates it; the caller holds the trial's lock, so there is never a second one."""
        experiments = [e.experiment_id for e in self.client.search_experiments()]
        identity = attempts.record_id(self.settings.state, tracked.digest)
        query = f"tags.`sweeps.digest` = '{tracked.digest}' and tags.`sweeps.record` = '{identity}'"
        found = self.client.search_runs(experiments, query, max_results=1)
        run = found[0] if found else self._create_trial(tracked, identity, start_ms)
        from mlflow.entities import Param

        # before the record: what has a record is whole, and to log the same parameters again changes nothing
        self.client.log_batch(
            run.info.run_id, params=[Param(key, value) for key, value in params(tracked.trial).items()]
        )
        record = {"run_id": run.info.run_id}
        self._write(tracked.digest, record)
        return record

    def _create_trial(self, tracked: Tracked, identity: str, start_ms: int | None) -> Run:
        experiment_id, parent_id = self.parent(tracked.plan)
        tags = {
            "sweeps.role": "trial",
            "sweeps.digest": tracked.digest,
            "sweeps.record": identity,
            "sweeps.state": State.PARTIAL.value,
            "sweeps.experiment": tracked.plan.experiment.name,
            "sweeps.profile": tracked.plan.profile.name,
            "sweeps.device": "cuda" if tracked.plan.resources.gpu else "cpu",
            "mlflow.parentRunId": parent_id,
            **self._tags,
        }
        return self._create(experiment_id, tracked.name, tags, start_ms)

    def _rows(self, record: dict[str, Any], rows: list[dict[str, float]]) -> None:
        from mlflow.entities import Metric

        new = rows[int(record.get("epochs", 0)) :]
        values = [
            Metric(name, float(value), int(row["timestamp_ms"]), int(row["epoch"]))
            for row in new
            for name, value in row.items()
            if name not in ("epoch", "timestamp_ms")
        ]
        if values:
            self.client.log_batch(record["run_id"], metrics=values)

    def _state(self, tracked: Tracked, status: Status, record: dict[str, Any], final: bool) -> None:
        from mlflow.entities import Metric, RunTag

        run_id = record["run_id"]
        shown_state = "KILLED" if final and status.state is State.PARTIAL else RUN_STATUS[status.state]
        if (
            record.get("state") == status.state.value
            and record.get("status") == shown_state
            and record.get("attempt") == status.number
        ):
            return
        end_ms = int(status.entry.get("timestamp_ms", 0)) or None
        metrics = []
        if status.state is State.DONE:
            metrics = [
                Metric(name, float(value), end_ms or 0, max(record["epochs"] - 1, 0))
                for name, value in status.result.items()
            ]
            metrics = [metric for metric in metrics if not metric.key.startswith("time/")]  # the rows hold them
            folder = trial_folder(self.settings.state, tracked.digest) / "artifacts"
            if folder.is_dir():
                self.client.log_artifacts(run_id, str(folder))
        tags = [RunTag("sweeps.state", status.state.value), RunTag("sweeps.attempt", str(status.number))]
        tags += [RunTag(name, value) for name, value in provenance.tags_of(status.folder).items()]
        patch = provenance.patch_of(self.settings.state, status.folder)
        if patch:
            self.client.log_text(run_id, patch, "code.patch")
        if status.state is State.FAILED:
            tags.append(RunTag("sweeps.error", str(status.entry["error"]["cause"])[:4000]))
            tags.append(RunTag("sweeps.log", f"{log_folder(tracked.digest, status)}/log.txt"))
        self.client.log_batch(run_id, metrics=metrics, tags=tags)
        if status.state is State.PARTIAL and not final:
            self.client.update_run(run_id, status="RUNNING")
        else:
            self.client.set_terminated(run_id, shown_state, end_time=end_ms)
        record |= {"state": status.state.value, "status": shown_state, "attempt": status.number}

    def _supersede(self, run_id: str) -> None:
        self.client.set_tag(run_id, "sweeps.superseded", "its trial was started over")
        self.client.delete_tag(run_id, "sweeps.digest")

    def _create(self, experiment_id: str, name: str, tags: Mapping[str, str], start_ms: int | None = None) -> Run:
        return self.client.create_run(experiment_id, start_time=start_ms, tags=dict(tags), run_name=name)

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                self.client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)
        location = None
        if not self.settings.tracking_uri.startswith("http"):
            location = (self.settings.artifacts / name).absolute().as_uri()
        experiment_id = str(self.client.create_experiment(name, artifact_location=location))
        view = {"selectedColumns": COLUMNS, "orderByKey": "attributes.start_time", "orderByAsc": True}
        self.client.set_experiment_tag(experiment_id, f"mlflow.sharedViewState.{VIEW}", json.dumps(view))
        return experiment_id

    def _record(self, digest: str) -> dict[str, Any]:
        file = trial_folder(self.settings.state, digest) / "mlflow.json"
        try:
            record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")).get(self.store, {})
        except (OSError, ValueError):
            return {}
        return record

    def _write(self, digest: str, record: dict[str, Any]) -> None:
        file = trial_folder(self.settings.state, digest) / "mlflow.json"
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            content = {}
        replace_bytes(file, json.dumps({**content, self.store: record}, indent=1).encode())


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


class Tracker:
    """Runs a `Mirror` in a thread: a slow or absent MLflow delays nobody, and what it missed is caught up later.

    Args:
        list_trials: gives the trials of the launch, new suggestions included.
    """

    def __init__(self, settings: Settings, plans: list[Plan], list_trials: Callable[[], list[Tracked]]) -> None:
        self.settings, self.plans, self.list_trials = settings, plans, list_trials
        self.problem: str | None = None
        self._mirror: Mirror | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tracker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> Mirror | None:
        """Stops the thread, mirrors everything once more; None when MLflow could not be reached."""
        self._stop.set()
        self._thread.join()
        self._attempt(final=True)
        return self._mirror if self.problem is None else None

    def _run(self) -> None:
        while not self._stop.is_set():
            self._attempt(final=False)
            self._stop.wait(PERIOD_S)

    def _attempt(self, *, final: bool) -> None:
        try:
            if self._mirror is None:
                self._mirror = Mirror(self.settings)
                for plan in self.plans:
                    self._mirror.open_parent(plan)
            for tracked in self.list_trials():
                self._mirror.trial(tracked, final=final)
            self.problem = None
        except Exception as error:  # whatever the store or the network raises: trials go on, the next round catches up
            if self.problem is None:
                logger.warning(
                    "MLflow is away (%s); trials go on, `sweep sync` or the next run catches up",
                    str(error).splitlines()[0][:200],
                )
            self.problem = str(error)
