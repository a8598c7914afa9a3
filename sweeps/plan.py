"""What a launch would do: cells times seeds plus upstream, less what is done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweeps import resolve, spec
from sweeps.errors import SetupError, SpecError
from sweeps.spec import Cell, Experiment, Profile
from trainers.attempts import State, read_status
from trainers.config import DataSpec, Trial


@dataclass(frozen=True)
class Entry:
    """One cell with one seed."""

    cell: Cell
    seed: int
    trial: Trial
    digest: str


@dataclass
class Plan:
    """One experiment at one profile: its cells, their trials and the trials those need.

    Attributes:
        entries: cells that are trained, times seeds.
        trials: digest -> trial, upstream before what needs it.
        names: digest -> readable name within this experiment.
        states: digest -> state when the plan was made.
        selected: cells that were asked for (`--only`).
        notes, mapped: constants that the profile scaled, and names that it replaced.
        probes: one suggestion a searched cell might make; it shows what data a search needs.
        asked: resources that the command line wants others of, by name; `resources` raises ValidationError where there are none such.
    """

    experiment: Experiment
    profile: Profile
    seeds: tuple[int, ...]
    selected: tuple[Cell, ...]
    entries: list[Entry] = field(default_factory=list)
    trials: dict[str, Trial] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    mapped: list[str] = field(default_factory=list)
    probes: list[Trial] = field(default_factory=list)
    asked: Mapping[str, float | str] = field(default_factory=dict)

    @property
    def data(self) -> list[DataSpec]:
        """Every data set that this plan's trials need, those of a search's suggestions to come included."""
        return list(dict.fromkeys(trial.data for trial in (*self.trials.values(), *self.probes)))

    @property
    def title(self) -> str:
        return f"{self.experiment.name} [{self.profile.name}]"

    @property
    def resources(self) -> spec.Resources:
        own = self.profile.resources or self.experiment.file.resources
        return spec.Resources.model_validate(own.model_dump() | dict(self.asked))

    def add(self, trial: Trial, name: str) -> str:
        """Adds a trial after its upstream trials; returns its digest."""
        for upstream in trial.upstreams():
            role = "teacher" if trial.teacher is not None and trial.teacher.trial is upstream else "student"
            self.add(upstream, f"{role} {upstream.student} {_recipe(upstream)}seed={upstream.seed}")
        digest = trial.digest()
        self.trials.setdefault(digest, trial)
        self.names.setdefault(digest, name)
        return digest

    def as_json(self) -> dict[str, Any]:
        """The artifact `plan.json`: cell -> digests, so that analysis needs no torch to join cells to runs."""
        digests: dict[str, dict[str, str]] = {}
        for entry in self.entries:
            digests.setdefault(entry.cell.name, {})[str(entry.seed)] = entry.digest
        cells = [
            {
                "labels": dict(cell.labels),
                "status": cell.status,
                "reason": cell.reason,
                "trials": digests.get(cell.name, {}),
                **({"declared": resolve.declared(cell)} if cell.status == "declared" else {}),
            }
            for cell in self.experiment.cells
        ]
        scale = {"comparable": not self.mapped, "note": "; ".join([*self.mapped, *self.notes])}
        return {
            "schema": 1,
            "experiment": self.experiment.name,
            "profile": self.profile.name,
            "sha256": self.experiment.sha256,
            "scale": scale,
            "cells": cells,
        }


def make(
    name: str,
    profile: Profile,
    state_root: Path,
    data_root: Path,
    *,
    seeds: Sequence[int] | None = None,
    only: Mapping[str, Sequence[str]] | None = None,
) -> Plan:
    """The plan of one experiment.

    Raises:
        SpecError: every fault of the experiment at this profile.
    """
    experiment, faults = spec.read(name, profile)
    resolved: dict[tuple[str, int], resolve.Resolved] = {}
    if experiment is not None:
        faults += resolve.cell_faults(experiment, profile, data_root, resolved)
        faults += spec.race_faults(experiment.file.search, seeds, "--seeds") if seeds else []
    if experiment is None or faults:
        raise SpecError(*dict.fromkeys(faults))
    selected = experiment.select(only or {})
    plan = Plan(experiment, profile, tuple(seeds or experiment.file.seeds), selected)
    # every cell's digest is known, so that plan.json is whole; only those asked for become trials to run
    for cell in experiment.cells:
        if cell.status != "run" or experiment.file.search is not None:
            continue
        for seed in seeds or cell.seeds or experiment.file.seeds:
            known = resolved.get((cell.name, seed))
            trial, scaling = known or resolve.resolve(experiment, profile, cell, seed, data_root)
            plan.entries.append(Entry(cell, seed, trial, trial.digest()))
            plan.notes += [note for note in scaling.notes if note not in plan.notes]
            plan.mapped += [line for line in scaling.mapped if line not in plan.mapped]
            if cell in selected:
                plan.add(trial, f"{short_name(experiment, cell)} seed={seed}")
    if experiment.file.search is not None:
        for cell in selected:
            probe = resolve.corners(experiment.file.search.space)[0]
            trial, scaling = resolve.resolve(experiment, profile, cell, plan.seeds[0], data_root, probe)
            plan.probes.append(trial)
            plan.mapped += [line for line in scaling.mapped if line not in plan.mapped]
    plan.states = states(state_root, plan.trials)
    return plan


def states(state_root: Path, digests: Iterable[str]) -> dict[str, State]:
    """State of each trial as its directory has it now.

    Raises:
        SetupError: the state root cannot be read.
    """
    try:
        return {digest: read_status(state_root, digest).state for digest in digests}
    except OSError as error:
        raise SetupError(
            f"the state root {state_root} cannot be read: {error.strerror}; set SWEEPS_STATE to a folder of yours"
        ) from error


def short_name(experiment: Experiment, cell: Cell) -> str:
    """The cell's name without axes that have one value here, so that a run list stays readable."""
    labels = {
        axis: label
        for axis, label in cell.labels.items()
        if len({other.labels[axis] for other in experiment.cells}) > 1
    }
    return " ".join(f"{axis}={label}" for axis, label in labels.items()) or cell.name


def counts(plans: Iterable[Plan]) -> Counter[State]:
    """Distinct trials by state over several plans; a trial that several need counts once."""
    merged: dict[str, State] = {}
    for plan in plans:
        merged |= plan.states
    return Counter(merged.values())


def summary(plans: Sequence[Plan]) -> str:
    """One line: `10 trials: 3 done, 1 partial, 6 new`."""
    by_state = counts(plans)
    parts = [
        f"{by_state[state]} {state.value}"
        for state in (State.DONE, State.PARTIAL, State.STOPPED, State.FAILED, State.NEW)
        if by_state[state]
    ]
    return f"{sum(by_state.values())} trials: {', '.join(parts) or 'none'}"


def _recipe(trial: Trial) -> str:
    """Names the recipe where it is not the plain one: a noisy teacher must be told from the clean one."""
    return f"stopped at {trial.protocol.stop_at_acc1_pct:g}% " if trial.protocol.stop_at_acc1_pct is not None else ""
