"""Histograms: how a quantity of single images is spread, a step line for each row label, its mean marked."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.errors import ReportError
from analysis.figures import _panels, _style
from analysis.grid import NOT_RUN, Grid, snapshots_of
from analysis.snapshots import Histogram

ROW_IN = 1.8


def draw(grid: Grid) -> Figure:
    """Panels across, lines of a panel over one another; shares in percent of the images, averaged over seeds.

    Raises:
        ReportError: a metric of which no histogram is kept, or seeds whose bins differ.
    """
    if "snapshot" not in grid.frame:
        shown = ", ".join(grid.metrics)
        raise ReportError(f"{grid.name}: no histogram is kept of {shown}; leave --metric out for the file's own")
    metrics = [name for name in grid.metrics if grid.frame.loc[grid.frame["metric"] == name, "snapshot"].notna().any()]
    name = (metrics or list(grid.metrics))[0]
    label = f"{grid.metric(name).title} of a test image"
    return _panels.draw(grid, histogram, row_in=ROW_IN, metrics=[name], x_label=label)


def histogram(axes: Axes, grid: Grid, records: list[dict[str, Any]], name: str) -> None:
    """One axes; a label without a histogram is named in a corner."""
    metric = grid.metric(name)
    single = len(grid.panel_labels) == 1
    used: list[float] = []
    missing = []
    for k, label in enumerate(grid.axes[grid.rows]):
        (record,) = (r for r in records if r[grid.rows] == label)
        found = [snapshot.content for snapshot in snapshots_of(grid, record)]
        style = _style.line(k)
        if not found:
            missing += [label] if record["state"] not in NOT_RUN else []
            axes.plot([], [], label=_style.plain(label), **style)
            continue
        edges, shares = shares_of(grid, found)
        text = f"{label}, mean {metric.text(record['value'])}" if single else label
        axes.stairs(shares, edges, label=_style.plain(text), linewidth=1.1, **style)
        axes.stairs(shares, edges, fill=True, color=style["color"], alpha=0.08)
        axes.axvline(record["value"], linewidth=0.8, **style)
        filled = np.flatnonzero(shares)
        used += [*edges[filled], *edges[filled + 1], record["value"]]
    if not single:
        axes.plot([], [], color="black", linewidth=0.8, label="mean")
    if used:
        room = 0.03 * (max(used) - min(used) or 1.0)
        axes.set_xlim(min(used) - room, max(used) + room)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(_style.ticks())
    axes.yaxis.set_major_locator(_style.ticks())
    if _panels.leftmost(axes):
        axes.set_ylabel("share of images (%)")
    if missing:
        text = f"no result: {', '.join(map(_style.plain, missing))}"
        axes.text(0.02, 0.94, text, transform=axes.transAxes, va="top", color=_style.PRINTED["color"], fontsize=6)


def shares_of(grid: Grid, found: list[Histogram]) -> tuple[Any, Any]:
    """Edges, and the share of images in each bin in percent, averaged over seeds.

    Raises:
        ReportError: seeds whose bins differ.
    """
    if len({histogram.edges for histogram in found}) > 1:
        raise ReportError(f"{grid.name}: seeds of one cell have histograms with different bins; sweep them anew")
    shares = [100 * np.array(histogram.counts) / max(histogram.n, 1) for histogram in found]
    return np.array(found[0].edges), np.mean(shares, axis=0)
