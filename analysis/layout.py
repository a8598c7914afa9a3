"""A table before it is written in some format: text by cell, with what each format may add to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Mark = Literal["", "best", "second"]


@dataclass(frozen=True)
class Entry:
    """One cell of a table as text; "", 0 and () where there is none.

    Attributes:
        printed: what the paper prints beside our value.
        note: number of its note.
        mark: place among those it competes with.
        change: signed difference to the baseline, e.g. `+0.72`.
        links: (seed, address of the run) of each run behind the value.
    """

    value: str
    spread: str = ""
    printed: str = ""
    note: int = 0
    mark: Mark = ""
    change: str = ""
    links: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Block:
    """Rows under one heading; all blocks of a table have the same header."""

    title: str
    rows: Sequence[tuple[str, Sequence[Entry]]]


@dataclass(frozen=True)
class Table:
    """A table before it is written in some format.

    Attributes:
        corner: heading of the column with the row labels.
        notes: numbered from 1, as `Entry.note` refers to them.
        remarks: sentences without a number.
        words: whether its entries are words, which stand to the left, not numbers.
        name: of the experiment; "" for a table that nothing refers to.
        marked: what best and second are of, "column" or "row"; "" where nothing is marked.
        unranked: labels that did not compete for them.
    """

    title: str
    caption: str
    corner: str
    header: Sequence[str]
    blocks: Sequence[Block]
    notes: Sequence[str]
    remarks: Sequence[str]
    words: bool = False
    name: str = ""
    marked: str = ""
    unranked: Sequence[str] = ()

    @property
    def entries(self) -> Iterator[Entry]:
        return (entry for block in self.blocks for _, entries in block.rows for entry in entries)


@dataclass(frozen=True)
class Style:
    """How a table is written; formats for which an option means nothing pass over it.

    Attributes:
        spread: the std as `93.50 ± 0.71`, or as a subscript.
        siunitx: LaTeX: numbers aligned at the decimal point by siunitx's S columns.
        standalone: LaTeX: a document of its own instead of an environment for `\\input`.
        links: Markdown and LaTeX: values link to their runs; HTML always does.
    """

    spread: Literal["pm", "subscript"] = "pm"
    siunitx: bool = False
    standalone: bool = False
    links: bool = False


PLAIN = Style()


def legend(table: Table, best: str, second: str, shown: Callable[[str], str]) -> str:
    """The caption's sentence on the marks; "" where nothing is marked.

    Args:
        best, second: the two words, marked as the format marks them.
        shown: escapes text for the format.
    """
    if not table.marked:
        return ""
    left_out = f"; not ranked: {shown(', '.join(table.unranked))}" if table.unranked else ""
    return f" Marked in each {table.marked}: {best}, {second}{left_out}."
