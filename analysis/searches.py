"""The table of an Optuna search: every suggestion with its objective, from what the sweep logged."""

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
        suggestions: as in search.json (number, params, state, value), with `results`: metric -> mean over seeds, NaN
            while a seed is missing.
        importances: hyper-parameter -> share; empty where there were too few suggestions.
    """

    name: str
    suggestions: Sequence[Mapping[str, Any]]
    importances: Mapping[str, float]


@dataclass(frozen=True)
class SearchResult:
    """A search's suggestions and how to show them; `metric` is the objective."""

    name: str
    profile: str
    title: str
    metric: str
    direction: str
    metrics: tuple[str, ...]
    select: str
    remarks: tuple[str, ...]
    studies: tuple[Study, ...]

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
    search = sweep.search or {"cells": [], "metric": "", "direction": "maximize", "importances": {}}
    select = select or experiment.file.report.select
    asked = dict.fromkeys(metrics or experiment.file.report.metrics)
    shown = tuple(name for name in asked if names.result_name(name, select) != search["metric"])
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
        importances = search.get("importances", {}).get(cell.name, {})
        studies.append(Study(cell.name, sorted(suggestions, key=lambda s: s["number"]), importances))
    notes = remarks(experiment, profile, sweep.plan, bool(sweep.plan["scale"]["comparable"]))
    direction, objective = search["direction"], search["metric"]
    return SearchResult(
        experiment.name,
        profile,
        experiment.file.title,
        objective,
        direction,
        shown,
        select,
        tuple(notes),
        tuple(studies),
    )


def result(suggestion: Mapping[str, Any], runs: Mapping[str, Run], name: str) -> float:
    """Mean of a result over the suggestion's seeds; NaN unless every seed is finished."""
    found = [runs[digest] for digest in suggestion["trials"].values() if digest in runs]
    values = [run.metrics.get(name, math.nan) for run in found if run.state == "done"]
    return stats.mean_std(values).value if values and len(values) == len(suggestion["trials"]) else math.nan


def best(study: Study, direction: str) -> int | None:
    """Number of the best complete suggestion, the earliest of equals."""
    sign = -1 if direction == "maximize" else 1
    complete = [
        s
        for s in study.suggestions
        if s["state"] == "complete" and s["value"] is not None and math.isfinite(s["value"])
    ]
    return min(complete, key=lambda s: (sign * s["value"], s["number"]))["number"] if complete else None


def table(search: SearchResult) -> Table:
    """One block for each cell, one row for each suggestion in order; a star marks the best."""
    paths = list(dict.fromkeys(path for study in search.studies for s in study.suggestions for path in s["params"]))
    objective = names.metric(search.metric)
    header = [
        *(path.removeprefix("hparams.") for path in paths),
        "state",
        objective.title,
        *(names.metric(m).title for m in search.metrics),
    ]
    blocks = []
    notes = [f"Importances: {shares(study)}." for study in search.studies if study.importances]
    for study in search.studies:
        star = best(study, search.direction)
        rows = []
        for s in study.suggestions:
            entries = [Entry(HOLE if path not in s["params"] else setting(s["params"][path])) for path in paths]
            entries += [Entry(s["state"]), Entry(number(s["value"], objective))]
            entries += [Entry(number(s["results"][name], names.metric(name))) for name in search.metrics]
            rows.append((f"{s['number']}{' *' if s['number'] == star else ''}", entries))
        blocks.append(Block("" if study.name == "all" else study.name, rows))
    counts = [sum(s["state"] == state for study in search.studies for s in study.suggestions) for state in ORDER]
    states = (
        ", ".join(f"{count} {state}" for count, state in zip(counts, ORDER, strict=True) if count)
        or "no suggestion yet"
    )
    epoch = {"best": "best over epochs, per metric", "last": "last epoch"}[search.select]
    goal = f"{search.direction} {objective.title}"
    caption = (
        f"{search.name}, profile {search.profile}: {states}; {goal}; results: {epoch}, mean over seeds. * is the best."
    )
    return Table(search.title, caption, "suggestion", header, blocks, [], [*notes, *search.remarks])


def shares(study: Study) -> str:
    ordered = sorted(study.importances.items(), key=lambda item: (-item[1], item[0]))
    values = ", ".join(f"{path.removeprefix('hparams.')} {share:.2f}" for path, share in ordered)
    return values if study.name == "all" else f"{study.name}: {values}"


def number(value: float | None, metric: names.Metric) -> str:
    return HOLE if value is None or not math.isfinite(value) else metric.text(value)


def setting(value: Any) -> str:
    """A suggested value, floats to four significant digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def rows(search: SearchResult) -> list[dict[str, Any]]:
    """One flat row for each suggestion, numbers unrounded, None where there is none."""
    flat = []
    paths = list(dict.fromkeys(path for study in search.studies for s in study.suggestions for path in s["params"]))
    for study in search.studies:
        for s in study.suggestions:
            row = {
                "cell": study.name,
                "number": s["number"],
                "state": s["state"],
                **{path: s["params"].get(path) for path in paths},
            }
            results = {names.result_name(name, search.select): value for name, value in s["results"].items()}
            found = {search.metric: s["value"]} | results
            flat.append(
                row
                | {name: value if value is not None and math.isfinite(value) else None for name, value in found.items()}
            )
    return flat
