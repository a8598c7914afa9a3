"""Sweeps on a Ray cluster that this machine is no part of: sent, followed and ended through Ray Jobs.

Ray Jobs runs what it is sent, so its token is asked for: a cluster that answers without one is refused unless told otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import re
import secrets
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps import parcel, spec
from sweeps.errors import SetupError, SpecError
from sweeps.settings import Settings, shown

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

STOP_S = 120
"""How long a cancelled sweep has to write down what is finished; checkpoints are on disk in any case."""
JOB = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
MARK = "sweep.experiments"
"""Metadata of the jobs that are sweeps."""
PROGRESS = re.compile(r"^\[\d+/\d+\] .*$", re.MULTILINE)
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
ANSWER_S = 20.0
FOLLOW_AGAIN_S = 1.0


@dataclass(frozen=True)
class Sent:
    """A sweep that was handed to the cluster.

    Attributes:
        job: its id.
        commit: of the code that went with it.
    """

    job: str
    commit: str


# --- the cluster -----------------------------------------------------------------------------------------------------


def address(environment: dict[str, str] | None = None) -> str:
    """URL of the cluster's dashboard, from `RAY_API_SERVER_ADDRESS` or `RAY_ADDRESS`.

    Raises:
        SetupError: neither is set, or it is no URL.
    """
    env = dict(os.environ) if environment is None else environment
    name = "RAY_API_SERVER_ADDRESS" if env.get("RAY_API_SERVER_ADDRESS") else "RAY_ADDRESS"
    found = env.get(name, "")
    if not re.fullmatch(r"https?://[^\s/]+/?", found):
        told = f"{name} is {shown(found)!r}" if found else "RAY_ADDRESS is not set"
        raise SetupError(
            f"{told}; it must be the cluster's dashboard, such as RAY_ADDRESS=http://gpu1.example.org:8265"
        )
    return found.rstrip("/")


def connect(*, no_auth: bool = False) -> JobSubmissionClient:
    """A client of the cluster's jobs.

    Args:
        no_auth: use the cluster though it asks for no token; `RAY_AUTH_MODE=disabled` says the same.

    Raises:
        SetupError: it cannot be reached, asks for no token, or not for the one that is known here.
    """
    url = address()
    if no_auth:
        os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # before Ray is imported, which reads it then
    open_ = _answers_without_token(url)
    if open_ and os.environ["RAY_AUTH_MODE"].lower() != "disabled":
        raise SetupError(
            f"the cluster at {shown(url)} asks for no token: whoever reaches it runs code there; start Ray with "
            "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN on all nodes, or say --no-auth"
        )
    try:
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        raise SetupError(f"{error}; install what jobs need with `pip install 'distill-sweeps[cluster]'`") from error
    logging.getLogger("ray").setLevel(logging.ERROR)
    for name in ("ray.dashboard", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with _reached(url):
        return JobSubmissionClient(url)


def _answers_without_token(url: str) -> bool:
    """Asks for the list of jobs before a token is sent anywhere."""
    import requests

    with _reached(url):
        status = requests.get(f"{url}/api/jobs/", timeout=ANSWER_S, allow_redirects=False).status_code
    if status not in (200, 401, 403):
        raise SetupError(
            f"{shown(url)} answers with status {status}: it is not the dashboard of a Ray with jobs; check RAY_ADDRESS"
        )
    return status == 200


def _no_token(url: str, told: str) -> str:
    """What is wrong with the token, without the token."""
    if os.environ.get("RAY_AUTH_MODE", "").lower() == "disabled":
        return f"the cluster at {shown(url)} asks for a token: leave --no-auth out, and unset RAY_AUTH_MODE"
    if "invalid" in told.lower() or "forbidden" in told.lower():
        return f"the cluster at {shown(url)} refuses the token: it differs from the RAY_AUTH_TOKEN that Ray was started with"
    return (
        f"no token for the cluster at {shown(url)}: set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to a file that holds it, "
        "or put it into ~/.ray/auth_token"
    )


@contextmanager
def _reached(url: str, job: str = "") -> Iterator[None]:
    """Turns what Ray's client raises into one error that shows no secret.

    Raises:
        SetupError: the cluster does not answer, refuses, or knows no such job.
    """
    from requests import RequestException

    try:
        yield
    except (RequestException, ConnectionError) as error:
        raise SetupError(
            f"no Ray dashboard answers at {shown(url)} ({type(error).__name__}); check RAY_ADDRESS, and that a tunnel to it is open"
        ) from error
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0]
        if "status code 404" in first and job:
            raise SetupError(
                f"no job {job} on the cluster at {shown(url)}; `sweep status --jobs` lists them"
            ) from error
        raise SetupError(f"the cluster at {shown(url)} refuses: {first}") from error
    except Exception as error:
        if type(error).__name__ != "AuthenticationError":  # Ray's, which is not imported before it is needed
            raise
        raise SetupError(_no_token(url, str(error))) from error


def known(job: str) -> str:
    """The id itself, fit to be a part of a URL and of a file's name on the cluster.

    Raises:
        SetupError: it is not.
    """
    if not JOB.fullmatch(job):
        raise SetupError(
            f"{job!r} is no id of a job; such as sweep-20260131-120000-3f9a1c07; `sweep status --jobs` lists them"
        )
    return job


# --- sending ---------------------------------------------------------------------------------------------------------


def words_of(options: argparse.ArgumentParser, arguments: argparse.Namespace) -> list[str]:
    """The options of `sweep run` that were given, as they are typed."""
    words: list[str] = []
    for action in options._actions:
        value = getattr(arguments, action.dest, None)
        if not action.option_strings or action.dest == "profile" or value == action.default or value is None:
            continue
        name = action.option_strings[-1]
        if action.nargs == 0:
            words.append(name)
        elif isinstance(action, argparse._AppendAction):
            words += [word for each in value for word in (name, str(each))]
        else:
            words += [name, ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return words


def submit(
    experiments: Sequence[str],
    profile: str,
    options: Sequence[str],
    settings: Settings,
    *,
    only: Mapping[str, Sequence[str]] | None = None,
    no_auth: bool = False,
) -> Sent:
    """Sends a sweep with the code and the user's files and modules, and leaves it to the cluster.

    Args:
        experiments: names and paths, globs resolved.
        profile: name or path.
        options: further words of `sweep run`.
        only: what `options` select, to be checked here.

    Raises:
        SpecError: every fault of the experiments; nothing was sent.
        SetupError: the cluster cannot be used, or the parcel cannot be made; nothing was started.
    """
    from sweeps import resolve  # with torch, which the other verbs can do without
    from trainers import provenance, registry

    faults = resolve.check(experiments, profile, settings.data, elsewhere=True)
    if not faults:
        faults = _selection_faults(experiments, profile, only or {})
    if faults:
        raise SpecError(*faults)
    client = connect(no_auth=no_auth)
    job = f"sweep-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"
    files = [name for name in (*experiments, profile) if name.endswith(".toml")]
    with tempfile.TemporaryDirectory(prefix="sweeps-parcel-") as scratch:
        folder = Path(scratch).resolve()
        names = parcel.pack(folder, files, registry.own_modules())
        words = [*(names.get(name, name) for name in experiments), "--profile", names.get(profile, profile), *options]
        with _reached(address()):
            client.submit_job(
                submission_id=job,
                entrypoint=shlex.join(["exec", "python", "-m", "sweeps.parcel", "run", *words]),
                runtime_env={
                    "working_dir": str(folder),
                    # read by Ray's own supervisor of the job: it ends as by Ctrl-C, and is given time for it
                    "env_vars": {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S)},
                },
                metadata={
                    MARK: " ".join(Path(name).stem if name.endswith(".toml") else name for name in experiments)[:500],
                    "sweep.profile": Path(profile).stem,
                    "sweep.commit": provenance.commit(),
                },
            )
    return Sent(job, provenance.commit())


def _selection_faults(experiments: Sequence[str], profile: str, only: Mapping[str, Sequence[str]]) -> list[str]:
    faults: list[str] = []
    scale = spec.load_profile(profile)
    for name in experiments:
        try:
            spec.load(name, scale).select(only)
        except SpecError as error:
            faults += error.faults
    return faults


# --- following -------------------------------------------------------------------------------------------------------


def listing(client: JobSubmissionClient) -> list[dict[str, Any]]:
    """The cluster's submitted sweeps, oldest first."""
    with _reached(address()):
        found = [each for each in client.list_jobs() if each.submission_id and MARK in (each.metadata or {})]
    return [_row(each) for each in sorted(found, key=lambda each: each.start_time or 0)]


def status(client: JobSubmissionClient, job: str) -> dict[str, Any]:
    """How far one submitted sweep is.

    Raises:
        SetupError: there is none of that id.
    """
    known(job)
    with _reached(address(), job):
        row = _row(client.get_job_info(job))
        lines = PROGRESS.findall(client.get_job_logs(job))
    return {**row, "progress": lines[-1] if lines else ""}


def _row(details: JobDetails) -> dict[str, Any]:
    metadata = details.metadata or {}
    return {
        "job": details.submission_id,
        "state": _word(details.status),
        "experiments": metadata.get(MARK, ""),
        "profile": metadata.get("sweep.profile", ""),
        "commit": metadata.get("sweep.commit", ""),
        "began": _time(details.start_time),
        "ended": _time(details.end_time),
        "exit_code": details.driver_exit_code,
    }


def _word(status: Any) -> str:
    return str(getattr(status, "value", status))


def _time(milliseconds: int | None) -> str:
    return "" if not milliseconds else f"{datetime.fromtimestamp(milliseconds / 1000):%Y-%m-%d %H:%M:%S}"


def line(row: dict[str, Any]) -> str:
    """One submitted sweep as a line."""
    ended = f" to {row['ended'][11:]}" if row["ended"] else ""
    code = "" if row["exit_code"] is None else f" (exit code {row['exit_code']})"
    return f"{row['job']}  {row['state'].lower()}{code}  {row['began']}{ended}  {row['experiments']} [{row['profile']}]"


def show_log(client: JobSubmissionClient, job: str, *, follow: bool) -> None:
    """Writes what the sweep's driver has written so far; with `follow` until it ends.

    Raises:
        SetupError: there is no such job, or the cluster went away.
    """
    known(job)
    with _reached(address(), job):
        if not follow:
            sys.stdout.write(client.get_job_logs(job))
            return
        client.get_job_info(job)
        asyncio.run(_follow(client, job))


async def _follow(client: JobSubmissionClient, job: str) -> None:
    """Lines as they come. A connection that breaks off is opened again, which begins with the first line."""
    from aiohttp import ClientError

    told = 0
    for left in (3, 2, 1, 0):
        seen = 0
        try:
            async for text in client.tail_job_logs(job):
                fresh = text[max(0, told - seen) :]
                seen += len(text)
                told = max(told, seen)
                sys.stdout.write(fresh)
                sys.stdout.flush()
            return
        except (RuntimeError, ClientError) as error:
            if not left:
                raise SetupError(
                    f"the connection to {job} breaks off ({error}); the sweep goes on without it"
                ) from error
            await asyncio.sleep(FOLLOW_AGAIN_S)


def wait(client: JobSubmissionClient, job: str, timeout_s: float | None = None) -> dict[str, Any]:
    """Waits until a job has ended, or for `timeout_s`; returns its row."""
    end = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        with _reached(address(), job):
            row = _row(client.get_job_info(job))
        if row["state"] in ENDED or (end is not None and time.monotonic() > end):
            return row
        time.sleep(FOLLOW_AGAIN_S)


def cancel(client: JobSubmissionClient, job: str) -> dict[str, Any]:
    """Ends a submitted sweep as Ctrl-C would and waits for it; its trials keep their checkpoints. One that has ended stays as it is.

    Raises:
        SetupError: there is no such job.
    """
    known(job)
    with _reached(address(), job):
        row = _row(client.get_job_info(job))
        if row["state"] not in ENDED:
            client.stop_job(job)
    return wait(client, job, STOP_S + ANSWER_S)
