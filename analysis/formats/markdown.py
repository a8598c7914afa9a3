"""Tables as GitHub's Markdown, padded so that they also read well in a terminal."""

from __future__ import annotations

import re
from collections.abc import Sequence

from analysis.layout import PLAIN, Entry, Style, Table, legend

MARKS = {"": "{}", "best": "**{}**", "second": "_{}_"}
"""GitHub shows bold and italics; its Markdown has no underline, and in a terminal `_` reads as one."""
ARROWS = {"+": "↑", "-": "↓"}


def markdown(table: Table, style: Style = PLAIN) -> str:
    marks = legend(table, MARKS["best"].format("best"), MARKS["second"].format("second"), md)
    parts = [f"**{md(table.title)}**", md(table.caption) + marks]
    for block in table.blocks:
        if block.title:
            parts.append(md(block.title))
        rows = [[md(table.corner), *map(md, table.header)]]
        rows += [[md(label), *(md_entry(entry, style) for entry in entries)] for label, entries in block.rows]
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


def md_entry(entry: Entry, style: Style = PLAIN) -> str:
    """One cell; with links, one run is behind the value's own link, several behind those of their seeds."""
    text = MARKS[entry.mark].format(entry.value)
    if style.links and len(entry.links) == 1:
        text = f"[{text}]({address(entry.links[0][1])})"
    if entry.spread:
        text += f"<sub>±{entry.spread}</sub>" if style.spread == "subscript" else f" ± {entry.spread}"
    if entry.change:
        text += f" ({arrow(entry.change)})"
    if entry.printed:
        text += f" ({entry.printed})"
    if style.links and len(entry.links) > 1:
        text += " seeds " + ", ".join(f"[{seed}]({address(link)})" for seed, link in entry.links)
    return f"{text} [{entry.note}]" if entry.note else text


def arrow(change: str) -> str:
    """`+0.72` as the papers print it, `↑0.72`; no arrow on no change."""
    return ARROWS.get(change[:1], change[:1]) + change[1:]


def address(link: str) -> str:
    """A link that no character of its own ends early."""
    return link.replace("(", "%28").replace(")", "%29").replace("|", "%7C").replace(" ", "%20")


def md(text: str) -> str:
    """Text that Markdown shows as it is; underscores inside words need no escape."""
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"([|*\[\]])", r"\\\1", text)
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)
