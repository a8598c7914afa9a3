"""The arrangement that curves, bars, epochs and histograms share: metrics down, panels across, one legend above."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import metrics as names
from analysis.errors import ReportError
from analysis.figures import _style
from analysis.grid import Grid

Records = list[dict[str, Any]]
Plot = Callable[[Axes, Grid, Records, str], None]

ROW_IN = 1.2
NOTE_CHARACTERS, NOTE_LINES = 24, 6
"""Of a reason why an axes is empty; as many as the narrowest of two across a column takes."""
CHARACTERS_IN = 19
"""Of a legend's text that fit into an inch, with what an entry's handle takes."""


def draw(grid: Grid, plot: Plot, *, row_in: float = ROW_IN, metrics: Sequence[str] = (), x_label: str = "") -> Figure:
    """One axes for each metric and panel, filled by `plot`; a single panel takes a column's width.

    Args:
        row_in: height of one axes.
        metrics: those drawn, where they are not all of the grid's.
        x_label: what is along the axes; the rows' axis where nothing is said.
    """
    panels, metrics = grid.panel_labels, metrics or grid.metrics
    with _style.applied():
        width_in = _style.COLUMN_IN if len(panels) == 1 else _style.PAGE_IN
        figure, axes = _style.grid_of_axes(len(metrics), len(panels), width_in, row_in, 0.45)
        for i, metric in enumerate(metrics):
            for j, panel in enumerate(panels):
                mine = grid.block(metric, panel)
                plot(axes[i][j], grid, mine, metric)
                if i < len(metrics) - 1:
                    axes[i][j].tick_params(labelbottom=False)
            if not axes[i][0].get_ylabel():
                axes[i][0].set_ylabel(grid.drawn(metric).title)
        for j, panel in enumerate(panels):
            axes[0][j].set_title(_style.plain(panel))
            axes[-1][j].set_xlabel(x_label or _style.symbol(grid.rows))
        figure.align_ylabels()
        legend(figure, [each for row in axes for each in row], grid, width_in)
    return figure


def hole(axes: Axes, note: str) -> None:
    """An empty axes with the reason, cut to a few lines."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor(_style.GAP_COLOUR)
    text = textwrap.fill(_style.plain(note or "no result"), NOTE_CHARACTERS, max_lines=NOTE_LINES, placeholder=" ...")
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=_style.PRINTED["color"])


def kept(grid: Grid, noun: str) -> str:
    """The first of the grid's metrics that trials keep more of than a number.

    Raises:
        ReportError: there is none.
    """
    for name in grid.metrics if "snapshot" in grid.frame else ():
        if names.bare(name) in names.KEPT:
            return name
    shown = ", ".join(grid.metrics)
    raise ReportError(f"{grid.name}: no {noun} are kept of {shown}; leave --metric out for the file's own")


def arrangement(count: int) -> tuple[int, float]:
    """How many of `count` panels are side by side, and the figure's width in inches."""
    if count <= 4:
        return min(count, 2), _style.COLUMN_IN
    return (3 if count in (5, 6, 9) else 4), _style.PAGE_IN


def leftmost(axes: Axes) -> bool:
    """Whether the axes has a label for what is upwards; others share it."""
    place = axes.get_subplotspec()
    return place is None or place.is_first_col()


def legend(figure: Figure, axes: Sequence[Axes], grid: Grid, width_in: float) -> None:
    """Every label once, printed values last, in as many columns as fit; none where there is one label."""
    found: dict[str, Any] = {}
    for each in axes:
        for handle, label in zip(*each.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    entries = sorted(found.items(), key=lambda entry: entry[0] == _style.plain(grid.origin))
    if len(entries) > 1:
        longest = max(len(label) for label, _ in entries) + 5  # the handle is as wide as five letters
        columns = min(len(entries), 4 if width_in == _style.COLUMN_IN else 8, int(CHARACTERS_IN * width_in / longest))
        figure.legend(
            [handle for _, handle in entries],
            [label for label, _ in entries],
            loc="outside upper center",
            ncols=max(columns, 1),
        )
