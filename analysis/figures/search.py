"""Searches: history or Pareto front, importances, slices, parallel coordinates; from what the sweep logged."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, NullLocator

from analysis import metrics as names
from analysis import searches
from analysis.figures import _panels, _style
from analysis.searches import SearchResult, Study

HEAD_IN, SLICE_IN, PARALLEL_IN, TITLE_IN = 1.75, 1.2, 1.6, 0.22
EMPTY_IN = 0.7
"""Height of a block without a value."""
LABEL_CHARACTERS = 16
SLICES = 6
"""Slices side by side."""
LINE_PT = 0.7
COLOURS_FROM = 0.3
"""Lightest colour of a line, as a share of the colour map: below it lines vanish on white."""


@dataclass(frozen=True)
class Objective:
    """One objective in the unit it is shown in.

    Attributes:
        values: of the complete suggestions, in order.
    """

    metric: names.Metric
    path: str
    maximize: bool
    values: tuple[float, ...]

    @property
    def title(self) -> str:
        """With an arrow to where it is better."""
        return f"{self.metric.title} {'↑' if self.maximize else '↓'}"

    @property
    def narrow_title(self) -> str:
        """In lines that fit beside a slice."""
        return textwrap.fill(self.title, LABEL_CHARACTERS)


@dataclass(frozen=True)
class Scale:
    """Where the values of one searched setting lie: numbers, perhaps by their logarithm, or choices in turn.

    Attributes:
        choices: texts in order; empty where the values are numbers.
    """

    path: str
    low: float
    high: float
    log: bool
    choices: tuple[str, ...]

    @property
    def title(self) -> str:
        return _style.symbol(self.path.removeprefix("hparams."))

    def place(self, value: Any) -> float:
        """On the axis of a slice."""
        return float(self.choices.index(searches.setting(value))) if self.choices else float(value)

    def share(self, value: Any) -> float:
        """From 0 at the lowest value to 1 at the highest; in the middle where there is one only."""
        low, high, at = (math.log(x) if self.log else x for x in (self.low, self.high, self.place(value)))
        return (at - low) / (high - low) if high > low else 0.5


def draw(search: SearchResult) -> Figure:
    """One block for each cell, across the page.

    At the top, to the left: with two objectives all suggestions and their Pareto front, else each objective over the
    suggestions; to the right the importances. Below: each objective over each searched setting, then a line for each
    suggestion through all settings and objectives. Only complete suggestions have values; others are marked by number.
    """
    paths = searches.swept(search)
    lines = len(search.objectives) * max(1, -(-len(paths) // SLICES))
    full = TITLE_IN + HEAD_IN + lines * SLICE_IN + PARALLEL_IN
    heights = [full if complete_ones(study) else EMPTY_IN for study in search.studies]
    with _style.applied():
        engine = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0.03, hspace=0.05)
        figure = Figure(figsize=(_style.PAGE_IN, sum(heights)), layout=engine)
        parts: Any = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        for part, study in zip(parts, search.studies, strict=True):
            part.suptitle(_style.plain("" if study.name == "all" else study.name), fontsize=_style.STYLE["font.size"])
            block(part, search, study, paths)
    return figure


def block(part: SubFigure, search: SearchResult, study: Study, paths: Sequence[str]) -> None:
    """The panels of one cell."""
    complete = complete_ones(study)
    if not complete:
        _panels.hole(part.subplots(), "no complete suggestion yet" if study.suggestions else "no suggestion yet")
        return
    starred = set(searches.front(study, [direction for _, direction in search.objectives]))
    found = [objective(search, i, complete) for i in range(len(search.objectives))]
    scales = [scale(path, complete, search.logarithmic) for path in paths]
    lines = -(-len(scales) // SLICES)
    down: Any = part.subfigures(3, 1, height_ratios=[HEAD_IN, SLICE_IN * lines * len(found), PARALLEL_IN])
    head(down[0], study, search, found, complete, starred)
    across = min(len(scales), SLICES)
    axes = down[1].subplots(len(found) * lines, across, squeeze=False)
    for k in range(lines * across):
        for i, each in enumerate(found):
            one = axes[k // across * len(found) + i][k % across]
            if k >= len(scales):
                one.set_axis_off()
                continue
            slice_(one, each, scales[k], complete, starred)
            if k % across == 0:
                one.set_ylabel(each.narrow_title)
            else:
                one.tick_params(labelleft=False)
            if i < len(found) - 1:
                one.tick_params(labelbottom=False)
                one.set_xlabel("")
    parallel(down[2].subplots(), found, scales, complete)


def complete_ones(study: Study) -> list[Mapping[str, Any]]:
    """Suggestions with every objective's value, in order."""
    return [
        s
        for s in study.suggestions
        if s["state"] == "complete" and all(value is not None and math.isfinite(value) for value in s["values"])
    ]


def objective(search: SearchResult, index: int, complete: Sequence[Mapping[str, Any]]) -> Objective:
    path, direction = search.objectives[index]
    metric = searches.shown_objective(search, index)
    values = tuple(s["values"][index] * metric.factor for s in complete)
    return Objective(metric, path, direction == "maximize", values)


def scale(path: str, complete: Sequence[Mapping[str, Any]], logarithmic: frozenset[str]) -> Scale:
    """Numbers keep their size; texts, truth values and choices among few are places in turn."""
    values = [s["params"][path] for s in complete if path in s["params"]]
    if not values or any(isinstance(value, str | bool) for value in values):
        texts = tuple(dict.fromkeys(searches.setting(value) for value in sorted(values, key=str)))
        return Scale(path, 0.0, max(len(texts) - 1.0, 0.0), False, texts)
    return Scale(path, min(values), max(values), path in logarithmic and min(values) > 0, ())


# --- panels -----------------------------------------------------------------------------------------------------------


def head(
    part: SubFigure,
    study: Study,
    search: SearchResult,
    found: Sequence[Objective],
    complete: Sequence[Mapping[str, Any]],
    starred: set[int],
) -> None:
    """History or front, and importances."""
    if len(found) == 2:
        left, right = part.subplots(1, 2, width_ratios=(1.3, 1))
        front(left, found, complete, starred)
    else:
        *histories, right = part.subplots(1, len(found) + 1)
        others = [s for s in study.suggestions if s["state"] in ("pruned", "failed")]
        for axes, each in zip(histories, found, strict=True):
            history(axes, each, [s["number"] for s in complete], others)
        histories[0].legend(
            loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, ncols=4 if len(found) == 1 else 2
        )
    importances(right, study, search, found)


def history(axes: Axes, found: Objective, numbers: Sequence[int], others: Sequence[Mapping[str, Any]]) -> None:
    """Values by number of the suggestion, and the best so far; marks at the bottom are suggestions without a value."""
    best = np.maximum.accumulate(found.values) if found.maximize else np.minimum.accumulate(found.values)
    axes.plot(numbers, found.values, "o", color=_style.COLOURS[5], markersize=2.5, label="suggestion")
    axes.plot(numbers, best, color=_style.COLOURS[0], drawstyle="steps-post", label="best so far")
    for k, state in enumerate(("pruned", "failed")):
        mine = [s["number"] for s in others if s["state"] == state]
        if mine:
            low = axes.get_xaxis_transform()
            axes.plot(mine, [0.03] * len(mine), "|x"[k], color=_style.PRINTED["color"], transform=low, label=state)
    axes.set_xlabel("suggestion")
    axes.set_ylabel(found.narrow_title)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(_style.ticks())


def front(axes: Axes, found: Sequence[Objective], complete: Sequence[Mapping[str, Any]], starred: set[int]) -> None:
    """Costs across, what they buy upwards; the front is a line with the suggestions' numbers."""
    up, across = found if found[0].maximize or not found[1].maximize else reversed(found)
    axes.plot(across.values, up.values, "o", color=_style.PRINTED["color"], markersize=2.5, alpha=0.6, linewidth=0)
    chosen = sorted(
        (across.values[k], up.values[k], s["number"]) for k, s in enumerate(complete) if s["number"] in starred
    )
    x, y = [point[0] for point in chosen], [point[1] for point in chosen]
    steps = (
        "steps-pre" if across.maximize else "steps-post"
    )  # between two points nothing better is known than one of them
    axes.plot(x, y, "o-", color=_style.COLOURS[1], markersize=3.5, drawstyle=steps, label="Pareto front, with numbers")
    for at_x, at_y, number in chosen:
        axes.annotate(str(number), (at_x, at_y), (2, 2), textcoords="offset points", fontsize=5.5)
    axes.set_xlabel(across.title)
    axes.set_ylabel(up.narrow_title)
    axes.margins(0.08)
    axes.xaxis.set_major_locator(_style.ticks())
    axes.yaxis.set_major_locator(_style.ticks())
    axes.legend(loc="lower right" if up.maximize else "upper right")


def importances(axes: Axes, study: Study, search: SearchResult, found: Sequence[Objective]) -> None:
    """Bars from the most important setting of the first objective downwards, one colour for each objective."""
    shares = [study.importances.get(metric, {}) for metric, _ in search.objectives]
    if not any(shares):
        axes.set_title("importances")
        _panels.hole(axes, "too few suggestions for importances")
        return
    paths = sorted(
        {path for each in shares for path in each}, key=lambda path: (*(-s.get(path, 0) for s in shares), path)
    )
    thick = 0.8 / len(shares)
    for i, (each, shown) in enumerate(zip(shares, found, strict=True)):
        places = [k + (i - (len(shares) - 1) / 2) * thick for k in range(len(paths))]
        axes.barh(
            places, [each.get(path, 0.0) for path in paths], thick, color=_style.COLOURS[i], label=shown.metric.label
        )
    axes.set_yticks(range(len(paths)), [_style.symbol(path.removeprefix("hparams.")) for path in paths])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 1)
    axes.set_xlabel("importance")
    if len(shares) > 1:
        axes.legend(loc="lower right")


def slice_(
    axes: Axes, found: Objective, setting: Scale, complete: Sequence[Mapping[str, Any]], starred: set[int]
) -> None:
    """One objective over one setting; the darker, the later was it suggested; rings are the best, or the front."""
    chosen = [k for k, s in enumerate(complete) if setting.path in s["params"]]
    x = [setting.place(complete[k]["params"][setting.path]) for k in chosen]
    y = [found.values[k] for k in chosen]
    shades = matplotlib.colormaps[_style.DARKER_IS_LARGER](np.linspace(COLOURS_FROM, 1, len(complete))[chosen])
    edges = [_style.COLOURS[1] if complete[k]["number"] in starred else (0, 0, 0, 0) for k in chosen]
    axes.scatter(x, y, s=9, c=shades, edgecolors=edges, linewidths=0.8)
    axes.set_xlabel(setting.title)
    axes.yaxis.set_major_locator(_style.ticks())
    axes.margins(0.1)
    if setting.choices:
        axes.set_xticks(range(len(setting.choices)), [_style.plain(text) for text in setting.choices])
        axes.set_xlim(-0.5, len(setting.choices) - 0.5)
    elif setting.log:
        axes.set_xscale("log")
        ticks = log_ticks(setting.low, setting.high)
        axes.set_xticks(ticks, [searches.setting(tick) for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 2.5, 5, 10]))


def log_ticks(low: float, high: float) -> list[float]:
    """At most four of 1, 2 and 5 times a power of ten between the two, both above 0."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{digit}e{exponent}") for exponent in exponents for digit in (1, 2, 5)]
    ticks = [tick for tick in ticks if low <= tick <= high]
    return ticks[:: -(-len(ticks) // 4)] if ticks else [low]


def parallel(
    axes: Axes, found: Sequence[Objective], scales: Sequence[Scale], complete: Sequence[Mapping[str, Any]]
) -> None:
    """One upright axis for each setting, then for each objective; the darker a line, the better is its first objective."""
    ends = [Scale(each.path, min(each.values), max(each.values), False, ()) for each in found]
    main = [ends[0].share(value) if found[0].maximize else 1 - ends[0].share(value) for value in found[0].values]
    shades = matplotlib.colormaps[_style.DARKER_IS_LARGER]
    for k in sorted(range(len(complete)), key=lambda k: main[k]):  # the best on top
        params = complete[k]["params"]
        y = [each.share(params[each.path]) if each.path in params else math.nan for each in scales]
        y += [end.share(each.values[k]) for end, each in zip(ends, found, strict=True)]
        axes.plot(y, color=shades(COLOURS_FROM + (1 - COLOURS_FROM) * main[k]), linewidth=LINE_PT)
    texts = [each.choices or (searches.setting(each.low), searches.setting(each.high)) for each in scales]
    texts += [
        tuple(f"{value:.{each.metric.digits}f}" for value in (end.low, end.high))
        for end, each in zip(ends, found, strict=True)
    ]
    for at, labels in enumerate(texts):
        axes.axvline(at, color="black", linewidth=0.6)
        for j, text in enumerate(labels):
            axes.annotate(
                _style.plain(text), (at, j / (len(labels) - 1) if len(labels) > 1 else 0.5), (3, 0),
                textcoords="offset points", va="center", fontsize=5.5,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8},
            )  # fmt: skip
    axes.set_xticks(range(len(texts)), [*(each.title for each in scales), *(each.narrow_title for each in found)])
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.05, len(texts) - 0.6)
    axes.set_ylim(-0.06, 1.06)
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
