"""Which trials share a teacher pass, and how many: rules over counts and costs, and what they come to for a plan."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sweeps import cost, preflight
from sweeps.plan import Plan
from sweeps.replay import MEASURED
from sweeps.spec import Resources
from trainers import data, feed
from trainers.attempts import State
from trainers.config import Trial
from trainers.errors import TrainerError
from trainers.synthesis import pool

MOST = 8
"""Trials of a group that nobody asked for: its members end together, and a worker that dies takes all of them down."""
WORTH = 1.1
"""Gain of the largest group below which trials are left alone."""
NEAR = 0.95
"""A group need not be larger than what brings this part of the largest one's gain."""
MEMORY_PART = 0.5
"""Of the room that groups may fill: sizes are what a trial takes at the least."""


def gain(teacher: float, members: int) -> float:
    """How much sooner N trials are done together than one after the other: N (t + s) / (t + N s).

    Args:
        teacher: t / (t + s), the teacher's part of the time of a trial that is alone.
        members: N.
    """
    return members / (teacher + members * (1 - teacher))


def useful(teacher: float) -> int:
    """Members of a group that is worth its memory: see `WORTH` and `NEAR`."""
    best = gain(teacher, MOST)
    if best < WORTH:
        return 1
    return next(members for members in range(2, MOST + 1) if gain(teacher, members) >= NEAR * best)


def size(*, alike: int, ready: int, running: int, free: int, places: int, most: int) -> int:
    """Members of the group that starts now, so that work is shared out evenly and no place stays empty.

    Args:
        alike: trials that could be its members, ready now.
        ready: all trials that could start now, those included.
        running: trials that run already, all of their groups' members.
        free: places without a trial, that of this group included.
        places: all places.
        most: largest size allowed.
    """
    fair = -(-(ready + running) // places)
    return max(1, min(alike, most, fair, ready - (free - 1)))


def likeness(trial: Trial, resources: Resources) -> Hashable:
    """Equal for trials that may be members of one group; None for one that shares with nobody."""
    key = feed.key(trial)
    return None if key is None else (*key, resources.cpu, resources.gpu, resources.passes)


def measured(plan: Plan) -> bool:
    """Whether the plan's experiment reports or optimises what a trial costs; its trials are trained alone."""
    file = plan.experiment.file
    goals = () if file.search is None else (goal.metric for goal in file.search.goals)
    return any(name in metric for metric in (*file.report.metrics, *goals) for name in MEASURED)


@dataclass(frozen=True)
class Room:
    """Memory in bytes; None where it is not known.

    Attributes:
        host: for one CPU of the node that has the least for each.
        device: of the smallest GPU.
    """

    host: float | None
    device: float | None

    @classmethod
    def here(cls) -> Room:
        """Of this machine, as much as is free now."""
        host = pool.free_gib(torch.device("cpu")) * preflight.GIB / (os.cpu_count() or 1)
        return cls(host, preflight.device_bytes())

    def of(self, resources: Resources) -> float | None:
        """For one trial's share of a GPU, or of a node where it has none."""
        if resources.gpu:
            return None if self.device is None else self.device * min(1.0, resources.gpu)
        return None if self.host is None else self.host * resources.cpu


class Grouping:
    """How large the groups of a launch may become.

    Args:
        places: trials, or groups of them, at a time.
        asked: largest size as the command line has it, whatever it brings and takes; None to let cost and memory decide.
    """

    def __init__(self, places: int, room: Room, data_root: Path, *, asked: int | None = None) -> None:
        self.places, self.room, self.data_root, self.asked = places, room, data_root, asked
        self._most: dict[tuple[Any, ...], int] = {}

    def most(self, trial: Trial, resources: Resources) -> int:
        """Largest size of a group that this trial is in."""
        if self.asked is not None:
            return self.asked
        key = (trial.method, trial.student, likeness(trial, resources))
        if key not in self._most:
            self._most[key] = self._worked_out(trial, resources)
        return self._most[key]

    def _worked_out(self, trial: Trial, resources: Resources) -> int:
        room = self.room.of(resources)
        if room is None:
            return 1
        try:
            info = data.info(trial.data.model_copy(update={"content": None}), self.data_root)
            share = cost.teacher_share(trial, self.data_root, threads=None if resources.gpu else resources.threads)
        except TrainerError:
            return 1
        fits = int(MEMORY_PART * room // preflight.gpu_bytes(trial, info))
        return max(1, min(useful(share), fits))


def places_here(plans: Sequence[Plan]) -> int:
    """Trials at a time on this machine; 0 where it cannot hold one."""
    fits = []
    for plan in plans:
        cpus, gpus = (os.cpu_count() or 1) / plan.resources.cpu, math.inf
        if plan.resources.gpu:
            gpus = torch.cuda.device_count() / plan.resources.gpu
        fits.append(int(min(cpus, gpus)))
    return max(fits, default=0)


def layout(likenesses: Sequence[Hashable], most: Sequence[int], places: int) -> list[list[int]]:
    """Groups, by index, in which trials would start that all become ready at once.

    Args:
        likenesses: of each trial, None for one that is alone.
        most: largest group of each.
    """
    waiting, groups = list(range(len(likenesses))), list[list[int]]()
    while waiting:
        first, *others = waiting
        alike = [first]
        if likenesses[first] is not None:
            alike += [each for each in others if likenesses[each] == likenesses[first]]
        beside = groups[max(0, len(groups) - places + 1) :]  # in the other places
        members = size(
            alike=len(alike),
            ready=len(waiting),
            running=sum(map(len, beside)),
            free=places - len(beside),
            places=places,
            most=most[first],
        )
        groups.append(alike[:members])
        waiting = [each for each in waiting if each not in groups[-1]]
    return groups


def planned(plans: Sequence[Plan], grouping: Grouping) -> list[list[str]]:
    """Digests of the groups, of two or more, that the trials which are not done would make if all were ready at once."""
    alone = {digest for plan in plans if measured(plan) for digest in plan.trials}
    left: dict[str, tuple[Trial, Resources]] = {}
    for plan in plans:
        for digest, trial in plan.trials.items():
            if plan.states.get(digest) not in (State.DONE, State.FAILED):
                left.setdefault(digest, (trial, plan.resources))
    digests = list(left)
    likenesses = [None if digest in alone else likeness(*left[digest]) for digest in digests]
    most = [1 if own is None else grouping.most(*left[d]) for d, own in zip(digests, likenesses, strict=True)]
    found = layout(likenesses, most, grouping.places)
    return [[digests[each] for each in group] for group in found if len(group) > 1]


def summary(groups: Sequence[Sequence[str]]) -> str:
    """One line: `12 trials share teacher passes in 3 groups of 4`."""
    sizes = Counter(map(len, groups))
    parts = [
        f"{count} {'group' if count == 1 else 'groups'} of {members}"
        for members, count in sorted(sizes.items(), reverse=True)
    ]
    return f"{sum(map(len, groups))} trials share teacher passes in {', '.join(parts)}"
