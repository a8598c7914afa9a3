"""For notebooks: an experiment's results as a pandas frame, and its table as text; `import analysis` offers both."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from analysis import cli, runs, tables
from analysis import metrics as names
from analysis.errors import ReportError
from analysis.grid import Grid
from analysis.layout import Style
from sweeps import settings as places
from sweeps import spec
from sweeps.settings import Settings
from sweeps.spec import unknown

if TYPE_CHECKING:
    from analysis.cli import Result

Format = Literal["md", "latex", "csv", "html"]
RECORDED = {"time/train_s": "s", "time/total_s": "s", names.PEAK_MEMORY: "MiB", names.FLOPS: "FLOP"}
"""Units of costs in a frame; tables show them in larger ones."""


def load(
    experiment: str,
    profile: str = "paper",
    *,
    seeds: Iterable[int] | None = None,
    metrics: Sequence[str] = (),
    select: Literal["last", "best"] | None = None,
    store: str | Path | None = None,
) -> pd.DataFrame:
    """The results of one experiment, a row for each cell, seed and metric; cells without a run are rows too.

    Columns: the experiment's axes as ordered categoricals, then

    - `seed`; `metric`, as in the experiment file; `value`, NaN where there is none, unit in `attrs["units"]`
    - `digest` of the trial; `run_id`, `link` to the run; `state`: done, failed, stopped, partial, new, unplanned, absent, reported
    - `note`: why there is no value
    - `reference`, `reference_std`, `reference_n`, `origin`: the paper's value of the cell, folded over its seeds, in the same unit
    - `curve`, (epoch, value) pairs, and `snapshot`, what a run kept of an epoch, where the kind of report needs them

    A search has instead a row for each suggestion (`cell`, `number`, `state`, the searched settings, a column for each
    result); a table of words has `value` and `printed` as text. `attrs` holds `experiment`, `profile`, `title`, `units` by metric,
    `remarks`, and for a grid `axes`, `select`, `over_seeds` and `comparable`: whether `reference` belongs beside `value`.

    Args:
        experiment: `paper/figure`, or the path of your own file.
        profile: the scale at which it was swept.
        seeds: of these only; default: all.
        metrics: instead of the file's.
        select: the epoch that counts, instead of the file's.
        store: MLflow's tracking URI, or the `Path` of its SQLite file; default: as `paper` finds it, from the environment.

    Raises:
        AnalysisError: never swept, a store that cannot be read, unknown metrics or seeds; `faults` holds a message for each.
        SweepError: an unknown experiment or profile, or a fault in its file.
    """
    result = found(experiment, profile, seeds, metrics, select, store)
    head: dict[Hashable, Any] = {"experiment": result.name, "profile": result.profile, "title": result.title}
    if isinstance(result, Grid):
        frame = result.frame.copy()
        units = {name: unit(name) for name in result.metrics}
        head |= {"axes": list(result.axes), "select": result.select, "over_seeds": result.over_seeds}
        head |= {"comparable": result.comparable}
    else:
        frame = pd.DataFrame(cli.table_of(result)[1])
        units = {name: unit(name) for name in frame.columns if "/" in name}
    frame.attrs = {**head, "units": units, "remarks": list(result.remarks)}
    return frame


def table(
    experiment: str,
    profile: str = "paper",
    *,
    format: Format = "md",
    baseline: str = "",
    style: Style | None = None,
    seeds: Iterable[int] | None = None,
    metrics: Sequence[str] = (),
    select: Literal["last", "best"] | None = None,
    store: str | Path | None = None,
) -> str:
    """The table that `paper table` prints, as text.

    Args:
        format: Markdown, LaTeX, CSV or HTML.
        baseline: row to which differences are shown, as `--arrows`.
        style: how it is written; see `analysis.layout.Style`.

    The others, and what is raised, as for `load`.

    Raises:
        AnalysisError: also an unknown format, or a baseline that is no row.
        SweepError: see `load`.
    """
    if format not in cli.TABLE_FILES:
        raise ReportError(unknown("format", format, list(cli.TABLE_FILES)))
    result = found(experiment, profile, seeds, metrics, select, store)
    return cli.table_texts(result, style or tables.PLAIN, baseline)[format]


def found(
    experiment: str,
    profile: str,
    seeds: Iterable[int] | None,
    metrics: Sequence[str],
    select: Literal["last", "best"] | None,
    store: str | Path | None,
) -> Result:
    """The results that were asked for."""
    if isinstance(metrics, str):
        raise ReportError(f"metrics: {metrics!r} is one text; write [{metrics!r}]")
    spec.find([experiment])
    result = cli.load(runs.connect(settings(store)), experiment, profile, metrics, select)
    if seeds is None:
        return result
    if not isinstance(result, Grid):
        raise ReportError(f"{result.name}: its rows have no seeds of their own; leave out `seeds`")
    wanted = set(seeds)
    known = set(result.frame["seed"])
    if wanted - known or not wanted:
        shown = ", ".join(map(str, sorted(wanted - known))) or "none"
        raise ReportError(
            f"{result.name}: unknown seeds: {shown}; in file and plan: {', '.join(map(str, sorted(known)))}"
        )
    return replace(result, frame=result.frame[result.frame["seed"].isin(wanted)].reset_index(drop=True))


def settings(store: str | Path | None) -> Settings:
    """The environment's, with another store where one is given."""
    mine = places.load()
    if store is None:
        return mine
    return replace(mine, tracking_uri=f"sqlite:///{store.absolute()}" if isinstance(store, Path) else store)


def unit(name: str) -> str:
    """Unit of a metric's values as recorded; "" for a pure number."""
    plain = names.bare(name)
    return RECORDED[plain] if plain in RECORDED else names.metric(name).unit
