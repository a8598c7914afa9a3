"""The papers' claims as checks: a function for each, in the file of its paper, named by its id in lower case (`c01`)."""

from __future__ import annotations

import csv
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from analysis import printed
from analysis.claims._checks import Part, Verdict, settle
from analysis.claims._sources import Reader, Source
from analysis.errors import ReportError
from sweeps.spec import unknown

PAPERS = ("cudfkd", "pckd")
FILE = "claims.csv"
Check = Callable[[Reader], list[Part]]


@dataclass(frozen=True)
class Claim:
    """One claim of a paper.

    Attributes:
        id: e.g. `C06`.
        section: of the paper.
        text: the claim in our words.
        experiment: the table or figure that it is about, in words.
        check: how numbers decide it.
        expected: what the paper says of the numbers.
        table_check: what the paper's own tables say: holds, partly, fails, or not in tables.
        table_evidence: the figures behind that.
    """

    id: str
    paper: str
    section: str
    text: str
    experiment: str
    check: str
    expected: str
    table_check: Literal["holds", "partly", "fails", "not in tables"]
    table_evidence: str


@dataclass(frozen=True)
class Outcome:
    """What a source says of a claim.

    Attributes:
        parts: what was checked, with the numbers.
        reasons: why something cannot be told, and what a reader must know of the numbers.
        origins: where the numbers come from, e.g. `printed`.
        waits: whether runs are missing that would settle it.
    """

    claim: Claim
    verdict: Verdict
    parts: tuple[Part, ...]
    reasons: tuple[str, ...]
    origins: tuple[str, ...]
    waits: bool


def catalogue() -> list[Claim]:
    """Every claim of both papers, in the order of their ids."""
    with (printed.folder() / FILE).open(encoding="utf-8", newline="") as file:
        return [
            Claim(
                row["id"],
                row["paper"],
                row["section"],
                row["claim"],
                row["experiment"],
                row["check"],
                row["expected"],
                row["table_check"],  # type: ignore[arg-type]
                row["table_evidence"],
            )
            for row in csv.DictReader(file)
        ]


def find(ids: Sequence[str], paper: str | None = None) -> list[Claim]:
    """The claims with these ids, in any case of letters; all of them without ids; those of one paper.

    Raises:
        ReportError: unknown ids, or ids of the other paper.
    """
    known = [claim for claim in catalogue() if paper in (None, claim.paper)]
    names = [claim.id for claim in known]
    faults = [
        unknown("claim" if paper is None else f"claim of {paper}", each, names)
        for each in ids
        if each.upper() not in names
    ]
    if faults:
        raise ReportError(*faults)
    wanted = {each.upper() for each in ids}
    return [claim for claim in known if claim.id in wanted or not wanted]


def check_of(claim: Claim) -> Check:
    """The function that checks a claim."""
    check: Check = getattr(importlib.import_module(f"{__name__}.{claim.paper}"), claim.id.lower())
    return check


def judge(claim: Claim, source: Source) -> Outcome:
    """What the source's values say of the claim.

    Raises:
        AnalysisError: values that cannot be read.
        SweepError: a faulty experiment file.
    """
    read = Reader(source)
    parts = check_of(claim)(read)
    comparable = read.comparable
    reasons = read.reasons
    if any(part.absolute for part in parts) and not comparable:
        reasons.append("absolute numbers mean something at the paper's own scale only")
    settled = tuple(part.blinded() if part.absolute and not comparable else part for part in parts)
    verdict = settle(settled)
    return Outcome(
        claim, verdict, settled, tuple(reasons), tuple(read.origins), read.waits and verdict == "cannot tell"
    )
