"""Ray itself: joined or started here, watched, left. Without Tune, whose import takes as long as a part of Ray's own start."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sweeps.errors import SetupError
from sweeps.settings import Settings, shown

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # our journals are the record; Tune's snapshots would only cost
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "GLOG_minloglevel": "3",
}
os.environ.update({name: value for name, value in QUIET.items() if name not in os.environ})

import ray  # noqa: E402  (its logging is configured by the environment at import)
import ray._private.utils as installed  # noqa: E402
from ray._private.node import Node  # noqa: E402

NEEDED = ("raylet", "gcs_server")
STARTED_LATE = ("ray._common.usage.usage_lib",)
"""Modules that `ray.init` imports, and Tune, too."""
UNUSED = ("start_api_server", "start_monitor", "start_log_monitor")
"""Of a Ray that starts here: nobody looks at its page or joins it, and what workers print stays in its files."""
LOOK_S, LOOKS = 0.02, 250
"""How often, and how many times, a node is looked for that was started."""


@dataclass(frozen=True)
class Cluster:
    """What Ray has.

    Attributes:
        cpus, gpus: over all nodes that are up.
    """

    cpus: float
    gpus: float


def start(settings: Settings, meanwhile: Callable[[], object] = lambda: None) -> Cluster:
    """Joins the cluster of `RAY_ADDRESS`, or starts Ray on this machine.

    Args:
        meanwhile: what is done in a thread of its own while Ray comes up; it must not care for the current folder.

    Raises:
        SetupError: the cluster cannot be reached, or Ray does not come up here.
        Exception: what `meanwhile` raised; Ray is left again.
    """
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    logging.getLogger("ray").setLevel(logging.ERROR)
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": "ERROR",
        "configure_logging": False,
    }
    if "://" in (settings.ray_address or "") and not str(settings.ray_address).startswith("ray://"):
        raise SetupError(
            f"RAY_ADDRESS is {shown(str(settings.ray_address))!r}, a dashboard: `sweep submit` sends sweeps there; "
            "`sweep run` joins a cluster from one of its nodes, by host:6379 or `auto`"
        )
    settings.home.mkdir(parents=True, exist_ok=True)
    try:
        # Ray puts the current folder first on its workers' path, where a user's own `trainers/` would hide ours;
        # the worker appends the user's folder itself, at the end.
        with contextlib.chdir(settings.home), _beside(meanwhile) as failed, _lean_start():
            if settings.ray_address:
                ray.init(address=settings.ray_address, **options)
            else:
                # without "local" it would join whatever `ray start` has left in the temporary folder, alive or dead
                ray.init(address="local", include_dashboard=False, num_cpus=os.cpu_count(), **options)
    except Exception as error:  # Ray raises bare ones too
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        if settings.ray_address and "AuthToken" in str(error):
            what = (
                f"the Ray cluster at {settings.ray_address} asks for its token, as `ray start` does by default where Ray has made one: "
                "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN where ~/.ray/auth_token is not the cluster's"
            )
        elif settings.ray_address:
            what = (
                f"no Ray cluster at {settings.ray_address}: {first}; check RAY_ADDRESS, or unset it to start Ray here"
            )
        else:
            what = f"Ray does not start on this machine: {first}; try again when it is less busy, or join a cluster with RAY_ADDRESS"
        raise SetupError(what) from error
    if failed:
        stop()
        raise failed[0]
    logging.getLogger("ray").setLevel(logging.ERROR)
    have = ray.cluster_resources()
    return Cluster(have.get("CPU", 0.0), have.get("GPU", 0.0))


@contextlib.contextmanager
def _beside(work: Callable[[], object]) -> Iterator[list[Exception]]:
    """Runs `work` in a thread and waits for it at the end; the list then holds what it raised.

    What Ray's start imports late and Tune imports as well is imported first: two threads must not meet in one package.
    """
    failed: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:  # raised again by the caller, in its own thread
            failed.append(error)

    for name in STARTED_LATE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    thread = threading.Thread(target=run, name="meanwhile", daemon=True)
    thread.start()
    try:
        yield failed
    finally:
        thread.join()


@contextlib.contextmanager
def _lean_start() -> Iterator[None]:
    """Ray that starts here starts what a launch uses of it, as quickly as it comes up.

    Ray imports the packages of its page to see whether they are there, and starts the page's process, one that asks for more
    nodes, and one that forwards what workers print; then it looks once a second whether the node is up. On two cores all of it
    together is half of the start.
    """
    absent = ImportError("Ray is started without its page")
    with contextlib.ExitStack() as stack:
        for name in UNUSED:
            stack.enter_context(instead(Node, name, lambda honest: lambda node, **options: None))
        stack.enter_context(instead(installed, "get_dashboard_dependency_error", lambda honest: lambda: absent))
        stack.enter_context(instead(Node, "start_ray_processes", _looked_for))
        yield


@contextlib.contextmanager
def instead(owner: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """What `make` makes of something of Ray's, in its place; nothing where this Ray has none of that name."""
    honest = getattr(owner, name, None)
    if honest is None:
        yield
        return
    setattr(owner, name, make(honest))
    try:
        yield
    finally:
        setattr(owner, name, honest)


def _looked_for(start: Callable[[Any], None]) -> Callable[[Any], None]:
    """`start`, and then a wait until the node is known, of a few seconds at the most.

    Whether it is known then, and why not, Ray finds out itself after that.
    """

    def start_and_look(node: Any) -> None:
        start(node)
        with contextlib.suppress(Exception):
            own, known = ray.NodeID.from_hex(node.node_id), node.get_gcs_client()
            for _ in range(LOOKS):
                if own in known.get_all_node_info(timeout=LOOK_S * LOOKS):
                    return
                time.sleep(LOOK_S)

    return start_and_look


def dead_services() -> list[str]:
    """Services of a Ray that was started here which have died, and without which it never goes on; none on a cluster."""
    node = ray._private.worker._global_node
    dead: list[str] = [] if node is None else [kind for kind, _ in node.dead_processes()]
    return [kind for kind in dead if kind in NEEDED]


def stop() -> None:
    """Leaves the cluster; one started here ends with it."""
    ray.shutdown()
