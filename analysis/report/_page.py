"""A report's page: contents, one section for each experiment, the papers' claims; all text escaped, nothing fetched."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from string import Template

from analysis import declared, diff, figures, searches
from analysis.claims import _report as claimed
from analysis.cli import drawable, table_of
from analysis.declared import Declared
from analysis.errors import AnalysisError
from analysis.figures._style import COLUMN_IN
from analysis.formats.html import text
from analysis.grid import Grid
from analysis.layout import Table
from analysis.report._parts import Failure, Part, Scrub
from analysis.report._tables import head, prose, region, table_html

LARGEST_SVG = 400_000
"""In bytes; a figure of thousands of marks is smaller as PNG."""
PIXELS_IN = 150
"""Width of a figure's inch on the page: its type is made for paper, and small."""


@dataclass(frozen=True)
class Section:
    """HTML of one section, and what could not be shown in it."""

    html: str
    faults: tuple[str, ...] = ()


def page(parts: Sequence[Part], sections: Sequence[Section], profile: str, papers: Sequence[str]) -> str:
    """The whole file."""
    body = "\n".join([contents(parts, papers), *(section.html for section in sections)])
    files = resources.files(__package__)
    style, script, template = (
        (files / name).read_text(encoding="utf-8") for name in ("page.css", "page.js", "page.html")
    )
    return Template(template).substitute(profile=text(profile), style=style, script=script, body=body)


def anchors(parts: Sequence[Part]) -> list[str]:
    """An id for each experiment; two of one name differ."""
    found: list[str] = []
    for part in parts:
        slug = re.sub(r"[^a-z0-9]+", "-", part.name.lower()).strip("-") or "experiment"
        number = 2
        unique = slug
        while unique in found:
            unique, number = f"{slug}-{number}", number + 1
        found.append(unique)
    return found


def contents(parts: Sequence[Part], papers: Sequence[str]) -> str:
    """A line for each experiment with its numbers of cells, then their sums; links to the claims."""
    rows = []
    for part, anchor in zip(parts, anchors(parts), strict=True):
        counts = part.counts
        known = part.state != "fault"
        numbers = (counts.done, counts.missing, counts.failed, counts.left_out)
        cells = "".join(f'<td data-sort="{n if known else ""}">{n if known else "–"}</td>' for n in numbers)
        link = f'<a href="#{anchor}">{text(part.name)}</a>'
        rows.append(
            f'<tr><th scope="row">{link}</th><td class="word">{text(state(part))}</td>{cells}'
            f'<td class="title">{text(part.title)}</td></tr>'
        )
    sums = "".join(
        f"<td>{sum(getattr(part.counts, name) for part in parts)}</td>"
        for name in ("done", "missing", "failed", "left_out")
    )
    columns = head(["experiment", "state", "done", "missing", "failed", "left out", "title"], ["title", "state"])
    links = [f'<li><a href="#claims-{paper}">Claims of {text(claimed.TITLES[paper])}</a></li>' for paper in papers]
    return "\n".join(
        [
            '<nav id="contents" aria-labelledby="contents-title">',
            '<h2 id="contents-title">Contents</h2>',
            region("Experiments"),
            '<table class="sortable">',
            "<caption>Experiments and their cells; left out: cells that the paper has not, or that only the paper has."
            "</caption>",
            columns,
            "<tbody>",
            *rows,
            "</tbody>",
            f'<tfoot><tr><th scope="row">all</th><td></td>{sums}<td></td></tr></tfoot>',
            "</table>",
            "</div>",
            *(["<ul>", *links, "</ul>"] if links else []),
            "</nav>",
        ]
    )


def state(part: Part) -> str:
    """In a word or two, for the contents."""
    if part.state != "swept":
        return {"fault": "cannot be shown"}.get(part.state, part.state)
    unfinished = part.counts.missing + part.counts.failed
    return "complete" if not unfinished else "incomplete" if part.counts.done else "no value yet"


# --- an experiment ---------------------------------------------------------------------------------------------------


def experiment(part: Part, anchor: str) -> Section:
    """Table, figure, comparison, failures, provenance; each says why it is not there."""
    title = f"{part.name}: {part.title}" if part.title else part.name
    opening = [
        f'<section id="{anchor}" aria-labelledby="{anchor}-title">',
        f'<h2 id="{anchor}-title">{text(title)}</h2>',
    ]
    blocks: list[str] = []
    faults: list[str] = []
    if part.state == "never swept":
        blocks.append(f"<p>Never swept with this profile; <code>{text(part.command)}</code> starts it.</p>")
    if part.faults:
        blocks += ["<p>This experiment cannot be shown:</p>", listed(part.faults)]
    if part.result is not None:
        blocks.append(f"<p>{prose(tally(part))}</p>")
        for heading, write in (
            ("Table", shown_table),
            ("Figure", shown_figure),
            ("Comparison with the paper", shown_diff),
        ):
            try:
                blocks += [f"<h3>{heading}</h3>", write(part, anchor)]
            except AnalysisError as error:
                said = [part.scrub(fault) for fault in error.faults]
                blocks.append(listed(said))
                faults += said
        blocks += ["<h3>Failures</h3>", shown_failures(part.failures)]
        blocks += ["<h3>Provenance</h3>", shown_provenance(part)]
    return Section(
        "\n".join([*opening, *blocks, '<p class="up"><a href="#contents">Contents</a></p>', "</section>"]),
        tuple(faults),
    )


def tally(part: Part) -> str:
    """`9 cells: 8 done, 1 failed.`, with the command that goes on where something is missing."""
    counts = part.counts
    every = counts.done + counts.missing + counts.failed
    numbers = ((counts.done, "done"), (counts.missing, "missing"), (counts.failed, "failed"))
    said = ", ".join(f"{n} {word}" for n, word in numbers if n) or "none is trained"
    more = f"; {counts.left_out} left out" if counts.left_out else ""
    goes_on = f" `{part.command}` goes on." if counts.missing + counts.failed else ""
    return f"{every} {'cell' if every == 1 else 'cells'}: {said}{more}{f'; {part.note}' if part.note else ''}.{goes_on}"


def shown_table(part: Part, anchor: str) -> str:
    assert part.result is not None
    table, _ = table_of(part.result)
    return table_html(public(table, part.scrub), f"{anchor}-table")


def shown_figure(part: Part, anchor: str) -> str:
    """The figure as an image inside the page: SVG, or PNG where that is smaller."""
    result = part.result
    assert result is not None
    if isinstance(result, Declared) or not drawable(result):
        return "<p>This kind of report has no figure.</p>"
    drawn = figures.draw(result)
    kind, content = "svg+xml", figures.render(drawn, "svg")
    if len(content) > LARGEST_SVG:
        kind, content = "png", figures.render(drawn, "png")
    data = base64.b64encode(content).decode()
    width = round(drawn.get_figwidth() * PIXELS_IN)
    size = "column" if drawn.get_figwidth() <= COLUMN_IN else "page"
    said = f"{result.title}: {figures.kind_of(result)}, profile {result.profile}"
    return (
        f'<figure>{region("Figure")}<img class="{size}" width="{width}" src="data:image/{kind};base64,{data}" '
        f'alt="{text(said)}; its numbers are in the table above"></div>'
        f"<figcaption>{text(said)}</figcaption></figure>"
    )


def shown_diff(part: Part, anchor: str) -> str:
    """Ours beside the printed values with the verdicts, or why nothing can be compared."""
    result = part.result
    if isinstance(result, searches.SearchResult):
        return "<p>A search has no printed values.</p>"
    if isinstance(result, Declared):
        if not result.origin:
            return "<p>There are no printed values for this experiment.</p>"
        return table_html(public(declared.diff(result), part.scrub), f"{anchor}-diff")
    assert isinstance(result, Grid)
    if not result.origin:
        return "<p>There are no printed values for this experiment.</p>"
    if not result.comparable:
        return "<p>Nothing is compared: this profile has another scale than the paper.</p>"
    return table_html(public(diff.table(result), part.scrub), f"{anchor}-diff")


def public(table: Table, scrub: Scrub) -> Table:
    """The table without this machine's folders; a trial's error may name them."""
    return replace(table, notes=[scrub(note) for note in table.notes], remarks=[scrub(each) for each in table.remarks])


def shown_failures(failures: Sequence[Failure]) -> str:
    if not failures:
        return "<p>No failed trial.</p>"
    rows = []
    for each in failures:
        waiting = f" ({each.waiting} of the cells' trials not started)" if each.waiting else ""
        rows.append(
            f'<tr><th scope="row">{text(each.trial + waiting)}</th><td class="word">{text(each.cause)}</td>'
            f'<td class="word"><code>{text(each.log)}</code></td></tr>'
        )
    return "\n".join(
        [
            region("Failed trials"),
            "<table>",
            "<caption>Failed trials; logs lie below the state root.</caption>",
            head(["trial", "cause", "log"], ["cause", "log"]),
            "<tbody>",
            *rows,
            "</tbody></table></div>",
        ]
    )


def shown_provenance(part: Part) -> str:
    lines = ["<dl>"]
    for heading, values in part.provenance:
        lines.append(f"<dt>{text(heading)}</dt>" + "".join(f"<dd>{text(value)}</dd>" for value in values))
    return "\n".join([*lines, "</dl>"])


def listed(faults: Sequence[str]) -> str:
    return "\n".join(['<ul class="faults">', *(f"<li>{prose(fault)}</li>" for fault in faults), "</ul>"])


# --- claims ----------------------------------------------------------------------------------------------------------


def claims(paper: str, pairs: Sequence[claimed.Pair], scrub: Scrub) -> Section:
    """A line for each claim of a paper: its words, both verdicts, and the numbers behind them to unfold."""
    rows = []
    for (mine, theirs), flat in zip(pairs, claimed.rows(pairs, ""), strict=True):
        numbers = [f"<p>Ours: {text(scrub(claimed.evidence(mine)))}.</p>"]
        if flat["printed_evidence"]:
            numbers.append(f"<p>The paper's: {text(claimed.evidence(theirs))}.</p>")
        origin = f" ({text(flat['printed_origin'])})" if flat["printed_origin"] else ""
        rows.append(
            f'<tr><th scope="row">{text(mine.claim.id)}</th><td class="word statement">{text(mine.claim.text)} '
            f"<small>{text(mine.claim.section)}</small>"
            f"<details><summary>numbers</summary>{''.join(numbers)}</details></td>"
            f'<td class="word verdict">{text(mine.verdict)}</td>'
            f'<td class="word">{text(claimed.theirs_word(theirs))}{origin}</td></tr>'
        )
    said = "A claim about order is checked at any scale, one about numbers as such only at the paper's; means over seeds, without a test."
    body = [
        region(f"Claims of {claimed.TITLES[paper]}"),
        '<table class="sortable words">',
        f"<caption><strong>Claims of {text(claimed.TITLES[paper])}</strong>. {text(claimed.tally(pairs))}. {said}</caption>",
        head(["id", "claim", "ours", "the paper's values"]),
        "<tbody>",
        *rows,
        "</tbody></table></div>",
    ]
    return Section(claims_section(paper, body))


def claims_fault(paper: str, faults: Sequence[str]) -> Section:
    """The section where the claims cannot be judged; `make` counts the faults itself."""
    return Section(claims_section(paper, ["<p>The claims cannot be judged:</p>", listed(faults)]))


def claims_section(paper: str, body: Sequence[str]) -> str:
    title = f"Claims of {text(claimed.TITLES[paper])}"
    opening = f'<section id="claims-{paper}" aria-labelledby="claims-{paper}-title">'
    closing = '<p class="up"><a href="#contents">Contents</a></p>'
    return "\n".join([opening, f'<h2 id="claims-{paper}-title">{title}</h2>', *body, closing, "</section>"])
