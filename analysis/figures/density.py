"""Densities: how the difficulty of generated images is spread at two epochs, beside images of both."""

from __future__ import annotations

import io
from typing import Any

import matplotlib.image
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from analysis.errors import ReportError
from analysis.figures import _style
from analysis.grid import Grid, snapshots_of
from analysis.snapshots import Histogram, Snapshot

BLOCK_IN = 3.0
LEGEND_IN = 0.25


def draw(grid: Grid) -> Figure:
    """One block for each cell: to the left both densities, to the right the images of both epochs, one below the other.

    Of several seeds the first that is finished is drawn: their bins and their images differ.

    Raises:
        ReportError: metrics that no trial keeps densities of.
    """
    if "snapshot" not in grid.frame or len(grid.metrics) != 2:
        shown = ", ".join(grid.metrics)
        raise ReportError(f"{grid.name}: no densities at two epochs are kept of {shown}; leave --metric out")
    cells = [(panel, label) for panel in grid.panel_labels for label in grid.axes[grid.rows]]
    with _style.applied():
        engine = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0.02, hspace=0.03)
        figure = Figure(figsize=(_style.COLUMN_IN, BLOCK_IN * len(cells) + LEGEND_IN), layout=engine)
        spec = figure.add_gridspec(2 * len(cells), 2, width_ratios=(1.15, 1))
        for i, (panel, label) in enumerate(cells):
            left = figure.add_subplot(spec[2 * i : 2 * i + 2, 0])
            pictures = [figure.add_subplot(spec[2 * i + k, 1]) for k in range(2)]
            title = ", ".join(text for text in (panel, label if len(grid.axes[grid.rows]) > 1 else "") if text)
            records = [next(r for r in grid.block(m, panel) if r[grid.rows] == label) for m in grid.metrics]
            for k, record in enumerate(records):
                found = snapshots_of(grid, record)
                place_text = found[0].epoch_text if found else "no result"
                picture(pictures[k], found[0] if found else None, place_text)
                if found:
                    density(left, found[0], k, f"{place_text}, mean {found[0].content.mean:.3f}")
            finish(left, _style.plain(title))
    return figure


def density(axes: Axes, snapshot: Snapshot[Histogram], k: int, text: str) -> None:
    """Shares per bin width: the area under each line is the share of images within the bins, all of them as a rule."""
    edges = np.array(snapshot.content.edges)
    width = max((edges[-1] - edges[0]) / len(snapshot.content.counts), 1e-9)
    edges = edges[0] + width * np.arange(len(edges))  # as written they are rounded
    heights = np.array(snapshot.content.counts) / max(snapshot.content.n, 1) / width
    style = _style.line(k)
    steps = np.where(heights > 0, heights, np.nan)  # an empty bin is a gap, not a line down to the logarithm of 0
    axes.stairs(steps, edges, baseline=None, label=text, linewidth=1.1, **style)
    axes.stairs(heights, edges, fill=True, color=_style.COLOURS[k], alpha=0.15)
    axes.axvline(snapshot.content.mean, linewidth=0.8, **style)


def finish(axes: Axes, title: str) -> None:
    """Scales and labels; the legend is above, since the peaks may be anywhere."""
    axes.set_xlabel("weighted difficulty v·l (nats)")
    axes.set_ylabel("density (1/nat)")
    if not axes.get_legend_handles_labels()[0]:
        axes.set_title(title)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.legend(
        title=title or None,
        title_fontsize=_style.STYLE["axes.titlesize"],
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        borderaxespad=0.2,
        handlelength=1.6,
    )


def picture(axes: Axes, snapshot: Snapshot[Any] | None, title: str) -> None:
    """Sample images as they were written, pixel by pixel."""
    axes.set_title(title)
    axes.set_xticks([])
    axes.set_yticks([])
    if snapshot is None or not snapshot.picture:
        text = "" if snapshot is None else "no sample images"
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=_style.PRINTED["color"])
        axes.set_facecolor(_style.GAP_COLOUR)
        axes.set_aspect("equal")
        return
    image: Any = matplotlib.image.imread(io.BytesIO(snapshot.picture), format="png")
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    for spine in axes.spines.values():
        spine.set_visible(False)
