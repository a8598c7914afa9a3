"""The tidy frame of an experiment: cells of its file, left-joined to the last plan, to runs and to printed values."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import pandas as pd

from analysis import history, printed, snapshots, stats
from analysis import metrics as names
from analysis.errors import ReportError, StoreError
from analysis.runs import Run, Store, Sweep
from analysis.snapshots import Snapshot
from sweeps.spec import Cell, Experiment, Report, matches

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
OBJECTS = ("curve", "snapshot", "labels")
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
        margin: metric -> difference from the printed value that still counts as reproduced.
        digits: metric -> decimals, where the file says so.
        compared: axis whose labels compete for best and second; "" where nothing is ranked.
        unranked: labels of that axis that take no part.
        variants: groups of its labels that are one method.
        remarks: sentences for below a table.
        frame: one row for each cell, seed and metric: the axes as ordered categoricals, then `COLUMNS`; where a
            metric needs them also `curve`, the (epoch, value) pairs, and `snapshot`, what was kept of one epoch.
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
    margin: Mapping[str, float]
    digits: Mapping[str, int]
    compared: str
    unranked: tuple[str, ...]
    variants: tuple[tuple[str, ...], ...]
    remarks: tuple[str, ...]
    frame: pd.DataFrame

    @cached_property
    def cells(self) -> list[dict[str, Any]]:
        """One row for each cell and metric, in the order of the file: labels by axis, `metric`, and the columns below.

        `value`, `std` (NaN where there is none), `n` of `seeds`; `state` done (all seeds), incomplete (some), hole
        (none), absent or reported; `note`, why seeds are missing; `links`, (seed, address of the run) of those that
        went in; `printed`, `printed_std`, `printed_n`, `origin`, the paper's, NaN unless comparable.
        """
        return list(fold(self))

    @property
    def panel_labels(self) -> Sequence[str]:
        """The panels' labels; one empty label where there are no panels."""
        return self.axes[self.panels] if self.panels else [""]

    @cached_property
    def _known(self) -> dict[str, names.Metric]:
        return {}  # what `metric` has answered; tables ask it once for each cell

    def metric(self, name: str) -> names.Metric:
        """How a metric is shown here: times in a unit that suits them, two selections of one metric told apart."""
        if name not in self._known:
            self._known[name] = self._metric(name)
        return self._known[name]

    def _metric(self, name: str) -> names.Metric:
        largest = None
        if names.bare(name) in names.COSTS and not (self.comparable and self.origin):  # else in the paper's unit
            values = [c["value"] for c in self.cells if c["metric"] == name and math.isfinite(c["value"])]
            largest = max(values, default=None)
        found = names.metric(name, largest)
        found = replace(found, digits=self.digits.get(name, self.digits.get(names.bare(name), found.digits)))
        chosen = name if name.startswith(("best/", "last/")) else names.result_name(name, self.select)
        if self.ambiguous(name) and chosen.startswith(("best/", "last/")):
            return replace(found, label=f"{chosen.split('/')[0].capitalize()} {found.label}")
        return found

    def ambiguous(self, name: str) -> bool:
        """Whether the label alone leaves open which value of the metric is meant: another column has it too."""
        others = [other for other in self.metrics if other != name]
        windowed = [match["metric"] for match in map(names.WINDOWED.fullmatch, others) if match is not None]
        selected = [names.bare(other) for other in others if not names.EPOCH.match(other)]
        return names.bare(name) in (*windowed, *selected) and not any(map(names.EPOCH.match, others))

    def drawn(self, name: str) -> names.Metric:
        """As `metric`, for the values of `block`, which are in its unit already."""
        return replace(self.metric(name), factor=1.0)

    def block(self, metric: str, panel: str) -> list[dict[str, Any]]:
        """The cells of one metric and panel, values in the unit they are shown in."""
        factor = self.metric(metric).factor
        scaled = ("value", "std", "printed", "printed_std")
        return [
            cell | {name: cell[name] * factor for name in scaled}
            for cell in self.cells
            if cell["metric"] == metric and (self.panels is None or cell[self.panels] == panel)
        ]

    @property
    def epoch(self) -> str:
        """Which epoch the values belong to, for captions."""
        if self.kind == "epochs":
            chosen = {name.split("/")[0] for name in self.metrics} & {"best", "last"}
            return "best and last epoch, per metric" if len(chosen) > 1 else (*chosen, "last")[0]
        return snapshots.SAID[self.kind] if "snapshot" in self.frame else self.select

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
        ReportError: printed values that cannot be mapped, or epochs that are not the paper's.
    """
    report = experiment.file.report
    reserved = sorted({*COLUMNS, *OBJECTS} & {axis.name for axis in experiment.file.axes})
    if reserved:
        raise ReportError(
            *(
                f"{experiment.name}: axis {name!r} has the name of a result column; name it otherwise"
                for name in reserved
            )
        )
    shown, select = what(report, metrics, select)
    planned = planned_trials(sweep.plan, experiment.name)
    runs = store.runs({digest for trials in planned.values() for digest in trials.values()})
    rows = list(cell_rows(experiment, planned, runs, shown, select))
    check_metrics(rows, runs, select, experiment)
    history.attach(rows, runs, store, report.kind, report.over_seeds)
    snapshots.attach(rows, runs, store, report)
    comparable = bool(sweep.plan["scale"]["comparable"])
    said = remarks(experiment, profile, sweep.plan, comparable)
    said += history.remarks(rows, report.kind, report.over_seeds)
    said += snapshots.remarks(rows, report, comparable, experiment.name)
    axes = {axis.name: kept_labels(experiment, axis.name) for axis in experiment.file.axes}
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
        origin=report.reference.origin if report.reference else "",
        margin=report.margin,
        digits=report.digits,
        compared=report.compared or (report.rows if report.kind == "table" else ""),
        unranked=report.unranked,
        variants=report.variants,
        remarks=tuple(said),
        frame=tidy(rows, axes, report),
    )


def what(
    report: Report, metrics: Sequence[str], select: Literal["last", "best"] | None
) -> tuple[tuple[str, ...], Literal["last", "best"]]:
    """The metrics and the epoch that are shown: those asked for, else what the kind of report is about."""
    if report.kind in snapshots.SEVERAL_EPOCHS:
        return snapshots.shown(metrics, report), select or "last"
    if report.kind in snapshots.SAID:
        return tuple(dict.fromkeys(metrics or report.metrics)), select or "last"
    shown = list(dict.fromkeys(metrics or report.metrics))
    if report.kind == "epochs":
        wanted = [select] if select else ["best", "last"]
        shown = [names.result_name(name, each) for name in shown for each in wanted]
    return tuple(dict.fromkeys(shown)), select or report.select


def cell_rows(
    experiment: Experiment,
    planned: Mapping[tuple[tuple[str, str], ...], Mapping[int, str]],
    runs: Mapping[str, Run],
    shown: Sequence[str],
    select: str,
) -> Iterator[dict[str, Any]]:
    """One record for each cell, metric and seed: labels by axis and together, and the values of `COLUMNS`."""
    report = experiment.file.report
    reference = printed.load(experiment)
    for cell in experiment.cells:
        trials = planned.get(label_key(cell.labels), {})
        seeds = sorted({*(cell.seeds or experiment.file.seeds), *trials}, key=seed_order(experiment))
        for metric in shown:
            values = reference.get(printed.key_of(experiment, cell.labels, metric), [])
            theirs = summarise(values, report.over_seeds, metric)
            origin = report.reference.origin if report.reference and theirs.n else ""
            reason = left_out(experiment, cell, metric)
            for seed in seeds:
                digest = trials.get(seed, "")
                run = runs.get(digest)
                result = None if snapshots.wanted(metric, report) else names.result_name(metric, select)
                value, state, note = (math.nan, "absent", reason) if reason else outcome(cell, digest, run, result)
                yield {
                    **cell.labels,
                    "labels": tuple(cell.labels.values()),
                    "seed": seed,
                    "metric": metric,
                    "value": value,
                    "digest": digest,
                    "run_id": run.run_id if run else "",
                    "link": run.link if run else "",
                    "state": state,
                    "note": note,
                    "reference": theirs.value,
                    "reference_std": theirs.std,
                    "reference_n": theirs.n,
                    "origin": origin,
                }


def left_out(experiment: Experiment, cell: Cell, metric: str) -> str:
    """Why the paper has no such value of a cell that is trained; "" where it has one."""
    for rule in experiment.file.absent:
        if (
            cell.status not in NOT_RUN
            and metric_in(metric, rule.metrics)
            and matches(rule.match, cell.labels, cell.settings)
        ):
            return rule.reason
    return ""


def metric_in(metric: str, listed: Sequence[str] | None) -> bool:
    return names.bare(metric) in map(names.bare, listed or ())


def tidy(rows: Sequence[Mapping[str, Any]], axes: Mapping[str, Sequence[str]], report: Report) -> pd.DataFrame:
    """The frame of a `Grid`."""
    metrics = {row["metric"] for row in rows}
    curves = any(history.source(metric, report.kind, report.over_seeds) for metric in metrics)
    kept = any(snapshots.wanted(metric, report) for metric in metrics)
    columns = [*COLUMNS, *(["curve"] if curves else []), *(["snapshot"] if kept else [])]
    frame = pd.DataFrame({name: [row[name] for row in rows] for name in [*axes, *COLUMNS]}, columns=[*axes, *COLUMNS])
    for name in columns[len(COLUMNS) :]:
        frame[name] = pd.Series([row[name] for row in rows], index=frame.index, dtype=object)
    for name, labels in axes.items():
        frame[name] = pd.Categorical(frame[name], categories=list(labels), ordered=True)
    frame["reference_std"] = frame["reference_std"].astype(float)
    return frame


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


def outcome(cell: Cell, digest: str, run: Run | None, result: str | None) -> tuple[float, str, str]:
    """Value, state and note of one cell and seed; only a finished run has a value.

    Args:
        result: the run's metric; None where the value comes from elsewhere, and is NaN here.
    """
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
    if result is None:
        return math.nan, run.state, ""
    if result not in run.metrics:
        return math.nan, run.state, f"the run has no {result}"
    if not math.isfinite(run.metrics[result]):
        return math.nan, run.state, f"the run's {result} is {run.metrics[result]}"
    return run.metrics[result], run.state, ""


def check_metrics(
    rows: Sequence[Mapping[str, Any]], runs: Mapping[str, Run], select: str, experiment: Experiment
) -> None:
    """
    Raises:
        StoreError: metrics that none of the finished runs has that should have them, with those that they have.
    """
    faults = []
    for metric in dict.fromkeys(row["metric"] for row in rows):
        if snapshots.wanted(metric, experiment.file.report) is None:
            concerned = {row["digest"] for row in rows if row["metric"] == metric and row["state"] not in NOT_RUN}
            mine = [runs[digest] for digest in concerned if digest in runs]
            faults += metric_faults(mine, names.result_name(metric, select), experiment.name)
    if faults:
        raise StoreError(*faults)


def metric_faults(runs: Sequence[Run], result: str, name: str) -> list[str]:
    """A message where finished runs exist and none has the result."""
    finished = [run for run in runs if run.state == "done"]
    known = {metric for run in finished for metric in run.metrics}
    if not finished or result in known:
        return []
    offered = ", ".join(sorted(metric for metric in known if metric.startswith(names.SELECTIONS)))
    return [f"{name}: no finished run has metric {result!r}; they have {offered}"]


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
    for record in records_of(grid.frame):
        groups.setdefault((*(record[axis] for axis in grid.axes), record["metric"]), []).append(record)
    for (*labels, metric), records in groups.items():
        present = [record for record in records if not math.isnan(record["value"])]
        found = fold_seeds(present, grid.over_seeds, metric)
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
            "links": tuple((str(record["seed"]), record["link"]) for record in present),
            "printed": theirs["reference"],
            "printed_std": theirs["reference_std"],
            "printed_n": theirs["reference_n"],
            "origin": theirs["origin"],
        }


def records_of(frame: pd.DataFrame) -> Iterator[dict[Any, Any]]:
    """The frame's rows without digests and run ids, which no cell shows; `to_dict` takes three times as long."""
    columns = {name: frame[name].to_numpy(dtype=object).tolist() for name in frame.columns.drop(["digest", "run_id"])}
    return (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))


def fold_seeds(present: Sequence[Mapping[Any, Any]], mode: stats.Mode, metric: str) -> stats.Summary:
    """One number from a cell's seeds.

    With `mean_curve` statistics over a window are those of the curve averaged over seeds and memory is the largest;
    everything else, such as the best epoch or the time, is the mean over seeds.
    """
    values = [record["value"] for record in present]
    if mode != "mean_curve":
        return summarise(values, mode, metric)
    windowed = names.WINDOWED.fullmatch(metric)
    if windowed is not None:
        return stats.over_epochs([record["curve"] for record in present], windowed["statistic"])  # type: ignore[arg-type]
    return stats.largest(values) if names.bare(metric) == names.PEAK_MEMORY else stats.mean_std(values)


def snapshots_of(grid: Grid, record: Mapping[str, Any]) -> list[Snapshot[Any]]:
    """What the finished seeds of a cell kept, in the order of the seeds."""
    return [snapshot for snapshot in seeds_of(grid, record)["snapshot"] if snapshot is not None]


def curves_of(grid: Grid, record: Mapping[str, Any]) -> list[stats.Curve]:
    """The curves of the finished seeds of a cell."""
    return [curve for curve in seeds_of(grid, record)["curve"] if len(curve)]


def seeds_of(grid: Grid, record: Mapping[str, Any]) -> pd.DataFrame:
    """The frame's rows behind one of `Grid.cells`."""
    mine = grid.frame["metric"] == record["metric"]
    for axis in grid.axes:
        mine &= grid.frame[axis] == record[axis]
    found: pd.DataFrame = grid.frame.loc[mine]
    return found


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
