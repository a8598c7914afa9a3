"""Epochs: each metric over training, a line for each row label, bands where there are several seeds."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import metrics as names
from analysis import stats
from analysis.figures import _panels, _style
from analysis.grid import NOT_RUN, Grid, curves_of

ROW_IN = 1.7
MARKS = 6
"""Markers of one line, which lines set in turns."""


def draw(grid: Grid) -> Figure:
    """Metrics down, panels across. A line is the mean over seeds at each epoch that all seeds of its cell have.

    Lines end where their runs end; each panel has an axis of its own, since panels train for different times.
    """
    drawn = list({names.bare(name): name for name in grid.metrics}.values())
    return _panels.draw(grid, epochs, row_in=ROW_IN, metrics=drawn, x_label="epoch")


def epochs(axes: Axes, grid: Grid, records: list[dict[str, Any]], name: str) -> None:
    """One axes; a label without a result is named in a corner."""
    metric = names.metric(names.bare(name))
    if _panels.leftmost(axes):
        axes.set_ylabel(metric.title)
    ends: list[float] = []
    missing = []
    for k, label in enumerate(grid.axes[grid.rows]):
        (record,) = (r for r in records if r[grid.rows] == label)
        points = stats.mean_curve(curves_of(grid, record))
        step = max(1, len(points) // MARKS)
        turn = step * k // len(grid.axes[grid.rows])
        style: dict[str, Any] = {"color": _style.COLOURS[k % len(_style.COLOURS)], "linewidth": 0.9}
        style |= {"marker": _style.MARKERS[k % len(_style.MARKERS)], "markevery": (turn, step)}
        style["markersize"] = 3.0
        if not points:
            missing += [label] if record["state"] not in NOT_RUN else []
            axes.plot([], [], label=_style.plain(label), **style)
            continue
        x = np.array([epoch for epoch, _ in points])
        y = np.array([point.value for _, point in points]) * metric.factor
        std = np.array([np.nan if point.std is None else point.std for _, point in points]) * metric.factor
        axes.plot(x, y, label=_style.plain(label), **style)
        if not np.isnan(std).any():
            axes.fill_between(x, y - std, y + std, color=style["color"], alpha=0.2, linewidth=0)
        ends += [*y, *(y - np.nan_to_num(std)), *(y + np.nan_to_num(std))]
    axes.set_ylim(*_style.limits(ends, metric, margin=0.04))
    axes.margins(x=0.02)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    axes.grid(axis="y", linewidth=0.3, color="#D0D0D0")
    axes.set_axisbelow(True)
    if missing:
        text = f"no result: {', '.join(map(_style.plain, missing))}"
        axes.text(0.98, 0.04, text, transform=axes.transAxes, ha="right", color=_style.PRINTED["color"], fontsize=6)
