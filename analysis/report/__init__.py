"""One HTML file for any set of experiments: tables, figures, comparisons, failures, provenance and the papers' claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from analysis import claims
from analysis.claims import _report as claimed
from analysis.errors import AnalysisError
from analysis.report import _page, _parts
from analysis.report._parts import Counts, Failure, Part
from analysis.runs import Store
from sweeps import spec
from sweeps.errors import SweepError

__all__ = ["Counts", "Failure", "Part", "Report", "make"]


@dataclass(frozen=True)
class Report:
    """A finished page.

    Attributes:
        html: the whole file; the same for the same runs, in any folder and at any time.
        parts: one for each experiment, in the order asked for.
        faults: what could not be shown, one message each; never what was not swept.
    """

    html: str
    parts: tuple[Part, ...]
    faults: tuple[str, ...]

    @property
    def missing(self) -> int:
        """Cells that should have a value and have none, failed ones among them."""
        return sum(part.counts.missing + part.counts.failed for part in self.parts)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One flat row for each experiment: its state and numbers of cells."""
        return [{"experiment": part.name, "state": _page.state(part), **asdict(part.counts)} for part in self.parts]


def make(experiments: Sequence[str], store: Store, profile_name: str) -> Report:
    """The report of these experiments; what is wrong with one is said in its place and loses no other.

    Args:
        experiments: names, or paths of one's own files.

    Raises:
        SweepError: an unknown profile, or a fault in its file.
    """
    profile = spec.load_profile(profile_name)
    parts = [_parts.collect(store, name, profile) for name in experiments]
    sections = [_page.experiment(part, anchor) for part, anchor in zip(parts, _page.anchors(parts), strict=True)]
    faults = [fault for part in parts for fault in part.faults]
    faults += [fault for section in sections for fault in section.faults]
    concerned = [paper for paper in claims.PAPERS if any(part.name.split("/")[0] == paper for part in parts)]
    for paper in concerned:
        try:
            pairs = claimed.judged(claims.find([], paper), store, profile)
            sections.append(_page.claims(paper, pairs, _parts.Scrub(store.address)))
        except (AnalysisError, SweepError) as error:
            said = tuple(_parts.Scrub(store.address)(fault) for fault in error.faults)
            sections.append(_page.claims_fault(paper, said))
            faults += said
    html = _page.page(parts, sections, profile.name, concerned)
    return Report(html, tuple(parts), tuple(faults))
