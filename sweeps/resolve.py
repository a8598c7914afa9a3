"""From a cell at a profile's scale to a fully resolved trial, with every fault of an experiment in one go."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from sweeps import spec
from sweeps.errors import SpecError
from sweeps.spec import Cell, Experiment, Profile
from trainers import data, methods, models, protocols, registry, weights
from trainers import datafree as _datafree
from trainers import distill as _distill
from trainers import evaluate as _evaluate
from trainers import probe as _probe_loop
from trainers.config import DataSpec, MethodConfig, Protocol, Scaled, Trial, Upstream
from trainers.errors import ConfigError, DataError

LOOP_VERSIONS = {
    "distill": _distill.VERSION,
    "datafree": _datafree.VERSION,
    "evaluate": _evaluate.VERSION,
    "probe": _probe_loop.VERSION,
}
RECORDED = ("stats_from_epoch", "stats_drop_last", "artifact_epochs")
"""Protocol fields that only say what is recorded when; a profile's recipe takes them from the paper's, scaled."""

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Scaling:
    """Paper's epochs and updates beside the profile's, and what that did to constants.

    Attributes:
        notes: one line for each constant that was scaled, e.g. `alpha 0.1 -> 1.5 (300 -> 20 epochs)`.
        mapped: one line for each name the profile replaced, e.g. `data cifar100 -> digits`.
    """

    notes: tuple[str, ...] = ()
    mapped: tuple[str, ...] = ()


@dataclass
class _Builder:
    """Collects faults while one cell becomes a trial.

    Attributes:
        elsewhere: it will run on other machines, so what is missing in the data root here is no fault.
    """

    place: str
    experiment: Experiment
    profile: Profile
    data_root: Path
    swept: frozenset[str] = frozenset()
    elsewhere: bool = False
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    mapped: list[str] = field(default_factory=list)


def resolve(
    experiment: Experiment,
    profile: Profile,
    cell: Cell,
    seed: int,
    data_root: Path,
    extra: Mapping[str, Any] | None = None,
    *,
    elsewhere: bool = False,
) -> tuple[Trial, Scaling]:
    """The trial of one cell and seed.

    Args:
        extra: settings on top of the cell's, such as a search's suggestion.
        elsewhere: what the data root here lacks is no fault.

    Raises:
        SpecError: every fault of this cell; `elsewhere` none where only data is missing here.
    """
    profile = profile.of(experiment.file.paper)
    settings = {**cell.settings, **(extra or {})}
    swept = {axis.path for axis in experiment.file.axes if axis.path} | set(extra or {})
    builder = _Builder(experiment.place, experiment, profile, data_root, frozenset(swept), elsewhere)
    ruled = spec.apply_rules(profile.when, cell.labels, settings)
    for key in sorted(swept):
        if key in settings and ruled.get(key) != settings[key]:
            builder.faults.append(
                f"{profile.place}: when.set: {key!r} is swept by {experiment.name}; a profile keeps all swept values"
            )
    from_profile = {key for key in ruled if ruled[key] != settings.get(key)}
    trial = _cell_trial(builder, ruled, from_profile, seed)
    if builder.faults or trial is None:
        raise SpecError(*dict.fromkeys(builder.faults))
    return trial, Scaling(tuple(dict.fromkeys(builder.notes)), tuple(dict.fromkeys(builder.mapped)))


def _cell_trial(builder: _Builder, settings: dict[str, Any], from_profile: set[str], seed: int) -> Trial | None:
    """What the cell is about, and on top of it, where the cell says so, a measurement or a probe of it."""
    subject = _subject(builder, settings, from_profile, seed)
    measure, transfer = _part(settings, "evaluate"), _part(settings, "transfer")
    if measure and transfer:
        builder.faults.append(f"{builder.place}: evaluate and transfer: a cell has one of them; remove the other")
        return None
    if measure:
        return _measurement(builder, settings, measure, from_profile, subject, seed)
    if transfer:
        return _probe(builder, transfer, subject, seed)
    if subject is None or subject.trial is not None:
        return None if subject is None else subject.trial
    return _measurement(builder, settings, {"method": "accuracy"}, from_profile, subject, seed)


def _part(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The settings under `name`, without it."""
    return {key.removeprefix(f"{name}."): value for key, value in settings.items() if key.startswith(f"{name}.")}


def _subject(builder: _Builder, settings: dict[str, Any], from_profile: set[str], seed: int) -> Upstream | None:
    """The weights a cell is about: of its student, or with `train = "teacher"` of the teacher that other cells distil."""
    role = settings.get("train", "student")
    if role == "teacher":
        return _teacher(builder, settings)
    if role != "student":
        builder.faults.append(f"{builder.place}: train: {spec.unknown('role', str(role), ['student', 'teacher'])}")
        return None
    imported, usable = _imported(builder, settings, "student")
    if usable:
        return imported
    trained = _trained(builder, settings, from_profile, seed)
    return None if trained is None else Upstream(trial=trained, network=trained.student)


def _imported(builder: _Builder, settings: dict[str, Any], role: str) -> tuple[Upstream | None, bool]:
    """Weights that somebody else trained, and whether the cell has such: not where the profile has another network or data."""
    fields = _part(settings, f"{role}_weights")
    if not fields:
        return None, False
    network, images = _network(builder, settings, role), _data(builder, settings)
    if network is None or images is None:
        return None, True
    if network != settings.get(role) or images.name != settings.get("data.name"):
        builder.mapped.append(f"weights {fields.get('file')} -> trained here")
        return None, False
    known = ["file", "sha256", "url"]
    faults = [spec.unknown("key", key, known) for key in fields if key not in known]
    faults += [f"{key}: is missing" for key in ("file", "sha256") if key not in fields]
    where = f"{builder.place}: {role}_weights"
    if faults:
        builder.faults += [f"{where}: {fault}" for fault in faults]
        return None, True
    values = {"weights": fields["file"], "network": network, **{k: v for k, v in fields.items() if k != "file"}}
    upstream = _model(builder, Upstream, values, f"{role}_weights", "key")
    if upstream is None:
        return None, True
    info = data.info(images.model_copy(update={"content": None}), builder.data_root)
    if not builder.elsewhere:
        builder.faults += [f"{where}: {fault}" for fault in _weights_faults(upstream, info, builder.data_root)]
    return upstream, True


def _weights_faults(upstream: Upstream, info: data.Info, data_root: Path) -> tuple[str, ...]:
    """As `weights.faults`; a file is read once and again when it has changed."""
    file = weights.place(upstream, data_root)
    state = file.stat() if file.is_file() else None
    stamp = None if state is None else (state.st_mtime_ns, state.st_size)
    return _stamped_faults(upstream.model_dump_json(), info, data_root, stamp)


@lru_cache(maxsize=64)
def _stamped_faults(upstream: str, info: data.Info, data_root: Path, stamp: object) -> tuple[str, ...]:
    return tuple(weights.faults(Upstream.model_validate_json(upstream), info, data_root))


def _measurement(
    builder: _Builder,
    settings: dict[str, Any],
    measure: dict[str, Any],
    from_profile: set[str],
    subject: Upstream | None,
    seed: int,
) -> Trial | None:
    """Finished weights, measured by a method of kind "evaluate"; by default against a teacher."""
    allowed = ("method", "teacher", "teacher_protocol", "teacher_seed")
    for key in measure:
        if key not in (*allowed, "teacher_protocol.name") and not key.startswith("hparams."):
            builder.faults.append(
                f"{builder.place}: evaluate: {spec.unknown('key', key, [*allowed, 'hparams.<field>'])}"
            )
    method = _text(builder, {"method": "evaluate", **measure}, "method")
    try:
        module = methods.module(method) if method else None
    except ConfigError as error:
        builder.faults += [f"{builder.place}: evaluate.method: {fault}" for fault in error.faults]
        return None
    if module is None:
        return None
    if module.KIND != "evaluate":
        builder.faults.append(f"{builder.place}: evaluate.method: {method!r} is a method of kind {module.KIND!r}")
        return None
    config = _hparams(builder, measure, from_profile, method, methods.config_type(method), None, None)
    teacher = None
    if module.NEEDS_TEACHER:
        own = {("teacher_protocol.name" if k == "teacher_protocol" else k): v for k, v in measure.items()}
        teacher = _teacher(builder, {**settings, **own, "method": None})
        if teacher is None:
            return None
    if subject is None or config is None:
        return None
    trained = subject.trial
    images = trained.data if trained is not None else _data(builder, settings)
    protocol = trained.protocol if trained is not None else _protocol(builder, settings, "protocol")[1]
    if images is None or protocol is None:
        return None
    return Trial(
        kind="evaluate",
        method=method,
        hparams=config.active(),
        versions={"method": module.VERSION, "loop": LOOP_VERSIONS["evaluate"]},
        data=images,
        student=subject.network,
        teacher=teacher,
        subject=subject,
        protocol=protocol,
        seed=seed,
    )


def _probe(builder: _Builder, transfer: dict[str, Any], subject: Upstream | None, seed: int) -> Trial | None:
    """A linear layer on the subject's features of another data set."""
    for key in transfer:
        if key.split(".")[0] not in ("data", "protocol"):
            builder.faults.append(f"{builder.place}: transfer: {spec.unknown('key', key, ['data', 'protocol'])}")
    images = _data(builder, transfer)
    _, protocol = _protocol(builder, transfer, "protocol")
    if subject is None or images is None or protocol is None:
        return None
    if subject.trial is None:
        builder.faults.append(
            f"{builder.place}: transfer: needs a network that is trained here, not imported weights, whose images are not known"
        )
        return None
    source, target = (
        data.info(each.model_copy(update={"content": None}), builder.data_root) for each in (subject.trial.data, images)
    )
    if source.channels != target.channels:
        builder.faults.append(
            f"{builder.place}: transfer.data: {images.name} has {target.channels} colour channels, "
            f"{subject.trial.data.name}, which {subject.network} is trained on, has {source.channels}; take another set"
        )
        return None
    return Trial(
        kind="probe",
        method="linear_probe",
        hparams={},
        versions={"method": methods.module("linear_probe").VERSION, "loop": LOOP_VERSIONS["probe"]},
        data=images,
        student=subject.network,
        subject=subject,
        protocol=protocol,
        seed=seed,
    )


def _trained(builder: _Builder, settings: dict[str, Any], from_profile: set[str], seed: int) -> Trial | None:
    method = _text(builder, settings, "method")
    config_type = None
    try:
        module = methods.module(method) if method else None
        config_type = methods.config_type(method) if method else None
    except ConfigError as error:
        module = None
        builder.faults += [f"{builder.place}: method: {fault}" for fault in error.faults]
    paper, protocol = _protocol(builder, settings, "protocol")
    hparams = _hparams(builder, settings, from_profile, method, config_type, paper, protocol) if config_type else None
    images = _data(builder, settings)
    student = _network(builder, settings, "student")
    teacher = _teacher(builder, settings) if module is not None and module.NEEDS_TEACHER else None
    precision = settings.get("precision", "fp32")
    if precision not in ("fp32", "bf16"):
        builder.faults.append(
            f"{builder.place}: precision: {spec.unknown('precision', str(precision), ['fp32', 'bf16'])}"
        )
    if builder.faults or module is None or hparams is None or images is None or protocol is None or student is None:
        return None
    if module.KIND == "datafree" and protocol.updates_per_epoch is None:
        builder.faults.append(
            f"{builder.place}: protocol {protocol.name!r} has no updates_per_epoch, which the data-free method {method!r} needs"
        )
        return None
    if module.KIND == "datafree" and protocol.optimizer == "dot":
        builder.faults.append(
            f"{builder.place}: protocol.optimizer: 'dot' needs a loss on labels beside the distillation, "
            f"which the data-free method {method!r} has not"
        )
        return None
    info = data.info(images.model_copy(update={"content": None}), builder.data_root)
    found = methods.faults(
        method, hparams, methods.Case(protocol, info, student, None if teacher is None else teacher.network)
    )
    if found:
        builder.faults += [f"{builder.place}: method {method!r}: {fault}" for fault in found]
        return None
    return Trial(
        kind=module.KIND,
        method=method,
        hparams=hparams.active(),
        versions={"method": module.VERSION, "loop": LOOP_VERSIONS[module.KIND]},
        data=images,
        student=student,
        teacher=teacher,
        protocol=protocol,
        seed=seed,
        precision=precision,
    )


def _teacher(builder: _Builder, settings: dict[str, Any]) -> Upstream | None:
    imported, usable = _imported(builder, settings, "teacher")
    if usable:
        return imported
    network = _network(builder, settings, "teacher")
    _, protocol = _protocol(builder, settings, "teacher_protocol")
    images = _data(builder, settings)
    seed = settings.get("teacher_seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        builder.faults.append(f"{builder.place}: teacher_seed: must be a whole number from 0 on (got {seed!r})")
        return None
    if network is None or protocol is None or images is None:
        return None
    trial = Trial(
        kind="distill",
        method="ce",
        hparams={},
        versions={"method": methods.module("ce").VERSION, "loop": LOOP_VERSIONS["distill"]},
        data=images.model_copy(update={"train_per_class": None}),
        student=network,
        protocol=protocol,
        seed=seed,
    )
    return Upstream(trial=trial, network=network)


def _hparams(
    builder: _Builder,
    settings: dict[str, Any],
    from_profile: set[str],
    method: str,
    config_type: type[MethodConfig],
    paper: Protocol | None,
    protocol: Protocol | None,
) -> MethodConfig | None:
    values: dict[str, Any] = {}
    preset = settings.get("preset")
    if preset is not None and not isinstance(preset, str):
        builder.faults.append(f"{builder.place}: preset: must be a name (got {preset!r})")
    elif preset is not None:
        known = methods.presets(method)
        if preset not in known:
            builder.faults.append(
                f"{builder.place}: preset: {spec.unknown(f'preset of method {method}', str(preset), sorted(known))}"
            )
        values |= known.get(preset, {})
    values |= {key.removeprefix("hparams."): value for key, value in settings.items() if key.startswith("hparams.")}
    config = _model(builder, config_type, values, "hparams", f"hyper-parameter of method {method}")
    if config is None or paper is None or protocol is None or paper == protocol:
        return config
    scaled: dict[str, Any] = {}
    for name, info in config_type.model_fields.items():
        mark = _mark(info)
        if mark is None or f"hparams.{name}" in from_profile:
            continue
        old = getattr(config, name)
        factor = _ratio(paper, protocol, mark)
        new = max(1, round(old * factor)) if isinstance(old, int) and old else old * factor
        if new != old:
            scaled[name] = new
            change = f"{name} x {factor:g}" if f"hparams.{name}" in builder.swept else f"{name} {old:g} -> {new:g}"
            builder.notes.append(f"{change} ({_share(paper, protocol, mark)})")
    return _model(builder, config_type, {**values, **scaled}, "hparams", f"hyper-parameter of method {method}")


def _ratio(paper: Protocol, protocol: Protocol, mark: Scaled) -> float:
    epochs = protocol.epochs / paper.epochs
    if mark.unit == "updates" and paper.updates_per_epoch and protocol.updates_per_epoch:
        epochs *= protocol.updates_per_epoch / paper.updates_per_epoch
    return epochs if mark.power == 1 else 1 / epochs


def _share(paper: Protocol, protocol: Protocol, mark: Scaled) -> str:
    if mark.unit == "epochs":
        return f"{paper.epochs} -> {protocol.epochs} epochs"
    return f"{paper.epochs * (paper.updates_per_epoch or 1)} -> {protocol.epochs * (protocol.updates_per_epoch or 1)} updates"


def _mark(info: FieldInfo) -> Scaled | None:
    inner = [
        mark for part in get_args(info.annotation) for mark in getattr(part, "__metadata__", ())
    ]  # tuple[Epochs, ...]
    return next((mark for mark in (*info.metadata, *inner) if isinstance(mark, Scaled)), None)


def _protocol(builder: _Builder, settings: dict[str, Any], key: str) -> tuple[Protocol | None, Protocol | None]:
    """The paper's recipe and the profile's, with the cell's own fields set on both."""
    name = settings.get(f"{key}.name")
    if not isinstance(name, str):
        builder.faults.append(f"{builder.place}: {key}: is missing; known: {', '.join(sorted(protocols.PROTOCOLS))}")
        return None, None
    try:
        paper = protocols.get(name)
    except ConfigError as error:
        builder.faults += [f"{builder.place}: {key}: {fault}" for fault in error.faults]
        return None, None
    fields = {
        k.removeprefix(f"{key}."): v for k, v in settings.items() if k.startswith(f"{key}.") and not k.endswith(".name")
    }
    paper_set = _model(builder, Protocol, {**paper.model_dump(), **fields}, key, "field of a protocol")
    target = builder.profile.protocols.get(name)
    if paper_set is None or target is None:
        return paper_set, paper_set
    try:
        recipe = protocols.get(target)
    except ConfigError as error:
        builder.faults += [f"{builder.profile.place}: protocols.{name}: {fault}" for fault in error.faults]
        return None, None
    builder.mapped.append(f"{key} {name} -> {target}")
    ratio = recipe.epochs / paper.epochs
    recorded = {field: _scaled_epochs(getattr(paper_set, field), ratio, recipe.epochs) for field in RECORDED}
    own = {
        k: (_scaled_epochs(v, ratio, recipe.epochs) if _mark(Protocol.model_fields[k]) else v)
        for k, v in fields.items()
        if k not in recorded
    }
    return paper, _model(builder, Protocol, {**recipe.model_dump(), **recorded, **own}, key, "field of a protocol")


def _scaled_epochs(value: Any, ratio: float, epochs: int) -> Any:
    if isinstance(value, list | tuple):
        return sorted({min(round(each * ratio), max(epochs - 1, 0)) for each in value})
    return max(1, round(value * ratio)) if value else 0


def _data(builder: _Builder, settings: dict[str, Any]) -> DataSpec | None:
    fields = {key.removeprefix("data."): value for key, value in settings.items() if key.startswith("data.")}
    name = fields.get("name")
    if not isinstance(name, str):
        builder.faults.append(f"{builder.place}: data: is missing; known: {', '.join(registry.names('data'))}")
        return None
    target = builder.profile.data.get(name)
    place = f"{builder.place}: data"
    if target is not None:
        replaced = {"name": target} if isinstance(target, str) else dict(target)
        builder.mapped.append(f"data {name} -> {replaced.get('name')}")
        own_val = replaced.get("name") in ("digits", "digits_turned")
        holdout = {k: v for k, v in fields.items() if k == "holdout_images" and not own_val}
        fields = {**holdout, **replaced}
        place = f"{builder.profile.place}: data.{name}"
    spec_ = _model(builder, DataSpec, fields, "data", "field of a data set")
    if spec_ is None:
        return None
    try:
        content = data.module(spec_.name).content(spec_, builder.data_root)
        info = data.info(spec_, builder.data_root)  # refuses fields that mean nothing for this data set
    except ConfigError as error:
        builder.faults += [f"{place}: {fault}" for fault in error.faults]
        return None
    except DataError as error:
        if not builder.elsewhere:
            builder.faults += [f"{place}: {line}" for line in str(error).splitlines()]
        return None
    search = builder.experiment.file.search
    if search is not None and not info.has_val:
        key = "objectives" if search.objectives else "metric"
        builder.faults += [
            f"{builder.place}: search.{key}: {goal.metric!r} needs held-out images, and {spec_.name} has none; set data.holdout_images"
            for goal in search.goals
            if "val/" in goal.metric
        ]
    return spec_.model_copy(update={"content": content}) if content else spec_


def _network(builder: _Builder, settings: dict[str, Any], role: str) -> str | None:
    name = _text(builder, settings, role)
    if not name:
        return None
    target = builder.profile.networks.get(name, name)
    if target != name:
        builder.mapped.append(f"{name} -> {target}")
    for each, place in ((name, f"{builder.place}: {role}"), (target, f"{builder.profile.place}: networks.{name}")):
        if not models.exists(each):
            builder.faults.append(f"{place}: {spec.unknown('network', each, models.known())}")
            return None
    return target


def _text(builder: _Builder, settings: dict[str, Any], key: str) -> str:
    value = settings.get(key)
    if value is None:
        builder.faults.append(f"{builder.place}: {key}: is missing; set it in base or on an axis")
        return ""
    if not isinstance(value, str):
        builder.faults.append(f"{builder.place}: {key}: must be a name (got {value!r})")
        return ""
    return value


def _model(builder: _Builder, kind: type[Model], values: Mapping[str, Any], where: str, noun: str) -> Model | None:
    """Strict validation from JSON types: text is never turned into a number."""
    try:
        return kind.model_validate_json(
            json.dumps(values, default=str), strict=True
        )  # str: TOML's dates are never allowed
    except ValidationError as error:
        for detail in error.errors():
            name = ".".join(str(part) for part in detail["loc"])
            if detail["type"] == "extra_forbidden":
                text = f"{where}: {spec.unknown(noun, name, sorted(kind.model_fields))}"
            else:
                message = str(detail["msg"]).removeprefix("Value error, ")
                shown = "" if not name else f" (got {detail['input']!r})"
                text = f"{where}{'.' if name else ''}{name}: {message}{shown}"
            builder.faults.append(f"{builder.place}: {text}")
        return None


def declared(cell: Cell) -> dict[str, str]:
    """What the file of a cell's method says of itself: the row of a table of methods."""
    return dict(methods.traits(str(cell.settings["method"])))


def check(names: Sequence[str], profile_name: str, data_root: Path, *, elsewhere: bool = False) -> list[str]:
    """Every fault of these experiments at this profile, each once, with the first cell it concerns.

    Args:
        elsewhere: they will run on other machines, so what the data root here lacks is no fault.
    """
    try:
        profile = spec.load_profile(profile_name)
    except SpecError as error:
        return list(error.faults)
    faults: list[str] = []
    for name in names:
        experiment, found = spec.read(name, profile)
        faults += found
        if experiment is not None:
            faults += cell_faults(experiment, profile, data_root, elsewhere=elsewhere)
    return list(dict.fromkeys(faults))


def declared_faults(experiment: Experiment, cell: Cell) -> list[str]:
    """Why a cell's method cannot stand in a table of methods."""
    method = cell.settings.get("method")
    if not isinstance(method, str):
        return [f"{experiment.place}: method: is missing; set it on an axis"]
    try:
        found = methods.traits(method)
    except ConfigError as error:
        return [f"{experiment.place}: method: {fault}" for fault in error.faults]
    missing = [name for name in experiment.file.report.metrics if name not in found]
    if not missing:
        return []
    return [f"{experiment.place}: method {method!r} says nothing of {', '.join(missing)}; add it to TRAITS in its file"]


Resolved = tuple[Trial, Scaling]


def cell_faults(
    experiment: Experiment,
    profile: Profile,
    data_root: Path,
    resolved: dict[tuple[str, int], Resolved] | None = None,
    *,
    elsewhere: bool = False,
) -> list[str]:
    """Faults of the cells: each message once, naming the first cell and how many share it.

    Args:
        resolved: is filled with what cells without a fault resolve to, by name and seed, for a caller who wants it next.
        elsewhere: as in `resolve`.
    """
    concerned: dict[str, list[str]] = {}
    search = experiment.file.search
    points = corners(search.space) if search else [{}]
    for cell in experiment.cells:
        if cell.status == "declared":
            for fault in declared_faults(experiment, cell):
                concerned.setdefault(fault, []).append(cell.name)
        if cell.status != "run":
            continue
        for extra in points:
            seed = experiment.file.seeds[0]
            try:
                found = resolve(experiment, profile, cell, seed, data_root, extra, elsewhere=elsewhere)
                if resolved is not None and not extra:
                    resolved[cell.name, seed] = found
            except SpecError as error:
                for fault in error.faults:
                    concerned.setdefault(fault, []).append(cell.name)
    total = sum(cell.status in ("run", "declared") for cell in experiment.cells)
    result = []
    for fault, cells in concerned.items():
        unique = list(dict.fromkeys(cells))
        where = (
            ""
            if len(unique) == total
            else f" [cell {unique[0]}{f' and {len(unique) - 1} more' if len(unique) > 1 else ''}]"
        )
        result.append(fault + where)
    return result


MOST_CORNERS = 1024


def corners(space: Sequence[spec.Range]) -> list[dict[str, Any]]:
    """Every combination of lowest and highest values (and of all choices): where all are valid, so is what lies between."""
    ends: list[tuple[Any, ...]] = []
    for dimension in space:
        bounds = [end for end in (dimension.low, dimension.high) if end is not None]
        ends.append(dimension.choices or tuple(int(end) if dimension.integer else end for end in bounds))
    points = itertools.islice(itertools.product(*ends), MOST_CORNERS)
    return [dict(zip((dimension.path for dimension in space), point, strict=True)) for point in points]
