"""Reads plans and runs from MLflow; finished runs never change, so they are read once and cached in a file."""

from __future__ import annotations

import base64
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from analysis.cache import RUN_IDS, Cache
from analysis.errors import NeverSwept, StoreError
from sweeps.settings import Settings, shown

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment as MlflowExperiment
    from mlflow.entities import Run as MlflowRun

log = logging.getLogger(__name__)

SCHEMAS = {"plan.json": (1,), "search.json": (1, 2)}
"""Those that can be read."""
SINGLY = 16
"""Up to so many digests are asked for one at a time, more in pages over all trials: MLflow has no IN for tags."""
RUNS_PER_QUERY = 8
"""Runs that are read in a page in the time of one question: where many runs are known, more is asked one at a time."""
PAGE = 1000
RUN_PAGE = 500
"""MLflow makes a hundred objects of a run; a page of them is what a large table takes beside its own rows."""
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
        folder: the parent run's artifacts where they are on this machine, else "".
    """

    plan: Mapping[str, Any]
    search: Mapping[str, Any] | None
    run_id: str
    made: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""


class Store:
    """An MLflow store and the cache of what was read from it.

    A run that is done is read once. Before its rows are used the store is asked which runs were deleted or superseded, unless
    the store is a file that nobody has changed since: then nothing is asked, and MLflow is not even loaded. A run that was
    deleted and purged (`mlflow gc`) between two readings is not noticed; its trial's numbers stay true.

    Attributes:
        address: the tracking URI without password, for messages.
    """

    def __init__(self, settings: Settings, client: MlflowClient | None = None) -> None:
        """
        Args:
            client: MLflow's, where one is open already; every read goes through it.
        """
        self.address = shown(settings.tracking_uri)
        self._uri = settings.tracking_uri
        self._client = client
        self._cache = Cache(settings.home / "cache", self.address, sqlite_file(self._uri))
        self._checked = False

    @property
    def client(self) -> MlflowClient:
        """MLflow's, opened when it is first needed: that takes longer than all the rest of a table."""
        if self._client is None:
            self._client = opened(self._uri)
        return self._client

    def ready(self) -> Cache:
        """The cache, without what the store no longer holds.

        Raises:
            StoreError: the store has changed and cannot be read.
        """
        if not self._checked:
            if not self._cache.now("checked", [""]):
                self._check()
            self._checked = True
        return self._cache

    def sweep(self, experiment: str, profile: str) -> Sweep:
        """The parent run's plan, and its search where there is one.

        Raises:
            NeverSwept: there is no plan.
            StoreError: a plan that cannot be read.
        """
        name = f"{experiment} {profile}"
        parent = self.ready().now("parents", [name]).get(name)
        if parent is None:
            parent = self._parent(experiment, profile)
            if parent["folder"]:
                self._cache.keep_now("parents", {name: parent})
        plan = self._artifact(parent, "plan.json")
        if plan is None:
            raise never_swept(experiment, profile, self.address)
        return Sweep(plan, self._artifact(parent, "search.json"), **parent)

    def serving(self, sweep: Sweep) -> dict[str, Run]:
        """Readable name -> run of every trial that the sweep needs and that was started, teachers among them."""
        text = self._text(sweep.run_id, sweep.folder, "runs.json")
        if text is None:
            return {}
        names = {run_id: name for name, run_id in json.loads(text).items()}
        ids = list(names)
        found: dict[str, MlflowRun] = {}
        for start in range(0, len(ids), 100):
            listed = ", ".join(f"'{run_id}'" for run_id in ids[start : start + 100])
            found |= {run.info.run_id: run for run in self._search(f"attributes.run_id IN ({listed})")}
        return {
            names[run_id]: self._run(found[run_id])
            for run_id in ids
            if run_id in found and f"{TAG}digest" in found[run_id].data.tags
        }

    def runs(self, digests: Iterable[str]) -> dict[str, Run]:
        """The run of each digest that has one, from any MLflow experiment of the store; in the order of the digests."""
        wanted = sorted(set(digests))
        cache = self.ready()
        rows = cache.get("runs", wanted)
        rest = [digest for digest in wanted if digest not in rows]
        if rest:
            rows |= cache.now("runs", rest)
        missing = {digest for digest in rest if digest not in rows}
        if missing:
            rows |= self._look_up(missing)
        return {digest: Run(**rows[digest]) for digest in wanted if rows[digest] is not None}

    def curves(self, runs: Sequence[Run], metric: str) -> dict[str, list[tuple[int, float]]]:
        """Digest -> (epoch from 0, value) of each epoch, in order."""
        names = {f"{run.digest} {metric}": run for run in runs}
        curves = {
            names[name].digest: [(int(e), float(v)) for e, v in row]
            for name, row in self.ready().get("curves", list(names)).items()
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
        self._cache.keep("curves", done)
        return curves

    def artifacts(self, run: Run) -> dict[int, list[str]]:
        """Epoch -> names of the files that a trial kept of it, in order; empty where it kept none."""
        cached = self.ready().get("artifacts", [run.digest])
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
            self._cache.keep("artifacts", {run.digest: found})
        return found

    def artifact(self, run: Run, epoch: int, name: str) -> bytes:
        """The content of one of these files.

        Raises:
            StoreError: the store no longer has it.
        """
        path = f"epoch_{epoch:04d}/{name}"
        key = f"{run.digest} {path}"
        cached = self.ready().get("files", [key])
        if cached:
            return base64.b64decode(cached[key])
        with self._reading(), tempfile.TemporaryDirectory() as folder:
            content = Path(self.client.download_artifacts(run.run_id, path, folder)).read_bytes()
        if run.state == "done":
            self._cache.keep("files", {key: base64.b64encode(content).decode()})
        return content

    # --- MLflow -------------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Drops from the cache what the store has no more: all where another store is at the address, else single runs."""
        from mlflow.entities import ViewType

        with self._reading():
            oldest = self.client.search_experiments(max_results=1, order_by=["creation_time ASC"])
        born = oldest[0].creation_time if oldest else None
        if self._cache.get("store", ["born"]).get("born") != born:
            self._cache.clear()
            self._cache.keep("store", {"born": born})
        elif self._cache.count("runs"):
            trials = "tags.`sweeps.role` = 'trial'"
            gone = [*self._search(trials, ViewType.DELETED_ONLY), *self._search("tags.`sweeps.superseded` != ''")]
            self._cache.forget(run.info.run_id for run in gone)
        self._cache.keep_now("checked", {"": True})

    def _look_up(self, missing: set[str]) -> dict[str, dict[str, Any] | None]:
        """Asks for each digest; keeps every finished run that was read on the way. None for a digest without a run."""
        singly = max(SINGLY, self._cache.count("runs") // RUNS_PER_QUERY)
        if len(missing) <= singly:
            queries = [f"tags.`sweeps.digest` = '{digest}'" for digest in sorted(missing)]
        else:
            queries = ["tags.`sweeps.role` = 'trial'"]
        best: dict[str, tuple[tuple[bool, int, str], Run]] = {}
        ids = self._ids()
        for run in chain.from_iterable(self._search(query, ids=ids) for query in queries):
            tags = run.data.tags
            if "sweeps.digest" in tags and tags.get("sweeps.role") == "trial":
                digest, rank = tags["sweeps.digest"], order(run)
                if digest not in best or rank < best[digest][0]:
                    best[digest] = (rank, self._run(run))
        rows = {digest: asdict(run) for digest, (_, run) in best.items()}
        done = {digest: row for digest, row in rows.items() if row["state"] == "done"}
        self._cache.keep("runs", done)
        self._cache.keep(RUN_IDS, {row["run_id"]: digest for digest, row in done.items()})
        answer = {digest: rows.get(digest) for digest in missing}
        self._cache.keep_now("runs", {digest: row for digest, row in answer.items() if digest not in done})
        return answer

    def _parent(self, experiment: str, profile: str) -> dict[str, Any]:
        """The fields of a `Sweep` that say which run it is."""
        with self._reading():
            home = self.client.get_experiment_by_name(f"{experiment.split('/')[0]}-{profile}")
        if home is None:
            raise never_swept(experiment, profile, self.address)
        where = f"tags.`sweeps.role` = 'parent' and tags.`sweeps.experiment` = {quoted(experiment)}"
        where += f" and tags.`sweeps.profile` = {quoted(profile)}"
        parents = list(self._search(where, ids=[home.experiment_id]))
        if not parents:
            raise never_swept(experiment, profile, self.address)
        if len(parents) > 1:
            log.warning("%s %s has %d parent runs; taking the oldest", experiment, profile, len(parents))
        parent = min(parents, key=lambda run: (run.info.start_time, run.info.run_id))
        folder = local_folder(parent.info.artifact_uri)
        return {"run_id": parent.info.run_id, "folder": folder, "made": made_with(parent.data.tags)}

    def _experiments(self, view: int) -> Iterator[MlflowExperiment]:
        token = None
        while True:
            page = self.client.search_experiments(view, max_results=PAGE, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _ids(self, view: int | None = None) -> list[str]:
        """Ids of all experiments, the active ones where no view is asked for."""
        from mlflow.entities import ViewType

        with self._reading():
            found = self._experiments(ViewType.ACTIVE_ONLY if view is None else view)
            return [experiment.experiment_id for experiment in found]

    def _search(self, where: str, view: int | None = None, ids: Sequence[str] = ()) -> Iterator[MlflowRun]:
        """Runs of all experiments, or of some; the active ones where no view is asked for."""
        from mlflow.entities import ViewType

        view = ViewType.ACTIVE_ONLY if view is None else view
        ids = list(ids) or self._ids(ViewType.ACTIVE_ONLY if view == ViewType.ACTIVE_ONLY else ViewType.ALL)
        token = None
        while True:
            with self._reading():
                page = self.client.search_runs(ids, where, view, max_results=RUN_PAGE, page_token=token)
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

    def _text(self, run_id: str, folder: str, name: str) -> str | None:
        """Content of a parent's artifact; None where it has none of that name.

        Args:
            folder: where its artifacts are on this machine, "" where only the store has them.
        """
        if folder:
            try:
                return (Path(folder) / name).read_text(encoding="utf-8")
            except FileNotFoundError:
                return None
            except OSError as error:
                raise StoreError(f"{name} of run {run_id} cannot be read: {error}; check who may read it") from error
        with self._reading(), tempfile.TemporaryDirectory() as temporary:
            if name not in {file.path for file in self.client.list_artifacts(run_id)}:
                return None
            return Path(self.client.download_artifacts(run_id, name, temporary)).read_text(encoding="utf-8")

    def _artifact(self, parent: Mapping[str, Any], name: str) -> dict[str, Any] | None:
        """A parent's JSON artifact of a schema that is known; None where it has none of that name."""
        run_id = parent["run_id"]
        text = self._text(run_id, parent["folder"], name)
        if text is None:
            return None
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
        with reading(self._uri):
            yield


def connect(settings: Settings) -> Store:
    """The store at `settings.tracking_uri`.

    Raises:
        StoreError: no such store, or one that cannot be reached or read.
    """
    path = sqlite_file(settings.tracking_uri)
    if path is not None and not path.is_file():  # MLflow would make an empty one
        raise StoreError(
            f"{shown(settings.tracking_uri)}: no such store; nothing was swept here yet, start with `sweep run`"
        )
    store = Store(settings)
    store.ready()
    return store


def opened(uri: str) -> MlflowClient:
    """MLflow's client, without its chatter, and with a patience that suits a command."""
    os.environ.setdefault(
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2"
    )  # the default of 7 waits four minutes for a dead server
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name, level in (("mlflow", logging.ERROR), ("alembic", logging.WARNING)):
        logging.getLogger(name).setLevel(level)
    with reading(uri):
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=uri)


def sqlite_file(uri: str) -> Path | None:
    """The file of a store in SQLite; None for another kind of store."""
    return Path(uri.removeprefix("sqlite:///").split("?")[0]) if uri.startswith("sqlite:///") else None


def local_folder(uri: str) -> str:
    """The folder of a run's artifacts where it is on this machine, else "": only MLflow reaches it."""
    folder = url2pathname(urlsplit(uri).path) if uri.startswith("file:///") else ""
    return folder if folder and Path(folder).is_dir() else ""


@contextmanager
def reading(uri: str) -> Iterator[None]:
    """Turns every failure of the store below into one error with the store's address and a remedy."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        cause = " ".join(str(error).split("\n[SQL", 1)[0].split())
        secret = urlsplit(uri).password
        for text in (secret, unquote(secret)) if secret else ():
            cause = cause.replace(f":{text}@", ":***@")
        if "database schema" in cause:
            remedy = "make a backup, then run `mlflow db upgrade` with this address"
        else:
            remedy = "check MLFLOW_TRACKING_URI and that the server runs"
        raise StoreError(f"{shown(uri)}: cannot be read: {cause}; {remedy}") from error


def made_with(tags: Mapping[str, str]) -> dict[str, str]:
    """What a run was made with, by tags without their prefix; what is empty was not recorded."""
    mine = {name.removeprefix(TAG): value for name, value in sorted(tags.items()) if name.startswith(TAG)}
    return {name: value for name, value in mine.items() if value and name not in NOT_MADE_WITH}


def never_swept(experiment: str, profile: str, address: str) -> NeverSwept:
    command = f"sweep run {experiment} --profile {profile}"
    return NeverSwept(f"{experiment}: never swept with profile {profile!r} in {address}; start it with `{command}`")


def order(run: MlflowRun) -> tuple[bool, int, str]:
    """Where a store holds two runs with one digest the smaller counts: a finished one, then the oldest."""
    return run.data.tags.get("sweeps.state") != "done", run.info.start_time, run.info.run_id


def quoted(text: str) -> str:
    """A string literal of MLflow's filters, which know no escapes."""
    return f'"{text}"' if "'" in text else f"'{text}'"
