"""Verdicts of claims as a table, as flat rows and as objects: ours, and what the papers' own values say."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from analysis.claims import Claim, Outcome, judge
from analysis.claims._checks import Comparison
from analysis.claims._sources import Ours, Printed
from analysis.layout import Block, Entry, Table
from analysis.metrics import HOLE
from analysis.runs import Store
from analysis.tables import without_nan
from sweeps.spec import Profile

Pair = tuple[Outcome, Outcome]
"""By our runs, and by the paper's values."""
TITLES = {"cudfkd": "CuDFKD", "pckd": "PCKD"}
CANNOT = "cannot tell"


def judged(claims: Sequence[Claim], store: Store, profile: Profile) -> list[Pair]:
    """Every claim by our runs and by the paper's values.

    Raises:
        AnalysisError: a store or reference values that cannot be read.
        SweepError: a faulty experiment file.
    """
    ours, theirs = Ours(store, profile), Printed()
    return [(judge(claim, ours), judge(claim, theirs)) for claim in claims]


def table(pairs: Sequence[Pair], profile: str) -> Table:
    """A line for each claim, a block for each paper; what was counted is in the notes."""
    notes: list[str] = []
    blocks = []
    for paper, group in itertools.groupby(pairs, key=lambda pair: pair[0].claim.paper):
        lines = []
        for mine, theirs in group:
            notes.append(note(mine, theirs))
            origin = ", ".join(theirs.origins) if theirs.verdict != CANNOT else HOLE
            lines.append(
                (mine.claim.id, [Entry(mine.verdict, note=len(notes)), Entry(theirs_word(theirs)), Entry(origin)])
            )
        blocks.append(Block(TITLES[paper], lines))
    said = [
        f"Ours: runs of profile {profile}. Means over seeds are compared as they are, without a test. One counterexample decides a "
        "part of a claim, missing values leave it open; partly: some parts hold and some fail."
    ]
    header = ["ours", "the paper's values", "origin of these"]
    return Table("Claims", f"profile {profile}: {tally(pairs)}.", "claim", header, blocks, notes, said, words=True)


def tally(pairs: Sequence[Pair]) -> str:
    """`20 hold, 3 partly, 1 fails, 21 cannot tell`."""
    words = [mine.verdict for mine, _ in pairs]
    shown = {"holds": "hold", "partly": "partly hold", "fails": "fail", CANNOT: "cannot be told"}
    return ", ".join(f"{words.count(word)} {text}" for word, text in shown.items() if word in words)


def theirs_word(outcome: Outcome) -> str:
    """The paper's values cannot tell where they are not given."""
    return "not given" if outcome.verdict == CANNOT else outcome.verdict


def note(mine: Outcome, theirs: Outcome) -> str:
    """The claim, and the numbers of both sides."""
    claim = mine.claim
    parts = [f"{claim.text} ({TITLES[claim.paper]}, {claim.section}.) Ours: {evidence(mine)}."]
    if theirs.verdict != CANNOT:
        parts.append(f"The paper's: {evidence(theirs)}.")
    return " ".join(parts)


def evidence(outcome: Outcome) -> str:
    """The numbers, then why something is missing from them."""
    reasons = "; ".join(outcome.reasons)
    if not any(each.holds is not None for part in outcome.parts for each in part.comparisons):
        return reasons or "no values"
    counted = ". ".join(part.evidence for part in outcome.parts)
    return f"{counted}. {reasons}" if reasons else counted


def rows(pairs: Sequence[Pair], profile: str) -> list[dict[str, Any]]:
    """One flat row for each claim."""
    return [
        {
            "id": mine.claim.id,
            "paper": mine.claim.paper,
            "section": mine.claim.section,
            "claim": mine.claim.text,
            "profile": profile,
            "verdict": mine.verdict,
            "evidence": ". ".join(part.evidence for part in mine.parts),
            "reasons": "; ".join(mine.reasons),
            "origin": "; ".join(mine.origins),
            "printed_verdict": theirs_word(theirs),
            "printed_evidence": ". ".join(part.evidence for part in theirs.parts) if theirs.verdict != CANNOT else "",
            "printed_origin": "; ".join(theirs.origins) if theirs.verdict != CANNOT else "",
        }
        for mine, theirs in pairs
    ]


def objects(pairs: Sequence[Pair], profile: str) -> list[dict[str, Any]]:
    """One object for each claim, with every comparison."""
    return [
        {
            "id": mine.claim.id,
            "paper": mine.claim.paper,
            "section": mine.claim.section,
            "claim": mine.claim.text,
            "check": mine.claim.check,
            "expected": mine.claim.expected,
            "profile": profile,
            "ours": content(mine),
            "printed": content(theirs),
        }
        for mine, theirs in pairs
    ]


def content(outcome: Outcome) -> dict[str, Any]:
    return {
        "verdict": outcome.verdict,
        "origins": list(outcome.origins),
        "reasons": list(outcome.reasons),
        "parts": [
            {
                "text": part.text,
                "holds": part.holds,
                "absolute": part.absolute,
                "comparisons": [plain(each) for each in part.comparisons],
            }
            for part in outcome.parts
        ],
    }


def plain(comparison: Comparison) -> dict[str, Any]:
    """None instead of NaN; infinity, an epoch that never came, as text."""
    row = {name: getattr(comparison, name) for name in ("where", "left", "relation", "right", "metric", "holds")}
    finite = {name: "inf" if value == float("inf") else value for name, value in row.items()}
    return without_nan(finite)
