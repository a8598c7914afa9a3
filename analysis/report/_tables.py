"""A report's tables: cells as `analysis.formats.html` writes them, with a key to sort by and notes that can be followed."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from analysis.formats.html import MARKS, html_entry, text
from analysis.layout import Entry, Table, legend
from analysis.metrics import HOLE


def table_html(table: Table, anchor: str) -> str:
    """The table in a region that scrolls by itself; its notes and remarks after it.

    Args:
        anchor: unique on the page; ids begin with it.
    """
    marks = legend(table, MARKS["best"].format("best"), MARKS["second"].format("second"), text)
    lines = [
        region(table.title),
        f'<table class="sortable{" words" if table.words else ""}">',
        f"<caption><strong>{text(table.title)}</strong>. {text(table.caption)}{marks}</caption>",
        head([table.corner, *table.header]),
    ]
    for block in table.blocks:
        lines.append("<tbody>")
        if block.title:
            lines.append(f'<tr><th scope="rowgroup" colspan="{1 + len(table.header)}">{text(block.title)}</th></tr>')
        lines += [row(label, entries, anchor) for label, entries in block.rows]
        lines.append("</tbody>")
    lines += ["</table>", "</div>"]
    if table.notes:
        notes = [f'<li id="{anchor}-note-{i}">{prose(note)}</li>' for i, note in enumerate(table.notes, 1)]
        lines += ['<ol class="notes">', *notes, "</ol>"]
    lines += [f'<p class="remark">{prose(remark)}</p>' for remark in table.remarks]
    return "\n".join(lines)


def prose(raw: str) -> str:
    """A sentence, its commands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", text(raw))


def region(title: str) -> str:
    """What is wider than the window scrolls by itself, from the keyboard too."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{text(title)}">'


def head(columns: Sequence[str], words: Sequence[str] = ()) -> str:
    """The column headings; those over words stand to the left."""
    left = {each: ' class="word"' for each in words}
    cells = "".join(f'<th scope="col"{left.get(each, "")}>{text(each)}</th>' for each in columns)
    return f"<thead><tr>{cells}</tr></thead>"


def row(label: str, entries: Sequence[Entry], anchor: str) -> str:
    """A label that is a number is sorted as one."""
    cells = "".join(cell(entry, anchor) for entry in entries)
    key = sort_key(label)
    number = f' data-sort="{key}"' if key else ""
    return f'<tr><th scope="row"{number}>{text(label)}</th>{cells}</tr>'


def cell(entry: Entry, anchor: str) -> str:
    """The cell, its number in `data-sort`: "" for a hole, no attribute where it is a word."""
    shown = html_entry(entry)
    if entry.note:
        number = f"[{entry.note}]"
        shown = shown.replace(f"<sup>{number}</sup>", f'<sup><a href="#{anchor}-note-{entry.note}">{number}</a></sup>')
    key = sort_key(entry.value)
    return shown if key is None else shown.replace("<td", f'<td data-sort="{key}"', 1)


def sort_key(value: str) -> str | None:
    """A number as JavaScript reads it, "" for a hole, None for words; a true minus is one."""
    if value in ("", HOLE):
        return ""
    try:
        number = float(value.replace("\N{MINUS SIGN}", "-"))
    except ValueError:
        return None
    return repr(number) if math.isfinite(number) else ""
