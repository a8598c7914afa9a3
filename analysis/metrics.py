"""Names, units and printed digits of metrics; the one table from the papers' metric names to ours."""

from __future__ import annotations

from dataclasses import dataclass

from analysis.errors import ReportError

PRINTED_NAMES = {
    "acc1": "test/acc1_pct",
    "agree1": "test/agree1_pct",
    "loyalty_code": "test/loyalty_code",
    "Acc@1": "test/acc1_pct",
    "Agree@1": "test/agree1_pct",
    "Loyalty": "test/loyalty_code",
    "top1": "test/acc1_pct",
    "top5": "test/acc5_pct",
}
"""Metric column of a reference file -> our name. The papers' Loyalty is that of the official code, a fourth root."""

QUANTITIES = {
    "acc1_pct": ("Acc@1", "%", 2),
    "acc5_pct": ("Acc@5", "%", 2),
    "agree1_pct": ("Agree@1", "%", 2),
    "loyalty": ("Loyalty", "", 4),
    "loyalty_nat": ("Loyalty (nats)", "", 4),
    "loyalty_code": ("Loyalty (code)", "", 4),
}
UNITS = {"_pct": ("%", 2), "_s": ("s", 1), "_gib": ("GiB", 2), "_per_s": ("1/s", 1)}
HOLE = "\N{EN DASH}"
"""Shown where a value is missing."""
SELECTIONS = ("last/", "best/", "stats/")


@dataclass(frozen=True)
class Metric:
    """How one metric is shown.

    Attributes:
        name: our name, e.g. `test/acc1_pct`.
        label: as the papers write it, without the unit.
        unit: "" for a pure number.
        digits: decimals shown.
        lower_is_better: true for losses.
    """

    name: str
    label: str
    unit: str
    digits: int
    lower_is_better: bool = False

    @property
    def title(self) -> str:
        """Label and unit, e.g. `Acc@1 (%)`."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def text(self, value: float) -> str:
        return f"{value:.{self.digits}f}"


def metric(name: str) -> Metric:
    """How the metric `name` is shown; unknown quantities keep their name, their unit comes from its ending."""
    bare = next((name.removeprefix(prefix) for prefix in SELECTIONS if name.startswith(prefix)), name)
    split, _, quantity = bare.rpartition("/")
    lower = quantity.startswith("loss")
    if quantity in QUANTITIES:
        label, unit, digits = QUANTITIES[quantity]
        return Metric(name, label if split in ("", "test") else f"{split} {label}", unit, digits)
    for ending in sorted(UNITS, key=len, reverse=True):
        if quantity.endswith(ending):
            unit, digits = UNITS[ending]
            return Metric(name, bare.removesuffix(ending), unit, digits, lower)
    return Metric(name, bare, "", 4, lower)


def result_name(name: str, select: str) -> str:
    """Name of the result that holds the selected epoch's value: `best/test/acc1_pct`; a result's own name stays."""
    return name if name.startswith(SELECTIONS) else f"{select}/{name}"


def printed_name(name: str, place: str) -> str:
    """Our name for a reference file's metric.

    Raises:
        ReportError: a name that the table above does not list.
    """
    if name not in PRINTED_NAMES:
        raise ReportError(f"{place}: unknown metric {name!r}; known: {', '.join(sorted(PRINTED_NAMES))}")
    return PRINTED_NAMES[name]
