"""The values the papers print (or their authors' notebooks hold), found by a cell's labels."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from analysis import metrics
from analysis.errors import ReportError
from sweeps.spec import Experiment, Reference

Key = tuple[tuple[str, ...], str]
"""Labels of the mapped axes in the order of `Reference.axes`, and the metric."""


def folder() -> Path:
    return Path(str(resources.files("analysis"))) / "reference"


def load(experiment: Experiment) -> dict[Key, list[float]]:
    """Every value of the experiment's reference file; several for one key are the paper's repeated runs.

    The labels come from the templates of `report.reference.axes`, filled with a row's columns and compared as text.

    Raises:
        ReportError: no such file, a template over unknown columns, an axis of which no label occurs, or two
            values for one cell.
    """
    reference = experiment.file.report.reference
    if reference is None:
        return {}
    values: dict[Key, list[float]] = {}
    for labels, row in labelled_rows(experiment, reference):
        if not row["value"]:
            continue  # the paper has none: NA
        key, value = (labels, metric_of(row, reference, experiment.name)), number_of(row, reference, experiment.name)
        if key in values and row.get("param2") != "run":
            known_value = f"{values[key][0]:g} and {value:g}"
            raise ReportError(
                f"{experiment.name}: {reference.file} has two values for {', '.join(labels)} {key[1]}: {known_value}"
            )
        values.setdefault(key, []).append(value)
    return values


def labelled_rows(experiment: Experiment, reference: Reference) -> list[tuple[tuple[str, ...], dict[str, str]]]:
    """Every row of a reference file with its labels on the mapped axes.

    Raises:
        ReportError: no such file, a template over unknown columns, or an axis of which no label occurs.
    """
    path = folder() / reference.file
    if not path.is_file():
        known = ", ".join(sorted(file.name for file in folder().glob("*.csv")))
        raise ReportError(f"{experiment.name}: report.reference.file: no file {reference.file!r}; known: {known}")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    labelled = [(labels_of(reference, row, experiment.name), row) for row in rows]
    faults = []
    for position, axis_name in enumerate(reference.axes):
        axis = next(axis for axis in experiment.file.axes if axis.name == axis_name)
        there = sorted({labels[position] for labels, _ in labelled})
        if not {value.reference or value.label for value in axis.values} & set(there):
            place = f"{experiment.name}: report.reference.axes.{axis_name}"
            faults.append(f"{place}: no label of the axis occurs in {reference.file}, which has {', '.join(there)}")
    if faults:
        raise ReportError(*faults)
    return labelled


def load_words(experiment: Experiment) -> dict[Key, str]:
    """As `load`, for a file of words: its columns `attribute` and `value`, the attribute in the metric's place.

    Raises:
        ReportError: as for `load`, or a file without these columns.
    """
    reference = experiment.file.report.reference
    if reference is None:
        return {}
    words: dict[Key, str] = {}
    for labels, row in labelled_rows(experiment, reference):
        if "attribute" not in row:
            known = ", ".join(row)
            raise ReportError(
                f"{experiment.name}: {reference.file} has no column 'attribute', which kind 'declared' needs; it has {known}"
            )
        words[labels, row["attribute"]] = row["value"]
    return words


def metric_of(row: Mapping[str, str], reference: Reference, place: str) -> str:
    if "metric" not in row:
        raise ReportError(
            f"{place}: {reference.file} has no column 'metric' (it has {', '.join(row)}); words need kind = 'declared'"
        )
    return metrics.printed_name(row["metric"], reference.file)


def number_of(row: Mapping[str, str], reference: Reference, place: str) -> float:
    """The value in our unit."""
    unit = row.get("unit", "")
    if unit not in metrics.PRINTED_UNITS:
        known = ", ".join(name or "none" for name in metrics.PRINTED_UNITS)
        raise ReportError(f"{place}: {reference.file}: unknown unit {unit!r} of {row['metric']}; known: {known}")
    return float(row["value"]) * metrics.PRINTED_UNITS[unit]


def labels_of(reference: Reference, row: Mapping[str, str], place: str) -> tuple[str, ...]:
    """The row's label on each mapped axis."""
    try:
        return tuple(template.format_map(row) for template in reference.axes.values())
    except (KeyError, ValueError, AttributeError, IndexError) as error:
        known = ", ".join(row)
        raise ReportError(
            f"{place}: report.reference.axes: bad template ({error}); columns of {reference.file}: {known}"
        ) from error


def key_of(experiment: Experiment, labels: Mapping[str, str], metric: str) -> Key:
    """Where a cell's values are in what `load` returns."""
    reference = experiment.file.report.reference
    names = reference.axes if reference is not None else ()
    axes = {axis.name: axis for axis in experiment.file.axes}
    values = [axes[name].value(labels[name]) for name in names]
    return tuple(value.reference or value.label for value in values), metric.removeprefix("best/")
