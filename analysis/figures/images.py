"""Images of training by their difficulty, a row for each class: the easiest, the hardest, some from one end to the other."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import matplotlib.image
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from analysis import metrics as names
from analysis.errors import ReportError
from analysis.figures import _panels, _style
from analysis.grid import Grid, snapshots_of
from analysis.snapshots import Snapshot, Tiles

LEGIBLE_IN = 0.24
"""Tiles at least so wide have their g below them."""
STRIP = 0.34
"""Height of the strip below a row of tiles that holds them, in tiles."""
SCORE_PT = 4.5
BLOCK_IN, EXPLAINED_IN = 0.35, 0.15
"""Height of a block's title and the room below it, and of the line at the bottom."""
CLASSES_IN = 0.3
"""Width that class numbers take."""
COLUMNS, HOLE_ROWS = 8, 3
"""Of a block without images."""
ACROSS = 3
"""Cells side by side where there is one sort of images."""
ARROW_PT = 12.0
"""Room between images and title for the arrow from easy to hard."""
EXPLAINED = "below each image: its difficulty g, cross-entropy over the batch's mean"


def draw(grid: Grid) -> Figure:
    """A line for each cell, in it the sorts of images side by side; cells of one sort are side by side themselves.

    Of several seeds the first that is finished is drawn.

    Raises:
        ReportError: metrics that no trial keeps images of.
    """
    sorts = [name for name in grid.metrics if names.bare(name) in names.IMAGES]
    if "snapshot" not in grid.frame or not sorts:
        shown = ", ".join(grid.metrics)
        raise ReportError(f"{grid.name}: no images are kept of {shown}; leave --metric out for the file's own")
    labels = grid.axes[grid.rows]
    found = [piece(grid, label, name) for label in labels for name in sorts]
    across = len(sorts) if len(sorts) > 1 else min(len(labels), ACROSS)
    lines = [found[k : k + across] for k in range(0, len(found), across)]
    width_in = _style.COLUMN_IN if across == 1 else _style.PAGE_IN
    room_in = width_in - CLASSES_IN * (across if len(sorts) == 1 else 1)
    widest = max((each.snapshot.content.columns for each in found if each.snapshot), default=COLUMNS)
    tile_in = room_in / across / widest
    heights = [BLOCK_IN + max(map(rows, line)) * tile_in * (1 + strip(tile_in)) for line in lines]
    with _style.applied():
        engine = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0.02, hspace=0.03)
        figure = Figure(figsize=(width_in, sum(heights) + EXPLAINED_IN), layout=engine)
        axes = figure.subplots(len(lines), across, squeeze=False, height_ratios=heights)
        for line, part in zip(lines, axes, strict=True):
            for k, each in enumerate(part):
                if k >= len(line):
                    each.set_axis_off()
                    continue
                one(each, line[k], len(labels) > 1, tile_in)
                if k and line[k].label == line[0].label and classes(line[k]) == classes(line[0]):
                    each.set_yticks([])  # said once
            part[0].set_ylabel("class" if line[0].snapshot else "")
        if strip(tile_in) and any(each.snapshot for each in found):
            figure.supxlabel(EXPLAINED, fontsize=_style.STYLE["legend.fontsize"])
    return figure


@dataclass(frozen=True)
class Piece:
    """One sort of images of one cell; without a snapshot `note` says why."""

    label: str
    metric: str
    snapshot: Snapshot[Tiles] | None
    note: str


def piece(grid: Grid, label: str, name: str) -> Piece:
    record = next(r for r in grid.block(name, "") if r[grid.rows] == label)
    return Piece(label, names.bare(name), next(iter(snapshots_of(grid, record)), None), record["note"])


def classes(piece: Piece) -> list[str]:
    return list(piece.snapshot.content.scores) if piece.snapshot else []


def rows(piece: Piece) -> int:
    return len(classes(piece)) or HOLE_ROWS


def strip(tile_in: float) -> float:
    """Height of the strip below each row, in tiles; none where the numbers would be too small."""
    return STRIP if tile_in >= LEGIBLE_IN else 0.0


def one(axes: Axes, piece: Piece, labelled: bool, tile_in: float) -> None:
    """Fills one axes; `labelled` where there are several cells."""
    sort, snapshot = names.IMAGES[piece.metric], piece.snapshot
    label = _style.plain(piece.label) if labelled else ""
    if snapshot is None:
        axes.set_title(", ".join(text for text in (label, sort) if text))
        _panels.hole(axes, piece.note)
        return
    arrow = piece.metric == "train/spread"
    title = ", ".join(text for text in (label, "" if arrow else sort, snapshot.epoch_text) if text)
    axes.set_title(title, pad=ARROW_PT if arrow else None)
    content, tile = snapshot.content, snapshot.content.tile_px
    gap = round(strip(tile_in) * tile)
    picture: Any = matplotlib.image.imread(io.BytesIO(snapshot.picture), format="png")
    height = len(content.scores) * (tile + gap)
    extent = (0, picture.shape[1], height, 0)
    axes.imshow(spaced(picture, tile, gap), cmap="gray", vmin=0, vmax=1, interpolation="nearest", extent=extent)
    axes.set_xticks([])
    axes.set_yticks([i * (tile + gap) + tile / 2 for i in range(len(content.scores))], list(content.scores))
    axes.tick_params(length=0, pad=1)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if arrow:
        easy_to_hard(axes, picture.shape[1], -0.5 * ARROW_PT / 72 / tile_in * tile)
    for i, scores in enumerate(content.scores.values() if gap else ()):
        for j, score in enumerate(scores):
            x, y = (j + 0.5) * tile, i * (tile + gap) + tile + 0.42 * gap
            axes.text(x, y, number(score), ha="center", va="center", fontsize=SCORE_PT)


def easy_to_hard(axes: Axes, width: int, y: float) -> None:
    """An arrow over the columns of `width` pixels, with its two ends named, in the picture's coordinates."""
    for text, x, side in (("easy", 0, "left"), ("hard", width, "right")):
        axes.text(x, y, text, ha=side, va="center", fontsize=_style.STYLE["legend.fontsize"])
    style = {"arrowstyle": "-|>", "linewidth": 0.6, "color": "black", "mutation_scale": 6}
    room = {"shrinkA": 20, "shrinkB": 20}  # points that the words take
    axes.annotate("", (width, y), (0, y), arrowprops=style | room, annotation_clip=False)


def spaced(picture: Any, tile: int, gap: int) -> Any:
    """The picture with `gap` white pixels below each row of tiles; (H, W) or (H, W, C) in [0, 1]."""
    parts = picture.reshape(-1, tile, *picture.shape[1:])
    room = np.ones((len(parts), gap, *picture.shape[1:]), dtype=picture.dtype)
    return np.concatenate([parts, room], axis=1).reshape(-1, *picture.shape[1:])


def number(score: float) -> str:
    """g in at most five letters: `0.08`, `12.3`, `3e-4`."""
    if 0 < abs(score) < 0.005:
        mantissa, exponent = f"{score:.0e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{score:.2f}" if abs(score) < 10 else f"{score:.1f}"
