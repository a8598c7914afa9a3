"""The MLflow store that the settings name: opened, made where it is new, and asked without MLflow's own chatter."""

from __future__ import annotations

import fcntl
import logging
import math
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sweeps.errors import SetupError
from sweeps.settings import LOGIN, Settings, shown

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

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


def client(settings: Settings) -> MlflowClient:
    """A client of the settings' store, with MLflow's own chatter off.

    Raises:
        SetupError: the store is of another version or cannot be opened.
    """
    os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    place = f"the MLflow store {shown(settings.tracking_uri)}"
    try:
        _reach(settings.tracking_uri)
        found = MlflowClient(tracking_uri=settings.tracking_uri)
        found.search_experiments(max_results=1)
    except ImportError as error:
        raise SetupError(
            f"{place} cannot be opened: {error}; install its driver, for PostgreSQL `pip install 'distill-sweeps[postgres]'`"
        ) from error
    except MlflowException as error:
        first = first_line(error, settings)
        if "schema" in first:
            remedy = "upgrade it with `mlflow db upgrade <uri>` after a backup, or point MLFLOW_TRACKING_URI to another store"
        elif "401" in first or "403" in first:
            remedy = "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        else:
            remedy = "check MLFLOW_TRACKING_URI and the login"
        raise SetupError(f"{place} cannot be used: {first}; {remedy}") from error
    except Exception as error:  # a database driver's own
        raise SetupError(
            f"{place} cannot be opened: {first_line(error, settings)}; check MLFLOW_TRACKING_URI"
        ) from error
    return found


def will_be_new(settings: Settings) -> bool:
    """Whether the settings name a SQLite store that is not there yet and can be made: no fault of it is left to be found.

    A relative path does not count, since the current folder changes while Ray starts.
    """
    file = Path(settings.tracking_uri.removeprefix("sqlite:///"))
    if not settings.tracking_uri.startswith("sqlite:////") or file.exists():
        return False
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(file.parent, os.W_OK | os.X_OK)


def first_line(error: BaseException, settings: Settings) -> str:
    """What went wrong, fit for a message: one line, no password."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    login = LOGIN.search(settings.tracking_uri)
    return text.replace(login[2], "***") if login and login[2] else text


def _reach(uri: str) -> None:
    """Makes a new SQLite store and connects to any other database once, where MLflow itself would try for an hour."""
    from sqlalchemy import create_engine

    if uri.startswith("sqlite:///"):
        _make_sqlite(Path(uri.removeprefix("sqlite:///")))
    elif not uri.startswith("http"):
        engine = create_engine(uri)
        engine.connect().close()
        engine.dispose()


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


class HeldError(SetupError):
    """Another process holds a lock, and keeps it for as long as it is stopped."""


@contextmanager
def locked(path: Path, wait_s: float = math.inf) -> Iterator[None]:
    """Holds an exclusive lock on a file; a killed holder frees it.

    Raises:
        HeldError: another process has held it for `wait_s` seconds; 0 asks once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + wait_s
    with open(path, "a", encoding="utf-8") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise HeldError(f"another process holds {path}; end it if it is stopped") from None
            time.sleep(0.1)
        yield


@contextmanager
def reachable(settings: Settings) -> Iterator[None]:
    """Turns what an open store raises when it goes away into one error.

    Raises:
        SetupError: it did.
    """
    from mlflow.exceptions import MlflowException
    from requests import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, RequestException) as error:
        raise SetupError(
            f"the MLflow store {shown(settings.tracking_uri)} went away: {first_line(error, settings)}; "
            "nothing is lost, `sweep sync` goes on when it is back"
        ) from error


@contextmanager
def not_repeated() -> Iterator[None]:
    """Keeps MLflow from sending a request again by itself: where only the answer was lost, that would make a second run."""
    name = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"
    before = os.environ.get(name)
    os.environ[name] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
