"""What trials keep of single epochs: histograms over images, and pictures of generated ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.errors import StoreError
from analysis.runs import Run, Store
from sweeps.spec import DENSITY_METRICS, HISTOGRAM_METRICS, Report

FILES = {HISTOGRAM_METRICS[0]: "loyalty.json", DENSITY_METRICS[0]: "difficulty.json"}
PICTURES = ("samples_by_class.png", "samples.png")
"""Sample images, the first that a run has: one row for each class, or of any classes (older runs)."""


@dataclass(frozen=True)
class Histogram:
    """Counts of values in bins.

    Attributes:
        n: values counted; those beyond the edges are in no bin.
        edges: one more than counts, never falling; bins are equal, and of width 0 where all values are equal.
    """

    n: int
    mean: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Snapshot:
    """One epoch of a finished run.

    Attributes:
        epoch: the recorded epoch that was taken, from 0.
        total: epochs of the run.
        picture: PNG of sample images; empty where the run has none, or where the report shows none.
        name: the picture's file.
    """

    epoch: int
    total: int
    histogram: Histogram
    picture: bytes = b""
    name: str = ""


def wanted(metric: str, report: Report) -> tuple[str, int | str] | None:
    """File and epoch that a metric of the report is read from; None for metrics of runs."""
    if report.kind == "histogram" and metric.removeprefix("last/") in HISTOGRAM_METRICS:
        return FILES[metric.removeprefix("last/")], "last"
    if report.kind == "density":
        for name, epoch in zip(density_names(report), report.epochs, strict=True):
            if metric == name:
                return FILES[report.metrics[0]], epoch
    return None


def density_names(report: Report) -> tuple[str, ...]:
    """The metrics of a density's table: `epoch10/train/difficulty`, `last/train/difficulty`."""
    prefixes = ["last" if epoch == "last" else f"epoch{epoch}" for epoch in report.epochs]
    return tuple(f"{prefix}/{report.metrics[0]}" for prefix in prefixes)


def read(store: Store, run: Run, metric: str, report: Report) -> Snapshot | str:
    """What a finished run kept at the epoch that the metric asks for, or why there is nothing.

    An epoch that the paper counts is taken at the same share of the run's own length, and of the recorded epochs the
    nearest counts, the earlier of two equally near.

    Raises:
        StoreError: an artifact that is not what `write_histogram` writes.
    """
    found = wanted(metric, report)
    assert found is not None
    file, epoch = found
    kept = store.artifacts(run)
    having = [number for number, names in kept.items() if file in names]
    if not having:
        return f"the run has no {file}"
    total = max(kept) + 1  # the last epoch is always recorded
    if epoch == "last":
        taken = having[-1]
    else:
        assert report.total_epochs is not None
        share = int(epoch) * total / report.total_epochs
        taken = min(having, key=lambda number: (abs(number - share), number))
    histogram = parse(store.artifact(run, taken, file), f"epoch_{taken:04d}/{file} of run {run.run_id}")
    if report.kind != "density":
        return Snapshot(taken, total, histogram)
    name = next((name for name in PICTURES if name in kept[taken]), "")
    return Snapshot(taken, total, histogram, store.artifact(run, taken, name) if name else b"", name)


def parse(content: bytes, place: str) -> Histogram:
    """
    Raises:
        StoreError: not a histogram.
    """
    remedy = "delete this MLflow run, then `sweep sync` mirrors the trial again"
    try:
        raw: Mapping[str, Sequence[float]] = json.loads(content)
        edges, counts = tuple(map(float, raw["edges"])), tuple(map(int, raw["counts"]))
        if len(edges) != len(counts) + 1 or not counts or list(edges) != sorted(edges):
            raise ValueError(f"{len(edges)} edges for {len(counts)} counts, or edges that fall")
        return Histogram(int(raw["n"]), float(raw["mean"]), edges, counts)  # type: ignore[call-overload, arg-type]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{place} is no histogram: {error!r}; {remedy}") from error
