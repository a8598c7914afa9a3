"""Mirrors trial directories into MLflow: idempotent, in a thread of its own, and never needed by a trial."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps import provenance
from sweeps.entries import metrics_of, params, results_of, state_tags
from sweeps.plan import Plan
from sweeps.settings import Settings
from sweeps.store import COLUMNS, VIEW, HeldError, client, first_line, locked, not_repeated
from trainers import attempts, faults
from trainers.attempts import State, Status
from trainers.checkpoint import replace_bytes
from trainers.config import Trial
from trainers.train import trial_folder

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

logger = logging.getLogger(__name__)

PERIOD_S = 5.0
HEAD_START_S = 4.0
"""What the launch has for itself before the first round, which would take its time from the start of the first trials."""
LOCK_WAIT_S = 60.0
"""How long one driver waits for another that mirrors the same trial, and may be stopped."""
SPACING_S = 10.0
"""A trial in training is brought up no more often than this: its epochs share requests."""
RUN_STATUS = {State.DONE: "FINISHED", State.FAILED: "FAILED", State.STOPPED: "KILLED", State.PARTIAL: "RUNNING"}
MOST_AT_ONCE, MOST_PARAMS = 1000, 100
"""What MLflow takes in one batch: metrics, parameters and tags together, and parameters."""


@dataclass(frozen=True)
class Tracked:
    """A trial to mirror: its plan gives the parent run, its name the run's.

    Attributes:
        fresh: nobody had begun it when this launch first looked, so that it has a run only where its record says so.
    """

    plan: Plan
    digest: str
    trial: Trial
    name: str
    fresh: bool = False


class Mirror:
    """Brings MLflow in step with the trial directories, as often as one likes."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.client = client(settings)
        self.store = hashlib.sha256(settings.tracking_uri.encode()).hexdigest()[:16]
        self._parents: dict[str, Parent] = {}
        self._born_ms = int(time.time() * 1000)
        self._tags = provenance.tags()
        self._settled: set[str] = set()
        self._sent: dict[str, float] = {}

    # --- parents ------------------------------------------------------------------------------------------------------

    def parent(self, plan: Plan) -> tuple[str, str]:
        """MLflow experiment id and run id of the parent run of an experiment at a profile; found or made."""
        found = self._parent(plan)
        return found.experiment_id, found.run_id

    def describe_parent(self, plan: Plan, search: dict[str, Any] | None) -> None:
        """Puts the experiment file, the plan and the links to the serving runs on the parent run."""
        parent = self._parent(plan)
        if parent.doubtful:
            query = f"{_query(_role(plan))} and attributes.start_time = {self._born_ms}"
            self._drop_doubles([parent.experiment_id], query, parent.run_id)
            parent.doubtful = False
        links = {name: self._record(digest).get("run_id", "") for digest, name in plan.names.items()}
        texts = {
            "experiment.toml": plan.experiment.text,
            "plan.json": json.dumps(plan.as_json(), indent=1),
            "runs.json": json.dumps({name: run for name, run in links.items() if run}, indent=1),
        }
        if search is not None:
            texts["search.json"] = json.dumps(search, indent=1)
        self._put_texts(parent.artifact_uri, texts)

    def close_parent(self, plan: Plan, complete: bool) -> None:
        """Ends the parent run: FINISHED when no cell is missing, else FAILED."""
        self._show_parent(self._parent(plan), "FINISHED" if complete else "FAILED", int(time.time() * 1000))

    def open_parent(self, plan: Plan) -> None:
        """Shows the parent run as running."""
        parent = self._parent(plan)
        if parent.status != "RUNNING":
            self._show_parent(parent, "RUNNING")

    def attach(self, plan: Plan, files: list[Path]) -> None:
        """Adds finished tables and figures to the parent run."""
        repository = self._artifacts(self._parent(plan).artifact_uri)
        for file in files:
            repository.log_artifact(str(file))

    def _parent(self, plan: Plan) -> Parent:
        key = f"{plan.experiment.name}@{plan.profile.name}"
        if key not in self._parents or not self._parents[key].run_id:
            with locked(self.settings.state / ".parents.lock", LOCK_WAIT_S):
                experiment_id = self._experiment(f"{plan.experiment.file.paper}-{plan.profile.name}")
                lost = key in self._parents
                self._parents[key] = Parent(experiment_id, "", "", "", lost)
                run = self._parent_run(experiment_id, plan)
            self._parents[key] = Parent(experiment_id, run.info.run_id, run.info.artifact_uri, run.info.status, lost)
        return self._parents[key]

    def _parent_run(self, experiment_id: str, plan: Plan) -> Run:
        role = _role(plan)
        note = {"mlflow.note.content": f"{plan.experiment.file.title}\n\n{plan.experiment.file.source}"}
        run = self._find([experiment_id], role)
        if run is None:
            name = plan.experiment.name.split("/")[-1]
            run = self._create(experiment_id, name, role | note | self._tags, self._born_ms)
            faults.point("parent-created")
        elif not note.items() <= run.data.tags.items():
            self.client.set_tag(run.info.run_id, *note.popitem())
        return run

    def _show_parent(self, parent: Parent, status: str, end_ms: int | None = None) -> None:
        self._show(parent.run_id, status, end_ms)
        parent.status = status

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                self.client.restore_experiment(found.experiment_id)
            return str(found.experiment_id)
        location = None
        if not self.settings.tracking_uri.startswith("http"):
            location = (self.settings.artifacts / name).absolute().as_uri()
        view = {"selectedColumns": COLUMNS, "orderByKey": "attributes.start_time", "orderByAsc": True}
        tags = {f"mlflow.sharedViewState.{VIEW}": json.dumps(view)}
        return str(self.client.create_experiment(name, artifact_location=location, tags=tags))

    # --- trials -------------------------------------------------------------------------------------------------------

    def trial(self, tracked: Tracked, *, final: bool, wait_s: float = LOCK_WAIT_S) -> None:
        """Mirrors one trial: new rows, its end, its artifacts.

        Args:
            final: nobody of this launch trains it any more; what is still partial is shown as KILLED, not RUNNING.
            wait_s: for another process that mirrors it.

        Raises:
            HeldError: that one has not come to an end.
        """
        from mlflow.exceptions import MlflowException

        if tracked.digest in self._settled:
            return
        status = attempts.read_status(self.settings.state, tracked.digest)
        if status.state is State.NEW or (
            status.state is State.PARTIAL and not final and self._just_sent(tracked.digest)
        ):
            return
        if status.state is not State.PARTIAL and _in_step(self._record(tracked.digest), status):
            if status.state is State.DONE:
                self._settled.add(tracked.digest)
            return
        lock = trial_folder(self.settings.state, tracked.digest) / ".mlflow.lock"
        with locked(lock, wait_s):
            status = attempts.read_status(self.settings.state, tracked.digest)  # the record may be of a later attempt
            record = self._record(tracked.digest)
            rows = attempts.rows(status)
            origin = _origin(rows)
            if record.get("run_id") and record.get("epochs") and record.get("origin") != origin:
                self._supersede(record["run_id"])  # started over: its old rows would be doubled
                record = {"asked": 0}
                self._write(tracked.digest, record)
            try:
                self._bring_up(tracked, status, record, rows, final)
            except MlflowException:
                if not record.get("run_id") or self._is_active(record["run_id"]):
                    raise
                self._bring_up(tracked, status, {}, rows, final)  # somebody deleted the run in the middle: a new one

    def _bring_up(
        self, tracked: Tracked, status: Status, record: dict[str, Any], rows: list[dict[str, float]], final: bool
    ) -> None:
        """Sends what the record does not have, in one request where it fits, and then writes the record."""
        if not record.get("run_id"):
            record = self._begin(tracked, status, record, _origin(rows))
        run_id = str(record["run_id"])
        ended = status.state is not State.PARTIAL
        shown_state = "KILLED" if final and not ended else RUN_STATUS[status.state]
        news = {"origin": _origin(rows), "epochs": len(rows), "params": True, "status": shown_state}
        news |= {"state": status.state.value, "attempt": status.number}
        news["patch"] = self._put_files(tracked, status, record)
        if news.items() <= record.items():
            return
        metrics = metrics_of(rows[int(record.get("epochs", 0)) :])
        tags = {} if _in_step(record, status) else state_tags(tracked.digest, status)
        if tags and status.state is State.DONE:
            metrics += results_of(status, len(rows))
        values = {} if record.get("params") else params(tracked.trial)
        self._send(run_id, metrics, values, tags)
        faults.point("end-logged" if ended else "rows-logged")
        if record.get("status") != shown_state:
            self._show(run_id, shown_state, int(status.entry.get("timestamp_ms", 0)) or int(time.time() * 1000))
            faults.point("end-shown")
        if ended and record.pop("doubtful", False):
            experiments = [each.experiment_id for each in self.client.search_experiments()]
            self._drop_doubles(experiments, _query(self._identity(tracked.digest)), run_id)
        self._write(tracked.digest, record | news)
        self._sent[tracked.digest] = time.monotonic()

    def _just_sent(self, digest: str) -> bool:
        return time.monotonic() - self._sent.get(digest, float("-inf")) < SPACING_S

    def _begin(self, tracked: Tracked, status: Status, record: dict[str, Any], start_ms: int | None) -> dict[str, Any]:
        """Finds or creates the run; the caller holds the trial's lock.

        The record says that a run is asked for before it is. So a search is needed only where somebody asked and did not
        write down the answer, and where the trial is older than this launch and its record may be lost.
        """
        run, asked = None, int(record.get("asked", 0))
        if record or not tracked.fresh or not self._never_recorded(tracked.digest):
            experiments = [each.experiment_id for each in self.client.search_experiments()]
            run = self._find(experiments, self._identity(tracked.digest))
        # a request whose answer was lost may still come to make a second run
        made: dict[str, Any] = {"doubtful": True} if asked > int(run is not None) else {}
        if run is None:
            self._write(tracked.digest, {"asked": asked + 1})
            run = self._create_trial(tracked, status, start_ms)
            faults.point("run-created")
            made |= {"state": State.PARTIAL.value, "attempt": status.number}
        made |= {"run_id": run.info.run_id, "artifact_uri": run.info.artifact_uri, "status": run.info.status}
        self._write(tracked.digest, made)
        return made

    def _create_trial(self, tracked: Tracked, status: Status, start_ms: int | None) -> Run:
        parent = self._parent(tracked.plan)
        tags = {
            "sweeps.role": "trial",
            **self._identity(tracked.digest),
            "sweeps.experiment": tracked.plan.experiment.name,
            "sweeps.profile": tracked.plan.profile.name,
            "sweeps.device": "cuda" if tracked.plan.resources.gpu else "cpu",
            "mlflow.parentRunId": parent.run_id,
            **self._tags,
            **provenance.tags_of(status.folder),
            "sweeps.state": State.PARTIAL.value,
            "sweeps.attempt": str(status.number),
        }
        return self._create(parent.experiment_id, tracked.name, tags, start_ms)

    def _identity(self, digest: str) -> dict[str, str]:
        return {"sweeps.digest": digest, "sweeps.record": attempts.record_id(self.settings.state, digest)}

    def _supersede(self, run_id: str) -> None:
        from mlflow.exceptions import MlflowException

        self.client.set_tag(run_id, "sweeps.superseded", "its trial was started over")
        try:
            self.client.delete_tag(run_id, "sweeps.digest")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # gone where a kill came right after this
                raise

    def _is_active(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            return str(self.client.get_run(run_id).info.lifecycle_stage) == "active"
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    # --- requests -----------------------------------------------------------------------------------------------------

    def _create(self, experiment_id: str, name: str, tags: Mapping[str, str], start_ms: int | None = None) -> Run:
        with not_repeated():
            return self.client.create_run(experiment_id, start_time=start_ms, tags=dict(tags), run_name=name)

    def _find(self, experiments: list[str], tags: Mapping[str, str]) -> Run | None:
        """The oldest run with these tags."""
        order = ["attributes.start_time ASC"]
        found = self.client.search_runs(experiments, _query(tags), max_results=1, order_by=order)
        return found[0] if found else None

    def _drop_doubles(self, experiments: list[str], query: str, keep: str) -> None:
        """Deletes what came of requests whose answers were lost: runs that nothing was ever written to."""
        for run in self.client.search_runs(experiments, query):
            if run.info.run_id != keep and not run.data.metrics:
                self.client.delete_run(run.info.run_id)

    def _send(self, run_id: str, metrics: list[Metric], values: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Parameters, then metrics, then tags: who sees a trial's end in its tags finds all of its values."""
        from mlflow.entities import Param, RunTag

        listed = [Param(name, value) for name, value in values.items()]
        marks = [RunTag(name, value) for name, value in tags.items()]
        if len(metrics) + len(listed) + len(marks) > MOST_AT_ONCE or len(listed) > MOST_PARAMS:
            self.client.log_batch(run_id, metrics=metrics, params=listed)
            metrics, listed = [], []
        self.client.log_batch(run_id, metrics=metrics, params=listed, tags=marks)  # where there is nothing, no request

    def _show(self, run_id: str, status: str, end_ms: int | None = None) -> None:
        """One request, where the client's own `set_terminated` and `update_run` read the run first."""
        from mlflow.entities import RunStatus

        end_ms = None if status == "RUNNING" else end_ms
        self.client._tracking_client.store.update_run_info(run_id, RunStatus.from_string(status), end_ms, None)

    def _artifacts(self, artifact_uri: str) -> Any:
        """Where a run's files go; the client would ask for the run each time to find out."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        return get_artifact_repository(artifact_uri, tracking_uri=self.settings.tracking_uri)

    def _put_texts(self, artifact_uri: str, texts: Mapping[str, str]) -> None:
        repository = self._artifacts(artifact_uri)
        with tempfile.TemporaryDirectory() as folder:
            for name, text in texts.items():
                file = Path(folder) / name
                file.write_text(text, encoding="utf-8")
                repository.log_artifact(str(file))

    def _put_files(self, tracked: Tracked, status: Status, record: Mapping[str, Any]) -> str:
        """What a done trial kept, and the changes of the code that it ran with; returns the name of these."""
        patch = str(provenance.tags_of(status.folder).get("sweeps.patch", ""))
        attempts.heal(self.settings.state, tracked.digest)  # artifacts are in place once the trial is published
        folder = trial_folder(self.settings.state, tracked.digest) / "artifacts"
        kept = status.state is State.DONE and not _in_step(record, status) and folder.is_dir()
        if not kept and patch in ("", record.get("patch")):
            return patch
        uri = record.get("artifact_uri") or self.client.get_run(record["run_id"]).info.artifact_uri
        text = provenance.patch_of(self.settings.state, status.folder)
        if text and patch != record.get("patch"):
            self._put_texts(uri, {"code.patch": text})
        if kept:
            self._artifacts(uri).log_artifacts(str(folder))
        return patch

    # --- records ------------------------------------------------------------------------------------------------------

    def _never_recorded(self, digest: str) -> bool:
        """Whether no record of a run was ever written; a damaged one counts as lost."""
        file = trial_folder(self.settings.state, digest) / "mlflow.json"
        try:
            return self.store not in json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return True
        except (OSError, ValueError):
            return False

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


@dataclass
class Parent:
    """The parent run of an experiment at a profile, as this process knows it.

    Attributes:
        run_id: empty while it is not known.
        doubtful: a request for it got no answer and may still come to make a second one.
    """

    experiment_id: str
    run_id: str
    artifact_uri: str
    status: str
    doubtful: bool = False


def _query(tags: Mapping[str, str]) -> str:
    return " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())


def _role(plan: Plan) -> dict[str, str]:
    return {
        "sweeps.role": "parent",
        "sweeps.experiment": plan.experiment.name,
        "sweeps.profile": plan.profile.name,
    }


def _in_step(record: Mapping[str, Any], status: Status) -> bool:
    """Whether the record has the trial's state; rows are counted apart."""
    return record.get("state") == status.state.value and record.get("attempt") == status.number


def _origin(rows: list[dict[str, float]]) -> int | None:
    """When the first epoch ended, which tells one start of a trial from the next."""
    return int(rows[0]["timestamp_ms"]) if rows else None


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
        self._stop.wait(HEAD_START_S)
        while not self._stop.is_set():
            self._attempt(final=False)
            self._stop.wait(PERIOD_S)

    def _attempt(self, *, final: bool) -> None:
        try:
            if self._mirror is None:
                self._mirror = Mirror(self.settings)
            for plan in self.plans:
                self._mirror.open_parent(plan)
            held: HeldError | None = None
            for tracked in self.list_trials():
                try:
                    self._mirror.trial(tracked, final=final, wait_s=LOCK_WAIT_S if final and held is None else 0)
                except HeldError as error:  # by another driver, which brings it up itself or is stopped
                    held = error
            if final and held is not None:
                raise held
            self.problem = None
        except Exception as error:  # whatever the store or the network raises: trials go on, the next round catches up
            if self.problem is None:
                logger.warning(
                    "MLflow is away (%s); trials go on, `sweep sync` or the next run catches up",
                    first_line(error, self.settings)[:200],
                )
            self.problem = str(error)
