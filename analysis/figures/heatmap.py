"""Heatmaps: one axes for each metric and panel, every cell with its number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis import metrics as names
from analysis.errors import ReportError
from analysis.figures import _style
from analysis.grid import Grid
from analysis.metrics import HOLE

CELL_LINE_IN = 0.13
MIN_CELL_IN = 0.24


def draw(grid: Grid) -> Figure:
    """Metrics down, panels across, rows and columns of each as in the file.

    Every axes has colour limits of its own, shown at its bar, since panels differ by far more than their cells.

    Raises:
        ReportError: the report names no columns.
    """
    if grid.columns is None:
        raise ReportError(f"{grid.name}: a heatmap needs report.columns")
    panels = grid.panel_labels
    lines = max(1 + (not math.isnan(r["std"])) + (not math.isnan(r["printed"])) for r in grid.cells)
    row_in = len(grid.axes[grid.rows]) * max(MIN_CELL_IN, lines * CELL_LINE_IN + 0.03) + (
        0.25 if len(panels) == 1 else 0.36
    )
    with _style.applied():
        width_in = _style.COLUMN_IN if len(panels) == 1 else _style.PAGE_IN
        figure, axes = _style.grid_of_axes(len(grid.metrics), len(panels), width_in, row_in, 0.25)
        for i, metric in enumerate(grid.metrics):
            for j, panel in enumerate(panels):
                mine = grid.block(metric, panel)
                heatmap(figure, axes[i][j], grid, mine, metric)
                title = grid.drawn(metric).title
                titles = [_style.plain(text) for text in (title, panel) if text]
                axes[i][j].set_title(("\n" if len(panels) > 1 else ", ").join(titles))
                axes[i][j].label_outer()
        figure.supxlabel(_style.symbol(grid.columns), fontsize=_style.STYLE["axes.labelsize"])
        figure.supylabel(_style.symbol(grid.rows), fontsize=_style.STYLE["axes.labelsize"])
    return figure


def heatmap(figure: Figure, axes: Axes, grid: Grid, records: list[dict[str, Any]], name: str) -> None:
    """One axes: colours, numbers, holes and the colour bar."""
    assert grid.columns is not None
    metric = grid.drawn(name)
    rows, columns = list(grid.axes[grid.rows]), list(grid.axes[grid.columns])
    values = np.full((len(rows), len(columns)), np.nan)
    for record in records:
        values[rows.index(record[grid.rows]), columns.index(record[grid.columns])] = record["value"]
    low, high = _style.limits(values.ravel().tolist(), metric)
    image = axes.imshow(values, cmap=_style.COLOUR_MAP, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    axes.set_xticks(range(len(columns)), [_style.plain(label) for label in columns])
    axes.set_yticks(range(len(rows)), [_style.plain(label) for label in rows])
    axes.tick_params(length=0)
    for record in records:
        i, j = rows.index(record[grid.rows]), columns.index(record[grid.columns])
        hole = math.isnan(record["value"])
        if hole:
            axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor=_style.GAP_COLOUR, hatch="////", linewidth=0))
        light = hole or (record["value"] - low) / (high - low) > 0.5
        box = {"facecolor": _style.GAP_COLOUR, "edgecolor": "none", "pad": 1.0} if hole else None
        axes.text(
            j,
            i,
            numbers(record, metric),
            ha="center",
            va="center",
            color="black" if light else "white",
            fontsize=6.5,
            bbox=box,
        )
    bar = figure.colorbar(image, ax=axes, ticks=[low, (low + high) / 2, high], aspect=12, pad=0.02)
    bar.ax.set_yticklabels([f"{tick:.{2 if metric.unit == '%' else 4}f}" for tick in (low, (low + high) / 2, high)])
    bar.outline.set_linewidth(0.4)


def numbers(record: dict[str, Any], metric: names.Metric) -> str:
    """Value, spread and printed value, one below the other."""
    shown = [HOLE if math.isnan(record["value"]) else metric.text(record["value"])]
    if not math.isnan(record["std"]):
        shown.append(f"± {metric.text(record['std'])}")
    if not math.isnan(record["printed"]):
        shown.append(f"({metric.text(record['printed'])})")
    return "\n".join(shown)
