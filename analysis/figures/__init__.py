"""Figures, one file for each kind; the file name is the `report.kind` that it draws."""

from __future__ import annotations

import importlib
import io
import pkgutil
from typing import TYPE_CHECKING

from analysis.errors import ReportError
from analysis.grid import Grid

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = ("png", "pdf")


def kinds() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def draw(grid: Grid) -> Figure:
    """The figure of the grid's kind.

    Raises:
        ReportError: a kind that nothing draws.
    """
    if grid.kind not in kinds():
        raise ReportError(f"{grid.name}: no figure for report.kind = {grid.kind!r}; drawn are {', '.join(kinds())}")
    figure: Figure = importlib.import_module(f"{__name__}.{grid.kind}").draw(grid)
    return figure


def render(figure: Figure, extension: str) -> bytes:
    """The file's bytes, the same for the same figure: no dates, no versions."""
    from analysis.figures import _style

    file = io.BytesIO()
    with _style.applied():
        figure.savefig(file, format=extension, metadata=_style.METADATA[extension])
    return file.getvalue()
