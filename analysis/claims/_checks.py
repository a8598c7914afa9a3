"""Comparisons of numbers, the parts of a claim that they make up, and the verdict."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from analysis import metrics as names

Verdict = Literal["holds", "partly", "fails", "cannot tell"]
Relation = Literal[">", ">=", "<", "<="]
RELATIONS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
WORDS = {">": "above", ">=": "at least", "<": "below", "<=": "at most"}
"""Markdown would need an escape for the signs."""
SHOWN = 4
"""Counterexamples that a sentence lists; the rest is counted."""


@dataclass(frozen=True)
class Comparison:
    """Two numbers and how they should be related.

    Attributes:
        where: which numbers they are, e.g. `VGG13 / VGG8: PCKD against MLD`.
        left, right: in the unit of the metric's name; NaN where a value is missing.
        metric: chooses unit and digits of the text; "" for plain numbers.
    """

    where: str
    left: float
    relation: Relation
    right: float
    metric: str = ""

    @property
    def holds(self) -> bool | None:
        """None where a number is missing."""
        if math.isnan(self.left) or math.isnan(self.right):
            return None
        return bool(RELATIONS[self.relation](self.left, self.right))

    @property
    def slack(self) -> float:
        """How far apart the two are, relative to the larger; for finding the closest."""
        largest = max(abs(self.left), abs(self.right))
        return abs(self.left - self.right) / largest if largest else 0.0

    @property
    def text(self) -> str:
        word = WORDS[self.relation] if self.holds else f"not {WORDS[self.relation]}"
        largest = max(abs(self.left), abs(self.right))
        left, right = (shown(value, self.metric, largest) for value in (self.left, self.right))
        return f"{self.where}: {left}, {word} {right}"


@dataclass(frozen=True)
class Part:
    """One statement of a claim; it holds where all its comparisons do.

    Attributes:
        absolute: whether it is about numbers as such, not about their order, so that it needs the paper's scale.
    """

    text: str
    comparisons: tuple[Comparison, ...]
    absolute: bool = False

    @property
    def holds(self) -> bool | None:
        """False with one counterexample, whatever is missing; None where values are missing, or there are none."""
        found = [comparison.holds for comparison in self.comparisons]
        if False in found:
            return False
        return None if None in found or not found else True

    def blinded(self) -> Part:
        """The same without numbers."""
        return replace(self, comparisons=tuple(replace(each, left=math.nan) for each in self.comparisons))

    @property
    def evidence(self) -> str:
        """`20 of 24; not: ...`, or the closest of those that hold."""
        known = [each for each in self.comparisons if each.holds is not None]
        if not known:
            return f"{self.text}: no values"
        good = [each for each in known if each.holds]
        bad = [each for each in known if not each.holds]
        counted = f"{self.text}: {len(good)} of {len(self.comparisons)}"
        if len(self.comparisons) == 1:
            return f"{self.text}: {known[0].text}"
        missing = len(self.comparisons) - len(known)
        if missing:
            counted += f", {missing} without a value"
        if bad:
            rest = f"; and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
            return f"{counted}; {'; '.join(each.text for each in bad[:SHOWN])}{rest}"
        return f"{counted}; closest {min(good, key=lambda each: (each.slack, abs(each.left - each.right))).text}"


def part(text: str, *comparisons: Comparison | Sequence[Comparison], absolute: bool = False) -> Part:
    """A part from comparisons and lists of them."""
    flat: list[Comparison] = []
    for each in comparisons:
        flat += [each] if isinstance(each, Comparison) else each
    return Part(text, tuple(flat), absolute)


def settle(parts: Sequence[Part]) -> Verdict:
    """Some parts hold and some fail: partly. One fails and none holds: fails. All hold: holds. Else it cannot be told."""
    found = [each.holds for each in parts]
    if False in found:
        return "partly" if True in found else "fails"
    return "cannot tell" if None in found or not found else "holds"


def shown(value: float, metric: str, largest: float) -> str:
    """With the metric's digits, or four that count; times in a unit that suits the largest of them."""
    if math.isnan(value):
        return names.HOLE
    if metric:
        found = names.metric(metric, largest)
        if names.bare(metric) in names.COSTS:
            return f"{found.text(value)} {found.unit}"
        return found.text(value)
    return f"{value:.4g}"
