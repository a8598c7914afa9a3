"""Where a claim's numbers come from: our runs, or the values that the papers (and their authors' notebooks) give."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from analysis import grid, printed, stats
from analysis.errors import StoreError
from analysis.grid import NOT_RUN, Grid
from analysis.runs import Store, Sweep
from analysis.snapshots import Snapshot
from sweeps import spec
from sweeps.spec import Experiment, Profile

ORIGINS = ("printed", "authors' notebook")
STATED = {("pckd/fig5a", "test/acc1_pct"): 76.45}
"""Lowest value of a curve of which the text gives no more (PCKD, Sec. IV-E)."""


@dataclass(frozen=True)
class Cell:
    """One value of an experiment.

    Attributes:
        labels: axis -> label, as in the experiment file.
        value: folded over seeds as the file's report says, in the unit of the metric's name; NaN where it is missing.
        std: over seeds; NaN without.
        n: seeds behind it; 0 where that is not known.
        note: why a value is missing.
        extra: a cell that the paper does not have.
    """

    labels: Mapping[str, str]
    value: float
    std: float = math.nan
    n: int = 0
    note: str = ""
    extra: bool = False

    @property
    def name(self) -> str:
        return ", ".join(self.labels.values()) or "all"


class Source(Protocol):
    """Values of experiments by metric. What is there but has no value is NaN with a note; what the paper leaves out is not there."""

    computes: bool
    """Whether what follows from formulas alone may be computed; no table prints it."""

    def cells(self, experiment: str, metric: str) -> list[Cell]: ...

    def curves(self, experiment: str, metric: str) -> list[tuple[Mapping[str, str], stats.Curve]]:
        """Values by epoch, averaged over seeds."""

    def kept(self, experiment: str, metric: str) -> list[tuple[Mapping[str, str], Snapshot[Any]]]:
        """What finished runs kept of an epoch, the first seed's."""

    def lowest(self, experiment: str, metric: str) -> float: ...

    def comparable(self, experiment: str) -> bool: ...

    def origin(self, experiment: str) -> str: ...

    def remarks(self, experiment: str) -> list[str]: ...

    def fault(self, experiment: str) -> str:
        """Why an experiment has no values at all; "" where it has some."""


class Printed:
    """The papers' values.

    Args:
        origins: of these only; `printed` is what the tables hold.
    """

    computes = False

    def __init__(self, origins: Sequence[str] = ORIGINS) -> None:
        self.origins = tuple(origins)

    def cells(self, experiment: str, metric: str) -> list[Cell]:
        found = load(experiment)
        if self.fault(experiment):
            return [Cell(cell.labels, math.nan) for cell in found.cells if cell.status not in NOT_RUN]
        values, report = reference_values(experiment), found.file.report
        cells = []
        for cell in found.cells:
            single = values.get(printed.key_of(found, cell.labels, metric))
            if single:
                folded = grid.summarise(single, report.over_seeds, metric)
                cells.append(Cell(cell.labels, folded.value, math.nan if folded.std is None else folded.std))
        return cells

    def curves(self, experiment: str, metric: str) -> list[tuple[Mapping[str, str], stats.Curve]]:
        return []

    def kept(self, experiment: str, metric: str) -> list[tuple[Mapping[str, str], Snapshot[Any]]]:
        return []

    def lowest(self, experiment: str, metric: str) -> float:
        stated = STATED.get((experiment, metric))
        if stated is not None and "printed" in self.origins:
            return stated
        return lowest_of(self.cells(experiment, metric))

    def comparable(self, experiment: str) -> bool:
        return True

    def origin(self, experiment: str) -> str:
        if any(name == experiment for name, _ in STATED):
            return "printed"
        reference = load(experiment).file.report.reference
        return reference.origin if reference is not None else ""

    def remarks(self, experiment: str) -> list[str]:
        return []

    def fault(self, experiment: str) -> str:
        origin = self.origin(experiment)
        return "" if origin in self.origins else f"{experiment}: no values in the paper's tables"


class Ours:
    """Finished runs of one profile.

    Args:
        profile: as loaded.
    """

    computes = True

    def __init__(self, store: Store, profile: Profile) -> None:
        self.store = store
        self.profile = profile
        self._sweeps: dict[str, Sweep | str] = {}
        self._grids: dict[tuple[str, str], Grid | str] = {}

    def cells(self, experiment: str, metric: str) -> list[Cell]:
        found = load(experiment, self.profile)
        made = self._grid(experiment, metric)
        if isinstance(made, str):
            return [
                Cell(cell.labels, math.nan, note=made, extra=is_extra(found, cell.labels))
                for cell in found.cells
                if cell.status not in NOT_RUN
            ]
        cells = []
        for record in made.cells:
            if record["state"] not in NOT_RUN:
                labels = {axis: str(record[axis]) for axis in made.axes}
                value = (
                    record["value"] if record["state"] == "done" else math.nan
                )  # a missing seed may be the worst one
                n, note = int(record["n"]), record["note"]
                cells.append(Cell(labels, value, record["std"], n, note, is_extra(found, labels)))
        return cells

    def curves(self, experiment: str, metric: str) -> list[tuple[Mapping[str, str], stats.Curve]]:
        found, sweep = load(experiment, self.profile), self._sweep(experiment)
        if isinstance(sweep, str):
            return []
        planned = grid.planned_trials(sweep.plan, found.name)
        runs = self.store.runs({digest for trials in planned.values() for digest in trials.values()})
        curves: list[tuple[Mapping[str, str], stats.Curve]] = []
        for cell in found.cells:
            trials = planned.get(grid.label_key(cell.labels), {})
            done = [runs[digest] for digest in trials.values() if digest in runs and runs[digest].state == "done"]
            if cell.status == "run" and trials and len(done) == len(trials):
                read = self.store.curves(done, metric)
                averaged = stats.mean_curve([read[run.digest] for run in done])
                curves.append((cell.labels, [(epoch, summary.value) for epoch, summary in averaged]))
        return curves

    def kept(self, experiment: str, metric: str) -> list[tuple[Mapping[str, str], Snapshot[Any]]]:
        made = self._grid(experiment, metric)
        if isinstance(made, str):
            return []
        found: list[tuple[Mapping[str, str], Snapshot[Any]]] = []
        for record in made.cells:
            mine = grid.snapshots_of(made, record)
            if mine:
                found.append(({axis: str(record[axis]) for axis in made.axes}, mine[0]))
        return found

    def lowest(self, experiment: str, metric: str) -> float:
        return lowest_of(self.cells(experiment, metric))

    def comparable(self, experiment: str) -> bool:
        sweep = self._sweep(experiment)
        return isinstance(sweep, str) or bool(sweep.plan["scale"]["comparable"])

    def origin(self, experiment: str) -> str:
        return f"our runs, profile {self.profile.name}"

    def remarks(self, experiment: str) -> list[str]:
        """What the profile leaves out of the experiment."""
        found = load(experiment, self.profile)
        said = []
        for axis in found.file.axes:
            kept = found.kept.get(axis.name)
            if kept is not None and len(kept) < len(axis.values):
                said.append(
                    f"{experiment}: profile {self.profile.name} keeps {len(kept)} of {len(axis.values)} labels of {axis.name}"
                )
        return said

    def fault(self, experiment: str) -> str:
        sweep = self._sweep(experiment)
        return sweep if isinstance(sweep, str) else ""

    def _sweep(self, experiment: str) -> Sweep | str:
        """The last sweep, or why there is none."""
        if experiment not in self._sweeps:
            try:
                self._sweeps[experiment] = self.store.sweep(experiment, self.profile.name)
            except StoreError as error:
                self._sweeps[experiment] = "; ".join(error.faults)
        return self._sweeps[experiment]

    def _grid(self, experiment: str, metric: str) -> Grid | str:
        """The results in one metric, or why there are none."""
        key = experiment, metric
        if key not in self._grids:
            found, sweep = load(experiment, self.profile), self._sweep(experiment)
            try:
                if isinstance(sweep, str):
                    self._grids[key] = sweep
                else:
                    self._grids[key] = grid.load(found, self.profile.name, sweep, self.store, [metric])
            except StoreError as error:
                self._grids[key] = "; ".join(error.faults)
        return self._grids[key]


class Reader:
    """A source as one claim reads it; remembers what was asked for and what was missing."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.waits = False
        self._used: dict[str, None] = {}
        self._missing: dict[str, list[str]] = {}
        self._formulas = False
        self._seeds: set[int] = set()

    @property
    def used(self) -> list[str]:
        """The experiments that were asked for."""
        return list(self._used)

    @property
    def comparable(self) -> bool:
        return all(self.source.comparable(experiment) for experiment in self._used)

    @property
    def origins(self) -> list[str]:
        found = [self.source.origin(experiment) for experiment in self._used if not self.source.fault(experiment)]
        return list(dict.fromkeys([*filter(None, found), *(["formulas"] if self._formulas else [])]))

    @property
    def reasons(self) -> list[str]:
        """Why values are missing, and what the numbers leave out."""
        said = [fault for fault in map(self.source.fault, self._used) if fault]
        for experiment, cells in self._missing.items():
            if not self.source.fault(experiment):
                unique = list(dict.fromkeys(cells))
                more = f" and {len(unique) - 1} more" if len(unique) > 1 else ""
                said.append(f"{experiment}: no value for {unique[0]}{more}")
        for experiment in self._used:
            said += self.source.remarks(experiment)
        if self._seeds:
            low, high = min(self._seeds), max(self._seeds)
            said.append(f"seeds: {low}" if low == high else f"seeds: {low} to {high}")
        return said

    def cells(self, experiment: str, metric: str, **only: str | Sequence[str]) -> list[Cell]:
        """The paper's cells with these labels."""
        return self._cells(experiment, metric, only, extras=False)

    def _cells(self, experiment: str, metric: str, only: Mapping[str, str | Sequence[str]], extras: bool) -> list[Cell]:
        self._used[experiment] = None
        found = [
            cell
            for cell in self.source.cells(experiment, metric)
            if (extras or not cell.extra) and fits(cell.labels, only)
        ]
        self._seeds |= {cell.n for cell in found if cell.n and not math.isnan(cell.value)}
        for cell in found:
            if math.isnan(cell.value):
                self._miss(experiment, f"{cell.name} ({cell.note})" if cell.note else cell.name)
        return found

    def cell(self, experiment: str, metric: str, **only: str) -> Cell:
        """The one cell with these labels, also one that the paper does not have; without a value where the source has none."""
        found = self._cells(experiment, metric, only, extras=True)
        if not found:
            self._miss(experiment, f"{', '.join(only.values())} (not at this scale)", waits=False)
            return Cell(only, math.nan)
        return found[0]

    def value(self, experiment: str, metric: str, **only: str) -> float:
        return self.cell(experiment, metric, **only).value

    def curves(
        self, experiment: str, metric: str, **only: str | Sequence[str]
    ) -> list[tuple[Mapping[str, str], stats.Curve]]:
        """Labels and values by epoch of the cells with these labels that are finished."""
        self._used[experiment] = None
        found = [(labels, curve) for labels, curve in self.source.curves(experiment, metric) if fits(labels, only)]
        if not any(len(curve) for _, curve in found):
            self._miss(experiment, f"{metric} by epoch")
        return [(labels, curve) for labels, curve in found if len(curve)]

    def kept(self, experiment: str, metric: str, **only: str) -> Snapshot[Any] | None:
        """What the cell with these labels kept of an epoch."""
        self._used[experiment] = None
        found = [snapshot for labels, snapshot in self.source.kept(experiment, metric) if fits(labels, only)]
        if not found:
            self._miss(experiment, ", ".join([*only.values(), metric]))
        return found[0] if found else None

    def labels(self, experiment: str, axis: str) -> list[str]:
        """The labels of an axis, after what a profile keeps."""
        self._used[experiment] = None
        profile = getattr(self.source, "profile", None)
        return list(grid.kept_labels(load(experiment, profile), axis))

    def lowest(self, experiment: str, metric: str) -> float:
        self._used[experiment] = None
        value = self.source.lowest(experiment, metric)
        if math.isnan(value):
            self._miss(experiment, "some cells")
        return value

    def formulas(self) -> bool:
        """Whether a statement about formulas may be computed here."""
        self._formulas = self.source.computes
        return self._formulas

    def _miss(self, experiment: str, what: str, waits: bool = True) -> None:
        self.waits |= waits
        self._missing.setdefault(experiment, []).append(what)


def load(experiment: str, profile: Profile | None = None) -> Experiment:
    """An experiment that comes with the package, with what the profile keeps of it."""
    return load_cached(experiment, None if profile is None else profile.given)


@cache
def load_cached(experiment: str, profile_name: str | None) -> Experiment:
    return spec.load(experiment, None if profile_name is None else spec.load_profile(profile_name))


@cache
def reference_values(experiment: str) -> Mapping[printed.Key, list[float]]:
    return printed.load(load(experiment))


@cache
def reference_labels(experiment: str) -> tuple[frozenset[str], ...]:
    """For each mapped axis, the labels that the reference file has."""
    found = load(experiment)
    reference = found.file.report.reference
    if reference is None:
        return ()
    rows = printed.labelled_rows(found, reference)
    return tuple(frozenset(labels[i] for labels, _ in rows) for i in range(len(reference.axes)))


def is_extra(experiment: Experiment, labels: Mapping[str, str]) -> bool:
    """Whether the paper's values know nothing of one of a cell's labels."""
    known = reference_labels(experiment.name)
    if not known:
        return False
    mine, _ = printed.key_of(experiment, labels, "")
    return any(label not in there for label, there in zip(mine, known, strict=True))


def fits(labels: Mapping[str, str], only: Mapping[str, str | Sequence[str]]) -> bool:
    """Whether the labels are among those asked for."""
    return all(labels.get(axis) in ([wanted] if isinstance(wanted, str) else wanted) for axis, wanted in only.items())


def lowest_of(cells: Sequence[Cell]) -> float:
    """NaN where one is missing: it might be the lowest."""
    values = [cell.value for cell in cells]
    return min(values) if values and not any(map(math.isnan, values)) else math.nan
