"""Experiment and profile files: typed models, the cells they describe, and every fault of a file in one go.

Needs nothing heavier than pydantic, so that `sweep list` and the analysis package start fast.
"""

from __future__ import annotations

import copy
import difflib
import fnmatch
import hashlib
import itertools
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator

from sweeps.errors import SpecError

Scalar = str | int | float | bool
PassKind = Literal["eager", "compiled", "cuda_graphs"]
"""As `trainers.config` has it, which is not needed for reading files."""
Match = dict[str, Scalar | list[Scalar]]

NAMED = ("protocol", "teacher_protocol", "data")
"""Settings that are a name with fields of its own: `protocol = "x"` is `protocol.name`, `"protocol.lr"` one field."""
PLAIN = ("method", "preset", "student", "teacher", "teacher_seed", "precision", "seeds", "train")
OPEN = ("hparams", "evaluate", "transfer", "teacher_weights", "student_weights", *NAMED)


class Strict(BaseModel):
    """Frozen model that rejects unknown keys and never turns text into numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class AxisValue(BaseModel):
    """One value of an axis: a label, and either `value` (for the axis's path) or settings of its own."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    label: str = Field(min_length=1)
    value: JsonValue = None
    reference: str | None = Field(None, description="how the printed values name this entry; default: the label")

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Axis(Strict):
    """One dimension of the grid: swept values of one `path`, or named bundles of settings."""

    name: str = Field(min_length=1)
    path: str | None = None
    values: Annotated[tuple[AxisValue, ...], Field(strict=False)]

    def value(self, label: str) -> AxisValue:
        return next(value for value in self.values if value.label == label)


class Rule(Strict):
    """Settings for the cells that match: by axis label or by setting."""

    match: Match
    set: dict[str, Any]


class Absent(Strict):
    """Cells that are not trained, with the reason; with `metrics`, cells that are trained but not shown in these."""

    match: Match
    reason: str = Field(min_length=1)
    metrics: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] | None = Field(
        None, description="absent only: metrics of the report that the paper leaves out; the cell is trained"
    )


class Reference(Strict):
    """Where the printed values are, and how an entry's labels are made from the file's columns."""

    file: str
    origin: Literal["printed", "authors' notebook"]
    axes: dict[str, str] = Field(description='axis -> template over the columns, e.g. "{teacher} / {student}"')
    note: str = ""


class Report(Strict):
    """How the cells become the paper's table or figure.

    `metrics` are metrics of runs, but for some kinds: `histogram`, `density`, `images`, `scatter` and `matrix` show what
    trials keep of single epochs (KEPT_METRICS), and `declared` shows words, which its metrics are the columns of.
    """

    kind: Literal[
        "table",
        "heatmap",
        "curve",
        "bars",
        "histogram",
        "epochs",
        "density",
        "declared",
        "images",
        "scatter",
        "matrix",
    ]
    metrics: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    select: Literal["last", "best"] = "best"
    over_seeds: Literal["mean_std", "best", "mean_curve"] = "mean_std"
    rows: str
    columns: str | None = None
    panels: str | None = None
    reference: Reference | None = None
    epochs: Annotated[tuple[int | Literal["last"], ...], Field(strict=False)] = Field(
        (), description="density: two epochs, images: one, from 0 and counted in the paper's `total_epochs`"
    )
    margin: dict[str, Annotated[float, Field(gt=0, strict=False)]] = Field(
        {},
        description="metric -> largest difference from the printed value that counts as reproduced, in the metric's unit",
    )
    digits: dict[str, Annotated[int, Field(ge=0, le=10)]] = Field({}, description="metric -> decimals shown")
    compared: str | None = Field(
        None,
        description="axis, rows or columns, whose labels compete for best and second; a table's rows do by default",
    )
    unranked: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (), description="labels of the compared axis that take no part, such as the networks trained on the labels"
    )
    variants: Annotated[tuple[Annotated[tuple[str, ...], Field(strict=False)], ...], Field(strict=False)] = Field(
        (), description="groups of compared labels that are one method: second is the best of another method"
    )
    total_epochs: int | None = Field(
        None,
        gt=0,
        description="density, images: how long the paper trains; at another length the same shares are taken",
    )


class Resources(Strict):
    """What Ray reserves for one trial, and how its networks are run there."""

    cpu: float = Field(1, gt=0, strict=False)
    gpu: float = Field(0, ge=0, strict=False)
    passes: PassKind = "eager"

    @field_validator("gpu")
    @classmethod
    def _whole_or_part(cls, gpu: float) -> float:
        if gpu > 1 and gpu != int(gpu):
            raise ValueError("a part of one GPU, or a whole number of them")
        return gpu

    @model_validator(mode="after")
    def _graphs_are_of_a_gpu(self) -> Resources:
        if self.passes == "cuda_graphs" and not self.gpu:
            raise ValueError(
                "passes 'cuda_graphs' needs a GPU, and these resources have none; give gpu = 1, or 'compiled'"
            )
        return self

    @property
    def device(self) -> str:
        """Where such a trial runs, as torch names it."""
        return "cuda" if self.gpu else "cpu"

    @property
    def threads(self) -> int:
        """Of torch on a CPU."""
        return max(1, int(self.cpu))


class Range(Strict):
    """Bounds of one searched hyper-parameter."""

    path: str
    low: float | None = Field(None, strict=False)
    high: float | None = Field(None, strict=False)
    log: bool = False
    integer: bool = False
    choices: Annotated[tuple[Scalar, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _bounded(self) -> Range:
        if self.choices:
            if self.low is not None or self.high is not None:
                raise ValueError("give either choices or low and high")
            return self
        if self.low is None or self.high is None:
            raise ValueError("needs low and high, or choices")
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"a log range needs low > 0, got {self.low:g}")
        return self


RACING = ("p_threshold", "startup_seeds")
"""Fields of a search that only racing over seeds reads."""
RACING_SEEDS = 5
"""Fewer seeds are too few for a test between them to mean much."""
_QUALITY = r"(last|best)/(val/acc[15]_pct|test/(acc1_pct|acc5_pct|agree1_pct|loyalty|loyalty_nat|loyalty_code))"
FLOPS = "cost/flops"
PEAK_MEMORY = "train/peak_memory_mib"


class Objective(Strict):
    """One of several things that a search optimises."""

    metric: str = Field(
        pattern=rf"^({_QUALITY}|cost/flops|time/train_s|train/peak_memory_mib)$",
        description="a result metric, or a cost: cost/flops is worked out from the trial and the same on every machine; time "
        "and memory are measured (memory on a CPU is that of the worker, whatever it trained before)",
    )
    direction: Literal["maximize", "minimize"]


class Search(Strict):
    """An Optuna search inside each cell; seeds are folded into one value of each objective.

    One objective is given by `metric` and `direction`, several by `objectives`.
    """

    metric: str = Field("best/val/acc1_pct", pattern=rf"^{_QUALITY}$", description="the result metric to optimise")
    direction: Literal["maximize", "minimize"] = "maximize"
    objectives: Annotated[tuple[Objective, ...], Field(strict=False)] = Field(
        (), description="two or more, none of which is worth more than another: the search looks for their Pareto front"
    )
    trials: int = Field(gt=0)
    startup_trials: int = Field(10, ge=1)
    sampler: Literal["tpe", "gp", "random"] = "tpe"
    pruner: Literal["none", "asha", "median", "wilcoxon"] = Field(
        "none",
        description="what ends a hopeless suggestion early: asha and median its first seed between epochs, wilcoxon its "
        "remaining seeds",
    )
    prune_metric: str = Field(
        "val/acc1_pct",
        pattern=r"^(val|test|train)/[a-z0-9_]+$",
        description="asha, median: what epochs are compared by",
    )
    prune_from_epoch: int = Field(1, ge=1, description="asha, median: epochs, from 1, before which nothing is cut")
    p_threshold: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="wilcoxon: a suggestion is cut when a one-sided signed-rank test says with a p-value below this that its "
        "seeds are worse than those of the best one",
    )
    startup_seeds: int = Field(2, ge=2, description="wilcoxon: finished seeds before which nothing is cut")
    seed: int = Field(0, ge=0)
    space: Annotated[tuple[Range, ...], Field(min_length=1, strict=False)]

    @property
    def goals(self) -> tuple[Objective, ...]:
        """What is optimised, in either form."""
        return self.objectives or (Objective(metric=self.metric, direction=self.direction),)

    @property
    def meaning(self) -> dict[str, Any]:
        """All that gives a study's values their meaning, as JSON; only the form of the objectives that is in use."""
        form = {"metric", "direction"} if self.objectives else {"objectives"}
        unused = set() if self.pruner == "wilcoxon" else set(RACING)
        return self.model_dump(mode="json", exclude={"trials", *form, *unused})

    @property
    def first_cut(self) -> int:
        """Finished seeds after which a race can end at the earliest: of n values the test's smallest p-value is 2^-n."""
        seeds = self.startup_seeds
        while 2.0**-seeds >= self.p_threshold:
            seeds += 1
        return seeds


class ExperimentFile(Strict):
    """The content of one experiment file."""

    title: str = Field(min_length=1)
    paper: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    source: str = Field("", description="where the settings come from: rows and presets of the method's reference")
    protocol: str
    teacher_protocol: str | None = None
    seeds: Annotated[tuple[int, ...], Field(min_length=1, strict=False)]
    resources: Resources = Resources()
    report: Report
    base: dict[str, Any]
    axes: Annotated[tuple[Axis, ...], Field(strict=False)] = ()
    when: Annotated[tuple[Rule, ...], Field(strict=False)] = ()
    absent: Annotated[tuple[Absent, ...], Field(strict=False)] = ()
    reported: Annotated[tuple[Absent, ...], Field(strict=False)] = ()
    repeated: Annotated[tuple[Absent, ...], Field(strict=False)] = ()
    search: Search | None = None

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"repeated seed in {list(seeds)}")
        if min(seeds, default=0) < 0:
            raise ValueError(f"seeds must be 0 or more, got {list(seeds)}")
        return seeds


class SearchScale(Strict):
    """How long searches are at a profile; what is not given stays as the experiment has it."""

    trials: int | None = Field(None, gt=0)
    startup_trials: int | None = Field(None, ge=1)


class Names(Strict):
    """What names of the papers become at a scale."""

    data: dict[str, str | dict[str, Any]] = {}
    networks: dict[str, str] = {}
    protocols: dict[str, str] = {}


class Profile(Names):
    """A scale: what the papers' data sets, networks and protocols become; `papers` has what only one paper's become."""

    title: str
    resources: Resources | None = None
    papers: dict[str, Names] = {}
    when: Annotated[tuple[Rule, ...], Field(strict=False)] = ()
    keep: dict[str, dict[str, list[str]]] = {}
    search: SearchScale = SearchScale()

    name: str = Field("", exclude=True)
    given: str = Field("", exclude=True, description="as the user named it: a name, or the path of a file")

    @property
    def place(self) -> str:
        """How messages name the file."""
        return self.given if self.given.endswith(".toml") else f"profiles/{self.given}.toml"

    def of(self, paper: str) -> Profile:
        """The profile as it is for one paper, whose own names come first."""
        own = self.papers.get(paper, Names())
        merged = {kind: {**getattr(self, kind), **getattr(own, kind)} for kind in Names.model_fields}
        return self.model_copy(update=merged)


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


def unknown(noun: str, name: str, known: Sequence[str]) -> str:
    """One message for an unknown name: what it was, what is probably meant, what is known."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" did you mean {close[0]!r}?" if close else ""
    return f"unknown {noun} {name!r};{hint} known: {', '.join(known)}"


# --- reading ---------------------------------------------------------------------------------------------------------


def package_folder(kind: Literal["experiments", "profiles"]) -> Path:
    """Where the files that come with the package lie."""
    return Path(str(resources.files("sweeps"))) / kind


def experiment_names() -> list[str]:
    """Every experiment that comes with the package, in the order of the papers' numbering."""
    folder = package_folder("experiments")
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob("*/*.toml")]
    return sorted(names, key=natural_key)


def profile_names() -> list[str]:
    return sorted(path.stem for path in package_folder("profiles").glob("*.toml"))


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Sort key that puts fig9 before fig10."""
    parts = ["".join(group) for _, group in itertools.groupby(name, str.isdigit)]
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]


def find(patterns: Sequence[str]) -> list[str]:
    """Experiment names for names, globs, `all` and paths of the user's own files; globs and `all` leave searches out.

    Raises:
        SpecError: a pattern that matches nothing.
    """
    known = experiment_names()
    found: list[str] = []
    faults = []
    for pattern in patterns:
        if pattern.endswith(".toml") or pattern in known:
            hits = [pattern]
        else:
            glob = "*" if pattern == "all" else pattern
            hits = [name for name in known if fnmatch.fnmatchcase(name, glob) and load(name).file.search is None]
        if not hits:
            faults.append(unknown("experiment", pattern, known))
        found += [hit for hit in hits if hit not in found]
    if faults:
        raise SpecError(*faults)
    return found


def load_profile(name: str) -> Profile:
    """The profile file `name`, or the one at a path that ends in .toml.

    Raises:
        SpecError: unknown profile, or any fault in its file.
    """
    path = Path(name) if name.endswith(".toml") else package_folder("profiles") / f"{name}.toml"
    if not path.is_file():
        raise SpecError(
            not_a_file(path, "profile") if name.endswith(".toml") else unknown("profile", name, profile_names())
        )
    place = name if name.endswith(".toml") else f"profiles/{name}.toml"
    raw = read_toml(path, place)
    model, faults = validate(Profile, raw, place)
    if model is None or faults:
        raise SpecError(*faults)
    faults += [fault for rule in model.when for fault in setting_faults(rule.set, f"{place}: when.set")]
    if faults:
        raise SpecError(*faults)
    return model.model_copy(update={"name": path.stem, "given": name})


def load(name: str, profile: Profile | None = None) -> Experiment:
    """The experiment `paper/figure`, or the file at a path that ends in .toml, with what `profile` keeps of it.

    Raises:
        SpecError: unknown experiment, or every fault of its file.
    """
    experiment, faults = read(name, profile)
    if experiment is None or faults:
        raise SpecError(*faults)
    return experiment


def read(name: str, profile: Profile | None = None) -> tuple[Experiment | None, list[str]]:
    """As `load`, but returns what could be understood beside the faults, so that later checks can add theirs."""
    own = name.endswith(".toml")
    path = Path(name) if own else package_folder("experiments") / f"{name}.toml"
    place = name if own else f"{name}.toml"
    if not path.is_file():
        return None, [not_a_file(path, "experiment") if own else unknown("experiment", name, experiment_names())]
    try:
        raw = read_toml(path, place)
    except SpecError as error:
        return None, list(error.faults)
    model, faults = validate(ExperimentFile, raw, place)
    if model is None:
        return None, faults
    faults += structure_faults(model, place)
    kept: dict[str, list[str]] = {}
    named = f"{model.paper}/{path.stem}" if own else name
    if profile is not None:
        kept = dict(profile.keep.get(named, {}))
        faults += keep_faults(model, kept, f"{profile.place}: keep {named}")
        if model.search is not None:
            scaled = model.search.model_copy(update=profile.search.model_dump(exclude_none=True))
            model = model.model_copy(update={"search": scaled})
    text = path.read_text(encoding="utf-8")
    experiment = Experiment(named, model, text, str(path), kept)
    if not faults:
        faults += repeated_cells(experiment, place)
        for seeds in dict.fromkeys(cell.seeds for cell in experiment.cells if cell.seeds is not None):
            faults += race_faults(model.search, seeds, f"{place}: seeds of a cell")
    return experiment, faults


def not_a_file(path: Path, noun: str) -> str:
    """Message for the path of one's own file that is none."""
    return f"{path}: {f'is a folder, not a {noun} file' if path.is_dir() else f'no such {noun} file'}"


def read_toml(path: Path, place: str) -> dict[str, Any]:
    """The parsed file.

    Raises:
        SpecError: unreadable, or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{place}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{place}: is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{place}: not valid TOML: {error}") from error


Model = TypeVar("Model", bound=BaseModel)


NEUTRAL: Mapping[str, Any] = {
    "title": "?",
    "paper": "unknown",
    "seeds": [0],
    "kind": "table",
    "metrics": ["?"],
    "reason": "?",
    "file": "?",
    "origin": "printed",
    "trials": 1,
}
"""Stand-ins for required keys that are missing or faulty, so that the rest of the file is checked all the same."""


def validate(kind: type[Model], raw: dict[str, Any], place: str) -> tuple[Model | None, list[str]]:
    """The model and its faults; faulty keys are dropped and the rest validated again, so that later checks see it."""
    faults: list[str] = []
    rest: Any = copy.deepcopy(raw)
    seen: list[tuple[str | int, ...]] = []
    while True:
        try:
            return kind.model_validate(rest), faults
        except ValidationError as error:
            for detail in sorted(error.errors(), key=lambda detail: -len(detail["loc"])):
                loc = detail["loc"]
                if not any(old[: len(loc)] == loc for old in seen):  # else only a consequence of what was dropped
                    faults.append(message(detail, kind, place))
                seen.append(loc)
            if not any([drop(rest, detail["loc"]) or stand_in(rest, detail) for detail in error.errors()]):
                return None, faults


def message(detail: Any, kind: type[BaseModel], place: str) -> str:
    """One fault of a pydantic validation: file, key, value and what is allowed."""
    loc = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        owner = kind if len(detail["loc"]) == 1 else None
        known = sorted(owner.model_fields) if owner else fields_at(kind, detail["loc"][:-1])
        return f"{place}: {loc}: {unknown('key', str(detail['loc'][-1]), known)}"
    if detail["type"] == "missing":
        return f"{place}: {loc}: is missing"
    text = str(detail["msg"]).removeprefix("Value error, ")
    value = detail["input"]
    shown = "" if isinstance(value, dict) else f" (got {value!r})"
    return f"{place}: {loc}: {text}{shown}"


def fields_at(kind: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    """Names of the keys allowed in the table at `loc`."""
    current: Any = kind
    for part in loc:
        if isinstance(part, str) and isinstance(current, type) and issubclass(current, BaseModel):
            models = [m for m in models_in(current.model_fields[part].annotation) if issubclass(m, BaseModel)]
            current = models[0] if models else current
    return sorted(current.model_fields)


def models_in(annotation: Any) -> list[type]:
    """Model classes inside an annotation such as `tuple[Axis, ...]` or `Search | None`."""
    if isinstance(annotation, type) and not get_args(annotation):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for part in get_args(annotation) for model in models_in(part)]


def drop(raw: Any, loc: Sequence[str | int]) -> bool:
    """Removes the entry at `loc`, or the list it stands in; False where it is not there."""
    while loc and isinstance(loc[-1], int):
        loc = loc[:-1]
    for part in loc[:-1]:
        try:
            raw = raw[part]
        except (KeyError, IndexError, TypeError):
            return False
    if isinstance(raw, dict) and loc and loc[-1] in raw:
        del raw[loc[-1]]
        return True
    return False


def stand_in(raw: Any, detail: Any) -> bool:
    """Gives a missing key its neutral value; False where there is none."""
    loc = detail["loc"]
    if detail["type"] != "missing" or loc[-1] not in NEUTRAL:
        return False
    for part in loc[:-1]:
        raw = raw[part]
    raw[loc[-1]] = NEUTRAL[loc[-1]]
    return True


def is_setting(path: str) -> bool:
    """Whether a dotted path names something a cell may set."""
    head, _, rest = path.partition(".")
    return (head in PLAIN and not rest) or (head in OPEN and bool(rest))


HISTOGRAM_METRICS = ("test/loyalty_code",)
"""What a trial keeps a histogram of over the test images, in loyalty.json."""
DENSITY_METRICS = ("train/difficulty",)
"""What a trial keeps a histogram of over generated images, in difficulty.json, beside sample images."""
IMAGES_METRICS = ("train/easiest", "train/hardest", "train/spread")
"""Training images of each class by their difficulty, which a trial keeps in <name>.png with their g in extremes.json."""
SCATTER_METRICS = ("test/embedding",)
"""Features of test images as points in the plane, in embedding.json."""
MATRIX_METRICS = ("classifier/centres",)
"""Weights of the classifier for ten classes, in centres.json."""
KEPT_METRICS = {
    "histogram": HISTOGRAM_METRICS,
    "density": DENSITY_METRICS,
    "images": IMAGES_METRICS,
    "scatter": SCATTER_METRICS,
    "matrix": MATRIX_METRICS,
}
"""Kind of report -> what it shows of single epochs."""
BY_ROW = ("images", "scatter", "matrix", "declared")
"""Kinds with neither columns nor panels."""

SETTABLE = (*PLAIN, *(f"{name}.<field>" for name in OPEN))


def structure_faults(file: ExperimentFile, place: str) -> list[str]:
    """Faults that need no registry: axes, paths, rules and the report's names."""
    faults = [fault for axis in file.axes for fault in axis_faults(axis, f"{place}: axis {axis.name!r}")]
    names = [axis.name for axis in file.axes]
    for name in sorted({name for name in names if names.count(name) > 1}):
        faults.append(f"{place}: axes: axis {name!r} occurs {names.count(name)} times; names must differ")
    paths = [axis.path for axis in file.axes if axis.path]
    paths += [] if file.search is None else [dimension.path for dimension in file.search.space]
    for path in sorted({path for path in paths if paths.count(path) > 1}):
        owners = [axis.name for axis in file.axes if axis.path == path]
        faults.append(
            f"{place}: path {path!r} is swept {paths.count(path)} times (axes {', '.join(owners) or 'search'}); once is allowed"
        )
    faults += setting_faults(file.base, f"{place}: base")
    if file.search is not None:
        faults += setting_faults({dimension.path: None for dimension in file.search.space}, f"{place}: search.space")
        faults += objective_faults(file.search, f"{place}: search")
        faults += pruner_faults(file.search, f"{place}: search")
        faults += race_faults(file.search, file.seeds, f"{place}: seeds")
    for number, rule in enumerate(file.when):
        faults += match_faults(file, rule.match, f"{place}: when[{number}].match")
        faults += setting_faults(rule.set, f"{place}: when[{number}].set")
    for kind, rules in (("absent", file.absent), ("reported", file.reported), ("repeated", file.repeated)):
        for number, left_out in enumerate(rules):
            faults += match_faults(file, left_out.match, f"{place}: {kind}[{number}].match")
            faults += left_out_faults(file, left_out, kind, f"{place}: {kind}[{number}].metrics")
    return faults + report_faults(file, place)


def objective_faults(search: Search, place: str) -> list[str]:
    """Objectives in both forms, too few of them, one that is repeated, and a pruner, which knows one objective only."""
    given = search.model_fields_set
    if "objectives" not in given:
        return []
    faults = [
        f"{place}.{name}: {getattr(search, name)!r} is given beside objectives, which are all that is optimised; leave one out"
        for name in ("metric", "direction")
        if name in given
    ]
    metrics = [each.metric for each in search.objectives]
    if len(metrics) < 2:
        faults.append(f"{place}.objectives: needs two or more (got {metrics}); one is given by metric and direction")
    for metric in sorted({metric for metric in metrics if metrics.count(metric) > 1}):
        faults.append(f"{place}.objectives: {metric!r} occurs {metrics.count(metric)} times; metrics must differ")
    if search.pruner != "none" and len(metrics) > 1:
        faults.append(
            f"{place}.pruner: {search.pruner!r} compares trials by one metric, and Optuna has no pruner for several "
            "objectives; leave it out"
        )
    return faults


def pruner_faults(search: Search, place: str) -> list[str]:
    """Settings of the pruner that the chosen one does not read."""
    racing = search.pruner == "wilcoxon"
    others = "asha and median compare epochs" if racing else "wilcoxon compares seeds"
    return [
        f"{place}.{name}: {getattr(search, name)!r} means nothing to pruner {search.pruner!r}: only {others}; leave it out"
        for name in (("prune_metric", "prune_from_epoch") if racing else RACING)
        if name in search.model_fields_set
    ]


def race_faults(search: Search | None, seeds: Sequence[int], place: str) -> list[str]:
    """A race over so few seeds that nothing could be told or saved.

    Args:
        place: where the seeds are given, e.g. `my.toml: seeds`.
    """
    if search is None or search.pruner != "wilcoxon":
        return []
    if len(seeds) < RACING_SEEDS:
        return [
            f"{place}: pruner 'wilcoxon' compares a suggestion with the best one seed by seed and needs {RACING_SEEDS} seeds or more "
            f"(got {list(seeds)}); list that many, or use asha or median, which compare epochs"
        ]
    if len(seeds) > search.first_cut:
        return []
    return [
        f"{place}: with p_threshold {search.p_threshold:g} and startup_seeds {search.startup_seeds} a race ends after "
        f"{search.first_cut} seeds at the earliest, which saves none of {list(seeds)}; give {search.first_cut + 1} seeds or more, a "
        f"larger p_threshold, or fewer startup_seeds"
    ]


def axis_faults(axis: Axis, place: str) -> list[str]:
    """Faults within one axis: no values, repeated labels or values, a value where settings belong or the reverse."""
    faults: list[str] = []
    if not axis.values:
        faults.append(f"{place}: has no values; needs at least one")
    if axis.path is not None and not is_setting(axis.path):
        faults.append(f"{place}: path: {unknown('setting', axis.path, SETTABLE)}")
    labels = [value.label for value in axis.values]
    for label in sorted({label for label in labels if labels.count(label) > 1}):
        faults.append(f"{place}: label {label!r} occurs {labels.count(label)} times; labels must differ")
    valued = [repr(value.label) for value in axis.values if value.value is not None]
    if valued and axis.path is None:
        faults.append(
            f'{place}: label {", ".join(valued)}: has a value but the axis has no path; add path = "hparams.<field>"'
        )
    for value in axis.values:
        where = f"{place}: label {value.label!r}"
        extra = flatten(value.settings)
        if axis.path is None:
            faults += setting_faults(extra, where)
            continue
        if value.value is None:
            faults.append(f"{where}: needs a value, since the axis has path {axis.path!r}")
        if extra:
            faults.append(f"{where}: unknown key {sorted(extra)[0]!r}; allowed beside a path: label, value, reference")
    if axis.path is not None:
        texts = [repr(plain(value.value)) for value in axis.values if value.value is not None]
        for text in sorted({text for text in texts if texts.count(text) > 1}):
            faults.append(f"{place}: value {text} occurs {texts.count(text)} times; repeated cells are not allowed")
    return faults


def setting_faults(settings: Mapping[str, Any], place: str) -> list[str]:
    """Keys that are no setting of a cell, and seeds that are none."""
    flat = flatten(settings)
    faults = [f"{place}: {unknown('setting', key, SETTABLE)}" for key in flat if not is_setting(key)]
    seeds = flat.get("seeds", [0])
    whole = isinstance(seeds, list) and all(isinstance(seed, int) and not isinstance(seed, bool) for seed in seeds)
    if not whole or not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):
        faults.append(f"{place}: seeds: must be a list of different whole numbers from 0 on (got {seeds!r})")
    return faults


def match_faults(file: ExperimentFile, match: Match, place: str) -> list[str]:
    """Keys of a rule that are neither axis nor setting, and labels that the axis does not have."""
    faults: list[str] = []
    for key, wanted in match.items():
        axis = next((axis for axis in file.axes if axis.name == key), None)
        if axis is None:
            if not is_setting(key) and key not in NAMED:
                names = [axis.name for axis in file.axes]
                faults.append(f"{place}: {unknown('axis or setting', key, [*names, *SETTABLE])}")
            continue
        known = [value.label for value in axis.values]
        for label in wanted if isinstance(wanted, list) else [wanted]:
            if label not in known and not is_setting(key):
                faults.append(f"{place}: {unknown(f'label of axis {key}', str(label), known)}")
    return faults


def left_out_faults(file: ExperimentFile, rule: Absent, kind: str, place: str) -> list[str]:
    """Metrics of a rule that the report does not show, or that the kind of rule does not take."""
    if rule.metrics is None:
        return []
    if kind != "absent":
        return [f"{place}: {list(rule.metrics)} means nothing here; only [[absent]] leaves out single metrics"]
    return [
        f"{place}: {unknown('metric of report.metrics', name, file.report.metrics)}"
        for name in rule.metrics
        if name not in file.report.metrics
    ]


def report_faults(file: ExperimentFile, place: str) -> list[str]:
    """Axes that the report names and the file lacks, axes that it would show nowhere, and what its kind needs."""
    report = file.report
    names = [axis.name for axis in file.axes]
    faults = [
        f"{place}: report.{field}: {unknown('axis', name, names)}"
        for field, name in (("rows", report.rows), ("columns", report.columns), ("panels", report.panels))
        if name is not None and name not in names and not (file.search and field == "rows")
    ]
    shown = (report.rows, report.columns, report.panels)
    faults += [
        f"{place}: report: axis {name!r} is shown nowhere; name it in rows, columns or panels"
        for name in names
        if name not in shown
    ]
    for name in report.reference.axes if report.reference else ():
        if name not in names:
            faults.append(f"{place}: report.reference.axes: {unknown('axis', name, names)}")
    return faults + rank_faults(file, f"{place}: report") + kind_faults(file, f"{place}: report")


def rank_faults(file: ExperimentFile, place: str) -> list[str]:
    """Digits of metrics that are not shown, and what is said of a ranking over labels that do not compete."""
    report = file.report
    faults = [
        f"{place}.digits: {unknown('metric of report.metrics', name, report.metrics)}"
        for name in report.digits
        if name not in report.metrics
    ]
    ranked = report.compared or (report.rows if report.kind == "table" else None)
    if report.compared is not None and report.compared not in (report.rows, report.columns):
        shown = [name for name in (report.rows, report.columns) if name is not None]
        return [*faults, f"{place}.compared: {unknown('axis of rows or columns', report.compared, shown)}"]
    listed = {"unranked": report.unranked, "variants": tuple(itertools.chain(*report.variants))}
    axis = next((axis for axis in file.axes if axis.name == ranked), None)
    for field_name, labels in listed.items():
        if labels and ranked is None:
            faults.append(f"{place}.{field_name}: kind {report.kind!r} ranks nothing; name the axis in report.compared")
        elif axis is not None:
            known = [value.label for value in axis.values]
            faults += [
                f"{place}.{field_name}: {unknown(f'label of axis {axis.name}', x, known)}"
                for x in labels
                if x not in known
            ]
        for label in sorted({label for label in labels if labels.count(label) > 1}):
            faults.append(f"{place}.{field_name}: {label!r} occurs {labels.count(label)} times; once is allowed")
    return faults


def kind_faults(file: ExperimentFile, place: str) -> list[str]:
    """What a kind of report needs, or cannot show; a search is a `scatter` of its suggestions by any metrics."""
    report, faults = file.report, []
    by_row = report.kind in BY_ROW and file.search is None
    if (report.kind in ("histogram", "epochs", "density") or by_row) and report.columns is not None:
        instead = "use rows" if by_row else "use rows and panels"
        faults.append(f"{place}.columns: kind {report.kind!r} has none (got {report.columns!r}); {instead}")
    if by_row and report.panels is not None:
        faults.append(f"{place}.panels: kind {report.kind!r} has none (got {report.panels!r}); use rows")
    kept = None if file.search is not None else KEPT_METRICS.get(report.kind)
    several = report.kind == "images"
    if kept is not None and (not set(report.metrics) <= set(kept) or (len(report.metrics) > 1 and not several)):
        amount = "some" if several else "one"
        faults.append(
            f"{place}.metrics: kind {report.kind!r} shows {amount} of {', '.join(kept)} (got {list(report.metrics)})"
        )
    if len(set(report.metrics)) < len(report.metrics) and several:
        faults.append(f"{place}.metrics: one is repeated (got {list(report.metrics)})")
    if report.kind == "epochs":
        faults += [
            f"{place}.metrics: {name!r} has one value a run, no curve; name the metric itself, e.g. test/acc1_pct"
            for name in report.metrics
            if name.startswith(("best/", "last/", "stats/"))
        ]
    return faults + margin_faults(report, f"{place}.margin") + epochs_faults(report, place)


def margin_faults(report: Report, place: str) -> list[str]:
    """Margins of metrics that the report does not show, or that nothing is compared with."""
    faults = [
        f"{place}: {unknown('metric of report.metrics', name, report.metrics)}"
        for name in report.margin
        if name not in report.metrics
    ]
    if report.margin and (report.reference is None or report.kind == "declared"):
        remedy = "words have none" if report.kind == "declared" else "needs printed values, [report.reference]"
        faults.append(f"{place}: {remedy}; leave it out (got {report.margin})")
    return faults


def epochs_faults(report: Report, place: str) -> list[str]:
    """Epochs of a density or of images that are missing, equal, or beyond the paper's training."""
    if report.kind not in ("density", "images"):
        given = [name for name in ("epochs", "total_epochs") if getattr(report, name)]
        return [f"{place}.{name}: only kinds 'density' and 'images' have it, not {report.kind!r}" for name in given]
    faults = []
    numbers = [epoch for epoch in report.epochs if epoch != "last"]
    if report.kind == "images" and len(report.epochs) != 1:
        faults.append(f'{place}.epochs: needs one epoch, e.g. [50] or ["last"] (got {list(report.epochs)})')
    if report.kind == "density" and (len(report.epochs) != 2 or len(set(report.epochs)) != 2):
        faults.append(f'{place}.epochs: needs two different epochs, e.g. [10, "last"] (got {list(report.epochs)})')
    if numbers and report.total_epochs is None:
        faults.append(f"{place}.total_epochs: is missing; epochs {list(report.epochs)} are counted in it")
    end = report.total_epochs or max([0, *numbers]) + 1
    faults += [
        f"{place}.epochs: {epoch} is not among the epochs 0 to {end - 1}" for epoch in numbers if not 0 <= epoch < end
    ]
    return faults


def keep_faults(file: ExperimentFile, kept: Mapping[str, Sequence[str]], place: str) -> list[str]:
    """A profile may keep labels of a pair or panel axis, never of swept values."""
    faults = []
    for name, labels in kept.items():
        axis = next((axis for axis in file.axes if axis.name == name), None)
        if axis is None:
            faults.append(f"{place}: {unknown('axis', name, [a.name for a in file.axes])}")
            continue
        if axis.path is not None:
            faults.append(f"{place}: axis {name!r} sweeps {axis.path!r}; a profile keeps all swept values")
        known = [value.label for value in axis.values]
        faults += [
            f"{place}: {unknown(f'label of axis {name}', label, known)}" for label in labels if label not in known
        ]
        if not labels:
            faults.append(f"{place}: axis {name!r}: keeps no label; needs at least one")
    return faults


def repeated_cells(experiment: Experiment, place: str) -> list[str]:
    """Cells with other labels but the same settings, one of which would be printed twice; `[[repeated]]` says where it is meant."""
    seen: dict[str, Cell] = {}
    pairs = []
    for cell in experiment.cells:
        meant = any(matches(rule.match, cell.labels, cell.settings) for rule in experiment.file.repeated)
        if cell.status in ("absent", "reported") or meant:
            continue
        key = json.dumps(plain(dict(cell.settings)), sort_keys=True, default=str)
        first = seen.setdefault(key, cell)
        if first is not cell:
            pairs.append(f"{first.name!r} and {cell.name!r}")
    if not pairs:
        return []
    others = f" (and {len(pairs) - 1} more such pairs)" if len(pairs) > 1 else ""
    return [f"{place}: repeated cell: {pairs[0]} have the same settings{others}"]


def plain(value: Any) -> Any:
    """The value with whole floats as integers, so that 2 and 2.0 are one value."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
