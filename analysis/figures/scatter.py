"""Scatters: features of test images as points in the plane, one panel for each row label, a colour for each class."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import _panels, _style
from analysis.grid import Grid, snapshots_of
from analysis.snapshots import Embedding, Snapshot

LEGEND_IN = 0.35
TITLE_IN = 0.3
POINT_PT2 = 7.0
"""Area of a point; from MANY points on smaller, so that their ink stays the same."""
MANY = 400


def draw(grid: Grid) -> Figure:
    """Up to four panels in two columns of a column's width, more of them across the page; one legend of class numbers.

    Of several seeds the first that is finished is drawn.

    Raises:
        ReportError: metrics that no trial keeps points of.
    """
    name = _panels.kept(grid, "points")
    labels = list(grid.axes[grid.rows])
    records = {record[grid.rows]: record for record in grid.block(name, "")}
    found = {label: next(iter(snapshots_of(grid, records[label])), None) for label in labels}
    classes = sorted({number for snapshot in found.values() if snapshot for number in snapshot.content.classes})
    across, width_in = _panels.arrangement(len(labels))
    down = -(-len(labels) // across)
    with _style.applied():
        figure, axes = _style.grid_of_axes(down, across, width_in, width_in / across + TITLE_IN - 0.1, LEGEND_IN)
        for k, each in enumerate(each for row in axes for each in row):
            if k >= len(labels):
                each.set_axis_off()
                continue
            title = _style.plain(labels[k])
            snapshot = found[labels[k]]
            if snapshot is None:
                each.set_title(title)
                _panels.hole(each, records[labels[k]]["note"])
                each.set_box_aspect(1)
                continue
            each.set_title(f"{title}\nsilhouette {grid.metric(name).text(snapshot.content.silhouette)}")
            scatter(each, snapshot, classes)
        if classes:
            legend(figure, classes)
    return figure


def scatter(axes: Axes, snapshot: Snapshot[Embedding], classes: list[int]) -> None:
    """One panel; distances are equal in both directions and mean nothing across panels."""
    content = snapshot.content
    x, y, label = (np.array(values) for values in (content.x, content.y, content.classes))
    area = POINT_PT2 * min(1.0, MANY / len(x))
    for k, number in enumerate(classes):
        mine = label == number
        axes.scatter(x[mine], y[mine], s=area, linewidths=0, **style(k))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_box_aspect(1)
    axes.margins(0.04)


def style(k: int) -> dict[str, Any]:
    """Colour and marker of the k-th class, counted from 0; a hundred classes differ in one of them at least."""
    colours, markers = _style.TEN_COLOURS, _style.TEN_MARKERS
    return {"color": colours[k % len(colours)], "marker": markers[(k + k // len(markers)) % len(markers)]}


def legend(figure: Figure, classes: list[int]) -> None:
    handles = [Line2D([], [], linestyle="", markersize=3.5, markeredgewidth=0, **style(k)) for k in range(len(classes))]
    figure.legend(
        handles,
        [str(number) for number in classes],
        title="class",
        title_fontsize=_style.STYLE["legend.fontsize"],
        loc="outside upper center",
        ncols=min(len(classes), 10),
        handletextpad=0.1,
        columnspacing=0.9,
    )
