"""Names, units and printed digits of metrics; the one table from the papers' metric names to ours."""

from __future__ import annotations

import re
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
    "mu": "stats/from/test/acc1_pct_mean",
    "sigma2": "stats/from/test/acc1_pct_var",
    "best": "test/acc1_pct",
    "mem": "train/peak_memory_mib",
    "time": "time/train_s",
}
"""Metric column of a reference file -> our name. The papers' Loyalty is that of the official code, a fourth root."""
PRINTED_UNITS = {"": 1.0, "%": 1.0, "G": 1024.0, "h": 3600.0}
"""Unit column of a reference file -> how many of our unit it is; the papers' G is read as GiB, they do not say which."""

PEAK_MEMORY = "train/peak_memory_mib"
IMAGES = {
    "train/easiest": "easiest images",
    "train/hardest": "hardest images",
    "train/spread": "from easy to hard",
}
"""What trials keep images of: how the sort is called."""
AT_EPOCH = {
    "train/difficulty": ("Difficulty v·l", "nats"),
    "train/easiest": ("g of the easiest images", ""),
    "train/hardest": ("g of the hardest images", ""),
    "train/spread": ("g of evenly spread images", ""),
}
"""What trials keep of each image of one epoch: label and unit."""
KEPT = {"test/embedding": "silhouette", "classifier/centres": "mean_cosine"}
"""What trials keep of the last epoch only: the quantity that its one number is."""
QUANTITIES = {
    "acc1_pct": ("Acc@1", "%", 2),
    "acc5_pct": ("Acc@5", "%", 2),
    "agree1_pct": ("Agree@1", "%", 2),
    "loyalty": ("Loyalty", "", 4),
    "loyalty_nat": ("Loyalty (nats)", "", 4),
    "loyalty_code": ("Loyalty (code)", "", 4),
    "silhouette": ("Silhouette", "", 4),
    "mean_cosine": ("Mean cosine", "", 4),
    "mean_v": ("Mean weight v", "", 4),
}
SPLITS = {"mean_cosine": "classifier", "mean_v": "train"}
"""Where a quantity is measured without that being said, if not on `test`."""
FLOPS = "cost/flops"
COSTS = {
    "time/train_s": "Training time",
    "time/total_s": "Total time",
    PEAK_MEMORY: "Peak memory",
    FLOPS: "Training operations",
}
TIMES = ((7200.0, "h", 3600.0, 2), (120.0, "min", 60.0, 2), (0.0, "s", 1.0, 1))
"""The largest time shown, in seconds, from which on a unit is used; its name, its seconds, its decimals."""
OPERATIONS = ((1e15, "PFLOP", 1e15, 2), (1e12, "TFLOP", 1e12, 2), (0.0, "GFLOP", 1e9, 2))
"""Likewise for floating-point operations."""
WINDOWED = re.compile(r"stats/(?P<window>from|inner|all)/(?P<metric>.+)_(?P<statistic>mean|var|std)")
WINDOWS = {"from": "", "inner": " (inner)", "all": " (all epochs)"}
STATISTICS = {"mean": ("μ", 1), "var": ("σ²", 2), "std": ("σ", 1)}
EPOCH = re.compile(r"epoch(\d+)/")
"""Prefix of what an artifact of one epoch holds, e.g. `epoch10/train/difficulty`; that of the last epoch has `last/`."""
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
        lower_is_better: true for losses, variances, time and memory.
        factor: a value times this is in `unit`.
    """

    name: str
    label: str
    unit: str
    digits: int
    lower_is_better: bool = False
    factor: float = 1.0

    @property
    def title(self) -> str:
        """Label and unit, e.g. `Acc@1 (%)`."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def text(self, value: float) -> str:
        return f"{value * self.factor:.{self.digits}f}"


def metric(name: str, largest: float | None = None) -> Metric:
    """How the metric `name` is shown; unknown quantities keep their name, their unit comes from its ending.

    Args:
        largest: the largest value shown, which chooses the unit of a time or of operations; None for hours and PFLOP.
    """
    plain = bare(name)
    if plain in COSTS:
        return cost(name, largest)
    if plain in AT_EPOCH:
        at = EPOCH.match(name)
        when = f"epoch {at[1]}" if at else "the last epoch"
        label, unit = AT_EPOCH[plain]
        return Metric(name, f"{label} at {when}", unit, 4)
    windowed = WINDOWED.fullmatch(name)
    if windowed is not None:
        return statistic(name, windowed)
    split, _, quantity = plain.rpartition("/")
    quantity = KEPT.get(plain, quantity)
    lower = quantity.startswith("loss")
    if quantity in QUANTITIES:
        label, unit, digits = QUANTITIES[quantity]
        known = split in ("", SPLITS.get(quantity, "test"))
        return Metric(name, label if known else f"{split} {label}", unit, digits)
    for ending in sorted(UNITS, key=len, reverse=True):
        if quantity.endswith(ending):
            unit, digits = UNITS[ending]
            return Metric(name, plain.removesuffix(ending), unit, digits, lower)
    return Metric(name, plain, "", 4, lower)


def bare(name: str) -> str:
    """The name without what selects an epoch: `best/test/acc1_pct` and `test/acc1_pct` are one metric."""
    plain = next((name.removeprefix(prefix) for prefix in SELECTIONS if name.startswith(prefix)), name)
    return EPOCH.sub("", plain, count=1) if EPOCH.match(plain) else plain


def cost(name: str, largest: float | None) -> Metric:
    """Time in hours, minutes or seconds, memory in GiB, floating-point operations in 10^15, 10^12 or 10^9."""
    if bare(name) == PEAK_MEMORY:
        return Metric(name, COSTS[PEAK_MEMORY], "GiB", 2, True, 1 / 1024)
    units = OPERATIONS if bare(name) == FLOPS else TIMES
    _, unit, size, digits = next(each for each in units if largest is None or largest >= each[0])
    return Metric(name, COSTS[bare(name)], unit, digits, True, 1 / size)


def statistic(name: str, found: re.Match[str]) -> Metric:
    """Mean, population variance or std of a metric over a window of epochs, e.g. `σ² Acc@1 (%²)`."""
    of = metric(found["metric"])
    symbol, power = STATISTICS[found["statistic"]]
    unit = f"{of.unit}²" if of.unit and power == 2 else of.unit
    label = f"{symbol} {of.label}{WINDOWS[found['window']]}"
    return Metric(name, label, unit, of.digits, found["statistic"] != "mean")


def result_name(name: str, select: str) -> str:
    """Name of the result that holds the selected epoch's value: `best/test/acc1_pct`.

    A result's own name stays, and so does that of what is measured in training or of weights: its last value counts.
    """
    own = name.startswith((*SELECTIONS, "train/", "time/", "classifier/")) or EPOCH.match(name)
    return name if own else f"{select}/{name}"


def printed_name(name: str, place: str) -> str:
    """Our name for a reference file's metric.

    Raises:
        ReportError: a name that the table above does not list.
    """
    if name not in PRINTED_NAMES:
        raise ReportError(f"{place}: unknown metric {name!r}; known: {', '.join(sorted(PRINTED_NAMES))}")
    return PRINTED_NAMES[name]
