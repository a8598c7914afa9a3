"""Reads plans and runs from MLflow; finished runs never change, so they are read once and cached in a file."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import re
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from analysis.errors import NeverSwept, StoreError
from sweeps.settings import Settings, shown

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment as MlflowExperiment
    from mlflow.entities import Run as MlflowRun

log = logging.getLogger(__name__)

SCHEMAS = {"plan.json": (1,), "search.json": (1, 2)}
"""Those that can be read."""
CACHE_SCHEMA = 2
SINGLY = 16
"""Up to so many digests are asked for one at a time, more in pages over all trials: MLflow has no IN for tags."""
PAGE = 1000
ARTIFACTS = re.compile(r"epoch_(\d{4,})")
"""Folder of what a trial keeps of one epoch, counted from 0."""
TAG = "sweeps."
NOT_MADE_WITH = ("role", "experiment", "profile", "digest", "record", "state", "attempt", "error", "log", "superseded")
"""Tags that say what a run is and how it went; the others say what it was made with."""


@dataclass(frozen=True)
class Run:
    """What analysis needs of one trial's run.

    Attributes:
        digest: the trial's.
        run_id: MLflow's.
        link: address of the run's page, or `runs:/<id>` where the store has no server.
        state: done, failed, stopped or partial.
        error: cause of a failed run.
        metrics: latest value of each metric, results (`best/...`, `last/...`, `stats/...`) among them.
        log: place of a failed run's log below the state root.
        made: what it was made with, as recorded: `commit`, `versions`, `machine`, `device`.
    """

    digest: str
    run_id: str
    link: str
    state: str
    error: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    log: str = ""
    made: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Sweep:
    """One experiment and profile as last swept.

    Attributes:
        plan: content of plan.json.
        search: content of search.json; None for a grid.
        run_id: the parent run.
        made: what planned it, as recorded: `commit`, `versions`, `machine`.
    """

    plan: Mapping[str, Any]
    search: Mapping[str, Any] | None
    run_id: str
    made: Mapping[str, str] = field(default_factory=dict)


class Store:
    """An open MLflow store and the cache of what was read from it.

    Attributes:
        client: MLflow's; every read goes through it.
        address: the tracking URI without password, for messages.
    """

    def __init__(self, settings: Settings, client: MlflowClient) -> None:
        self.client = client
        self.address = shown(settings.tracking_uri)
        self._uri = settings.tracking_uri
        self._cache_folder = settings.home / "cache"

    def sweep(self, experiment: str, profile: str) -> Sweep:
        """The parent run's plan, and its search where there is one.

        Raises:
            NeverSwept: there is no plan.
            StoreError: a plan that cannot be read.
        """
        home = self._experiment(experiment, profile)
        where = f"tags.`sweeps.role` = 'parent' and tags.`sweeps.experiment` = {quoted(experiment)}"
        where += f" and tags.`sweeps.profile` = {quoted(profile)}"
        parents = list(self._search([home.experiment_id], where))
        if not parents:
            raise never_swept(experiment, profile, self.address)
        if len(parents) > 1:
            log.warning("%s %s has %d parent runs; taking the oldest", experiment, profile, len(parents))
        parent = min(parents, key=lambda run: (run.info.start_time, run.info.run_id))
        with self._reading():
            files = {file.path for file in self.client.list_artifacts(parent.info.run_id)}
        if "plan.json" not in files:
            raise never_swept(experiment, profile, self.address)
        plan = self._artifact(parent.info.run_id, "plan.json")
        search = self._artifact(parent.info.run_id, "search.json") if "search.json" in files else None
        return Sweep(plan, search, parent.info.run_id, made_with(parent.data.tags))

    def serving(self, sweep: Sweep) -> dict[str, Run]:
        """Readable name -> run of every trial that the sweep needs and that was started, teachers among them."""
        with self._reading():
            if "runs.json" not in {file.path for file in self.client.list_artifacts(sweep.run_id)}:
                return {}
            with tempfile.TemporaryDirectory() as folder:
                path = self.client.download_artifacts(sweep.run_id, "runs.json", folder)
                ids = json.loads(Path(path).read_text(encoding="utf-8"))
            found = {name: self.client.get_run(run_id) for name, run_id in ids.items()}
        return {name: self._run(run) for name, run in found.items() if f"{TAG}digest" in run.data.tags}

    def runs(self, digests: Iterable[str]) -> dict[str, Run]:
        """The run of each digest that has one, from any MLflow experiment of the store."""
        wanted = set(digests)
        found = {digest: Run(**row) for digest, row in self._cached("runs", sorted(wanted)).items()}
        missing = wanted - set(found)
        if not missing:
            return found
        with self._reading():
            ids = [experiment.experiment_id for experiment in self._experiments()]
        fresh: dict[str, list[MlflowRun]] = {}
        few = len(missing) <= SINGLY
        filters = [f"tags.`sweeps.digest` = '{digest}'" for digest in sorted(missing)]
        for run in chain.from_iterable(
            self._search(ids, f) for f in (filters if few else ["tags.`sweeps.role` = 'trial'"])
        ):
            digest = run.data.tags.get("sweeps.digest", "")
            if digest in missing and run.data.tags.get("sweeps.role") == "trial":
                fresh.setdefault(digest, []).append(run)
        read = {digest: self._run(first(candidates)) for digest, candidates in fresh.items()}
        self._keep("runs", {digest: asdict(run) for digest, run in read.items() if run.state == "done"})
        return found | read

    def curves(self, runs: Sequence[Run], metric: str) -> dict[str, list[tuple[int, float]]]:
        """Digest -> (epoch from 0, value) of each epoch, in order."""
        names = {f"{run.digest} {metric}": run for run in runs}
        curves = {
            names[name].digest: [(int(e), float(v)) for e, v in row]
            for name, row in self._cached("curves", list(names)).items()
        }
        done = {}
        for name, run in names.items():
            if run.digest in curves:
                continue
            with self._reading():
                history = self.client.get_metric_history(run.run_id, metric)
            ordered = sorted((int(point.step), int(point.timestamp), float(point.value)) for point in history)
            curve = list({epoch: (epoch, value) for epoch, _, value in ordered}.values())  # the latest of each epoch
            curves[run.digest] = curve
            if run.state == "done":
                done[name] = curve
        self._keep("curves", done)
        return curves

    def artifacts(self, run: Run) -> dict[int, list[str]]:
        """Epoch -> names of the files that a trial kept of it, in order; empty where it kept none."""
        cached = self._cached("artifacts", [run.digest])
        if cached:
            return {int(epoch): names for epoch, names in cached[run.digest].items()}
        found: dict[int, list[str]] = {}
        with self._reading():
            for folder in self.client.list_artifacts(run.run_id):
                match = ARTIFACTS.fullmatch(folder.path)
                if match is not None and folder.is_dir:
                    files = self.client.list_artifacts(run.run_id, folder.path)
                    found[int(match[1])] = sorted(Path(file.path).name for file in files)
        found = dict(sorted(found.items()))
        if run.state == "done" and found:
            self._keep("artifacts", {run.digest: found})
        return found

    def artifact(self, run: Run, epoch: int, name: str) -> bytes:
        """The content of one of these files.

        Raises:
            StoreError: the store no longer has it.
        """
        path = f"epoch_{epoch:04d}/{name}"
        key = f"{run.digest} {path}"
        cached = self._cached("files", [key])
        if cached:
            return base64.b64decode(cached[key])
        with self._reading(), tempfile.TemporaryDirectory() as folder:
            content = Path(self.client.download_artifacts(run.run_id, path, folder)).read_bytes()
        if run.state == "done":
            self._keep("files", {key: base64.b64encode(content).decode()})
        return content

    # --- MLflow -------------------------------------------------------------------------------------------------------

    def _experiment(self, experiment: str, profile: str) -> MlflowExperiment:
        with self._reading():
            home = self.client.get_experiment_by_name(f"{experiment.split('/')[0]}-{profile}")
        if home is None:
            raise never_swept(experiment, profile, self.address)
        return home

    def _experiments(self) -> Iterator[MlflowExperiment]:
        token = None
        while True:
            page = self.client.search_experiments(max_results=PAGE, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _search(self, ids: Sequence[str], where: str) -> Iterator[MlflowRun]:
        token = None
        while True:
            with self._reading():
                page = self.client.search_runs(list(ids), where, max_results=PAGE, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _run(self, run: MlflowRun) -> Run:
        tags = run.data.tags
        web = urlsplit(self._uri).scheme in ("http", "https")
        page = f"{self.address}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
        link = page if web else f"runs:/{run.info.run_id}"
        state = tags.get("sweeps.state", "partial")
        return Run(
            tags["sweeps.digest"],
            run.info.run_id,
            link,
            state,
            tags.get("sweeps.error", ""),
            dict(run.data.metrics),
            tags.get("sweeps.log", ""),
            made_with(tags),
        )

    def _artifact(self, run_id: str, name: str) -> dict[str, Any]:
        with self._reading(), tempfile.TemporaryDirectory() as folder:
            text = Path(self.client.download_artifacts(run_id, name, folder)).read_text(encoding="utf-8")
        remedy = "`sweep sync` writes it again"
        try:
            content = json.loads(text)
        except ValueError as error:
            raise StoreError(f"{name} of run {run_id} is not valid JSON: {error}; {remedy}") from error
        if not isinstance(content, dict) or content.get("schema") not in SCHEMAS[name]:
            found = content.get("schema") if isinstance(content, dict) else None
            known = " and ".join(map(str, SCHEMAS[name]))
            raise StoreError(f"{name} of run {run_id} has schema {found!r}, known is {known}; {remedy}")
        return content

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with reading(self.address):
            yield

    # --- cache --------------------------------------------------------------------------------------------------------

    @cached_property
    def _cache_file(self) -> Path:
        """One file for each store; its oldest experiment tells a store from a deleted one at the same address."""
        with self._reading():
            oldest = self.client.search_experiments(max_results=1, order_by=["creation_time ASC"])
        born = oldest[0].creation_time if oldest else None
        key = hashlib.sha256(f"{CACHE_SCHEMA} {self.address} {born}".encode()).hexdigest()
        return self._cache_folder / f"{key[:32]}.sqlite3"

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        self._cache_folder.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self._cache_file, timeout=10)) as database:
            database.execute("create table if not exists rows (kind text, key text, row text, primary key (kind, key))")
            yield database

    def _cached(self, kind: str, keys: Sequence[str]) -> dict[str, Any]:
        """Rows that are in the cache; a cache that cannot be read costs time, nothing else."""
        if not self._cache_file.is_file():
            return {}
        rows: dict[str, Any] = {}
        try:
            with self._database() as database:
                for start in range(0, len(keys), 500):  # SQLite takes 999 parameters at least
                    part = keys[start : start + 500]
                    marks = ",".join("?" * len(part))
                    query = f"select key, row from rows where kind = ? and key in ({marks})"
                    rows |= {key: json.loads(row) for key, row in database.execute(query, (kind, *part))}
        except (OSError, sqlite3.Error, ValueError) as error:
            log.warning("cache %s cannot be read, runs are read from the store: %s", self._cache_file, error)
            return {}
        return rows

    def _keep(self, kind: str, rows: Mapping[str, Any]) -> None:
        if not rows:
            return
        try:
            with self._database() as database, database:
                packed = [(kind, key, json.dumps(row)) for key, row in rows.items()]
                database.executemany("insert or replace into rows values (?, ?, ?)", packed)
        except (OSError, sqlite3.Error) as error:
            log.warning("cache %s cannot be written, runs will be read again: %s", self._cache_file, error)


def connect(settings: Settings) -> Store:
    """The store at `settings.tracking_uri`.

    Raises:
        StoreError: no such store, or one that cannot be reached or read.
    """
    uri = settings.tracking_uri
    if uri.startswith("sqlite:///"):
        path = Path(uri.removeprefix("sqlite:///").split("?")[0])
        if not path.is_file():  # MLflow would make an empty one
            raise StoreError(f"{shown(uri)}: no such store; nothing was swept here yet, start with `sweep run`")
    os.environ.setdefault(
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2"
    )  # the default of 7 waits four minutes for a dead server
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name, level in (("mlflow", logging.ERROR), ("alembic", logging.WARNING)):
        logging.getLogger(name).setLevel(level)
    with reading(shown(uri)):
        from mlflow import MlflowClient

        return Store(settings, MlflowClient(tracking_uri=uri))


@contextmanager
def reading(address: str) -> Iterator[None]:
    """Turns every failure of the store below into one error with the store's address and a remedy."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        cause = " ".join(str(error).split("\n[SQL", 1)[0].split())
        if "database schema" in cause:
            remedy = "make a backup, then run `mlflow db upgrade` with this address"
        else:
            remedy = "check MLFLOW_TRACKING_URI and that the server runs"
        raise StoreError(f"{address}: cannot be read: {cause}; {remedy}") from error


def made_with(tags: Mapping[str, str]) -> dict[str, str]:
    """What a run was made with, by tags without their prefix; what is empty was not recorded."""
    mine = {name.removeprefix(TAG): value for name, value in sorted(tags.items()) if name.startswith(TAG)}
    return {name: value for name, value in mine.items() if value and name not in NOT_MADE_WITH}


def never_swept(experiment: str, profile: str, address: str) -> NeverSwept:
    command = f"sweep run {experiment} --profile {profile}"
    return NeverSwept(f"{experiment}: never swept with profile {profile!r} in {address}; start it with `{command}`")


def first(candidates: Sequence[MlflowRun]) -> MlflowRun:
    """The run that counts where a store holds two with one digest: a finished one, then the oldest."""
    return min(
        candidates, key=lambda run: (run.data.tags.get("sweeps.state") != "done", run.info.start_time, run.info.run_id)
    )


def quoted(text: str) -> str:
    """A string literal of MLflow's filters, which know no escapes."""
    return f'"{text}"' if "'" in text else f"'{text}'"
