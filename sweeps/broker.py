"""This sweep's part of a shared Ray cluster: a thread asks the cluster's ledger, an actor that all drivers meet at, what it may hold."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from typing import Any, Protocol

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from sweeps.shares import Answer, Bundle, Claim, Ledger

logger = logging.getLogger(__name__)

NAMESPACE = "distill-sweeps"
ACTOR = "shares-1"
"""Name of the ledger's actor; the number goes up when what drivers tell it changes, so that old and new ones do not meet."""
HEAD = "node:__internal_head__"
BEAT_S = 0.5
ASK_S = 5.0
"""How long an answer may take."""
AWAY_S = 30.0
"""How long the last answer counts when there is no new one; after that Ray alone decides, until there is."""
JOIN_S = 10.0
"""How long a launch waits for its first answer before it starts without one."""
GROWTH = 8
"""How many times as many places as at the start a sweep fills, of a cluster that grows meanwhile."""
MIN_RUN_S = 10.0
"""A trial that was handed out less than so long ago does not yield: it would have cost more than it brought."""


class Broker(Protocol):
    """Where a sweep's claim goes. Every call may raise whatever Ray does."""

    def beat(self, claim: Claim, known: bool) -> Answer: ...

    def leave(self, name: str) -> None: ...


class ClusterLedger(Ledger):
    """The ledger of the cluster that it runs on, as an actor without CPUs."""

    def __init__(self) -> None:
        super().__init__(cluster_total)


def cluster_total() -> Bundle:
    """CPUs and GPUs of all nodes that are up."""
    have = ray.cluster_resources()
    return have.get("CPU", 0.0), have.get("GPU", 0.0)


class RayBroker:
    """The cluster's ledger, found or made; one that has died is made again. It outlives the driver that made it."""

    def __init__(self) -> None:
        self._actor: Any = None

    def beat(self, claim: Claim, known: bool) -> Answer:
        answer: Answer = self._call("beat", claim, known)
        return answer

    def leave(self, name: str) -> None:
        """Takes the claim back; the last one to leave ends the actor."""
        if not self._call("leave", name):
            ray.kill(self._actor)

    def claims(self) -> list[Claim]:
        """Claims of all sweeps on the cluster."""
        found: list[Claim] = self._call("claims")
        return found

    def _call(self, method: str, *arguments: Any) -> Any:
        try:
            if self._actor is None:
                self._actor = self._find()
            return ray.get(getattr(self._actor, method).remote(*arguments), timeout=ASK_S)
        except Exception:
            self._actor = None
            raise

    @staticmethod
    def _find() -> Any:
        """On the head where that is known: it stays, and a worker node that has nothing else to do may go."""
        heads = [node["NodeID"] for node in ray.nodes() if node["Alive"] and HEAD in node["Resources"]]
        where = NodeAffinitySchedulingStrategy(node_id=heads[0], soft=True) if heads else "DEFAULT"
        actor = ray.remote(num_cpus=0, max_restarts=-1)(ClusterLedger)
        return actor.options(
            name=ACTOR, namespace=NAMESPACE, lifetime="detached", get_if_exists=True, scheduling_strategy=where
        ).remote()


class Share:
    """What this sweep holds, wants and may hold. Use as a context manager: the thread that asks runs inside.

    A ledger that does not answer holds nobody up: the last answer counts for `AWAY_S`, then this sweep takes what Ray gives.

    Args:
        broker: where to ask.
        wanted: gives places for what could start now, at most so many.
        at_once: trials at a time, at most; with `grows` what the cluster has places for now.
        grows: fill nodes that join later too, up to `GROWTH` times as many places.
    """

    def __init__(
        self,
        broker: Broker,
        wanted: Callable[[int], list[Bundle]],
        at_once: int,
        *,
        weight: float = 1.0,
        priority: int = 0,
        grows: bool = False,
    ) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.weight, self.priority, self.at_once = weight, priority, at_once
        self.most = GROWTH * at_once if grows else at_once
        self.yielding: set[str] = set()  # Tune trials that end to make room
        self._broker, self._wanted = broker, wanted
        self._lock = threading.Lock()
        self._held: dict[str, tuple[Bundle, float]] = {}
        self._answer: Answer | None = None
        self._answered = time.monotonic()
        self._known = False
        self._away = False
        self._wake, self._stop, self._joined = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="share", daemon=True)

    def __enter__(self) -> Share:
        self._thread.start()
        self._joined.wait(JOIN_S)
        return self

    def __exit__(self, *details: object) -> None:
        self._stop.set()
        self._wake.set()
        self._thread.join(2 * ASK_S)
        if not self._away:
            with contextlib.suppress(Exception):  # Ray has gone; the claim runs out by itself
                self._broker.leave(self.name)

    def may_start(self) -> bool:
        """Whether a further trial may be handed out; alone on a cluster, whether it has a place for it as it is now."""
        answer, held = self.answer, len(self._held)
        if answer is not None and answer.start is not None:
            return held < answer.start
        return held < max(self.at_once, 0 if answer is None else answer.places)

    def took(self, trial_id: str, bundle: Bundle) -> None:
        """Notes that a Tune trial was handed out, whatever it carries."""
        with self._lock:
            self._held[trial_id] = (bundle, time.monotonic())
        self._wake.set()

    def gave_back(self, trial_id: str) -> bool:
        """Notes that a Tune trial is over; whether it was to make room for another sweep."""
        with self._lock:
            self._held.pop(trial_id, None)
            yielded = trial_id in self.yielding
            self.yielding.discard(trial_id)
        self._wake.set()
        return yielded

    def excess(self) -> int:
        """How many Tune trials should yield."""
        answer = self.answer
        keep = None if answer is None else answer.keep
        return 0 if keep is None else max(0, len(self._held) - keep)

    def may_yield(self, trial_id: str) -> bool:
        """Whether a Tune trial has run for long enough to have been worth its start."""
        with self._lock:
            _, since = self._held.get(trial_id, ((0.0, 0.0), time.monotonic()))
        return time.monotonic() - since >= MIN_RUN_S

    @property
    def answer(self) -> Answer | None:
        """The last one; None where there is none that still counts."""
        return self._answer if time.monotonic() - self._answered < AWAY_S else None

    @property
    def contested(self) -> bool:
        """Whether other sweeps are on the cluster."""
        return self.answer is not None and self.answer.others > 0

    @property
    def places(self) -> int:
        """Trials at a time as things stand."""
        answer = self.answer
        if answer is None or answer.start is None:
            return max(self.at_once, min(self.most, 0 if answer is None else answer.places))
        return max(1, min(self.most, answer.start if answer.keep is None else answer.keep))

    def note(self) -> str:
        """Whom the cluster is shared with, and how; empty for a sweep that is alone."""
        answer = self.answer
        if answer is None or not answer.others:
            return ""
        peers = f"{answer.others} other sweep{'s' if answer.others > 1 else ''}"
        if answer.above:
            return f"after {answer.above} of higher priority, {peers} in all"
        if answer.equals:
            return f"share {self.weight:g}:{answer.equals:g} with {peers}"
        return f"before {peers}"

    def held(self) -> str:
        """How many places of how many this sweep has."""
        answer = self.answer
        return "" if answer is None else f"{len(self._held)} of {answer.places} places"

    def _run(self) -> None:
        while not self._stop.is_set():
            self._beat()
            self._wake.wait(BEAT_S)
            self._wake.clear()
            self._stop.wait(BEAT_S / 5)  # what happens at once is told at once

    def _beat(self) -> None:
        try:
            wants = tuple(self._wanted(max(0, self.most - len(self._held))))
            with self._lock:
                held = tuple(bundle for bundle, _ in self._held.values())
            answer = self._broker.beat(Claim(self.name, self.weight, self.priority, held, wants), self._known)
        except Exception as error:  # whatever Ray has; without an answer the sweep goes on all the same
            logger.debug("no answer: %s", error)
            if self.answer is None and self._known and not self._away:
                logger.warning("cannot ask for this sweep's share of the cluster; Ray alone decides until it can")
            self._away = self.answer is None
            return
        self._answer, self._answered, self._known, self._away = answer, time.monotonic(), True, False
        self._joined.set()
