"""How good is the estimate of the end? Replays finished sweeps from their journals and asks the estimator at each tenth.

    python benchmarks/eta.py STATE_ROOT... [--gap-s 60] [--at-once 2]

A state root may hold several sweeps: times in which nothing runs for `--gap-s` part them. The estimator (`sweeps.eta`, the one
of the live view) is given what it would have seen then, with prices from operations alone, as in a fresh place. A tenth is one
of the estimated time: when the time that has passed is k tenths of it and of what is estimated to be left. The error is that
of the estimated time left, over the time left. Trials of several attempts are left out, and counted: where they are many, the
replay is not what happened. Prints Markdown, and the median over sweeps of the error after a tenth.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median

from sweeps import prices
from sweeps.eta import Track, Work, left_s
from sweeps.live import traits
from sweeps.spec import Resources
from trainers import attempts
from trainers.attempts import State
from trainers.config import Execution, Trial

STEPS = 400
"""Moments at which the replay looks, evenly over a sweep."""


@dataclass(frozen=True)
class Past:
    """A finished trial: when it began, when its epochs and the trial ended, in seconds of the clock on the wall.

    Attributes:
        first_took_s: its first epoch by its own clock.
        process: of the worker that trained it.
        sharing: how many trials began together in its place.
    """

    digest: str
    work: Work
    began_s: float
    epochs_s: tuple[float, ...]
    ended_s: float
    first_took_s: float | None = None
    process: tuple[str, ...] = ()
    sharing: int = 1


def read(state_root: Path, data_root: Path) -> tuple[list[Past], int]:
    """Trials of a state root that were finished in one go, in the order of starting, and the number of the others."""
    found, others = [], 0
    price = prices.expectations(state_root / "none", data_root)
    for file in sorted(state_root.glob("??/*/trial.json")):
        digest = file.parent.name
        status = attempts.read_status(state_root, digest)
        if status.state is not State.DONE or status.entry["attempt"] != 1 or status.folder is None:
            others += 1
            continue
        content = json.loads(file.read_text(encoding="utf-8"))
        trial, execution = Trial.model_validate(content["trial"]), Execution.model_validate(content["execution"])
        stamp = (status.folder / "log.txt").read_text(encoding="utf-8")[:23]
        began = datetime.strptime(stamp, "%Y-%m-%d %H:%M:%S,%f").timestamp()
        rows = attempts.rows(status)
        ends = tuple(row["timestamp_ms"] / 1000 for row in rows)
        key, source, seconds = price(trial, Resources(cpu=execution.threads))
        epochs = 1 if trial.kind == "evaluate" else trial.protocol.epochs
        upstream = tuple(up.digest() for up in trial.upstreams())
        work = Work(key, traits(trial, source or ""), epochs, None if source is None else seconds, upstream)
        claim = json.loads((status.folder / "claim.json").read_text(encoding="utf-8"))
        process = tuple(str(claim[name]) for name in ("host", "pid", "pid_start"))
        made = json.loads((status.folder / "made_with.json").read_text(encoding="utf-8"))
        ended = status.entry["timestamp_ms"] / 1000
        first = rows[0].get("time/total_s") if rows else None
        found.append(Past(digest, work, began, ends, ended, first, process, int(made.get("together", 1))))
    return sorted(found, key=lambda past: past.began_s), others


def sweeps_of(trials: list[Past], gap_s: float) -> list[list[Past]]:
    """Parts a state root's trials where nothing ran for a while."""
    parts: list[list[Past]] = []
    until = -float("inf")
    for past in trials:
        if past.began_s > until + gap_s:
            parts.append([])
        parts[-1].append(past)
        until = max(until, past.ended_s)
    return parts


def places_of(trials: Sequence[Past]) -> dict[str, tuple[str, ...]]:
    """Digest -> what those that began together have in common: a process, and the first of them."""
    places: dict[str, tuple[str, ...]] = {}
    open_groups: dict[tuple[str, ...], list[Past]] = {}
    for past in trials:
        group = open_groups.setdefault(past.process, [])
        if group and (len(group) == group[0].sharing or past.sharing != group[0].sharing):
            group.clear()
        group.append(past)
        places[past.digest] = (*past.process, group[0].digest)
    return places


def seen_at(trials: list[Past], places: Mapping[str, tuple[str, ...]], now_s: float) -> dict[str, Track]:
    """What a launch would have known at a time."""
    tracks = {}
    for past in trials:
        track = Track(past.work)
        if past.began_s <= now_s and past.sharing > 1:
            track.place, track.sharing = places[past.digest], past.sharing
        if past.began_s <= now_s:
            track.began_s = past.began_s
        for number, end in enumerate(past.epochs_s, start=1):
            if end <= now_s:
                track.first_took_s = past.first_took_s
                track.add(number, end)
        if past.ended_s <= now_s:
            track.ended_s = past.ended_s
        tracks[past.digest] = track
    return tracks


def errors(trials: list[Past], at_once: int) -> dict[int, float]:
    """Tenth of the estimated time -> estimated over real time left, less 1."""
    began, ended = min(past.began_s for past in trials), max(past.ended_s for past in trials)
    found, places = dict[int, float](), places_of(trials)
    for step in range(1, STEPS):
        passed = (ended - began) * step / STEPS
        left = left_s(seen_at(trials, places, began + passed), at_once, began + passed)
        if left is None:
            continue
        tenth = int(10 * passed / (passed + left)) if passed + left else 10
        for each in range(1, min(tenth, 9) + 1):
            found.setdefault(each, left / (ended - began - passed) - 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument("state_roots", type=Path, nargs="+", metavar="STATE_ROOT")
    parser.add_argument("--data", type=Path, default=Path(".sweeps/data"), help="root of data sets, for prices")
    parser.add_argument("--gap-s", type=float, default=60.0, help="sweeps are parted by such a pause (default 60)")
    parser.add_argument("--at-once", type=int, default=2, help="trials that ran at a time (default 2)")
    parser.add_argument("--least", type=int, default=8, help="leave out sweeps of fewer trials (default 8)")
    arguments = parser.parse_args()
    tenths = "".join(f" {each}/10 |" for each in range(1, 10))
    sys.stdout.write(f"| sweep | trials | minutes |{tenths}\n|---|---:|---:|{'---:|' * 9}\n")
    first = []
    for root in arguments.state_roots:
        past, others = read(root, arguments.data)
        if others:
            sys.stderr.write(f"{root}: {others} trials left out, of several attempts or not done\n")
        for number, trials in enumerate(sweeps_of(past, arguments.gap_s), start=1):
            if len(trials) < arguments.least:
                continue
            minutes = (max(each.ended_s for each in trials) - trials[0].began_s) / 60
            found = errors(trials, arguments.at_once)
            shown = "".join(f" {100 * found[each]:+.0f} % |" if each in found else " |" for each in range(1, 10))
            sys.stdout.write(f"| {root} {number} | {len(trials)} | {minutes:.0f} |{shown}\n")
            first += [abs(found[1])] if 1 in found else []
    if first:
        sys.stdout.write(f"\nafter a tenth: median error {100 * median(first):.0f} % over {len(first)} sweeps\n")


if __name__ == "__main__":
    main()
