"""Tables as a plain HTML fragment: one `<table>` with caption, scopes and links to the runs, for any page's style."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from analysis.formats.markdown import arrow
from analysis.layout import PLAIN, Entry, Style, Table, legend

MARKS = {"": "{}", "best": "<strong>{}</strong>", "second": "<u>{}</u>"}
WEB = ("http://", "https://")


def html(table: Table, style: Style = PLAIN) -> str:
    """The table; its notes and remarks are its last rows, so that no part of it gets lost on the way to a page."""
    columns = 1 + len(table.header)
    marks = legend(table, MARKS["best"].format("best"), MARKS["second"].format("second"), text)
    head = [text(table.corner), *map(text, table.header)]
    lines = [
        "<table>",
        f"<caption><strong>{text(table.title)}</strong>. {text(table.caption)}{marks}</caption>",
        "<thead>",
        "<tr>" + "".join(f'<th scope="col">{each}</th>' for each in head) + "</tr>",
        "</thead>",
    ]
    for block in table.blocks:
        lines.append("<tbody>")
        if block.title:
            lines.append(f'<tr><th scope="rowgroup" colspan="{columns}">{text(block.title)}</th></tr>')
        lines += [html_row(label, entries, style) for label, entries in block.rows]
        lines.append("</tbody>")
    below = [f"<sup>[{number}]</sup> {text(note)}" for number, note in enumerate(table.notes, 1)]
    below += [text(remark) for remark in table.remarks]
    if below:
        lines.append("<tfoot>")
        lines += [f'<tr><td colspan="{columns}">{line}</td></tr>' for line in below]
        lines.append("</tfoot>")
    return "\n".join([*lines, "</table>"]) + "\n"


def html_row(label: str, entries: Sequence[Entry], style: Style) -> str:
    cells = "".join(html_entry(entry, style) for entry in entries)
    return f'<tr><th scope="row">{text(label)}</th>{cells}</tr>'


def html_entry(entry: Entry, style: Style = PLAIN) -> str:
    """One cell; a run without a page, in a store without a server, is named in `data-runs`."""
    shown = MARKS[entry.mark].format(text(entry.value))
    pages = [(seed, link) for seed, link in entry.links if link.startswith(WEB)]
    named = " ".join(link for _, link in entry.links if not link.startswith(WEB))
    if len(entry.links) == len(pages) == 1:
        shown = f'<a href="{text(pages[0][1])}">{shown}</a>'
    if entry.spread:
        spread = text(entry.spread)
        shown += f"<sub>±{spread}</sub>" if style.spread == "subscript" else f" ± {spread}"
    if entry.change:
        shown += f" ({text(arrow(entry.change))})"
    if entry.printed:
        shown += f" ({text(entry.printed)})"
    if len(entry.links) > 1 and pages:
        seeds = ", ".join(f'<a href="{text(link)}">{text(seed)}</a>' for seed, link in pages)
        shown += f" <small>seeds {seeds}</small>"
    if entry.note:
        shown += f" <sup>[{entry.note}]</sup>"
    return f'<td data-runs="{text(named)}">{shown}</td>' if named else f"<td>{shown}</td>"


def text(raw: str) -> str:
    """Text that HTML shows as it is, inside attributes too."""
    return escape(" ".join(raw.split()))
