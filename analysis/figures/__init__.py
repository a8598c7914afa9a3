"""Figures, one file for each kind; the file name is the `report.kind` that it draws."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Literal, TypeAlias

from analysis.errors import ReportError
from analysis.grid import Grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from analysis.searches import SearchResult

SEARCH = "search"
FORMATS = ("png", "pdf", "svg")
SIZES = ("column", "talk")
Size: TypeAlias = Literal["column", "talk"]


def kinds() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def kind_of(result: Grid | SearchResult) -> str:
    """The file that draws a result: a search has one, whatever its report's kind."""
    return result.kind if isinstance(result, Grid) else SEARCH


def draw(result: Grid | SearchResult) -> Figure:
    """The figure of a search, or of the grid's kind.

    Raises:
        ReportError: a kind that nothing draws.
    """
    kind = kind_of(result)
    if kind not in kinds():
        raise ReportError(f"{result.name}: no figure for report.kind = {kind!r}; drawn are {', '.join(kinds())}")
    figure: Figure = importlib.import_module(f"{__name__}.{kind}").draw(result)
    return figure


def render(figure: Figure, extension: str, size: Size = "column") -> bytes:
    """The file's bytes, the same for the same figure: no dates, no versions.

    Args:
        size: for a column or the width of a page, or as large as a slide has room for.
    """
    from analysis.figures import _render, _style

    factor = 1.0 if size == "column" else _style.slide_factor(figure)
    return _render.render(figure, extension, factor, _style.DPI[size])
