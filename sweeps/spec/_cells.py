"""The cells that an experiment file describes, each with the settings that its axes and rules give it."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from sweeps.errors import SpecError
from sweeps.spec._models import NAMED, ExperimentFile, Match, Rule
from sweeps.spec._names import package_folder, unknown


@dataclass(frozen=True)
class Cell:
    """One entry of an experiment.

    Attributes:
        labels: axis name -> label, in the order of the axes.
        settings: dotted path -> value, as the paper's scale has them.
        status: "run", or why nothing is trained: "absent", "reported", "declared" (a table of what method files say of themselves).
        reason: the stated reason where nothing is trained.
        seeds: of this cell, where it has others than the experiment; None where not.
    """

    labels: Mapping[str, str]
    settings: Mapping[str, Any]
    status: Literal["run", "absent", "reported", "declared"] = "run"
    reason: str = ""
    seeds: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """Readable and unique within the experiment, e.g. `k_begin=1/5 k_end=3/4`."""
        return " ".join(f"{axis}={label}" for axis, label in self.labels.items()) or "all"


@dataclass(frozen=True)
class Experiment:
    """An experiment file together with its name, its text and its cells.

    Attributes:
        name: `paper/figure`, or the path of the user's own file.
        text: the file as read.
        kept: labels that the profile keeps, by axis; an axis that is not named keeps all.
    """

    name: str
    file: ExperimentFile
    text: str
    path: str
    kept: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def given(self) -> str:
        """As the user names it: `paper/figure`, or the path of an own file."""
        own = not Path(self.path).is_relative_to(package_folder("experiments"))
        return self.path if own else self.name

    @property
    def place(self) -> str:
        """How messages name the file."""
        return self.given if self.given.endswith(".toml") else f"{self.given}.toml"

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell in the order of the file, axes varying like digits (last one fastest)."""
        return tuple(self._cells())

    def _cells(self) -> Iterator[Cell]:
        base = flatten(self.file.base)
        choices = [
            [value for value in axis.values if axis.name not in self.kept or value.label in self.kept[axis.name]]
            for axis in self.file.axes
        ]
        for combination in itertools.product(*choices):
            labels = {axis.name: value.label for axis, value in zip(self.file.axes, combination, strict=True)}
            settings = {"protocol.name": self.file.protocol, **base}
            if self.file.teacher_protocol is not None:
                settings.setdefault("teacher_protocol.name", self.file.teacher_protocol)
            for axis, value in zip(self.file.axes, combination, strict=True):
                swept = (
                    {} if axis.path is None or value.value is None else flatten({axis.path: value.value})
                )  # None: a fault, told elsewhere
                settings |= swept if axis.path else flatten(value.settings)
            settings = apply_rules(self.file.when, labels, settings)
            seeds = settings.pop("seeds", None)
            absent = [rule for rule in self.file.absent if rule.metrics is None]
            for status, rules in (("absent", absent), ("reported", self.file.reported)):
                reason = next((rule.reason for rule in rules if matches(rule.match, labels, settings)), None)
                if reason is not None:
                    yield Cell(labels, settings, status, reason)  # type: ignore[arg-type]
                    break
            else:
                status = "declared" if self.file.report.kind == "declared" else "run"
                yield Cell(labels, settings, status, seeds=None if seeds is None else tuple(seeds))  # type: ignore[arg-type]

    def select(self, only: Mapping[str, Sequence[str]]) -> tuple[Cell, ...]:
        """Cells whose labels are among those asked for.

        Raises:
            SpecError: unknown axis or label.
        """
        faults = []
        for axis_name, labels in only.items():
            axis = next((axis for axis in self.file.axes if axis.name == axis_name), None)
            if axis is None:
                faults.append(
                    f"{self.name}: --only {axis_name}: {unknown('axis', axis_name, [a.name for a in self.file.axes])}"
                )
                continue
            known = [value.label for value in axis.values if value.label in self.kept.get(axis_name, [value.label])]
            faults += [
                f"{self.name}: --only {axis_name}={x}: {unknown('label', x, known)}" for x in labels if x not in known
            ]
        if faults:
            raise SpecError(*faults)
        return tuple(c for c in self.cells if all(c.labels[a] in labels for a, labels in only.items()))


def flatten(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings as dotted paths: `hparams = { alpha = 1 }` gives `hparams.alpha`, `data = "x"` gives `data.name`."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        head = key.split(".")[0]
        if isinstance(value, Mapping) and set(value) == {"module"} and head not in NAMED:
            flat[key] = value["module"]
        elif isinstance(value, Mapping):
            for inner, leaf in flatten(value).items():
                flat[f"{key}.{'name' if inner == 'module' and head in NAMED else inner}"] = leaf
        elif key in NAMED:
            flat[f"{key}.name"] = value
        else:
            flat[key] = value
    return flat


def matches(match: Match, labels: Mapping[str, str], settings: Mapping[str, Any]) -> bool:
    """Whether a cell's labels or settings have the asked values; a list means any of them."""
    for key, wanted in match.items():
        values = wanted if isinstance(wanted, list) else [wanted]
        if labels.get(key) not in values and settings.get(key, settings.get(f"{key}.name")) not in values:
            return False
    return True


def apply_rules(rules: Sequence[Rule], labels: Mapping[str, str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings after every matching rule, in the order of the file."""
    result = dict(settings)
    for rule in rules:
        if matches(rule.match, labels, result):
            result |= flatten(rule.set)
    return result
