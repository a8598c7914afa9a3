"""Faults of a file that its types cannot tell: names that do not fit together, and what a kind of report or search needs."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from sweeps.spec._cells import Cell, Experiment, flatten, matches
from sweeps.spec._models import (
    BY_ROW,
    KEPT_METRICS,
    NAMED,
    RACING,
    RACING_SEEDS,
    SETTABLE,
    Absent,
    Axis,
    ExperimentFile,
    Match,
    Report,
    Search,
    is_setting,
)
from sweeps.spec._names import unknown


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
