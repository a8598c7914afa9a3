"""Per-epoch values behind the cells: for lines over epochs, and for statistics of the curve averaged over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from analysis import metrics as names
from analysis import stats
from analysis.runs import Run, Store

Record = dict[str, Any]


def source(metric: str, kind: str, over_seeds: str) -> str | None:
    """The metric whose history a cell needs; None where the result is enough."""
    if kind == "epochs" or names.bare(metric) == names.PEAK_MEMORY:
        return names.bare(metric)
    windowed = names.WINDOWED.fullmatch(metric)
    return windowed["metric"] if windowed is not None and over_seeds == "mean_curve" else None


def attach(rows: Sequence[Record], runs: Mapping[str, Run], store: Store, kind: str, over_seeds: str) -> None:
    """Adds `curve`, the (epoch, value) pairs, to rows that have a value; a memory's value becomes its peak over epochs.

    For a statistic over a window the curve is cut to it. A row whose history does not give what the run recorded, or
    whose cell has seeds with different windows, loses its value and gets a note.
    """
    wanted: dict[str, set[str]] = {}
    for row in rows:
        row["curve"] = ()
        metric = source(row["metric"], kind, over_seeds)
        if metric is not None and not math.isnan(row["value"]):
            wanted.setdefault(metric, set()).add(row["digest"])
    curves = {
        metric: store.curves([runs[digest] for digest in sorted(digests)], metric) for metric, digests in wanted.items()
    }
    cells: dict[tuple[Any, ...], list[Record]] = {}
    for row in rows:
        metric = source(row["metric"], kind, over_seeds)
        if metric is None or math.isnan(row["value"]):
            continue
        row["curve"] = curves[metric][row["digest"]]
        if metric == names.PEAK_MEMORY:  # a continued trial starts to count again
            row["value"] = max([row["value"], *(value for _, value in row["curve"] if math.isfinite(value))])
        elif kind != "epochs":
            cells.setdefault((*row["labels"], row["metric"]), []).append(row)
    for cell in cells.values():
        cut(cell, runs)


def cut(cell: Sequence[Record], runs: Mapping[str, Run]) -> None:
    """Cuts the curves of one cell and metric to the window that all its seeds recorded."""
    found = {}
    for row in cell:
        windows = windows_of(row, runs[row["digest"]])
        if windows:
            found[row["seed"]] = windows
        else:
            reject(row, f"its history does not give its {row['metric']}; delete the MLflow run, then `sweep sync`")
    begins = [{begin for begin, _ in windows} for windows in found.values()]
    common = set.intersection(*begins) if begins else set()
    if begins and not common:
        shown = ", ".join(f"seed {seed} from epoch {min(begin for begin, _ in w)}" for seed, w in found.items())
        for row in cell:
            if row["seed"] in found:
                reject(row, f"the seeds' windows differ ({shown})")
        return
    for row in cell:
        if row["seed"] in found:
            begin = min(common)
            end = max(end for first, end in found[row["seed"]] if first == begin)
            row["curve"] = [(epoch, value) for epoch, value in row["curve"] if begin <= epoch < end]


def windows_of(row: Record, run: Run) -> set[stats.Window]:
    """Windows of the row's kind that fit what its run recorded; none where the history has gaps."""
    windowed = names.WINDOWED.fullmatch(row["metric"])
    assert windowed is not None
    stem = row["metric"].removesuffix(f"_{windowed['statistic']}")
    mean, var = (run.metrics.get(f"{stem}_{statistic}", math.nan) for statistic in ("mean", "var"))
    values = [value for _, value in row["curve"]]
    if [epoch for epoch, _ in row["curve"]] != list(range(len(values))) or not all(map(math.isfinite, values)):
        return set()
    end = len(values)
    fits = stats.windows_of(values, mean, var)
    if windowed["window"] == "all":
        return fits & {(0, end)}
    return fits if windowed["window"] == "inner" else {window for window in fits if window[1] == end}


def reject(row: Record, note: str) -> None:
    row |= {"value": math.nan, "note": note, "curve": ()}


def remarks(rows: Sequence[Record], kind: str, over_seeds: str) -> list[str]:
    """What a reader must know of the epochs that went in."""
    found = []
    windows = sorted({(row["curve"][0][0], row["curve"][-1][0]) for row in rows if is_windowed(row) and row["curve"]})
    if windows:
        shown = "; ".join(f"{begin} to {end}" for begin, end in windows)
        found.append(
            "μ and σ² are mean and population variance over epochs of the curve averaged over seeds; "
            f"epochs, counted from 0: {shown}."
        )
    elif any(is_windowed(row) for row in rows):
        found.append("μ and σ² are mean and population variance over the epochs of each seed's own curve.")
    if over_seeds == "mean_curve" and any(names.bare(row["metric"]) == names.PEAK_MEMORY for row in rows):
        found.append("Peak memory is the largest over seeds; other values without μ or σ² are means over seeds.")
    if kind == "epochs":
        found += uneven(rows)
    return found


def is_windowed(row: Record) -> bool:
    return names.WINDOWED.fullmatch(row["metric"]) is not None


def uneven(rows: Sequence[Record]) -> list[str]:
    """Cells whose seeds have curves of different lengths: only the epochs that all have are averaged."""
    lengths: dict[str, set[int]] = {}
    for row in rows:
        if len(row["curve"]):
            lengths.setdefault(", ".join(row["labels"]), set()).add(len(row["curve"]))
    return [
        f"{cell}: seeds have {min(counts)} to {max(counts)} epochs; the curve is drawn over those that all have."
        for cell, counts in lengths.items()
        if len(counts) > 1
    ]
