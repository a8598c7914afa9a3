"""The claims of the CuDFKD paper (arXiv 2208.13648)."""

from __future__ import annotations

import itertools
import math

import numpy as np

from analysis.claims import _latent, _pictures
from analysis.claims._checks import Comparison, Part, part
from analysis.claims._sources import Reader
from analysis.claims._tables import (
    ACC1,
    AGREE1,
    LOYALTY,
    THREE,
    groups,
    largest,
    leads,
    mean,
    place,
    spread,
    versus,
)

TABLES = ("cudfkd/table2", "cudfkd/table3")
SCRATCH = ("T.Scratch", "S.Scratch")
PAIR = "ResNet34 / ResNet18"
MU, SIGMA2 = "stats/from/test/acc1_pct_mean", "stats/from/test/acc1_pct_var"
MEMORY, TIME = "train/peak_memory_mib", "time/train_s"
UNTIMED = ("DFAD", "MB-DFKD", "PRE-DFKD")
"""Methods of Table V for which the paper has no time."""
NOISY_TEACHER = 94.07
"""Acc@1 in percent at which the noisy teacher's training stops (Sec. V-D)."""
NEAR = 1.1
"""Ratio up to which one cost is close to another; the paper's own is 1.06."""


def c01(read: Reader) -> list[Part]:
    found = versus(read, "cudfkd/table2", ACC1, "CuDFKD", ">", "S.Scratch", pair=PAIR)
    return [part("above the student trained on data", found)]


def c02(read: Reader) -> list[Part]:
    found = []
    for _, curve in read.curves("cudfkd/fig3", ACC1, method="CuDFKD", **{"data set": "CIFAR-10"}):
        first = next((epoch for epoch, value in curve if value >= 90), math.inf)
        found.append(Comparison("first epoch, from 0, at 90%", float(first), "<", 30))
    return [part("90% is passed early", found, absolute=True)]


def c03(read: Reader) -> list[Part]:
    return [part("highest mean", leads(read, "cudfkd/table5", MU, "CuDFKD"))]


def c04(read: Reader) -> list[Part]:
    return [part("lowest variance", leads(read, "cudfkd/table5", SIGMA2, "CuDFKD", lower=True))]


def c05(read: Reader) -> list[Part]:
    found = [leads(read, TABLES[0], metric, "CuDFKD", but=SCRATCH) for metric in THREE]
    return [part("first in every column", *found)]


def c06(read: Reader) -> list[Part]:
    found = [leads(read, table, metric, "CuDFKD", but=SCRATCH) for table, metric in itertools.product(TABLES, THREE)]
    return [part("first in every column", *found)]


def c07(read: Reader) -> list[Part]:
    return [
        part(f"Acc@1 grows with {name}", correlations(read, metric))
        for name, metric in (("Agree@1", AGREE1), ("Loyalty", LOYALTY))
    ]


def correlations(read: Reader, metric: str) -> list[Comparison]:
    """Pearson's r of Acc@1 and `metric` over the data-free methods that have both, for each pair."""
    found = []
    for table in TABLES:
        accuracy, other = groups(read, table, ACC1), groups(read, table, metric)
        for pair, cells in other.items():
            both = [m for m in cells if m in accuracy.get(pair, {}) and m not in SCRATCH]
            x, y = ([column[m].value for m in both] for column in (accuracy[pair], cells))
            r = float(np.corrcoef(x, y)[0, 1]) if len(both) > 1 else math.nan
            found.append(Comparison(f"{', '.join(pair)}, {table}: r over {len(both)} methods", r, ">", 0))
    return found


def c08(read: Reader) -> list[Part]:
    return [
        part(f"{name} below CuDFKD's", *[versus(read, table, metric, "S.Scratch", "<", "CuDFKD") for table in TABLES])
        for name, metric in (("Agree@1", AGREE1), ("Loyalty", LOYALTY))
    ]


def c09(read: Reader) -> list[Part]:
    pairs = (("CuDFKD", "DFQ"), ("DFQ", "ADI"), ("DFQ", "CMI"))
    stem = {"student's stem": "7x7"}
    found = [versus(read, "cudfkd/table4", ACC1, left, ">", right, **stem) for left, right in pairs]
    return [part("order of the methods", *found)]


def c10(read: Reader) -> list[Part]:
    means: list[Comparison] = []
    modes: list[Comparison] = []
    for setting in read.labels("cudfkd/fig2", "setting"):
        kept = {m: read.kept("cudfkd/fig2", LOYALTY, setting=setting, method=m) for m in ("CuDFKD", "CMI", "ADI")}
        mine = kept["CuDFKD"]
        for other in ("CMI", "ADI"):
            theirs = kept[other]
            for found, number in ((means, _pictures.mean_of), (modes, _pictures.first_mode)):
                left, right = (math.nan if each is None else number(each.content) for each in (mine, theirs))
                found.append(Comparison(f"{setting}: CuDFKD against {other}", left, ">", right, LOYALTY))
    return [part("mean over test images", means), part("first peak of the histogram", modes)]


def c11(read: Reader) -> list[Part]:
    memory = []
    for data, cells in groups(read, "cudfkd/table5", MEMORY).items():
        if {"CuDFKD", "DAFL"} <= set(cells):
            ratio = cells["CuDFKD"].value / cells["DAFL"].value
            memory.append(Comparison(f"{', '.join(data)}: memory over DAFL's", ratio, "<=", NEAR))
    return [
        part("memory close to DAFL's", memory),
        part("quickest of those timed", leads(read, "cudfkd/table5", TIME, "CuDFKD", but=UNTIMED, lower=True)),
        part("above DAFL", versus(read, "cudfkd/table5", ACC1, "CuDFKD", ">", "DAFL")),
    ]


def c12(read: Reader) -> list[Part]:
    student = read.value("cudfkd/fig4", ACC1, method="CuDFKD", teacher="noisy")
    gap = NOISY_TEACHER - student
    return [
        part("the student's accuracy", Comparison("mean over seeds", student, ">", 93.3, ACC1), absolute=True),
        part(f"below the teacher's {NOISY_TEACHER}", Comparison("gap", gap, "<", 0.7), absolute=True),
    ]


def c13(read: Reader) -> list[Part]:
    found = versus(read, "cudfkd/fig4", LOYALTY, "noisy", ">", "clean", axis="teacher", method="CuDFKD")
    return [part("loyalty rises", found)]


def c14(read: Reader) -> list[Part]:
    large, small, steady = [], [], []
    for metric in THREE:
        drop = {
            method: read.value("cudfkd/fig4", metric, method=method, teacher="clean")
            - read.value("cudfkd/fig4", metric, method=method, teacher="noisy")
            for method in read.labels("cudfkd/fig4", "method")
        }
        for method, other in itertools.product(("CuDFKD", "CMI"), ("ADI", "DAFL")):
            if {method, other} <= set(drop):
                small.append(
                    Comparison(
                        place((), metric, f"drop of {method} against {other}"), drop[method], "<", drop[other], metric
                    )
                )
        rest = {method: value for method, value in drop.items() if method != "DAFL"}
        large += [
            Comparison(place((), metric, f"drop of DAFL against {method}"), drop["DAFL"], ">", value, metric)
            for method, value in rest.items()
        ]
        for teacher in read.labels("cudfkd/fig4", "teacher"):
            mine, other_std = (
                read.cell("cudfkd/fig4", metric, method=method, teacher=teacher).std for method in ("CuDFKD", "CMI")
            )
            steady.append(
                Comparison(place((teacher,), metric, "std over seeds, CuDFKD against CMI"), mine, "<", other_std)
            )
    return [
        part("DAFL drops most", large),
        part("CuDFKD and CMI drop less than ADI and DAFL", small),
        part("CuDFKD varies less over seeds than CMI", steady),
    ]


def c15(read: Reader) -> list[Part]:
    names = ("hard", "soft", "log")
    found = [versus(read, "cudfkd/fig6", ACC1, name, ">", "none", axis="curriculum") for name in names]
    return [part("above no curriculum", *found)]


def c16(read: Reader) -> list[Part]:
    found = [
        versus(read, "cudfkd/fig6", metric, "log", ">=", other, axis="curriculum")
        for metric, other in itertools.product(THREE, ("hard", "soft"))
    ]
    return [part("logarithm at the top", *found)]


BAND = {"2": 2.0, "2.2": 2.2, "2.5": 2.5, "2.8": 2.8}
"""Labels of the values of lambda_0 that the figure shows, and the values."""
NOISY = {"measured against": "noisy teacher"}


def c17(read: Reader) -> list[Part]:
    slopes, accuracy = [], []
    for metric in THREE:
        cells = read.cells("cudfkd/fig8", metric, lambda_0=list(BAND), **NOISY)
        x, y = [BAND[cell.labels["lambda_0"]] for cell in cells], [cell.value for cell in cells]
        known = len(cells) > 1 and not any(map(math.isnan, y))
        slope = float(np.polyfit(x, y, 1)[0]) if known else math.nan
        slopes.append(Comparison(place((), metric, "slope over lambda_0"), slope, "<", 0))
        if metric == ACC1:
            accuracy = [
                Comparison(f"lambda_0 = {cell.labels['lambda_0']}", cell.value, ">", 93, ACC1) for cell in cells
            ]
    return [part("falls with lambda_0", slopes), part("above 93%", accuracy, absolute=True)]


def c18(read: Reader) -> list[Part]:
    """Diverged: a run that failed because a loss was not finite, or that ends below half of what the band's lowest reaches."""
    inside = [cell.value for cell in read.cells("cudfkd/fig8", f"last/{ACC1}", lambda_0=list(BAND), **NOISY)]
    floor = min(inside) / 2 if inside and not any(map(math.isnan, inside)) else math.nan
    low = []
    for label in ("1", "1.5"):
        cell = read.cell("cudfkd/fig8", f"last/{ACC1}", lambda_0=label, **NOISY)
        reached = 0.0 if "not finite" in cell.note else cell.value
        low.append(
            Comparison(f"lambda_0 = {label}: last Acc@1 against half of the band's lowest", reached, "<", floor, ACC1)
        )
    high = []
    for labels, curve in read.curves("cudfkd/fig8", "train/mean_weight", lambda_0=["3.5", "5"], **NOISY):
        weight = mean([value for _, value in curve])
        high.append(Comparison(f"lambda_0 = {labels['lambda_0']}: mean weight over training", weight, ">=", 0.9))
    return [part("diverges below 2", low), part("keeps nearly all above 3", high)]


def c19(read: Reader) -> list[Part]:
    found = []
    for metric in THREE:
        for pair, cells in grids(read, metric).items():
            mine = [value for (begin, _), value in cells.items() if begin == "1/5"]
            rest = [value for (begin, _), value in cells.items() if begin != "1/5"]
            left, right = largest(mine), largest(rest)
            found.append(
                Comparison(place((pair,), metric, "best with k_begin 1/5 against the others"), left, ">", right, metric)
            )
    return [part("k_begin = 1/5 is best", found)]


def grids(read: Reader, metric: str) -> dict[str, dict[tuple[str, str], float]]:
    """Pair -> (k_begin, k_end) -> value, of Figure 9."""
    found: dict[str, dict[tuple[str, str], float]] = {}
    for cell in read.cells("cudfkd/fig9", metric):
        key = cell.labels["k_begin"], cell.labels["k_end"]
        found.setdefault(cell.labels["pair"], {})[key] = cell.value
    return found


def c20(read: Reader) -> list[Part]:
    wider, light, relative = [], [], {}
    for metric in THREE:
        for pair, cells in grids(read, metric).items():
            begin, end = (
                [mean_at(cells, axis, label) for label in sorted({key[axis] for key in cells})] for axis in (0, 1)
            )
            wider.append(
                Comparison(place((pair,), metric, "range over k_begin against k_end"), spread(begin), ">", spread(end))
            )
            if pair.startswith("WRN"):
                values = list(cells.values())
                relative[metric] = spread(values) / mean(values)
    for metric in (AGREE1, LOYALTY):
        if metric in relative:
            light.append(
                Comparison(
                    place(("WRN pair",), metric, "relative range of Acc@1 against it"),
                    relative[ACC1],
                    ">",
                    relative[metric],
                )
            )
    return [part("k_begin moves more than k_end", wider), part("Acc@1 moves most in the WRN pair", light)]


def mean_at(cells: dict[tuple[str, str], float], axis: int, label: str) -> float:
    """Mean over the cells that have `label` on one of the two axes."""
    return mean([value for key, value in cells.items() if key[axis] == label])


def c21(read: Reader) -> list[Part]:
    parts = []
    for metric in THREE:
        values = {cell.labels["alpha"]: cell.value for cell in read.cells("cudfkd/fig10", metric)}
        ends = [values.pop(label, math.nan) for label in ("0.05", "0.4")]
        top = largest(list(values.values()))
        found = [
            Comparison(place((), metric, f"alpha = {label} against the best between"), end, "<", top, metric)
            for label, end in zip(("0.05", "0.4"), ends, strict=True)
        ]
        parts += found
    return [part("the best alpha is inside", parts)]


def c22(read: Reader) -> list[Part]:
    values = {cell.labels["T"]: cell.value for cell in read.cells("cudfkd/fig7", ACC1)}
    known = values and not any(map(math.isnan, values.values()))
    best = float(max(values, key=lambda label: values[label])) if known else math.nan
    return [part("best temperature", Comparison("T with the best Acc@1", best, ">", 4))]


def c23(read: Reader) -> list[Part]:
    early, late = (read.kept("cudfkd/fig5", f"{epoch}/train/difficulty") for epoch in ("epoch10", "last"))
    texts = (
        ("further left", "mean difficulty", _pictures.mean_of),
        ("narrower", "std of difficulty", _pictures.width),
    )
    parts = []
    for text, what, number in texts:
        left, right = (math.nan if each is None else number(each.content) for each in (early, late))
        parts.append(part(text, Comparison(f"{what}, early against late", left, "<", right)))
    left, right = (math.nan if each is None else _pictures.distance_within_classes(each) for each in (early, late))
    parts.append(
        part(
            "less varied within a class",
            Comparison("distance of images of a class, early against late", left, "<", right),
        )
    )
    return parts


def c24(read: Reader) -> list[Part]:
    if not read.formulas():
        return []
    bound, steps = [], []
    for name in _latent.WEIGHTS:
        bound.append(
            Comparison(f"{name}: largest excess over the bound", _latent.largest_excess(name), "<=", _latent.ROUNDING)
        )
        steps.append(Comparison(f"{name}: largest rise in a step", _latent.largest_rise(name), "<=", _latent.ROUNDING))
    return [part("the bound holds", bound), part("the objective never rises", steps)]
