"""Curves: each metric against one swept value, a line for each column label, bands where there are several seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures import _panels, _style
from analysis.grid import Grid
from analysis.metrics import HOLE

CHARACTER = 0.0145
"""Part of the axis that one character of a tick's label takes, at the width of a column."""


def draw(grid: Grid) -> Figure:
    """Metrics down, panels across; labels that are all numbers are spaced as such. Printed values where comparable."""
    return _panels.draw(grid, curve)


def curve(axes: Axes, grid: Grid, records: list[dict[str, Any]], name: str) -> None:
    """One axes; a swept value without a result is a gap in its line and a dash at the foot."""
    metric = grid.drawn(name)
    labels = list(grid.axes[grid.rows])
    places = positions(labels)
    series = grid.axes[grid.columns] if grid.columns else [""]
    ends: list[float] = []
    holes: set[float] = set()
    for k, label in enumerate(series):
        mine = {r[grid.rows]: r for r in records if grid.columns is None or r[grid.columns] == label}
        values = np.array([mine[row]["value"] for row in labels])
        std = np.array([mine[row]["std"] for row in labels])
        printed = np.array([mine[row]["printed"] for row in labels])
        colour = _style.COLOURS[k % len(_style.COLOURS)]
        axes.plot(
            places,
            values,
            marker=_style.MARKERS[k % len(_style.MARKERS)],
            color=colour,
            label=_style.plain(label) or "ours",
        )
        if not np.isnan(std).all():
            axes.fill_between(places, values - std, values + std, color=colour, alpha=0.2, linewidth=0)
        if not np.isnan(printed).all():
            own = {"color": colour} if len(series) > 1 else {}
            axes.plot(places, printed, label=_style.plain(f"{label} {grid.origin}".strip()), **(_style.PRINTED | own))  # type: ignore[arg-type]
        spread = np.nan_to_num(std)
        ends += [*(values - spread), *(values + spread), *printed]
        holes |= {place for place, value in zip(places, values, strict=True) if math.isnan(value)}
    low, high = _style.limits(ends, metric, margin=0.08)
    axes.set_ylim(low, high)
    for place in sorted(holes):
        axes.text(place, low + 0.03 * (high - low), HOLE, ha="center", va="bottom", color=_style.PRINTED["color"])
    room = 0.05 * (max(places) - min(places)) if len(places) > 1 else 0.5
    axes.set_xlim(min(places) - room, max(places) + room)
    axes.set_xticks(places, [_style.plain(label) for label in labels])
    axes.yaxis.set_major_locator(_style.ticks())
    axes.grid(axis="y", linewidth=0.3, color="#D0D0D0")
    axes.set_axisbelow(True)


def positions(labels: Sequence[str]) -> list[float]:
    """The labels' own values where all are numbers and their ticks stay apart, else one step each."""
    steps = [float(i) for i in range(len(labels))]
    try:
        numbers = [float(label) for label in labels]
    except ValueError:
        return steps
    if not all(map(math.isfinite, numbers)):
        return steps
    ordered = sorted(numbers)
    gaps = [b - a for a, b in pairwise(ordered)]
    needed = CHARACTER * max(map(len, labels)) * (ordered[-1] - ordered[0])
    return numbers if not gaps or min(gaps) > needed else steps
