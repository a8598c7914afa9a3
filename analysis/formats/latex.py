"""Tables as LaTeX with booktabs rules: an environment for `\\input`, or a document of its own."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.formats._tex import tex, tex_address
from analysis.formats.markdown import md_entry
from analysis.layout import PLAIN, Entry, Style, Table, legend

MARKS = {"": "{}", "best": "\\textbf{{{}}}", "second": "\\underline{{{}}}"}
ARROWS = {"+": "$\\uparrow_{{{}}}$", "-": "$\\downarrow_{{{}}}$"}
NUMBER = re.compile(r"(-?)(\d+)(?:\.(\d+))?")

HEADER = 12
"""Characters in one line of a heading; a longer one is broken into two."""
LETTER_PT, SMALL_LETTER_PT = 5.2, 4.3
"""Width of a character in 10 and in 8 points (Computer Modern's digits have 5.0 and 4.25), a little to the safe side."""
COLUMN_PT, PAGE_PT = 240, 480
"""Width of one column of a two-column page (IEEE: 252, ACM: 241), and of a page (IEEE: 516, ICML: 487)."""


@dataclass(frozen=True)
class Column:
    """How one column is set.

    Attributes:
        format: siunitx's table-format, that of the first block with numbers; "" for a column that siunitx does not set.
    """

    letter: str
    format: str = ""


RIGHT = Column("r")
SIUNITX = "\\sisetup{separate-uncertainty=true, retain-zero-uncertainty=true, detect-weight=true, mode=text}"
"""Equal seeds have a spread of 0, which siunitx would leave out."""


def latex(table: Table, style: Style = PLAIN) -> str:
    """The table; what does not fit into one column of a page takes both, in small type and never beyond the margin."""
    columns = [column(table, index, style) for index in range(len(table.header))]
    wide = width_pt(table, LETTER_PT, 12) > COLUMN_PT
    scaled = width_pt(table, SMALL_LETTER_PT, 6) > PAGE_PT
    environment = "table*" if wide else "table"
    marks = legend(table, MARKS["best"].format("best"), MARKS["second"].format("second"), tex)
    label = [f"\\label{{tab:{re.sub('[^A-Za-z0-9.-]+', '-', table.name)}}}"] if table.name else []
    lines = [
        f"\\begin{{{environment}}}",
        "\\centering",
        *(["\\footnotesize", "\\setlength{\\tabcolsep}{3pt}"] if wide else []),
        *([SIUNITX] if style.siunitx else []),
        f"\\caption{{{tex(table.title)}. {tex(table.caption)}{marks}}}",
        *label,
        "\\smallskip",
        *(["\\resizebox{\\linewidth}{!}{%"] if scaled else []),
        *tabular(table, columns, style),
        *(["}"] if scaled else []),
        *below(table),
        f"\\end{{{environment}}}",
    ]
    packages = ["booktabs", *(["siunitx"] if style.siunitx else []), *(["graphicx"] if scaled else [])]
    packages += ["hyperref"] if style.links else []
    return "\n".join(document(lines, packages) if style.standalone else [*needs(packages), *lines]) + "\n"


def needs(packages: Sequence[str]) -> list[str]:
    return [f"% needs \\usepackage{{{name}}}" for name in packages]


def document(lines: Sequence[str], packages: Sequence[str]) -> list[str]:
    """The table alone on a page."""
    return [
        "\\documentclass{article}",
        "\\usepackage[margin=20mm]{geometry}",
        *(f"\\usepackage{'[hidelinks]' if name == 'hyperref' else ''}{{{name}}}" for name in packages),
        "\\pagestyle{empty}",
        "\\begin{document}",
        *lines,
        "\\end{document}",
    ]


def tabular(table: Table, columns: Sequence[Column], style: Style) -> list[str]:
    count = 1 + len(columns)
    head = [tex(table.corner), *map(heading, lines_of(table.header), columns)]
    lines = [
        f"\\begin{{tabular}}{{l{''.join(column.letter for column in columns)}}}",
        "\\toprule",
        " & ".join(head) + " \\\\",
    ]
    for block in table.blocks:
        lines.append("\\midrule")
        if block.title:
            lines += [f"\\multicolumn{{{count}}}{{l}}{{\\emph{{{tex(block.title)}}}}} \\\\"]
        forms = [number_format([entries[i] for _, entries in block.rows], style) for i in range(len(columns))]
        for label, entries in block.rows:
            cells = map(tex_entry, entries, itertools.repeat(style), columns, forms)
            lines.append(" & ".join([tex(label), *cells]) + " \\\\")
    return [*lines, "\\bottomrule", "\\end{tabular}"]


def below(table: Table) -> list[str]:
    """Notes and remarks, as wide as the table's caption."""
    texts = [f"$^{{{number}}}$ {tex(note)}" for number, note in enumerate(table.notes, 1)]
    texts += [tex(remark) for remark in table.remarks]
    if not texts:
        return []
    return ["", "\\smallskip", "\\begin{minipage}{\\linewidth}\\footnotesize", " \\\\\n".join(texts), "\\end{minipage}"]


def column(table: Table, index: int, style: Style) -> Column:
    """Words to the left, numbers to the right; with siunitx numbers at their point, where the column has any."""
    if table.words:
        return Column("l")
    forms = [number_format([entries[index] for _, entries in block.rows], style) for block in table.blocks]
    form = next((form for form in forms if form), "")
    if not style.siunitx or not form:
        return RIGHT
    return Column(f"S[table-format={form}, table-number-alignment=left, table-text-alignment=left]", form)


def number_format(entries: Sequence[Entry], style: Style) -> str:
    """siunitx's table-format for the numbers of one column and block, e.g. 2.2(2); "" without numbers."""
    found = [match for entry in entries if (match := NUMBER.fullmatch(entry.value))]
    if not found:
        return ""
    sign = "-" if any(match[1] for match in found) else ""
    whole, decimals = (max(len(match[group] or "") for match in found) for group in (2, 3))
    spreads = [entry.spread.replace(".", "").lstrip("0") for entry in entries if entry.spread and style.spread == "pm"]
    spread = f"({max(decimals, *map(len, spreads))})" if spreads else ""
    return f"{sign}{whole}.{decimals}{spread}"


def heading(lines: Sequence[str], column: Column) -> str:
    """A column's heading, centred over aligned numbers, else on their side."""
    shown = " \\\\ ".join(map(tex, lines))
    if len(lines) > 1:
        shown = f"\\shortstack[{'c' if column.format else column.letter}]{{{shown}}}"
    return f"\\multicolumn{{1}}{{c}}{{{shown}}}" if column.format else shown


def lines_of(header: Sequence[str]) -> list[list[str]]:
    """Headings in one line or, where one of them is long, in two; pairs such as `A / B` then break alike."""
    tall = any(len(text) > HEADER for text in header)
    return [broken(text) if tall and (len(text) > HEADER or " / " in text) else [text] for text in header]


def broken(text: str) -> list[str]:
    """The two lines most alike in length that the spaces allow, none of which starts with a slash."""
    words = text.split()
    pairs = [(" ".join(words[:i]), " ".join(words[i:])) for i in range(1, len(words))]
    ordered = sorted(pairs, key=lambda pair: (pair[1].startswith("/"), max(map(len, pair))))
    return list(ordered[0]) if ordered else [text]


def width_pt(table: Table, letter_pt: float, gap_pt: float) -> float:
    """About how wide the table is, from the longest text of each column."""
    longest = [max(map(len, [table.corner, *(label for block in table.blocks for label, _ in block.rows)]))]
    for index, title in enumerate(lines_of(table.header)):
        texts = [md_entry(entries[index]) for block in table.blocks for _, entries in block.rows]
        longest.append(max(map(len, [*title, *texts])))
    return sum(longest) * letter_pt + len(longest) * gap_pt


def tex_entry(entry: Entry, style: Style = PLAIN, column: Column = RIGHT, form: str = "") -> str:
    """One cell; in a column of siunitx what is not a bare number stands in braces, its number as wide as the others.

    Args:
        form: table-format of the numbers of this column and block, which may not be that of the column.
    """
    after = ""
    if entry.spread and style.spread == "subscript":
        after += f"$_{{\\pm {entry.spread}}}$"
    if entry.change:
        after += f" ({ARROWS.get(entry.change[:1], '{}').format(entry.change.lstrip('+-'))})"
    if entry.printed:
        after += f" ({tex(entry.printed)})"
    if style.links and len(entry.links) > 1:
        after += " seeds " + ", ".join(f"\\href{{{tex_address(link)}}}{{{tex(seed)}}}" for seed, link in entry.links)
    after += f"$^{{{entry.note}}}$" if entry.note else ""
    spread = entry.spread if style.spread == "pm" else ""
    if not column.format:
        value = tex(entry.value)
        if NUMBER.fullmatch(value) and value.startswith("-"):
            value = f"$-${value[1:]}"
        shown = linked(MARKS[entry.mark].format(value), entry, style)
        return shown + (f" $\\pm$ {spread}" if spread else "") + after
    if not NUMBER.fullmatch(entry.value):
        return f"{{{linked(tex(entry.value), entry, style)}{after}}}"
    number = entry.value + (f" +- {spread}" if spread else "")
    if form == column.format and not (entry.mark or after or (style.links and len(entry.links) == 1)):
        return number
    aligned = f"\\tablenum[table-format={form}]{{{number}}}"
    boxed = f"\\mbox{{{aligned}}}"  # a bare \tablenum stretches with the column
    bold = f"\\mbox{{\\bfseries{aligned}}}"
    shown = {"": boxed, "best": bold, "second": f"\\underline{{{boxed}}}"}[entry.mark]
    return f"{{{linked(shown, entry, style)}{after}}}"


def linked(shown: str, entry: Entry, style: Style) -> str:
    """The value as a link to its run, where there is one run only."""
    if not style.links or len(entry.links) != 1:
        return shown
    return f"\\href{{{tex_address(entry.links[0][1])}}}{{{shown}}}"
