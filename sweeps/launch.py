"""A launch: Ray Tune schedules what the queue hands out; the trial directories, not Tune, remember what happened."""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from sweeps.cluster import (  # before Tune: it sets what Ray reads at its import
    Cluster,
    dead_services,
    instead,
    start,
    stop,
)

# isort: split
import ray
from ray import tune
from ray.air._internal import usage
from ray.tune.execution import tune_controller
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeps import packing, preflight
from sweeps.broker import RayBroker, Share
from sweeps.errors import SetupError
from sweeps.groups import Grouping, Room
from sweeps.places import Places
from sweeps.queue import Queue
from sweeps.settings import Settings
from sweeps.worker import TrialRunner, peak_memory_mib
from trainers import attempts, faults

logger = logging.getLogger(__name__)

RAY_RESTARTS = 3
if hasattr(usage, "tag_callbacks"):
    usage.tag_callbacks = lambda callbacks: False  # it imports MLflow, to count callbacks in statistics that are off


def joined(
    settings: Settings, queue: Queue, at_once: int, weight: float, priority: int, *, grows: bool
) -> contextlib.AbstractContextManager[Share | None]:
    """This sweep's part of a cluster; nothing on a Ray that was started here, which nobody else uses and no node joins."""
    if settings.ray_address is None:
        return contextlib.nullcontext()
    return Share(RayBroker(), queue.startable, at_once, weight=weight, priority=priority, grows=grows)


def require_resources(queue: Queue, cluster: Cluster) -> None:
    """Refuses trials that no node of the cluster could ever hold.

    Raises:
        SetupError: one message for each experiment concerned.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    faults = []
    for plan in queue.plans:
        wanted = plan.resources
        for name, amount in (("CPU", wanted.cpu), ("GPU", wanted.gpu)):
            most = max((node.get(name, 0.0) for node in nodes), default=0.0)
            if amount > most:
                faults.append(
                    f"{plan.title}: a trial needs {amount:g} {name}, but no node has more than {most:g}; "
                    f"join a cluster with RAY_ADDRESS, or choose a profile that needs less (resources)"
                )
    if faults:
        raise SetupError(*faults)


def concurrency(queue: Queue, cluster: Cluster) -> int:
    """How many trials fit at once: the cluster's CPUs and GPUs over the smallest demand of a plan, or of a trial that was packed."""
    fits = []
    for wanted in {*(plan.resources for plan in queue.plans), *map(queue.resources, queue.waiting)}:
        fits.append(int(min(cluster.cpus / wanted.cpu, cluster.gpus / wanted.gpu if wanted.gpu else float("inf"))))
    return max(1, *fits)


def room(settings: Settings) -> Room:
    """Memory that groups of trials have: of the nodes as Ray counts it, and of the smallest GPU."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    host = min((node.get("memory", 0.0) / node["CPU"] for node in nodes), default=None)
    return Room(host, device_bytes(settings))


def device_bytes(settings: Settings) -> float | None:
    """Memory of the cluster's smallest GPU; None where there is none."""
    if settings.ray_address is None:
        return preflight.device_bytes()
    task: Any = ray.remote(preflight.device_bytes)
    asked = []
    for node in ray.nodes():
        if node["Alive"] and node["Resources"].get("GPU"):
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked.append(task.options(num_cpus=0, num_gpus=packing.STEP, scheduling_strategy=here).remote())
    return min((size for size in ray.get(asked) if size is not None), default=None)


def pack(queue: Queue, settings: Settings) -> None:
    """Gives each trial of the queue that runs on a GPU a share of it by its memory, measured where no like one is on record.

    Raises:
        SetupError: the memory of the GPUs is not known.
    """
    size = device_bytes(settings)
    if size is None:
        raise SetupError(
            "--gpu auto: no GPU of this cluster says how much memory it has; give a share, such as --gpu 0.5"
        )
    peaks, measured = packing.records(settings.state), dict[str, Any]()
    for digest in queue.waiting:
        trial, wanted = queue.trials[digest], queue.resources(digest)
        own = packing.key(trial, wanted.passes)
        if wanted.gpu and own not in peaks and own not in measured and trial.kind in ("distill", "datafree"):
            task = ray.remote(num_cpus=wanted.cpu, num_gpus=1, max_retries=0)(peak_memory_mib)
            measured[own] = task.remote(
                trial.model_dump_json(), str(settings.data), wanted.device, wanted.passes, sys.path
            )
    for own, answer in measured.items():
        try:
            peaks[own] = ray.get(answer)
        except Exception as error:  # whatever ends a probe, the trial gets a share by what it takes at the least
            logger.warning("no memory was measured: %s", str(error).strip().splitlines()[-1])
    queue.pack(packing.Packer(peaks, size, settings.data))


class QueueSearcher(Searcher):
    """Tune asks it for configurations; it hands out what the queue says is ready, a group of trials at a time."""

    def __init__(self, queue: Queue, settings: Settings, grouping: Grouping, scheduler: StudyScheduler) -> None:
        super().__init__()
        self.queue, self.settings, self.grouping, self.scheduler = queue, settings, grouping, scheduler
        self.share = scheduler.share
        self.digests: dict[str, list[str]] = {}
        """Members of each of Tune's trials that have not ended."""
        self._on_interrupt: Any = None

    def suggest(self, trial_id: str) -> Any:
        self._on_interrupt = self._on_interrupt or signal.getsignal(signal.SIGINT)
        first = self.queue.next() if self.share is None or self.share.may_start() else None
        if first is None:
            return self._nothing()
        faults.point("suggested")
        wanted = self.queue.resources(first)
        most = self.grouping.most(self.queue.trials[first], wanted)
        digests = [first, *self.queue.companions(first, most, self.grouping.places)]
        self.digests[trial_id] = list(digests)
        cpu, gpu = self.queue.demand(first)
        if self.share is not None:
            self.share.took(trial_id, (cpu, gpu))
        return {
            "digests": digests,
            "trials": [self.queue.trials[digest].model_dump_json() for digest in digests],
            "watch": [self.queue.watched(digest) for digest in digests],
            "state": str(self.settings.state),
            "data": str(self.settings.data),
            "device": wanted.device,
            "threads": wanted.threads,
            "passes": wanted.passes,
            "cpu": cpu,
            "gpu": gpu,
            "path": [path for path in sys.path if path],
        }

    def _nothing(self) -> Any:
        """The answer while no trial may start; with it go places that Tune would keep from other sweeps.

        Tune asks on for minutes where nothing runs, deaf to Ctrl-C but for putting the handler back that was there before its own.
        """
        if self.queue.finished() or signal.getsignal(signal.SIGINT) != self._on_interrupt:
            return Searcher.FINISHED
        if self.share is not None and self.share.contested:
            self.scheduler.let_go()
        return None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Takes back the members that have ended while others go on."""
        for digest, outcome, cause in result.get("ended", ()):
            if digest in self.digests.get(trial_id, ()):
                self.digests[trial_id].remove(digest)
                self._release(digest, outcome, cause)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.on_trial_result(trial_id, result or {})
        yielded = self.share is not None and self.share.gave_back(trial_id)
        outcome = "crashed" if error or result is None else "stopped"
        for digest in self.digests.pop(trial_id, ()):
            self._release(digest, "yielded" if yielded and not error else outcome)

    def _release(self, digest: str, outcome: str, cause: str = "") -> None:
        faults.point("trial-ended")
        self.queue.release(digest, outcome, cause)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing to pickle: Tune writes its searcher down at the start, but never needs it back here."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a new launch reads the trial directories."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a new launch reads the trial directories."""


class StudyScheduler(FIFOScheduler):
    """First come, first served; a trial that a search suggested may be cut by that study's pruner, no other ever.

    A member of a group is cut by its seal, which its worker meets before the next epoch; the others go on. On a shared cluster Tune's
    trial may have to yield to another sweep's after an epoch: it ends, and what it carries goes on later.
    """

    def __init__(self, queue: Queue, share: Share | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.queue, self.share = queue, share
        self._places: Places | None = None
        self._excess = 0

    def __getstate__(self) -> dict[str, Any]:
        """Nothing to pickle, as in `QueueSearcher`."""
        return {}

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if "digest" in result and self.queue.should_prune(result["digest"], int(result["epoch"]), result):
            digest, epoch = result["digest"], int(result["epoch"])
            attempts.stop(self.queue.state_root, digest, f"cut by the search's pruner after epoch {epoch}")
            self.queue.release(digest, "stopped")
            if self.queue.running.isdisjoint(trial.config["digests"]):
                return str(TrialScheduler.STOP)
        if self._excess > 0 and self.share is not None and self.share.may_yield(trial.trial_id):
            self._excess -= 1
            self.share.yielding.add(trial.trial_id)
            return str(TrialScheduler.STOP)
        return str(TrialScheduler.CONTINUE)

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """As it was; before that, trials that have no place yet are taken back where the sweep has more than its share."""
        if self.share is not None:
            self._places = self._places or Places(tune_controller)
            self._excess = self.share.excess()
            for trial in self._places.unstarted()[: self._excess] if self._excess else []:
                self._excess -= 1
                self.share.yielding.add(trial.trial_id)
                self._places.withdraw(trial)
        return super().choose_trial_to_run(tune_controller)

    def let_go(self) -> None:
        """Gives back places that no trial runs in."""
        if self._places is not None:
            self._places.let_go()


def _demand(config: dict[str, Any]) -> tune.PlacementGroupFactory:
    return tune.PlacementGroupFactory([{"CPU": config["cpu"], "GPU": config["gpu"]}])


class RayDied(BaseException):
    """No `Exception`, after which Tune would clean up: that waits for the dead service until Ray ends this process."""


class Watchdog(tune.Callback):
    """Ends a launch whose Ray has died, where Tune would wait for an answer for ever."""

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        dead = dead_services()
        if dead:
            raise RayDied(f"Ray's {' and '.join(dead)} died")


def fit(queue: Queue, settings: Settings, grouping: Grouping, share: Share | None = None) -> None:
    """Runs the queue to its end on the cluster that `start` joined; a Ray that was started here is started again if it dies.

    Args:
        share: this sweep's part of a cluster that others may use; None where there are no others.

    Raises:
        SetupError: it died too often.
    """
    started = True
    for left in range(RAY_RESTARTS, -1, -1):
        try:
            if not started:
                start(settings)
                started = True
            _fit(queue, settings, grouping, share)
            return
        except (RayDied, Exception) as error:
            dead = dead_services()
            if started and not dead:
                raise
            # what killed it may kill it again while it starts
            what = f"Ray's {dead[0]} died" if started else f"Ray died and did not start again ({error})"
            if not left:
                raise SetupError(
                    f"{what}: {RAY_RESTARTS + 1} ends of Ray on this machine; is its memory full? "
                    f"The same command goes on from the last checkpoints"
                ) from error
            logger.warning("%s on this machine; Ray is started again", what)
        stop()
        started = False
        for digest in list(queue.running):
            queue.release(digest, "crashed", what)


def waiting_workers(settings: Settings) -> contextlib.AbstractContextManager[None]:
    """Trials go into the workers that a Ray started here holds ready.

    Tune gives its workers some of the driver's variables, and workers with variables of their own are started for each trial anew.
    Those of a Ray that was started here have the driver's anyway.
    """
    if settings.ray_address is not None:
        return contextlib.nullcontext()
    return instead(tune_controller, "_ActorClassCache", lambda tunes: PlainActors)


class PlainActors:
    """What Tune keeps of each class that it starts actors of, without a runtime environment."""

    def __init__(self) -> None:
        self._made: dict[type, Any] = {}

    def get(self, trainable: type) -> Any:
        if trainable not in self._made:
            self._made[trainable] = ray.remote(trainable)
        return self._made[trainable]


def _fit(queue: Queue, settings: Settings, grouping: Grouping, share: Share | None) -> None:
    scheduler = StudyScheduler(queue, share)
    scratch = Path(tempfile.mkdtemp(prefix="sweeps-tune-"))
    try:
        tuner = tune.Tuner(
            tune.with_resources(TrialRunner, _demand),
            tune_config=tune.TuneConfig(
                search_alg=QueueSearcher(queue, settings, grouping, scheduler),
                scheduler=scheduler,
                num_samples=-1,
                reuse_actors=True,
                max_concurrent_trials=grouping.places if share is None else share.most,
            ),
            run_config=tune.RunConfig(name="launch", storage_path=str(scratch), verbose=0, callbacks=[Watchdog()]),
        )
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        with waiting_workers(settings):
            tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
