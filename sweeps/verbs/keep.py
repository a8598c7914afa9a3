"""Verbs that look after what is there: data sets, the store and its page, finished trials, and what they left behind."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweeps import settings as settings_module
from sweeps.errors import SetupError
from sweeps.settings import Settings
from sweeps.verbs._common import adopt_suggestions, make_plans, say


def verb_replay(arguments: argparse.Namespace, settings: Settings) -> int:
    """Run a finished trial again and compare every bit."""
    from sweeps.replay import replay

    report = replay(arguments.digest, settings.state, settings.data, device=arguments.device)
    say(str(report))
    return 1 if report.difference else 0


def verb_sync(arguments: argparse.Namespace, settings: Settings) -> int:
    """Bring MLflow in step with the trial directories."""
    from sweeps import search
    from sweeps.store import reachable
    from sweeps.tracking import Mirror, Tracked
    from trainers.attempts import State

    mirror = Mirror(settings)
    for plan in make_plans(arguments, settings):
        studies = adopt_suggestions(plan, settings)
        touched = [digest for digest, state in plan.states.items() if state is not State.NEW]
        if not touched:
            continue
        searched = search.as_json(studies) if studies else None
        ended = (State.DONE, State.STOPPED) if studies else (State.DONE,)
        with reachable(settings):
            for digest in touched:
                mirror.trial(Tracked(plan, digest, plan.trials[digest], plan.names[digest]), final=False)
            mirror.describe_parent(plan, searched)
            mirror.close_parent(plan, all(state in ended for state in plan.states.values()))
        say(f"{plan.title}: {len(touched)} trials in step")
    return 0


def verb_ui(arguments: argparse.Namespace, settings: Settings) -> int:
    """Serve the MLflow page of the store."""
    if settings.tracking_uri.startswith("http"):
        say(f"the store is a server; open {settings_module.shown(settings.tracking_uri)}")
        return 0
    from sweeps.store import QUIET, client, links

    address = f"http://127.0.0.1:{arguments.port}"
    pages = links(client(settings), address)
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        settings.tracking_uri,
        "--host",
        "127.0.0.1",
    ]
    command += [
        "--port",
        str(arguments.port),
        "--workers",
        "1",
        "--default-artifact-root",
        settings.artifacts.absolute().as_uri(),
    ]
    command += ["--uvicorn-opts", "--log-level warning"]
    say("\n".join([f"MLflow: {address} (Ctrl-C ends it)", *pages]))
    os.execve(
        sys.executable, command, {**os.environ, **QUIET, "MLFLOW_LOGGING_LEVEL": "ERROR", "PYTHONWARNINGS": "ignore"}
    )


def verb_data(arguments: argparse.Namespace, settings: Settings) -> int:
    """Fetch and check the data sets of experiments."""
    from trainers import data
    from trainers.errors import TrainerError

    faults: list[str] = []
    plans = make_plans(arguments, settings)
    specs: Mapping[Any, None] = dict.fromkeys(
        images.model_copy(update={"train_per_class": None}) for plan in plans for images in plan.data
    )
    for images in specs:
        try:
            loaded = data.load(images, settings.data)
        except TrainerError as error:
            faults += [f"data {images.name}: {line}" for line in str(error).splitlines()]
            continue
        val = "" if loaded.val is None else f", {len(loaded.val)} val"
        say(
            f"{images.name}: {len(loaded.train)} train{val}, {len(loaded.test)} test, {loaded.info.classes} classes, {loaded.info.size} px"
        )
    if faults:
        raise SetupError(*faults)
    return 0


def verb_gc(arguments: argparse.Namespace, settings: Settings) -> int:
    """Free what finished and dead trials left behind.

    Checkpoints of failed trials and of attempts that were taken over, kept answers, and half-written files of dead processes.
    """
    from trainers.answers import FOLDER
    from trainers.attempts import State, newest, read_status

    doomed: list[Path] = []
    for attempts_folder in sorted(settings.state.glob("*/*/attempts")):
        status = read_status(settings.state, attempts_folder.parent.name)
        dead = status.state in (State.DONE, State.FAILED)
        doomed += [path for path in attempts_folder.glob(".new-*") if dead]
        doomed += [path for path in attempts_folder.glob("*/.*.tmp") if dead]
        last = newest(attempts_folder)
        keep = {str(last), str(status.folder.name) if status.folder else ""}
        doomed += [path for path in attempts_folder.glob("*/checkpoint.pt") if dead or path.parent.name not in keep]
    doomed += sorted((settings.state / FOLDER).glob("*.pt"))  # what was computed can be computed again
    doomed += sorted((settings.state / FOLDER).glob(".*.tmp"))
    size = sum(path.stat().st_size for path in doomed if path.is_file())
    for path in doomed:
        if arguments.yes:
            if path.is_dir():
                import shutil

                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        else:
            say(str(path))
    verb = "freed" if arguments.yes else "could be freed with --yes"
    say(f"{len(doomed)} files, {size / 2**20:.1f} MiB {verb}")
    return 0
