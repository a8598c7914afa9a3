"""What is left of a sweep in hours, with an 80 % interval: from finished trials of like cost, a probe, or operations."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sweeps import cost
from sweeps.groups import gain
from sweeps.plan import Plan
from sweeps.queue import Queue
from sweeps.spec import Resources
from trainers import attempts, methods, provenance
from trainers.attempts import State, Status, read_status
from trainers.config import Execution, PassKind, Trial
from trainers.data._views import VIEWS
from trainers.errors import TrainerError

Source = Literal["known", "probed", "computed"]
Records = Mapping[str, Sequence[float]]
"""Seconds of whole trials by `cost_key`."""

COVERAGE = 0.8
PRIOR_SPREAD, PRIOR_WEIGHT = 0.2, 2.0
"""Relative std of a trial's time before any record speaks, and how many records that weighs."""
PROBE_FACTOR = 1.5
"""A probe's price may be wrong by this factor either way: pace drifts over a run, and trials share a machine."""
OPERATIONS_FACTOR = 3.0
"""Operations' likewise; of 106 trials of the demo on a CPU, 102 ran within it of the speed that is assumed."""


@dataclass(frozen=True)
class Hours:
    """A sum of times in hours, and the ends of its 80 % interval."""

    mean: float
    low: float
    high: float

    def interval(self) -> str:
        """`9 to 15 min`, or hours where it ends beyond two."""
        factor, unit = (60, "min") if self.high < 2 else (1, "h")
        return f"{_short(self.low * factor)} to {_short(self.high * factor)} {unit}"


@dataclass(frozen=True)
class Price:
    """Estimated cost of what is not done yet.

    Attributes:
        trial: training time of one trial after the other.
        gpu: the same times the GPUs of a trial.
        wall_hours: on this machine, with as many trials at once as fit; None where it cannot hold one.
        known: trials priced from finished ones of like cost.
        probed: from a few updates that were run for real.
        computed: from their floating-point operations.
        unknown: trials for which there is no estimate.
    """

    trial: Hours
    gpu: Hours
    wall_hours: float | None
    known: int
    probed: int
    computed: int
    unknown: int

    @property
    def priced(self) -> int:
        return self.known + self.probed + self.computed

    def as_json(self) -> dict[str, Any]:
        """For machines: hours with the ends of their interval, and the number of trials by source."""
        return {
            "trial_hours": self.trial.mean,
            "trial_hours_80": [self.trial.low, self.trial.high],
            "gpu_hours": self.gpu.mean,
            "gpu_hours_80": [self.gpu.low, self.gpu.high],
            "wall_hours": self.wall_hours,
            "known": self.known,
            "probed": self.probed,
            "computed": self.computed,
            "unknown": self.unknown,
        }

    def __str__(self) -> str:
        if self.priced + self.unknown == 0:
            return "nothing to run"
        if self.priced == 0:
            return f"no estimate yet for {self.unknown} trials: none of like cost is finished; `sweep plan --probe` times a few updates"
        gpus = ""
        if self.gpu.mean:
            gpus = f", {_short(self.gpu.mean)} GPU-hours (80 %: {_short(self.gpu.low)} to {_short(self.gpu.high)})"
        wall = "" if self.wall_hours is None else f", about {span(self.wall_hours)} on this machine"
        ways = [
            f"{self.known} from finished trials of like cost" if self.known else "",
            f"{self.probed} from a probe of a few updates" if self.probed else "",
            f"{self.computed} from operations at an assumed speed" if self.computed else "",
            f"{self.unknown} trials without a like one on record" if self.unknown else "",
        ]
        total = f"about {span(self.trial.mean)} of training one after the other (80 %: {self.trial.interval()})"
        return f"{total}{gpus}{wall}; {', '.join(filter(None, ways))}"


@dataclass(frozen=True)
class _Left:
    """One trial that is not done.

    Attributes:
        share: part of it that is left; of that, what it costs beside others that share its teacher's passes.
        seconds: of a whole one that is alone; 0 where nothing is known.
        members: of its group.
    """

    trial: Trial
    resources: Resources
    key: str
    share: float
    source: Source | None = None
    seconds: float = 0.0
    members: int = 1


def price(
    plans: Sequence[Plan],
    state_root: Path,
    data_root: Path,
    *,
    probed: Mapping[str, float] | None = None,
    to_come: Mapping[str, int] | None = None,
    members: Mapping[str, int] | None = None,
    local: bool = False,
) -> Price:
    """Estimate of all that is not done: each trial from what is known best of its like (see `cost_key`).

    From n_g finished trials of key g, with mean m_g, the time S of those left is predicted, w being the share of each
    that is left and W_g the sum of shares:

        S = sum_g m_g W_g  -/+  t_{0.9, v} r sqrt( sum_g m_g^2 (sum w^2 + W_g^2 / n_g) )

    the prediction interval of a sum (scatter of the new trials, and of the mean) at a relative std r that all keys share:
    r^2 = (v0 r0^2 + sum_gi (t_gi / m_g - 1)^2) / v with v = v0 + sum_g (n_g - 1), where r0 and v0 stand in for records.
    Times from probes and operations are multiplied and divided by a stated factor instead: one error, shared by all.

    Args:
        probed: seconds by key, as `probe` gives them.
        to_come: suggestions that each cell of a search may still make, by the plan's title (default: all of them).
        members: of the group that a trial, by digest, will be in; it is charged its part of the teacher's passes.
        local: trials run on this machine, so it is known how many fit at once.
    """
    records = _records(state_root, data_root)
    left = (_in_company(item, members or {}, data_root) for item in _left(plans, state_root, to_come or {}))
    items = [_priced(item, records, probed or {}, data_root) for item in left]
    count = Counter(item.source for item in items)
    total = _hours(items, records, lambda item: 1.0)
    return Price(
        total,
        _hours(items, records, lambda item: item.resources.gpu),
        _wall_hours(items, total.mean) if local else None,
        count["known"],
        count["probed"],
        count["computed"],
        count[None],
    )


def probe(plans: Sequence[Plan], state_root: Path, data_root: Path) -> tuple[dict[str, float], list[str]]:
    """Times a few updates of one trial of each key that has no finished one.

    Returns:
        Seconds of a whole trial by key, for `price`; and one line for each that could not be timed here.
    """
    import torch

    from trainers import timing

    records, found, problems = _records(state_root, data_root), dict[str, float](), list[str]()
    for item in _left(plans, state_root, {}):
        if item.key in found or _recorded(item.key, records) or item.trial.kind not in ("distill", "datafree"):
            continue
        name = f"{item.trial.method} {item.trial.student}"
        if item.resources.gpu and not torch.cuda.is_available():
            problems.append(f"{name}: is trained on a GPU, and this machine has none to time it on")
            continue
        device, threads = _place(item.resources)
        try:
            execution = Execution.of_new(max(1, threads), item.resources.passes)
            found[item.key] = timing.probe_s(item.trial, data_root, device=device, execution=execution)
        except (TrainerError, OSError, RuntimeError) as error:
            problems.append(f"{name}: {str(error).splitlines()[0]}")
    return found, list(dict.fromkeys(problems))


class Bill:
    """What a launch was planned to cost, and what it cost.

    Args:
        queue: before anything runs.
    """

    def __init__(self, planned: Price, queue: Queue, state_root: Path) -> None:
        self.planned, self.queue, self.state_root = planned, queue, state_root
        self._before = {digest: _spent_s(state_root, digest) for digest in queue.trials}

    def __str__(self) -> str:
        """As `comparison`, over what was added to the journals since."""
        hours = gpu_hours = 0.0
        for digest in self.queue.trials:
            own = max(0.0, _spent_s(self.state_root, digest) - self._before.get(digest, 0.0)) / 3600
            hours += own
            gpu_hours += own * self.queue.resources(digest).gpu
        return comparison(self.planned, hours, gpu_hours)


def _spent_s(state_root: Path, digest: str) -> float:
    """Training time of a trial so far, as its journal has it."""
    rows = attempts.rows(read_status(state_root, digest))
    return float(rows[-1].get("time/total_s", 0.0)) if rows else 0.0


def comparison(planned: Price, trial_hours: float, gpu_hours: float) -> str:
    """One line at the end of a launch: what was planned, what it took, and whether that lies in the interval."""
    took = f"{span(trial_hours)} of training" + (f", {_short(gpu_hours)} GPU-hours" if gpu_hours else "")
    if planned.priced == 0:
        return f"price: planned without an estimate, took {took}"
    low, high = planned.trial.low, planned.trial.high
    verdict = "within" if low <= trial_hours <= high else "above" if trial_hours > high else "below"
    return f"price: planned {span(planned.trial.mean)} (80 %: {planned.trial.interval()}), took {took}: {verdict} the interval"


def cost_key(trial: Trial, device: str, threads: int, passes: PassKind = "eager") -> str:
    """What costs time: kind, method, networks, data, recipe, precision, views or synthesised images, passes, device, threads.

    Args:
        device: "cuda" or "cpu"; empty where it was not recorded.
        threads: of a trial on a CPU, else 0.
        passes: see `Execution.passes`.

    Raises:
        TrainerError, ValueError: the method is not there any more, or takes other hyper-parameters.
    """
    parts = [
        trial.kind,
        trial.method,
        trial.student,
        None if trial.teacher is None else trial.teacher.network,
        trial.data.model_dump(mode="json"),
        trial.protocol.digest_fields(),
        trial.precision,
        _work(trial),
        *([] if passes == "eager" else [passes]),
        device,
        threads,
    ]
    return json.dumps(parts, sort_keys=True)


def _work(trial: Trial) -> list[Any]:
    """What of the hyper-parameters decides how much is computed."""
    config = methods.config_type(trial.method).model_validate(dict(trial.hparams))
    if trial.kind == "distill":
        return [VIEWS[methods.views(trial.method, config)].count]
    if trial.kind == "datafree":
        sizes = [getattr(config, name, None) for name in ("generator_width", "generator_depth", "latent_dim")]
        return [methods.synthesis_images(trial.method, config, trial.protocol), *sizes]
    return []


def expectations(state_root: Path, data_root: Path) -> Callable[[Trial, Resources], tuple[str, Source | None, float]]:
    """A function that gives a trial's key, where its price comes from, and seconds of a whole one, as `price` takes them now."""
    records = _records(state_root, data_root)

    def expected(trial: Trial, resources: Resources) -> tuple[str, Source | None, float]:
        key = _key(trial, resources)
        item = _priced(_Left(trial, resources, key, 1.0), records, {}, data_root)
        return key, item.source, item.seconds

    return expected


@dataclass(frozen=True)
class Finished:
    """A finished trial as it is on record.

    Attributes:
        key: see `cost_key`.
        seconds: of training.
        device: "cuda" or "cpu"; empty where it was not recorded.
        threads: on a CPU, else 0.
        together: trials of its group.
    """

    trial: Trial
    key: str
    seconds: float
    device: str
    threads: int
    together: int


def finished(state_root: Path) -> Iterator[Finished]:
    """All finished trials in the state root."""
    for file in state_root.glob("*/*/result.json"):
        try:
            content = json.loads((file.parent / "trial.json").read_text())
            seconds = float(json.loads(file.read_text())["time/total_s"])
            made = provenance.read(read_status(state_root, file.parent.name).folder)
            device = str(made.get("device", ""))
            execution = Execution.model_validate(content["execution"])
            threads = execution.threads if device == "cpu" else 0
            trial = Trial.model_validate(content["trial"])
            key = cost_key(trial, device, threads, execution.passes)
        except (OSError, ValueError, KeyError, TrainerError):
            continue  # of an older layout or of a method that is gone: it only fails to inform the estimate
        yield Finished(trial, key, seconds, device, threads, int(made.get("together", 1)))


def _records(state_root: Path, data_root: Path) -> dict[str, list[float]]:
    """Times of all finished trials in the state root; of those that were in a group what they would have taken alone."""
    found: dict[str, list[float]] = {}
    for each in finished(state_root):
        seconds = each.seconds * _gain(each.trial, each.together, each.threads, data_root)
        found.setdefault(each.key, []).append(seconds)
    return found


def _gain(trial: Trial, members: int, threads: int, data_root: Path) -> float:
    """Time of a trial that is alone over its part of a group's; see `sweeps.groups.gain`."""
    if members == 1:
        return 1.0
    return gain(cost.teacher_share(trial, data_root, threads=threads or None), members)


def _in_company(item: _Left, members: Mapping[str, int], data_root: Path) -> _Left:
    size = members.get(item.trial.digest(), 1)
    sooner = _gain(item.trial, size, _place(item.resources)[1], data_root)
    return replace(item, share=item.share / sooner, members=size)


def _recorded(key: str, records: Records) -> Sequence[float]:
    """Times of like trials; those whose device was not recorded may have run on this one."""
    *parts, _, _ = json.loads(key)
    return [*records.get(key, ()), *records.get(json.dumps([*parts, "", 0], sort_keys=True), ())]


def _key(trial: Trial, resources: Resources) -> str:
    return cost_key(trial, *_place(resources), resources.passes)


def _place(resources: Resources) -> tuple[str, int]:
    """Device and threads of trials with these resources, as a worker sets them."""
    return resources.device, 0 if resources.gpu else resources.threads


def _left(plans: Sequence[Plan], state_root: Path, to_come: Mapping[str, int]) -> Iterator[_Left]:
    """Every distinct trial that is not done, and what searches may still suggest, each like the first they might."""
    seen: set[str] = set()
    for plan in plans:
        search = plan.experiment.file.search
        suggestions = 0 if search is None else to_come.get(plan.title, search.trials) * len(plan.seeds)
        upstream = [up for trial in plan.probes if suggestions for up in _upstream(trial)]
        for trial in (*plan.trials.values(), *upstream):
            status = read_status(state_root, trial.digest())
            if trial.digest() in seen or status.state is State.DONE:
                continue
            seen.add(trial.digest())
            yield _Left(trial, plan.resources, _key(trial, plan.resources), _share_left(trial, status))
        for trial in plan.probes:
            key = _key(trial, plan.resources)
            yield from [_Left(trial, plan.resources, key, 1.0)] * suggestions


def _upstream(trial: Trial) -> Iterator[Trial]:
    for upstream in trial.upstreams():
        yield from _upstream(upstream)
        yield upstream


def _share_left(trial: Trial, status: Status) -> float:
    if status.state not in (State.PARTIAL, State.STOPPED):  # a failed one starts over
        return 1.0
    return 1.0 - min(1.0, len(attempts.rows(status)) / max(1, trial.protocol.epochs))


def _priced(item: _Left, records: Records, probed: Mapping[str, float], data_root: Path) -> _Left:
    times = _recorded(item.key, records)
    source: Source | None = "known"
    seconds: float | None
    if times:
        seconds = sum(times) / len(times)
    elif item.key in probed:
        source, seconds = "probed", probed[item.key]
    else:
        device, threads = _place(item.resources)
        source, seconds = "computed", cost.seconds(item.trial, data_root, threads=threads if device == "cpu" else None)
    if seconds is None:
        source, seconds = None, 0.0
    return replace(item, source=source, seconds=seconds)


def _hours(items: Sequence[_Left], records: Records, weight: Callable[[_Left], float]) -> Hours:
    """Weighted sum of the times left, with its interval."""
    mean = low = high = 0.0
    for factor, source in ((PROBE_FACTOR, "probed"), (OPERATIONS_FACTOR, "computed")):
        part = sum(weight(item) * item.seconds * item.share for item in items if item.source == source)
        mean, low, high = mean + part, low + part / factor, high + part * factor
    groups: dict[str, list[float]] = {}
    for item in items:
        if item.source == "known":
            groups.setdefault(item.key, []).append(weight(item) * item.share)
    centre, half = predicted_sum([(_recorded(key, records), shares) for key, shares in groups.items()])
    return Hours((mean + centre) / 3600, (low + max(0.0, centre - half)) / 3600, (high + centre + half) / 3600)


def predicted_sum(groups: Sequence[tuple[Sequence[float], Sequence[float]]]) -> tuple[float, float]:
    """Sum of times to come and half of its 80 % prediction interval, as `price` states them.

    Args:
        groups: recorded times t (at least one) and shares w of the trials to come, of each key.
    """
    if not groups:
        return 0.0, 0.0
    from scipy.special import stdtrit

    centre = variance = 0.0
    squares, freedom = PRIOR_WEIGHT * PRIOR_SPREAD**2, PRIOR_WEIGHT
    for times, shares in groups:
        mean, whole = sum(times) / len(times), sum(shares)
        if mean <= 0:
            continue
        centre += mean * whole
        variance += mean**2 * (sum(share**2 for share in shares) + whole**2 / len(times))
        squares += sum((time / mean - 1) ** 2 for time in times)
        freedom += len(times) - 1
    quantile = float(stdtrit(freedom, (1 + COVERAGE) / 2))
    return centre, quantile * math.sqrt(squares / freedom * variance)


def _wall_hours(items: Sequence[_Left], total: float) -> float | None:
    """Total over the trials at once, or the longest chain of a trial and what it waits for where that takes longer."""
    import torch

    have = Resources(cpu=os.cpu_count() or 1, gpu=torch.cuda.device_count())
    fits = [
        int(min(have.cpu / item.resources.cpu, have.gpu / item.resources.gpu if item.resources.gpu else math.inf))
        for item in items
    ]
    if not fits or min(fits) < 1 or any(item.source is None for item in items):
        return None
    times = {item.trial.digest(): item.members * item.seconds * item.share / 3600 for item in items}

    def chain(trial: Trial) -> float:
        return times.get(trial.digest(), 0.0) + max((chain(up) for up in trial.upstreams()), default=0.0)

    return max(total / max(fits), max(chain(item.trial) for item in items))


def span(hours: float) -> str:
    """`12 min`, or hours from two on."""
    return f"{_short(hours * 60)} min" if hours < 2 else f"{_short(hours)} h"


def _short(value: float) -> str:
    """Two digits that count below 10, whole numbers above."""
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.2g}"
