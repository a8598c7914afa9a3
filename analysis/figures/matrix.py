"""Matrices: class centres, the weights of a classifier, one column for each class; the darker, the larger."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import _panels, _style
from analysis.grid import Grid, snapshots_of
from analysis.snapshots import Centres, Snapshot

ROW_IN = 2.3
MARGINS_IN = 1.0
"""What labels and the colour bar take of the width."""
DIGIT_IN = 0.058


def draw(grid: Grid) -> Figure:
    """One axes for each cell, with colour limits of its own, shown at its bar.

    Of several seeds the first that is finished is drawn.

    Raises:
        ReportError: metrics that no trial keeps centres of.
    """
    name = _panels.kept(grid, "class centres")
    labels = list(grid.axes[grid.rows])
    records = {record[grid.rows]: record for record in grid.block(name, "")}
    across, width_in = _panels.arrangement(len(labels))
    down = -(-len(labels) // across)
    with _style.applied():
        figure, axes = _style.grid_of_axes(down, across, width_in, ROW_IN, 0.15)
        for k, each in enumerate(each for row in axes for each in row):
            if k >= len(labels):
                each.set_axis_off()
                continue
            title = _style.plain(labels[k])
            snapshot = next(iter(snapshots_of(grid, records[labels[k]])), None)
            if snapshot is None:
                each.set_title(title)
                _panels.hole(each, records[labels[k]]["note"])
                continue
            metric = grid.metric(name)
            each.set_title(f"{title}\n{metric.label.lower()} {metric.text(snapshot.content.mean_cosine)}")
            matrix(figure, each, snapshot, width_in / across - MARGINS_IN)
            each.set_xlabel("class")
            if _panels.leftmost(each):
                each.set_ylabel("feature")
    return figure


def matrix(figure: Figure, axes: Axes, snapshot: Snapshot[Centres], width_in: float) -> None:
    """Features from top to bottom, counted from 0; class numbers stand upright where `width_in` inches are too narrow."""
    content = snapshot.content
    values = np.array(content.values).T  # (d, classes)
    low, high = float(values.min()), float(values.max())
    image = axes.imshow(values, cmap=_style.DARKER_IS_LARGER, vmin=low, vmax=high, aspect="auto", interpolation="auto")
    texts = [str(number) for number in content.classes]
    narrow = (max(map(len, texts)) + 1) * DIGIT_IN * len(texts) > width_in
    axes.set_xticks(range(len(texts)), texts, rotation=90 if narrow else 0)
    axes.tick_params(axis="x", length=0)
    axes.yaxis.set_major_locator(_style.ticks())
    bar = figure.colorbar(image, ax=axes, aspect=25, pad=0.03)
    bar.locator = _style.ticks()
    bar.update_ticks()
    bar.set_label("weight")
    bar.outline.set_linewidth(0.4)
