"""Bars: each metric for each label, grouped by column label, error bars where there are several seeds."""

from __future__ import annotations

import math
import textwrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from analysis.figures import _panels, _style
from analysis.grid import Grid
from analysis.metrics import HOLE

GROUP = 0.8
"""Part of the distance between two labels that their bars fill."""
CHARACTERS = 58
"""Of tick labels that fit side by side in a column's width."""


def draw(grid: Grid) -> Figure:
    """Metrics down, panels across. Printed values, where comparable, are short lines across the bars."""
    return _panels.draw(grid, bars)


def bars(axes: Axes, grid: Grid, records: list[dict[str, Any]], name: str) -> None:
    """One axes, starting at zero unless all values lie close together; so every bar has its number at its foot."""
    metric = grid.drawn(name)
    labels = list(grid.axes[grid.rows])
    series = list(grid.axes[grid.columns]) if grid.columns else [""]
    width = GROUP / len(series)
    ends = [end for r in records for end in (r["value"] - std_of(r), r["value"] + std_of(r))]
    ends += [end for r in records for end in printed_ends(r)]
    low, high = _style.limits(ends, metric, margin=0.35)
    if low > 0 and low < 0.5 * high:
        low = 0.0
    axes.set_ylim(low, high)
    for k, label in enumerate(series):
        mine = {r[grid.rows]: r for r in records if grid.columns is None or r[grid.columns] == label}
        places = [i - GROUP / 2 + (k + 0.5) * width for i in range(len(labels))]
        drawn = [(x, mine[row]) for x, row in zip(places, labels, strict=True) if not math.isnan(mine[row]["value"])]
        heights = [r["value"] - low for _, r in drawn]
        colour = _style.COLOURS[k % len(_style.COLOURS)]
        axes.bar(
            [x for x, _ in drawn], heights, width * 0.9, bottom=low, color=colour, label=_style.plain(label) or "ours"
        )
        spread = [(x, r) for x, r in drawn if not math.isnan(r["std"])]
        if spread:
            axes.errorbar(
                [x for x, _ in spread], [r["value"] for _, r in spread], [r["std"] for _, r in spread],
                fmt="none", ecolor="black", elinewidth=0.7, capsize=2,
            )  # fmt: skip
        size = 6 if len(series) == 1 else 4.5
        for x, r in drawn:  # inside, where neither error bars nor printed values are
            foot = low + 0.03 * (high - low)
            axes.text(x, foot, metric.text(r["value"]), ha="center", va="bottom", fontsize=size, color="white")
        for x, row in zip(places, labels, strict=True):
            if math.isnan(mine[row]["value"]):
                axes.text(x, low + 0.03 * (high - low), HOLE, ha="center", va="bottom", color=_style.PRINTED["color"])
        printed_lines(axes, [(x, mine[row]) for x, row in zip(places, labels, strict=True)], width, grid.origin)
    axes.set_xlim(-0.6, len(labels) - 0.4)
    room = int(CHARACTERS / len(labels) * min(1, 2 / len(grid.panel_labels)))
    axes.set_xticks(range(len(labels)), [textwrap.fill(_style.plain(label), max(room, 4)) for label in labels])
    axes.yaxis.set_major_locator(_style.ticks())


def printed_lines(axes: Axes, records: list[tuple[float, dict[str, Any]]], width: float, origin: str) -> None:
    """Short lines across the bars, and their spread beside ours, which is in the middle."""
    printed = [(x, r) for x, r in records if not math.isnan(r["printed"])]
    if not printed:
        return
    left, right = [x - width * 0.45 for x, _ in printed], [x + width * 0.45 for x, _ in printed]
    values, text = [r["printed"] for _, r in printed], _style.plain(origin)
    lines = axes.hlines(values, left, right, color="black", linestyle="--", linewidth=1.0, label=text)
    lines.set_path_effects([withStroke(linewidth=2.2, foreground="white")])
    spread = [(x + width * 0.3, r) for x, r in printed if not math.isnan(r["printed_std"])]
    if spread:
        low, high = zip(*(printed_ends(r) for _, r in spread), strict=True)
        axes.vlines([x for x, _ in spread], low, high, color="black", linewidth=0.7)


def printed_ends(record: dict[str, Any]) -> tuple[float, float]:
    """The printed value less and plus its std over runs, where the paper has several."""
    std = 0.0 if math.isnan(record["printed_std"]) else float(record["printed_std"])
    return record["printed"] - std, record["printed"] + std


def std_of(record: dict[str, Any]) -> float:
    return 0.0 if math.isnan(record["std"]) else float(record["std"])
