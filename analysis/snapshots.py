"""What trials keep of single epochs: histograms over images, pictures, an embedding of features, class centres."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from analysis import metrics as names
from analysis.errors import ReportError, StoreError
from analysis.runs import Run, Store
from sweeps.spec import KEPT_METRICS, Report

SCHEMA = 1
"""Of embedding.json and centres.json."""
PICTURES = ("samples_by_class.png", "samples.png")
"""Sample images, the first that a run has: one row for each class, or of any classes (older runs)."""
SEVERAL_EPOCHS = ("density", "images")
"""Kinds whose report names epochs of the paper, and whose metrics in a grid begin with one: `epoch10/train/difficulty`."""
SAID = {
    "histogram": "mean over test images, last recorded epoch",
    "density": "mean over generated images",
    "images": "mean over the images shown",
    "scatter": "features of the points shown, in all their dimensions",
    "matrix": "over pairs of different classes, all of them",
}
"""Kind -> which epoch and what of it a value belongs to, for captions."""


class Content(Protocol):
    @property
    def value(self) -> float:
        """The one number that a table shows."""


Kept = TypeVar("Kept", bound=Content, covariant=True)


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

    @property
    def value(self) -> float:
        return self.mean


@dataclass(frozen=True)
class Tiles:
    """Images of training, a row of tiles for each class.

    Attributes:
        columns: tiles in a row; those that a class does not fill are white.
        tile_px: side of a square tile with its border.
        scores: class number -> difficulty g of its images, from left to right.
    """

    columns: int
    tile_px: int
    scores: Mapping[str, tuple[float, ...]]

    @property
    def value(self) -> float:
        """The mean of g."""
        shown = [score for row in self.scores.values() for score in row]
        return math.fsum(shown) / len(shown) if shown else math.nan

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height of the picture."""
        return self.columns * self.tile_px, len(self.scores) * self.tile_px


@dataclass(frozen=True)
class Embedding:
    """Points in the plane, each with its class number; axes without a unit.

    Attributes:
        silhouette: in [-1, 1], of the features that the points stand for, in all their dimensions.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]
    classes: tuple[int, ...]
    silhouette: float

    @property
    def value(self) -> float:
        return self.silhouette


@dataclass(frozen=True)
class Centres:
    """Weights of a classifier for some classes.

    Attributes:
        values: one row of d numbers for each class.
        mean_cosine: in [-1, 1], over pairs of different classes, all of them.
    """

    classes: tuple[int, ...]
    values: tuple[tuple[float, ...], ...]
    mean_cosine: float

    @property
    def value(self) -> float:
        return self.mean_cosine


@dataclass(frozen=True)
class Snapshot(Generic[Kept]):
    """One epoch of a finished run.

    Attributes:
        epoch: the recorded epoch that was taken, from 0.
        total: epochs of the run.
        content: what the figure shows.
        picture: PNG of images; empty where the run has none, or where the report shows none.
        name: the picture's file.
    """

    epoch: int
    total: int
    content: Kept
    picture: bytes = b""
    name: str = ""

    @property
    def epoch_text(self) -> str:
        """Which epoch it is, for a title or a legend: `epoch 10 of 60`, `epoch 59, the last`."""
        last = ", the last" if self.epoch == self.total - 1 else f" of {self.total}"
        return f"epoch {self.epoch}{last}"


# --- which ------------------------------------------------------------------------------------------------------------


def wanted(metric: str, report: Report) -> tuple[str, int | str] | None:
    """Metric of the report and epoch that a metric of the grid means; None for metrics of runs."""
    known = KEPT_METRICS.get(report.kind, ())
    if report.kind in SEVERAL_EPOCHS:
        return next(((name, epoch) for name in known for epoch in report.epochs if metric == at(name, epoch)), None)
    name = metric.removeprefix("last/")
    return (name, "last") if name in known else None


def at(metric: str, epoch: int | str) -> str:
    """`epoch10/train/difficulty`, `last/train/difficulty`."""
    return f"{'last' if epoch == 'last' else f'epoch{epoch}'}/{metric}"


def shown(asked: Sequence[str], report: Report) -> tuple[str, ...]:
    """Metrics of a grid: those of the report at its epochs, or those asked for; single images may be asked for by sort."""
    if not asked:
        return tuple(at(name, epoch) for name in report.metrics for epoch in report.epochs)
    known = KEPT_METRICS["images"] if report.kind == "images" else ()
    chosen = [[at(name, epoch) for epoch in report.epochs] if name in known else [name] for name in asked]
    return tuple(dict.fromkeys(name for part in chosen for name in part))


def attach(rows: Sequence[dict[str, Any]], runs: Mapping[str, Run], store: Store, report: Report) -> None:
    """Adds `snapshot`, what a finished run kept of one epoch; its one number is the value."""
    for row in rows:
        row["snapshot"] = None
        run = runs.get(row["digest"])
        if wanted(row["metric"], report) is None or row["note"] or run is None:
            continue
        found = read(store, run, row["metric"], report)
        if isinstance(found, str):
            row["note"] = found
        else:
            row |= {"snapshot": found, "value": found.content.value}


def remarks(rows: Sequence[Mapping[str, Any]], report: Report, comparable: bool, place: str) -> list[str]:
    """Which epochs stand for those the paper counts.

    Raises:
        ReportError: runs at the paper's scale that are not as long as the report says.
    """
    if report.kind not in SEVERAL_EPOCHS or report.total_epochs is None:
        return []
    taken = {(row["metric"], row["snapshot"].epoch, row["snapshot"].total) for row in rows if row["snapshot"]}
    lengths = sorted({total for _, _, total in taken})
    if comparable and lengths and lengths != [report.total_epochs]:
        listed = ", ".join(map(str, lengths))
        raise ReportError(
            f"{place}: report.total_epochs is {report.total_epochs}, but runs at the paper's scale have {listed}; correct it"
        )
    said = []
    for metric, epoch, total in sorted(taken):
        asked = names.EPOCH.match(metric)
        if asked is not None and (int(asked[1]), report.total_epochs) != (epoch, total):
            said.append(
                f"Epoch {asked[1]} of the paper's {report.total_epochs} is epoch {epoch} of {total} here, the recorded "
                "one nearest to the same share."
            )
    return list(dict.fromkeys(said))


# --- reading ----------------------------------------------------------------------------------------------------------


def read(store: Store, run: Run, metric: str, report: Report) -> Snapshot[Any] | str:
    """What a finished run kept at the epoch that the metric asks for, or why there is nothing.

    An epoch that the paper counts is taken at the same share of the run's own length, and of the recorded epochs the
    nearest counts, the earlier of two equally near.

    Raises:
        StoreError: an artifact that is not what trials write.
    """
    found = wanted(metric, report)
    assert found is not None
    name, epoch = found
    file, noun, make = READERS[name]
    picture = f"{name.split('/')[1]}.png" if report.kind == "images" else ""
    kept = store.artifacts(run)
    for needed in filter(None, (file, picture)):
        kept = {number: files for number, files in kept.items() if needed in files}
        if not kept:
            return f"the run has no {needed}"
    total = max(store.artifacts(run)) + 1  # the last epoch is always recorded
    taken = max(kept)
    if epoch != "last":
        assert report.total_epochs is not None
        share = int(epoch) * total / report.total_epochs
        taken = min(kept, key=lambda number: (abs(number - share), number))
    content = parse(store.artifact(run, taken, file), make, noun, f"epoch_{taken:04d}/{file} of run {run.run_id}")
    if not math.isfinite(content.value):
        return f"the run's {file} has nothing to show"
    if report.kind == "density":
        picture = next((name for name in PICTURES if name in kept[taken]), "")
    drawn = store.artifact(run, taken, picture) if picture else b""
    if isinstance(content, Tiles):
        check_size(drawn, content, f"epoch_{taken:04d}/{picture} of run {run.run_id}")
    return Snapshot(taken, total, content, drawn, picture)


REMEDY = "delete this MLflow run, then `sweep sync` mirrors the trial again"


def parse(file: bytes, make: Callable[[Any], Content], noun: str, place: str) -> Content:
    """
    Raises:
        StoreError: the file does not hold what it should.
    """
    try:
        return make(json.loads(file))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{place} is no {noun}: {error!r}; {REMEDY}") from error


def check_size(picture: bytes, tiles: Tiles, place: str) -> None:
    """
    Raises:
        StoreError: no PNG, or one that is not as large as its tiles.
    """
    header = picture[:24]
    size = struct.unpack(">II", header[16:]) if len(header) == 24 and header.startswith(b"\x89PNG") else None
    if size != tiles.size_px:
        found = "is no PNG" if size is None else f"has {size[0]} x {size[1]} pixels"
        width, height = tiles.size_px
        raise StoreError(f"{place} {found}, its extremes.json says {width} x {height}; {REMEDY}")


def histogram(raw: Any) -> Histogram:
    edges, counts = tuple(map(float, raw["edges"])), tuple(map(int, raw["counts"]))
    if len(edges) != len(counts) + 1 or not counts or list(edges) != sorted(edges):
        raise ValueError(f"{len(edges)} edges for {len(counts)} counts, or edges that fall")
    return Histogram(int(raw["n"]), float(raw["mean"]), edges, counts)


def tiles(raw: Any, sort: str) -> Tiles:
    """One of the three sorts of images: easiest, hardest, spread."""
    columns, tile_px = int(raw["columns"]), int(raw["tile"])
    if columns < 1 or tile_px <= 2 * int(raw["border"]):
        raise ValueError(f"{columns} columns of tiles of {tile_px} pixels")
    scores = {str(label): tuple(float(g) for _, g in sorts[sort]) for label, sorts in raw["classes"].items()}
    if any(len(row) > columns for row in scores.values()):
        raise ValueError(f"a class with more than {columns} images")
    return Tiles(columns, tile_px, scores)


def embedding(raw: Any) -> Embedding:
    known_schema(raw)
    x, y, classes = tuple(map(float, raw["x"])), tuple(map(float, raw["y"])), tuple(map(int, raw["label"]))
    if not len(x) == len(y) == len(classes) or not x or not np.isfinite([x, y]).all():
        raise ValueError(f"{len(x)} x, {len(y)} y and {len(classes)} labels, or values that are not finite")
    return Embedding(x, y, classes, float(raw["silhouette"]))


def centres(raw: Any) -> Centres:
    known_schema(raw)
    classes = tuple(map(int, raw["classes"]))
    values = tuple(tuple(map(float, row)) for row in raw["values"])
    lengths = {len(row) for row in values}
    if len(values) != len(classes) or len(lengths) != 1 or lengths == {0} or not np.isfinite(values).all():
        raise ValueError(f"{len(values)} centres of {sorted(lengths)} values for {len(classes)} classes")
    return Centres(classes, values, float(raw["mean_cosine"]))


def known_schema(raw: Any) -> None:
    if raw["schema"] != SCHEMA:
        raise ValueError(f"schema {raw['schema']!r}, known is {SCHEMA}")


READERS: Mapping[str, tuple[str, str, Callable[[Any], Content]]] = {
    "test/loyalty_code": ("loyalty.json", "histogram", histogram),
    "train/difficulty": ("difficulty.json", "histogram", histogram),
    **{
        f"train/{s}": ("extremes.json", "list of images", partial(tiles, sort=s))
        for s in ("easiest", "hardest", "spread")
    },
    "test/embedding": ("embedding.json", "embedding", embedding),
    "classifier/centres": ("centres.json", "list of class centres", centres),
}
"""Metric of a report -> the file that trials keep for it, what it is called, how it is read."""
