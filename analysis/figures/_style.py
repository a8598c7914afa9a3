"""The one place of fonts, sizes, colours and limits; figures never depend on the user's matplotlib settings."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from analysis.metrics import Metric

COLUMN_IN = 3.5
"""Width of one column of an IEEE page, in inches."""
PAGE_IN = 7.16
"""Width of both columns with the gap."""
SLIDE_IN = (12.3, 6.0)
"""Width and height that a slide of 13.33 x 7.5 inches has for a figure below its title."""
DPI = {"column": 300, "talk": 160}
"""Pixels of an inch: of print, and of a slide as a projector of 2,133 pixels shows it."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's palette, fit for every common colour blindness; without its yellow, too light on white."""
MARKERS = "osD^vP*"
TEN_COLOURS = (
    "#3F90DA", "#FFA90E", "#BD1F01", "#94A4A2", "#832DB6", "#A96B59", "#E76300", "#B9AC70", "#717581", "#92DADD",
)  # fmt: skip
"""Petroff's ten (2021, arXiv 2107.02270), chosen to differ also for colour-blind readers."""
TEN_MARKERS = "osD^vP*Xp<"
"""Beside their colours, so that classes differ in grey as well."""
LINES = ("-", (0, (4, 1.2)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (8, 1.5)))
"""Line styles; with the colours, which are one of two more, neighbours differ in both and 35 lines in one."""
PRINTED = {"color": "#595959", "linestyle": "--", "marker": "x", "markersize": 3.5, "linewidth": 0.9}
COLOUR_MAP = "cividis"
DARKER_IS_LARGER = "Blues"
GAP_COLOUR = "#EDEDED"
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so it is the same everywhere
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "hatch.linewidth": 0.5,
    "hatch.color": "#A0A0A0",
    "legend.frameon": False,
    "pdf.fonttype": 42,  # journals refuse the default, type 3
    "pdf.compression": 6,
    "svg.hashsalt": "analysis",  # else the names inside are random
}
METADATA: Mapping[str, Mapping[str, str | None]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
}
GREEK = (
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "eta",
    "theta",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "rho",
    "sigma",
    "tau",
)


@contextmanager
def applied() -> Iterator[None]:
    with matplotlib.style.context(["default", STYLE]):
        yield


def grid_of_axes(
    rows: int, columns: int, width_in: float, row_in: float, extra_in: float
) -> tuple[Figure, list[list[Axes]]]:
    """Figure with rows x columns axes, `extra_in` inches of height beyond them for titles and labels."""
    engine = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0.02, hspace=0.03)
    figure = Figure(figsize=(width_in, rows * row_in + extra_in), layout=engine)
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, [list(row) for row in axes]


def slide_factor(figure: Figure) -> float:
    """By how much a figure is enlarged for a slide: until its width or its height is all that there is."""
    width_in, height_in = figure.get_size_inches()
    return float(min(SLIDE_IN[0] / width_in, SLIDE_IN[1] / height_in))


def symbol(name: str) -> str:
    """An axis name as the papers set it: `k_begin` with a subscript, `lambda_0` as Greek; other names as words."""
    match = re.fullmatch(r"([A-Za-z]|" + "|".join(GREEK) + r")(?:_(\w+))?", name)
    if match is None:
        return plain(name.replace("_", " "))
    base, index = match.groups()
    base = f"\\{base}" if base in GREEK else base
    return f"${base}$" if index is None else f"${base}_{{\\mathrm{{{index.replace('_', ' ')}}}}}$"


def plain(text: str) -> str:
    """Text in which a dollar sign is no mathematics."""
    return " ".join(text.split()).replace("$", r"\$")


def line(k: int) -> dict[str, Any]:
    """Colour and line style of the k-th line, counted from 0."""
    return {"color": COLOURS[k % len(COLOURS)], "linestyle": LINES[k % len(LINES)]}


def ticks() -> MaxNLocator:
    """Few and round."""
    return MaxNLocator(4, steps=[1, 2, 2.5, 5, 10])


def limits(values: Sequence[float], metric: Metric, margin: float = 0.0) -> tuple[float, float]:
    """Limits that enclose the values, rounded outwards to steps of half a percent (or 0.005), one step at least."""
    step = 0.5 if metric.unit == "%" else 0.005
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return 0.0, 100.0 if metric.unit == "%" else 1.0
    room = margin * max(max(finite) - min(finite), step)
    low = math.floor((min(finite) - room) / step + 1e-9)
    high = math.ceil((max(finite) + room) / step - 1e-9)
    return low * step, max(high, low + 1) * step
