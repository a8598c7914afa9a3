"""The arrangement that curves and bars share: metrics down, panels across, one legend above."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import metrics as names
from analysis.figures import _style
from analysis.grid import Grid

Records = list[dict[str, Any]]
Plot = Callable[[Axes, Grid, Records, str], None]

ROW_IN = 1.2


def draw(grid: Grid, plot: Plot) -> Figure:
    """One axes for each metric and panel, filled by `plot`; a single panel takes a column's width."""
    panels = grid.panel_labels
    with _style.applied():
        width_in = _style.COLUMN_IN if len(panels) == 1 else _style.PAGE_IN
        figure, axes = _style.grid_of_axes(len(grid.metrics), len(panels), width_in, ROW_IN, 0.45)
        for i, metric in enumerate(grid.metrics):
            for j, panel in enumerate(panels):
                mine = grid.block(metric, panel)
                plot(axes[i][j], grid, mine, metric)
                if i < len(grid.metrics) - 1:
                    axes[i][j].tick_params(labelbottom=False)
            axes[i][0].set_ylabel(names.metric(metric).title)
        for j, panel in enumerate(panels):
            axes[0][j].set_title(_style.plain(panel))
            axes[-1][j].set_xlabel(_style.symbol(grid.rows))
        figure.align_ylabels()
        handles, labels = axes[0][0].get_legend_handles_labels()
        entries = sorted(zip(handles, labels, strict=True), key=lambda entry: entry[1] == _style.plain(grid.origin))
        if len(entries) > 1:
            legend = [handle for handle, _ in entries], [label for _, label in entries]
            figure.legend(*legend, loc="outside upper center", ncols=min(len(entries), 4))
    return figure
