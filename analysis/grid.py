"""The tidy frame of an experiment: cells of its file, left-joined to the last plan, to runs and to printed values."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import pandas as pd

from analysis import metrics as names
from analysis import printed, stats
from analysis.errors import ReportError, StoreError
from analysis.runs import Run, Store, Sweep
from sweeps.spec import Cell, Experiment

log = logging.getLogger(__name__)

COLUMNS = (
    "seed",
    "metric",
    "value",
    "digest",
    "run_id",
    "link",
    "state",
    "note",
    "reference",
    "reference_std",
    "reference_n",
    "origin",
)
NOT_RUN = ("absent", "reported")
"""States of cells that nobody means to train: no holes."""
NOT_COMPARED = {"reference": math.nan, "reference_std": math.nan, "reference_n": 0, "origin": ""}


@dataclass(frozen=True)
class Grid:
    """An experiment's results and how its file wants them shown.

    Attributes:
        name: `paper/figure`.
        axes: axis name -> labels, in the order of the file, after what the profile keeps.
        metrics: names without selection, as in the file or as asked for.
        comparable: whether printed values belong beside ours: only at the paper's own scale.
        origin: where printed values come from; "" without any.
        remarks: sentences for below a table.
        frame: one row for each cell, seed and metric: the axes as ordered categoricals, then `COLUMNS`; with
            over_seeds = "mean_curve" also `curve`, the (epoch, value) pairs.
    """

    name: str
    profile: str
    title: str
    kind: str
    rows: str
    columns: str | None
    panels: str | None
    axes: Mapping[str, Sequence[str]]
    metrics: tuple[str, ...]
    select: Literal["last", "best"]
    over_seeds: stats.Mode
    comparable: bool
    origin: str
    remarks: tuple[str, ...]
    frame: pd.DataFrame

    @cached_property
    def cells(self) -> list[dict[str, Any]]:
        """One row for each cell and metric, in the order of the file: labels by axis, `metric`, and the columns below.

        `value`, `std` (NaN where there is none), `n` of `seeds`; `state` done (all seeds), incomplete (some), hole
        (none), absent or reported; `note`, why seeds are missing; `printed`, `printed_std`, `printed_n`, `origin`, the
        paper's, NaN unless comparable.
        """
        return list(fold(self))

    @property
    def panel_labels(self) -> Sequence[str]:
        """The panels' labels; one empty label where there are no panels."""
        return self.axes[self.panels] if self.panels else [""]

    def block(self, metric: str, panel: str) -> list[dict[str, Any]]:
        """The cells of one metric and panel."""
        return [c for c in self.cells if c["metric"] == metric and (self.panels is None or c[self.panels] == panel)]

    @property
    def holes(self) -> pd.DataFrame:
        """Rows that should have a value and have none."""
        return self.frame[self.frame["value"].isna() & ~self.frame["state"].isin(NOT_RUN)]


def load(
    experiment: Experiment,
    profile: str,
    sweep: Sweep,
    store: Store,
    metrics: Sequence[str] = (),
    select: Literal["last", "best"] | None = None,
) -> Grid:
    """The grid of an experiment as last swept; `metrics` and `select` replace the file's.

    Raises:
        StoreError: a metric that no finished run has, or one cell with two configurations.
        ReportError: printed values that cannot be mapped.
    """
    report = experiment.file.report
    select = select or report.select
    shown = tuple(dict.fromkeys(metrics or report.metrics))
    reserved = sorted({*COLUMNS, "curve"} & {axis.name for axis in experiment.file.axes})
    if reserved:
        raise ReportError(
            *(
                f"{experiment.name}: axis {name!r} has the name of a result column; name it otherwise"
                for name in reserved
            )
        )
    planned = planned_trials(sweep.plan, experiment.name)
    seeds = sorted(
        {*experiment.file.seeds, *(seed for trials in planned.values() for seed in trials)}, key=seed_order(experiment)
    )
    runs = store.runs({digest for trials in planned.values() for digest in trials.values()})
    check_metrics(runs, shown, select, experiment.name)
    reference = printed.load(experiment)
    origin = experiment.file.report.reference.origin if experiment.file.report.reference else ""
    rows = []
    for cell in experiment.cells:
        trials = planned.get(label_key(cell.labels), {})
        for metric in shown:
            values = reference.get(printed.key_of(experiment, cell.labels, metric), [])
            theirs = summarise(values, report.over_seeds, metric)
            for seed in seeds:
                digest = trials.get(seed, "")
                run = runs.get(digest)
                value, state, note = outcome(cell, digest, run, names.result_name(metric, select))
                row: dict[str, Any] = {**cell.labels, "seed": seed, "metric": metric, "value": value, "digest": digest}
                row |= {
                    "run_id": run.run_id if run else "",
                    "link": run.link if run else "",
                    "state": state,
                    "note": note,
                }
                row |= {"reference": theirs.value, "reference_std": theirs.std, "reference_n": theirs.n}
                rows.append(row | {"origin": origin if theirs.n else ""})
    axes = {axis.name: kept_labels(experiment, axis.name) for axis in experiment.file.axes}
    frame = pd.DataFrame(rows, columns=[*axes, *COLUMNS])
    for name, labels in axes.items():
        frame[name] = pd.Categorical(frame[name], categories=list(labels), ordered=True)
    frame["reference_std"] = frame["reference_std"].astype(float)
    if report.over_seeds == "mean_curve":
        frame["curve"] = pd.Series(curves(frame, runs, store), index=frame.index, dtype=object)
    comparable = bool(sweep.plan["scale"]["comparable"])
    return Grid(
        name=experiment.name,
        profile=profile,
        title=experiment.file.title,
        kind=report.kind,
        rows=report.rows,
        columns=report.columns,
        panels=report.panels,
        axes=axes,
        metrics=shown,
        select=select,
        over_seeds=report.over_seeds,
        comparable=comparable,
        origin=origin,
        remarks=tuple(remarks(experiment, profile, sweep.plan, comparable)),
        frame=frame,
    )


def planned_trials(plan: Mapping[str, Any], name: str) -> dict[tuple[tuple[str, str], ...], dict[int, str]]:
    """Labels of a cell -> seed -> digest.

    Raises:
        StoreError: a cell that the plan maps to two digests for one seed.
    """
    planned: dict[tuple[tuple[str, str], ...], dict[int, str]] = {}
    faults = []
    for cell in plan["cells"]:
        trials = planned.setdefault(label_key(cell["labels"]), {})
        for seed, digest in cell.get("trials", {}).items():
            known = trials.setdefault(int(seed), digest)
            if known != digest:
                shown = " ".join(f"{axis}={label}" for axis, label in cell["labels"].items())
                faults.append(
                    f"{name}: cell {shown} seed {seed} has two configurations in the last plan: {known} and {digest}"
                )
    if faults:
        raise StoreError(*faults)
    return planned


def label_key(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(labels.items()))


def seed_order(experiment: Experiment) -> Any:
    """Seeds in the order of the file, others of the plan after them."""
    order = {seed: position for position, seed in enumerate(experiment.file.seeds)}
    return lambda seed: (order.get(seed, len(order)), seed)


def kept_labels(experiment: Experiment, axis_name: str) -> tuple[str, ...]:
    axis = next(axis for axis in experiment.file.axes if axis.name == axis_name)
    kept = experiment.kept.get(axis_name)
    return tuple(value.label for value in axis.values if kept is None or value.label in kept)


def outcome(cell: Cell, digest: str, run: Run | None, result: str) -> tuple[float, str, str]:
    """Value, state and note of one cell and seed; only a finished run has a value."""
    if cell.status != "run":
        return math.nan, cell.status, cell.reason
    if not digest:
        return math.nan, "unplanned", "not in the last plan"
    if run is None:
        return math.nan, "new", "not started"
    if run.state == "failed":
        return math.nan, run.state, f"failed: {' '.join(run.error.split()) or 'cause not recorded'}"
    if run.state == "stopped":
        return math.nan, run.state, "stopped by a pruner"
    if run.state != "done":
        return math.nan, run.state, "not finished"
    if result not in run.metrics:
        return math.nan, run.state, f"the run has no {result}"
    if not math.isfinite(run.metrics[result]):
        return math.nan, run.state, f"the run's {result} is {run.metrics[result]}"
    return run.metrics[result], run.state, ""


def check_metrics(runs: Mapping[str, Run], shown: Sequence[str], select: str, name: str) -> None:
    """
    Raises:
        StoreError: metrics that none of the finished runs has, with those that they have.
    """
    finished = [run for run in runs.values() if run.state == "done"]
    known = {metric for run in finished for metric in run.metrics}
    results = [names.result_name(metric, select) for metric in shown]
    offered = ", ".join(sorted(metric for metric in known if metric.startswith(names.SELECTIONS)))
    faults = [
        f"{name}: no finished run has metric {result!r}; they have {offered}"
        for result in results
        if finished and result not in known
    ]
    if faults:
        raise StoreError(*faults)


def curves(frame: pd.DataFrame, runs: Mapping[str, Run], store: Store) -> list[stats.Curve]:
    """The per-epoch values behind each row of the frame; empty where there is no value."""
    finished = frame.loc[frame["value"].notna(), ["digest", "metric"]]
    read: dict[tuple[str, str], stats.Curve] = {}
    for metric in finished["metric"].unique():
        digests = sorted(set(finished.loc[finished["metric"] == metric, "digest"]))
        for digest, curve in store.curves([runs[digest] for digest in digests], metric).items():
            read[digest, metric] = curve
    return [read.get(pair, ()) for pair in zip(frame["digest"], frame["metric"], strict=True)]


def remarks(experiment: Experiment, profile: str, plan: Mapping[str, Any], comparable: bool) -> list[str]:
    """What a reader must know beside the numbers."""
    found = []
    reference = experiment.file.report.reference
    if not comparable:
        scale = f" ({plan['scale']['note']})" if plan["scale"]["note"] else ""
        found.append(f"Profile {profile} has another scale than the paper{scale}: printed values are not compared.")
    elif reference is not None and reference.note:
        found.append(reference.note)
    if plan["sha256"] != experiment.sha256:
        command = f"sweep run {experiment.name} --profile {profile}"
        found.append(f"The experiment file changed since the last plan; `{command}` brings the results up to date.")
    return found


def summarise(values: Sequence[float], mode: stats.Mode, metric: str) -> stats.Summary:
    """One number from values of single runs; curves are not known for printed values, so their mean stands for them."""
    if mode == "best":
        return stats.best(values, names.metric(metric).lower_is_better)
    return stats.mean_std(values)


# --- one row for each cell -------------------------------------------------------------------------------------------


def fold(grid: Grid) -> Iterator[dict[str, Any]]:
    """What `Grid.cells` holds."""
    groups: dict[tuple[str, ...], list[dict[Any, Any]]] = {}
    for record in grid.frame.to_dict("records"):
        groups.setdefault((*(record[axis] for axis in grid.axes), record["metric"]), []).append(record)
    for (*labels, metric), records in groups.items():
        present = [record for record in records if not math.isnan(record["value"])]
        if grid.over_seeds == "mean_curve":
            lower = names.metric(metric).lower_is_better
            found = stats.mean_curve([record["curve"] for record in present], grid.select, lower)
        else:
            found = summarise([record["value"] for record in present], grid.over_seeds, metric)
        if records[0]["state"] in NOT_RUN:
            state = records[0]["state"]
        else:
            state = "done" if len(present) == len(records) else "incomplete" if present else "hole"
        theirs = records[0] if grid.comparable else NOT_COMPARED
        yield {
            **dict(zip(grid.axes, labels, strict=True)),
            "metric": metric,
            "value": found.value,
            "std": math.nan if found.std is None else found.std,
            "n": found.n,
            "seeds": len(records),
            "state": state,
            "note": note_of(records),
            "printed": theirs["reference"],
            "printed_std": theirs["reference_std"],
            "printed_n": theirs["reference_n"],
            "origin": theirs["origin"],
        }


def note_of(records: Sequence[Mapping[Any, Any]]) -> str:
    """Why seeds are missing; one reason for all seeds is said once."""
    missing = [(record["seed"], record["note"]) for record in records if record["note"]]
    reasons = list(dict.fromkeys(note for _, note in missing))
    if len(reasons) == 1 and len(missing) == len(records):
        return str(reasons[0])
    parts = []
    for reason in reasons:
        seeds = [str(seed) for seed, note in missing if note == reason]
        parts.append(f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(seeds)} {reason}")
    return "; ".join(parts)
