"""How long a trial would take: a few of its updates for real, on freshly initialised networks."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from trainers import data, metrics, models
from trainers.config import Execution, Trial
from trainers.errors import TrialError
from trainers.methods import freeze
from trainers.train import Setup, make_loop, make_ready, peak_memory_mib, prepare_process, require_runnable

MOST_S = 5.0
"""Time that the updates of one trial may take, its first ones not counted."""
MOST_UPDATES = 200
LONGEST_S = 30.0
"""Until two cycles of a method that does much before each must have ended."""
EVALUATED = 500
"""Test images whose evaluation is timed."""


class _Enough(Exception):
    """Ends an epoch in its middle."""


class Probe(NamedTuple):
    """What a trial takes.

    Attributes:
        seconds: of all its training, start-up left out, extrapolated.
        peak_memory_mib: so far: allocated on the device, or resident in this process on a CPU.
    """

    seconds: float
    peak_memory_mib: float


def probe_s(trial: Trial, data_root: Path, *, device: str = "cpu", execution: Execution | None = None) -> float:
    """The time that `probe` gives."""
    return probe(trial, data_root, device=device, execution=execution).seconds


def probe(
    trial: Trial,
    data_root: Path,
    *,
    device: str = "cpu",
    execution: Execution | None = None,
    most_s: float = MOST_S,
) -> Probe:
    """Time and memory of a trial from a few updates and a part of an evaluation.

    Needs no upstream: networks are as initialised, which costs the same. What a method does before its recipe's epochs
    is counted at the recipe's pace.

    Args:
        trial: of kind "distill" or "datafree".
        most_s: time that its updates may take, its first ones not counted; there are two cycles of them at the least.

    Raises:
        TrainerError: images are missing, or the trial cannot be run.
    """
    require_runnable(trial)
    place = torch.device(device)
    execution = execution or Execution()
    prepare_process(place, execution)
    with tempfile.TemporaryDirectory() as scratch:
        setup = _setup(trial, data_root, place, Path(scratch))
        setup = make_ready(setup, execution)
        loop: Any = make_loop(setup)
        updates = trial.protocol.updates_per_epoch or -(-len(setup.images.train) // trial.protocol.batch_size)
        cycle = getattr(loop.method, "student_steps", 1) if trial.kind == "datafree" else 1
        per_update = _per_update_s(loop, place, cycle, most_s)
        loop.student.eval()
        started = time.perf_counter()
        part = setup.images.test.take(torch.arange(min(EVALUATED, len(setup.images.test)), device=place))
        metrics.predict(loop.student, part, setup.images.info)
        evaluated = (time.perf_counter() - started) / len(part)
    held_out = 0 if setup.images.val is None else len(setup.images.val)
    evaluation = evaluated * (len(setup.images.test) + held_out)
    seconds = setup.passes.compiling_s + loop.total_epochs * (per_update * updates + evaluation)
    return Probe(float(seconds), peak_memory_mib(place))


def _per_update_s(loop: Any, place: torch.device, cycle: int, most_s: float) -> float:
    """Seconds of one update of the student, over whole cycles; the first one, which warms up, is left out where there are more.

    Args:
        cycle: updates after which the work repeats itself.

    Raises:
        TrialError: what comes before the first updates takes too long to be timed.
    """
    began, ends = time.perf_counter(), []

    def note(optimizer: Any, *_: Any) -> None:
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        now = time.perf_counter()
        if optimizer is loop.optimizer:
            ends.append(now)
            timed = now - ends[min(cycle, len(ends)) - 1]
            if len(ends) % cycle == 0 and len(ends) >= 2 * cycle and (timed >= most_s or len(ends) >= MOST_UPDATES):
                raise _Enough
        if now - began - loop.setup.passes.compiling_s > LONGEST_S and len(ends) < 2 * cycle:
            raise TrialError(
                f"{cycle} updates of {loop.setup.trial.method} take over {LONGEST_S:g} s, too long to be timed"
            )

    with _after_each_step(note), contextlib.suppress(_Enough):
        loop.run_epoch(loop.first_epochs)
    return per_update_s(began + loop.setup.passes.compiling_s, ends, cycle)


def per_update_s(began: float, ends: Sequence[float], cycle: int) -> float:
    """Seconds of one update from the times at which updates ended; see `_per_update_s`."""
    cycles = len(ends) // cycle - 1
    if cycles < 1:
        return (ends[-1] - began) / len(ends)
    return (ends[(cycles + 1) * cycle - 1] - ends[cycle - 1]) / (cycles * cycle)


@contextmanager
def _after_each_step(note: Any) -> Iterator[None]:
    handle = register_optimizer_step_post_hook(note)
    try:
        yield
    finally:
        handle.remove()


def _setup(trial: Trial, data_root: Path, place: torch.device, scratch: Path) -> Setup:
    images = data.load(trial.data, data_root).to(place)
    shape = {"classes": images.info.classes, "channels": images.info.channels, "size": images.info.size}
    student = models.build(trial.student, **shape, seed=trial.seed, role="student").to(place)
    teacher = None
    if trial.teacher is not None:
        teacher = models.build(trial.teacher.network, **shape, seed=trial.seed, role="teacher").to(place)
        freeze(teacher)
    return Setup(trial, images, student, teacher, place, scratch)
