"""The claims of the PCKD paper (arXiv 2410.14143)."""

from __future__ import annotations

import math

import numpy as np

from analysis.claims._checks import Comparison, Part, part
from analysis.claims._sources import Reader
from analysis.claims._tables import ACC1, ACC5, gains, groups, leads, mean, spread, versus

SAME, CROSS = "pckd/table1", "pckd/table2"
ALONE = "PCKD (w/o L_KD)"
NETWORKS = ("Teacher", "Student")
FIG5_PAIR = "WRN-40-2 / WRN-16-2"
BAND = 0.5
"""Points of accuracy that count as little: what the text gives for beta_ca (Sec. IV-E), and the half-width that is usual for re-runs."""
LITTLE = 0.1
"""Share of another part's gain that counts as hardly any."""
HARD_WEIGHT = math.exp(-1)
"""Largest weight of a hard sample: exp(-g^2) with g > lambda >= 1 (Eqs. 6 and 7)."""


def p01(read: Reader) -> list[Part]:
    first = leads(read, SAME, ACC1, "PCKD", but=(*NETWORKS, ALONE))
    wide = [Comparison(f"{each.where}, margin", each.left - each.right, ">=", BAND, ACC1) for each in first]
    return [part("first in every pair", first), part("by a wide margin", wide, absolute=True)]


def p02(read: Reader) -> list[Part]:
    gain = {label: mean(gains(read, SAME, ACC1, label, "KD")) for label in (ALONE, "PCKD", "MLD")}
    stated = {ALONE: 2.05, "PCKD": 2.41, "MLD": 2.005}
    order = [
        Comparison(f"mean gain over KD, {ALONE} against MLD", gain[ALONE], ">", gain["MLD"]),
        Comparison(f"mean gain over KD, PCKD against {ALONE}", gain["PCKD"], ">", gain[ALONE]),
    ]
    return [
        part("order of the gains", order),
        part("their size", *[near(f"mean gain of {m}", gain[m], stated[m]) for m in gain], absolute=True),
    ]


def near(what: str, value: float, stated: float) -> Comparison:
    """Whether a number is about what the text says."""
    return Comparison(f"{what}, {value:.4g} against {stated:g} stated, distance", abs(value - stated), "<=", BAND)


def p03(read: Reader) -> list[Part]:
    pairs = ("WRN-40-2 / WRN-16-2", "VGG13 / VGG8")
    return [part("above the teacher", versus(read, SAME, ACC1, "PCKD", ">", "Teacher", pair=pairs))]


def p04(read: Reader) -> list[Part]:
    return [
        part("with KD first in every pair", leads(read, CROSS, ACC1, "PCKD", but=(*NETWORKS, ALONE))),
        part("without KD first in every pair", leads(read, CROSS, ACC1, ALONE, but=(*NETWORKS, "PCKD"))),
    ]


def p05(read: Reader) -> list[Part]:
    cross, same = (mean(gains(read, table, ACC1, ALONE, "KD")) for table in (CROSS, SAME))
    mld = mean(gains(read, CROSS, ACC1, "MLD", "KD"))
    return [
        part("larger than in one family", Comparison("mean gain over KD, across against within", cross, ">", same)),
        part("above MLD", Comparison("mean gain over KD against MLD's", cross, ">", mld)),
        part("lead over MLD", near("lead", cross - mld, 0.97), absolute=True),
    ]


def p06(read: Reader) -> list[Part]:
    below = versus(read, CROSS, ACC1, "ICKD", "<", "KD")
    known = bool(below) and all(each.holds is not None for each in below)
    count = float(sum(each.holds is True for each in below)) if known else math.nan
    return [
        part("in most pairs", Comparison("pairs with ICKD below KD against half of them", count, ">", len(below) / 2))
    ]


def p07(read: Reader) -> list[Part]:
    def all_pairs(label: str, relation: str) -> Part:
        both = [versus(read, table, ACC1, label, relation, "KD") for table in (SAME, CROSS)]  # type: ignore[arg-type]
        return part(f"{label} {'below' if relation == '<' else 'not below'} KD", *both)

    return [
        *[all_pairs(label, "<") for label in ("FitNet", "AT", "RKD", "FSP")],
        *[all_pairs(label, ">=") for label in ("CRD", "SSKD", ALONE)],
    ]


def p08(read: Reader) -> list[Part]:
    return [part("first", *[leads(read, "pckd/table3", metric, "PCKD", but=NETWORKS) for metric in (ACC1, ACC5)])]


def p09(read: Reader) -> list[Part]:
    return [
        part("first on both sets", leads(read, "pckd/table4", ACC1, "PCKD", but=NETWORKS)),
        part("above CRD", versus(read, "pckd/table4", ACC1, "PCKD", ">", "CRD")),
    ]


def p10(read: Reader) -> list[Part]:
    table = "pckd/table5"
    return [
        part("contrast above KD", versus(read, table, ACC1, "L_CKD", ">", "L_KD")),
        part("contrast helps KD", versus(read, table, ACC1, "L_KD + L_CKD", ">", "L_KD")),
        part("contrast helps KD with preview", versus(read, table, ACC1, "L_PCKD", ">", "L_KD + Preview")),
    ]


def p11(read: Reader) -> list[Part]:
    pairs = (("L_KD + Preview", "L_KD"), ("L_PCKD (w/o L_KD)", "L_CKD"), ("L_PCKD", "L_KD + L_CKD"))
    return [part("preview helps", *[versus(read, "pckd/table5", ACC1, left, ">", right) for left, right in pairs])]


def p12(read: Reader) -> list[Part]:
    share, every = [], "FA+CA+CC"
    for pair, cells in groups(read, "pckd/table6", ACC1).items():
        if {"none", "FA", every} <= set(cells):
            none, alone, full = (cells[label].value for label in ("none", "FA", every))
            share.append(
                Comparison(
                    f"{', '.join(pair)}: gain of FA against half of all", alone - none, ">", (full - none) / 2, ACC1
                )
            )
    return [part("FA brings most", share), part("all three are best", leads(read, "pckd/table6", ACC1, every))]


def p13(read: Reader) -> list[Part]:
    found = []
    for pair, cells in groups(read, "pckd/table6", ACC1).items():
        for label in ("CA", "CC", "CA+CC"):
            if {"none", "FA", label} <= set(cells):
                gain, reach = (cells[each].value - cells["none"].value for each in (label, "FA"))
                found.append(
                    Comparison(
                        f"{', '.join(pair)}: gain of {label} against a tenth of FA's", gain, "<", LITTLE * reach, ACC1
                    )
                )
    return [part("hardly a gain without FA", found)]


def p14(read: Reader) -> list[Part]:
    swing = spread([cell.value for cell in read.cells("pckd/fig5a", ACC1)])
    lowest = read.lowest("pckd/fig5a", ACC1)
    rivals = [
        cell
        for cell in read.cells(SAME, ACC1, pair=FIG5_PAIR)
        if cell.labels["method"] not in (*NETWORKS, ALONE, "PCKD")
    ]
    above = [
        Comparison(f"lowest over beta_cc against {cell.labels['method']}", lowest, ">", cell.value, ACC1)
        for cell in rivals
    ]
    return [
        part("hardly matters", Comparison("largest minus smallest", swing, "<", BAND, ACC1), absolute=True),
        part("above every compared method", above),
    ]


def p15(read: Reader) -> list[Part]:
    return [swing_of(read, figure, name) for figure, name in (("pckd/fig5b", "beta_fa"), ("pckd/fig5c", "beta_ca"))]


def p16(read: Reader) -> list[Part]:
    return [swing_of(read, "pckd/fig5d", "the growth rate")]


def swing_of(read: Reader, figure: str, name: str) -> Part:
    swing = spread([cell.value for cell in read.cells(figure, ACC1)])
    return part(
        f"little change over {name}", Comparison("largest minus smallest", swing, "<", BAND, ACC1), absolute=True
    )


def p17(read: Reader) -> list[Part]:
    return [part("lower with preview", versus(read, "pckd/table7", ACC1, "L_CE + Preview", "<", "L_CE"))]


def p18(read: Reader) -> list[Part]:
    rows = (("L_KD†", "L_KD*"), ("L_CKD†", "L_CKD*"), ("L_KD† + L_CKD†", "L_KD* + L_CKD*"))
    return [part("preview above focal", *[versus(read, "pckd/table8", ACC1, left, ">", right) for left, right in rows])]


def p19(read: Reader) -> list[Part]:
    """The share of easy samples follows from the mean weight: mean <= share + (1 - share) HARD_WEIGHT."""
    rises, falls, easy = [], [], []
    for labels, curve in read.curves("pckd/fig6", "train/mean_v"):
        name = ", ".join(labels.values())
        epochs, values = zip(*curve, strict=True)
        slope = float(np.polyfit(epochs, values, 1)[0]) if len(curve) > 1 else math.nan
        if "focal" in name:
            falls.append(Comparison(f"{name}: slope over epochs", slope, "<", 0))
        else:
            rises.append(Comparison(f"{name}: slope over epochs", slope, ">", 0))
            share = (values[-1] - HARD_WEIGHT) / (1 - HARD_WEIGHT)
            easy.append(Comparison(f"{name}: least share of easy samples at the end", share, ">=", 0.9))
    return [
        part("preview's weight rises", rises),
        part("focal's falls", falls),
        part("nearly all easy at the end", easy),
    ]


def p20(read: Reader) -> list[Part]:
    return [part("above the curriculum", versus(read, "pckd/table9", ACC1, "PCKD", ">", "Curriculum-CKD"))]


def p21(read: Reader) -> list[Part]:
    values = {label: cell.value for cell in read.cells("pckd/fig8", "test/embedding") for label in cell.labels.values()}
    mine = values.get("PCKD", math.nan)
    return [
        part(
            "clearer classes",
            [
                Comparison(f"silhouette, PCKD against {other}", mine, ">", values.get(other, math.nan))
                for other in ("CRD", "ICKD")
            ],
        )
    ]
