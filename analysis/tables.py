"""Tables as Markdown, LaTeX (booktabs) and CSV: a grid in, text out."""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis import metrics as names
from analysis import stats
from analysis.grid import Grid
from analysis.metrics import HOLE


@dataclass(frozen=True)
class Entry:
    """One cell of a table as text: value, spread, printed value, number of its note; "" and 0 where there is none."""

    value: str
    spread: str = ""
    printed: str = ""
    note: int = 0


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
    """

    title: str
    caption: str
    corner: str
    header: Sequence[str]
    blocks: Sequence[Block]
    notes: Sequence[str]
    remarks: Sequence[str]
    words: bool = False


def table(grid: Grid) -> Table:
    """With columns, one block for each panel and metric; without, one for each panel with a column for each metric."""
    notes: dict[str, int] = {}
    place = [name for name in (grid.panels, grid.rows, grid.columns) if name is not None]
    by_key = {(*(record[name] for name in place), record["metric"]): record for record in grid.cells}
    panels: Sequence[str | None] = grid.axes[grid.panels] if grid.panels else [None]
    beside = grid.columns is None and grid.comparable and bool(grid.origin)
    blocks = []
    if grid.columns is None:
        titles = [grid.metric(name).title for name in grid.metrics]
        header = [text for title in titles for text in ([title, grid.origin] if beside else [title])]
        for panel in panels:
            rows = []
            for label in grid.axes[grid.rows]:
                entries = [entry(by_key[(*known(panel), label, name)], grid, notes) for name in grid.metrics]
                rows.append((label, spread_out(entries) if beside else entries))
            blocks.append(Block(panel or "", rows))
    else:
        header = list(grid.axes[grid.columns])
        for panel, name in itertools.product(panels, grid.metrics):
            rows = []
            for label in grid.axes[grid.rows]:
                rows.append(
                    (label, [entry(by_key[(*known(panel), label, column, name)], grid, notes) for column in header])
                )
            title = grid.metric(name).title
            blocks.append(Block(f"{title}, {panel}" if panel else title, rows))
    corner = grid.rows if grid.columns is None else f"{grid.rows} \\ {grid.columns}"
    statistic = stats.statistic(grid.over_seeds, grid.epoch, [int(record["n"]) for record in grid.cells])
    caption = f"{grid.name}, profile {grid.profile}: {statistic}."
    if grid.comparable and grid.origin and grid.columns is not None:
        source = "printed value" if grid.origin == "printed" else f"value from the {grid.origin}"
        caption += f" In parentheses: {source}."
    return Table(grid.title, caption, corner, header, blocks, list(notes), grid.remarks)


def known(panel: str | None) -> tuple[str, ...]:
    return () if panel is None else (panel,)


def entry(record: Mapping[Any, Any], grid: Grid, notes: dict[str, int]) -> Entry:
    """One cell's text; its note gets a number, the same for the same words."""
    metric = grid.metric(record["metric"])
    number = notes.setdefault(record["note"], len(notes) + 1) if record["note"] else 0
    numbers = {name: float(record[name]) for name in ("value", "std", "printed", "printed_std")}
    shown = {name: "" if math.isnan(number) else metric.text(number) for name, number in numbers.items()}
    printed = " ± ".join(text for text in (shown["printed"], shown["printed_std"]) if text)
    return Entry(shown["value"] or HOLE, shown["std"], printed, number)


def spread_out(entries: Iterable[Entry]) -> list[Entry]:
    """Printed values in columns of their own."""
    return [part for e in entries for part in (Entry(e.value, e.spread, "", e.note), Entry(e.printed or HOLE))]


# --- formats ---------------------------------------------------------------------------------------------------------


def markdown(table: Table) -> str:
    """GitHub's Markdown, columns padded so that it also reads well in a terminal."""
    parts = [f"**{md(table.title)}**", md(table.caption)]
    for block in table.blocks:
        if block.title:
            parts.append(md(block.title))
        rows = [[md(table.corner), *map(md, table.header)]]
        rows += [[md(label), *(md_entry(entry) for entry in entries)] for label, entries in block.rows]
        widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(rows[0]))]
        lines = [md_row(row, widths, table.words) for row in rows]
        end = "-" if table.words else ":"
        rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + end for width in widths[1:])]) + "|"
        parts.append("\n".join([lines[0], rule, *lines[1:]]))
    if table.notes:
        parts.append("  \n".join(f"[{number}] {md(note)}" for number, note in enumerate(table.notes, 1)))
    parts += [md(remark) for remark in table.remarks]
    return "\n\n".join(parts) + "\n"


def md_row(texts: Sequence[str], widths: Sequence[int], words: bool = False) -> str:
    """One line, the label to the left and numbers to the right."""
    place = str.ljust if words else str.rjust
    padded = [
        texts[0].ljust(widths[0]),
        *(place(text, width) for text, width in zip(texts[1:], widths[1:], strict=True)),
    ]
    return f"| {' | '.join(padded)} |"


def md_entry(entry: Entry) -> str:
    text = entry.value
    if entry.spread:
        text += f" ± {entry.spread}"
    if entry.printed:
        text += f" ({entry.printed})"
    return f"{text} [{entry.note}]" if entry.note else text


def md(text: str) -> str:
    """Text that Markdown shows as it is; underscores inside words need no escape."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"([|*\[\]])", r"\\\1", text)
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)


WIDE = 6
"""Columns that fit into one column of a page; a wider table takes both, in small type."""


def latex(table: Table) -> str:
    """A `table` environment with booktabs rules, for `\\input`."""
    columns = 1 + len(table.header)
    wide = columns > WIDE
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table*}" if wide else "\\begin{table}",
        "\\centering",
        *(["\\footnotesize", "\\setlength{\\tabcolsep}{3pt}"] if wide else []),
        f"\\caption{{{tex(table.title)}. {tex(table.caption)}}}",
        f"\\begin{{tabular}}{{l{('l' if table.words else 'r') * (columns - 1)}}}",
        "\\toprule",
        " & ".join(tex(text) for text in (table.corner, *table.header)) + " \\\\",
    ]
    for block in table.blocks:
        lines.append("\\midrule")
        if block.title:
            lines += [f"\\multicolumn{{{columns}}}{{l}}{{\\emph{{{tex(block.title)}}}}} \\\\"]
        lines += [
            " & ".join([tex(label), *(tex_entry(entry) for entry in entries)]) + " \\\\"
            for label, entries in block.rows
        ]
    lines += ["\\bottomrule", "\\end{tabular}"]
    below = [f"$^{{{number}}}$ {tex(note)}" for number, note in enumerate(table.notes, 1)]
    below += [tex(remark) for remark in table.remarks]
    if below:
        lines += [
            "",
            "\\smallskip",
            "\\begin{minipage}{\\linewidth}\\footnotesize",
            " \\\\\n".join(below),
            "\\end{minipage}",
        ]
    return "\n".join([*lines, "\\end{table*}" if wide else "\\end{table}"]) + "\n"


def tex_entry(entry: Entry) -> str:
    text = tex(entry.value)
    if entry.spread:
        text += f" $\\pm$ {entry.spread}"
    if entry.printed:
        text += f" ({tex(entry.printed)})"
    return f"{text}$^{{{entry.note}}}$" if entry.note else text


TEX = (
    {
        "\\": "\\textbackslash{}",
        "{": "\\{",
        "}": "\\}",
        "$": "\\$",
        "&": "\\&",
        "#": "\\#",
        "%": "\\%",
        "_": "\\_",
        "^": "\\textasciicircum{}",
        "~": "\\textasciitilde{}",
        "<": "\\textless{}",
        ">": "\\textgreater{}",
        "|": "\\textbar{}",
        '"': "''",
        "[": "{[}",  # after a row's end it would open an optional argument
        "]": "{]}",
        "±": "$\\pm$",
        "\N{EN DASH}": "--",
        "—": "---",
        "\N{MULTIPLICATION SIGN}": "$\\times$",
        "²": "$^2$",
        "·": "$\\cdot$",
        "→": "$\\rightarrow$",
        "↑": "$\\uparrow$",
        "↓": "$\\downarrow$",
    }
    | {letter: f"$\\{unicodedata.name(letter).split()[-1].lower()}$" for letter in "αβγδεζηθικμνξπρστυφχψω"}
    | {"λ": "$\\lambda$"}
)


def tex(text: str) -> str:
    """Text with LaTeX's special characters escaped."""
    return "".join(TEX.get(character, character) for character in " ".join(text.split()))


def rows(grid: Grid) -> list[dict[str, Any]]:
    """One flat row for each cell and metric, numbers unrounded, None where there is none."""
    return [without_nan(cell) | {"metric": names.result_name(cell["metric"], grid.select)} for cell in grid.cells]


def without_nan(row: Mapping[Any, Any]) -> dict[str, Any]:
    """JSON and CSV have no NaN."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}


def csv_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Long CSV: one line for each cell and metric, numbers unrounded, empty where there is none."""
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()
