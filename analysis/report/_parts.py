"""What a report says of one experiment, before it is HTML: result, counts, failures, provenance."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import pandas as pd

from analysis.cli import load
from analysis.errors import AnalysisError, NeverSwept
from analysis.grid import NOT_RUN, Grid
from analysis.runs import Run, Store, Sweep
from analysis.searches import ORDER, SearchResult
from sweeps import spec
from sweeps.errors import SweepError
from sweeps.spec import Experiment, Profile

if TYPE_CHECKING:
    from analysis.cli import Result

PATH = re.compile(r"(?<![\w:/.])/(?:[^/\s'\"<>:;,]+/)+")
"""The folders of an absolute path; the name after them stays, and so do addresses of pages."""
NAMES = {"commit": "commit", "versions": "packages", "machine": "machine", "device": "device"}
"""What runs record, in this order; anything else they record keeps its name and comes after."""


@dataclass(frozen=True)
class Counts:
    """Cells of an experiment by how far they are; a cell with a failed seed is failed, one without all values missing."""

    done: int = 0
    missing: int = 0
    failed: int = 0
    left_out: int = 0


@dataclass(frozen=True)
class Failure:
    """One failed trial.

    Attributes:
        trial: its cells and seed, or its readable name where no cell is made of it alone (a teacher).
        waiting: trials without a run at the time, which may have waited for it; 0 for a cell's own trial.
        log: place of its log below the state root.
    """

    trial: str
    cause: str
    log: str
    waiting: int = 0


@dataclass(frozen=True)
class Part:
    """One experiment of a report.

    Attributes:
        name: `paper/figure`; for a file that cannot be read, its name.
        note: what its numbers of cells do not say, e.g. the state of a search's suggestions.
        result: None unless it was swept and can be shown.
        command: starts the sweep.
        provenance: what it was made with: (heading, values).
    """

    name: str
    title: str
    state: Literal["swept", "never swept", "fault"]
    counts: Counts
    scrub: Scrub
    note: str = ""
    result: Result | None = None
    faults: tuple[str, ...] = ()
    failures: tuple[Failure, ...] = ()
    command: str = ""
    provenance: tuple[tuple[str, tuple[str, ...]], ...] = ()


class Scrub:
    """Takes out of a text where things are on this machine, so that the same runs give the same bytes everywhere.

    Args:
        address: the store's, without password.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        parts = urlsplit(address)
        local = parts.scheme in ("", "file") or parts.scheme.startswith("sqlite")
        self.store = f"{parts.scheme or 'file'}: {Path(parts.path).name}" if local else address

    def __call__(self, text: str) -> str:
        return PATH.sub("…/", text.replace(self.address, self.store))


def collect(store: Store, name: str, profile: Profile) -> Part:
    """All that there is of one experiment; never raises for what is wrong with it alone."""
    scrub = Scrub(store.address)
    try:
        experiment = spec.load(name, profile)
    except SweepError as error:
        short = Path(name).name if name.endswith(".toml") else name
        faults = tuple(scrub(fault.replace(name, short)) for fault in error.faults)
        return Part(short, "", "fault", Counts(), scrub, faults=faults)
    title = experiment.file.title
    given = Path(name).name if name.endswith(".toml") else name
    command = f"sweep run {given} --profile {profile.name}"
    try:
        sweep = store.sweep(experiment.name, profile.name)
        result = load(store, name, profile.given)
        return Part(
            experiment.name,
            title,
            "swept",
            count(result, experiment),
            scrub,
            note=suggestions(result),
            result=result,
            failures=tuple(failures(result, sweep, store, scrub)),
            command=command,
            provenance=tuple(provenance(experiment, result, sweep, store, scrub)),
        )
    except NeverSwept:
        return Part(experiment.name, title, "never swept", never(experiment), scrub, command=command)
    except (AnalysisError, SweepError) as error:
        faults = tuple(scrub(fault.replace(name, given)) for fault in error.faults)
        return Part(experiment.name, title, "fault", Counts(), scrub, faults=faults, command=command)


# --- counts ----------------------------------------------------------------------------------------------------------


def never(experiment: Experiment) -> Counts:
    left_out = sum(cell.status in NOT_RUN for cell in experiment.cells)
    return Counts(missing=len(experiment.cells) - left_out, left_out=left_out)


def count(result: Result, experiment: Experiment) -> Counts:
    """Every cell of the file once, whatever its metrics and seeds."""
    left_out = sum(cell.status in NOT_RUN for cell in experiment.cells)
    every = len(experiment.cells) - left_out
    if not isinstance(result, Grid):
        return Counts(every - len(result.missing), len(result.missing), 0, left_out)
    empty = result.frame[result.frame["value"].isna() & ~result.frame["state"].isin(NOT_RUN)]
    missing = set(cells(result, empty))
    failed = set(cells(result, empty[empty["state"] == "failed"]))
    return Counts(every - len(missing), len(missing - failed), len(failed), left_out)


def cells(grid: Grid, frame: pd.DataFrame) -> list[tuple[str, ...]]:
    """The labels of each row."""
    return [tuple(str(row[axis]) for axis in grid.axes) for row in frame.to_dict("records")]


def suggestions(result: Result) -> str:
    """The states of a search's suggestions; "" for anything else."""
    if not isinstance(result, SearchResult):
        return ""
    found = Counter(s["state"] for study in result.studies for s in study.suggestions)
    shown = ", ".join(f"{found[state]} {state}" for state in ORDER if found[state])
    return f"suggestions: {shown or 'none yet'}"


# --- failures --------------------------------------------------------------------------------------------------------


def trials(result: Result) -> dict[str, list[str]]:
    """Digest -> the cells and seeds that it serves, in words."""
    found: dict[str, list[str]] = {}
    if isinstance(result, Grid):
        rows = result.frame[(result.frame["digest"] != "") & ~result.frame["state"].isin(NOT_RUN)].to_dict("records")
        for row in rows:
            labels = " ".join(f"{axis}={row[axis]}" for axis in result.axes) or "all"
            found.setdefault(row["digest"], []).append(f"{labels} seed={row['seed']}")
    elif isinstance(result, SearchResult):
        for study in result.studies:
            for s in study.suggestions:
                for seed, digest in s["trials"].items():
                    found.setdefault(digest, []).append(f"{study.name} suggestion={s['number']} seed={seed}")
    return {digest: list(dict.fromkeys(names)) for digest, names in found.items()}


def failures(result: Result, sweep: Sweep, store: Store, scrub: Scrub) -> Iterable[Failure]:
    """Failed trials of cells; then, where some were never started, failed trials that are no cell of it, such as teachers."""
    mine = trials(result)
    runs = store.runs(mine)
    for digest, names in mine.items():
        if digest in runs and runs[digest].state == "failed":
            yield Failure("; ".join(names), cause(runs[digest], scrub), log(runs[digest]))
    waiting = sum(digest not in runs for digest in mine)
    for name, run in store.serving(sweep).items() if waiting else ():
        if run.state == "failed" and run.digest not in mine:
            yield Failure(name, cause(run, scrub), log(run), waiting)


def cause(run: Run, scrub: Scrub) -> str:
    return scrub(run.error) or "not recorded"


def log(run: Run) -> str:
    """Older runs say no attempt."""
    return run.log or f"{run.digest[:2]}/{run.digest}/attempts"


# --- provenance ------------------------------------------------------------------------------------------------------


def provenance(
    experiment: Experiment, result: Result, sweep: Sweep, store: Store, scrub: Scrub
) -> Iterable[tuple[str, tuple[str, ...]]]:
    """What it was made with, as far as its runs record it."""
    changed = "" if sweep.plan["sha256"] == experiment.sha256 else " (the file has changed since)"
    yield "experiment file", (f"SHA-256 {sweep.plan['sha256']}{changed}",)
    yield "planned at commit", (sweep.made.get("commit", "not recorded"),)
    yield "parent run", (sweep.run_id,)
    yield "store", (scrub.store,)
    runs = list(store.runs(trials(result)).values())
    if runs:
        yield "trials", (f"{len(runs)} with a run",)
    every = sorted({name for run in runs for name in run.made} | ({"commit", "versions"} if runs else set()))
    for name in [*(each for each in NAMES if each in every), *(each for each in every if each not in NAMES)]:
        yield NAMES.get(name, name), spread([run.made for run in runs], name, scrub)


def spread(made: list[Mapping[str, str]], name: str, scrub: Scrub) -> tuple[str, ...]:
    """The different values, most frequent first, with their numbers of runs where there are several."""
    found = Counter(scrub(each.get(name, "not recorded")) for each in made)
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    if len(ordered) == 1:
        return (ordered[0][0],)
    return tuple(f"{value} ({n} {'run' if n == 1 else 'runs'})" for value, n in ordered)
