"""The table of an Optuna search: every suggestion with its objectives, from what the sweep logged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis import metrics as names
from analysis import stats
from analysis.errors import StoreError
from analysis.grid import metric_faults, remarks
from analysis.metrics import HOLE
from analysis.runs import Run, Store, Sweep
from analysis.tables import Block, Entry, Table
from sweeps.spec import Experiment

ORDER = ("complete", "running", "pruned", "failed")


@dataclass(frozen=True)
class Study:
    """One cell's study.

    Attributes:
        name: the cell's readable name.
        suggestions: as in search.json (number, params, state, and values: one for each objective, None where there is
            none), with `results`: metric -> mean over seeds, NaN while a seed is missing.
        importances: objective -> hyper-parameter -> share; without an objective for which there were too few suggestions.
    """

    name: str
    suggestions: Sequence[Mapping[str, Any]]
    importances: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class SearchResult:
    """A search's suggestions and how to show them.

    Attributes:
        objectives: (metric, "maximize" or "minimize") of each; a suggestion's `values` have this order.
        metrics: what is shown beside them.
        logarithmic: paths that are searched on a logarithmic scale.
    """

    name: str
    profile: str
    title: str
    objectives: tuple[tuple[str, str], ...]
    metrics: tuple[str, ...]
    select: str
    remarks: tuple[str, ...]
    studies: tuple[Study, ...]
    logarithmic: frozenset[str] = frozenset()

    @property
    def missing(self) -> list[str]:
        """Cells without a single complete suggestion."""
        return [study.name for study in self.studies if not any(s["state"] == "complete" for s in study.suggestions)]


def load(
    experiment: Experiment,
    profile: str,
    sweep: Sweep,
    store: Store,
    metrics: Sequence[str] = (),
    select: str | None = None,
) -> SearchResult:
    """The search as last swept; cells of the file that it did not reach have no suggestions.

    Raises:
        StoreError: a metric that no finished run has.
    """
    assert experiment.file.search is not None
    search = normal(sweep.search or nothing_logged(experiment))
    objectives = tuple((each["metric"], each["direction"]) for each in search["objectives"])
    select = select or experiment.file.report.select
    asked = dict.fromkeys(metrics or experiment.file.report.metrics)
    shown = tuple(name for name in asked if names.result_name(name, select) not in dict(objectives))
    runs = store.runs(
        {digest for cell in search["cells"] for s in cell["suggestions"] for digest in s["trials"].values()}
    )
    results = [names.result_name(name, select) for name in shown]
    faults = [fault for name in results for fault in metric_faults(list(runs.values()), name, experiment.name)]
    if faults:
        raise StoreError(*faults)
    logged = {tuple(sorted(cell["labels"].items())): cell for cell in search["cells"]}
    studies = []
    for cell in experiment.cells:
        raw = logged.get(tuple(sorted(cell.labels.items())), {"suggestions": []})
        suggestions = [
            s | {"results": {name: result(s, runs, names.result_name(name, select)) for name in shown}}
            for s in raw["suggestions"]
        ]
        importances = search["importances"].get(cell.name, {})
        studies.append(Study(cell.name, sorted(suggestions, key=lambda s: s["number"]), importances))
    notes = remarks(experiment, profile, sweep.plan, bool(sweep.plan["scale"]["comparable"]))
    return SearchResult(
        experiment.name,
        profile,
        experiment.file.title,
        objectives,
        shown,
        select,
        tuple(notes),
        tuple(studies),
        frozenset(dimension.path for dimension in experiment.file.search.space if dimension.log),
    )


def nothing_logged(experiment: Experiment) -> Mapping[str, Any]:
    """What search.json of a search without suggestions holds."""
    assert experiment.file.search is not None
    objectives = [{"metric": each.metric, "direction": each.direction} for each in experiment.file.search.goals]
    return {"schema": 2, "objectives": objectives, "cells": [], "importances": {}}


def normal(search: Mapping[str, Any]) -> Mapping[str, Any]:
    """The content of search.json as schema 2 has it; schema 1 knew one objective."""
    if search["schema"] != 1:
        return search
    metric = search["metric"]
    cells = [
        cell | {"suggestions": [s | {"values": [s["value"]]} for s in cell["suggestions"]]} for cell in search["cells"]
    ]
    return {
        "schema": 2,
        "objectives": [{"metric": metric, "direction": search["direction"]}],
        "cells": cells,
        "importances": {cell: {metric: shares} for cell, shares in search["importances"].items() if shares},
    }


def result(suggestion: Mapping[str, Any], runs: Mapping[str, Run], name: str) -> float:
    """Mean of a result over the suggestion's seeds; NaN unless every seed is finished."""
    found = [runs[digest] for digest in suggestion["trials"].values() if digest in runs]
    values = [run.metrics.get(name, math.nan) for run in found if run.state == "done"]
    return stats.mean_std(values).value if values and len(values) == len(suggestion["trials"]) else math.nan


def front(study: Study, directions: Sequence[str]) -> list[int]:
    """Numbers of the complete suggestions that no other one beats: with one objective the best, with several the Pareto front.

    One beats another if it is nowhere worse and somewhere better, or equal everywhere and earlier.
    """
    signs = [-1 if direction == "maximize" else 1 for direction in directions]
    points = [
        ([sign * value for sign, value in zip(signs, s["values"], strict=True)], s["number"])
        for s in study.suggestions
        if s["state"] == "complete" and all(value is not None and math.isfinite(value) for value in s["values"])
    ]
    return [
        number
        for costs, number in points
        if not any(
            all(a <= b for a, b in zip(others, costs, strict=True)) and (others != costs or earlier < number)
            for others, earlier in points
        )
    ]


def table(search: SearchResult) -> Table:
    """One block for each cell, one row for each suggestion in order; stars mark the best, or the Pareto front."""
    paths = swept(search)
    objectives = [shown_objective(search, i) for i in range(len(search.objectives))]
    header = [
        *(path.removeprefix("hparams.") for path in paths),
        "state",
        *(objective.title for objective in objectives),
        *(names.metric(m).title for m in search.metrics),
    ]
    blocks = []
    notes = [f"Importances{each}." for study in search.studies for each in shares(study, search)]
    for study in search.studies:
        starred = front(study, [direction for _, direction in search.objectives])
        rows = []
        for s in study.suggestions:
            entries = [Entry(HOLE if path not in s["params"] else setting(s["params"][path])) for path in paths]
            values = zip(s["values"], objectives, strict=True)
            entries += [Entry(s["state"]), *(Entry(number(value, objective)) for value, objective in values)]
            entries += [Entry(number(s["results"][name], names.metric(name))) for name in search.metrics]
            rows.append((f"{s['number']}{' *' if s['number'] in starred else ''}", entries))
        blocks.append(Block("" if study.name == "all" else study.name, rows))
    counts = [sum(s["state"] == state for study in search.studies for s in study.suggestions) for state in ORDER]
    states = (
        ", ".join(f"{count} {state}" for count, state in zip(counts, ORDER, strict=True) if count)
        or "no suggestion yet"
    )
    epoch = {"best": "best over epochs, per metric", "last": "last epoch"}[search.select]
    goals = " and ".join(
        f"{direction} {objective.title}"
        for objective, (_, direction) in zip(objectives, search.objectives, strict=True)
    )
    star = "the best" if len(objectives) == 1 else "the Pareto front"
    caption = (
        f"{search.name}, profile {search.profile}: {states}; {goals}; results: {epoch}, mean over seeds. * is {star}."
    )
    return Table(search.title, caption, "suggestion", header, blocks, [], [*notes, *search.remarks])


def swept(search: SearchResult) -> list[str]:
    """Paths of the searched settings."""
    return list(dict.fromkeys(path for study in search.studies for s in study.suggestions for path in s["params"]))


def shown_objective(search: SearchResult, index: int) -> names.Metric:
    """How an objective is shown; a cost has the unit of its largest value."""
    values = [s["values"][index] for study in search.studies for s in study.suggestions]
    return names.metric(search.objectives[index][0], max((v for v in values if v is not None), default=None))


def shares(study: Study, search: SearchResult) -> list[str]:
    """Each objective's importances in words, largest first; names the cell and the objective where there are several."""
    said = []
    for index, (metric, _) in enumerate(search.objectives):
        ordered = sorted(study.importances.get(metric, {}).items(), key=lambda item: (-item[1], item[0]))
        if ordered:
            cell = "" if study.name == "all" else f"{study.name}: "
            of = "" if len(search.objectives) == 1 else f" for {shown_objective(search, index).label}"
            values = ", ".join(f"{path.removeprefix('hparams.')} {share:.2f}" for path, share in ordered)
            said.append(f"{of}: {cell}{values}")
    return said


def number(value: float | None, metric: names.Metric) -> str:
    return HOLE if value is None or not math.isfinite(value) else metric.text(value)


def setting(value: Any) -> str:
    """A suggested value, floats to four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def rows(search: SearchResult) -> list[dict[str, Any]]:
    """One flat row for each suggestion, numbers unrounded, None where there is none."""
    flat = []
    paths = swept(search)
    for study in search.studies:
        for s in study.suggestions:
            row = {
                "cell": study.name,
                "number": s["number"],
                "state": s["state"],
                **{path: s["params"].get(path) for path in paths},
            }
            results = {names.result_name(name, search.select): value for name, value in s["results"].items()}
            objectives = (metric for metric, _ in search.objectives)
            found = dict(zip(objectives, s["values"], strict=True)) | results
            flat.append(
                row
                | {name: value if value is not None and math.isfinite(value) else None for name, value in found.items()}
            )
    return flat
