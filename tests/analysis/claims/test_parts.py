"""Comparisons, parts and verdicts; numbers of histograms and pictures; the latent objective."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.claims import _latent, _pictures
from analysis.claims._checks import Comparison, Part, part, settle
from analysis.claims._tables import against_best
from analysis.snapshots import Histogram, Snapshot
from trainers.methods import cudfkd

GOOD, BAD, OPEN = Comparison("a", 2, ">", 1), Comparison("b", 1, ">", 2), Comparison("c", math.nan, ">", 2)


@pytest.mark.parametrize(
    ("comparisons", "holds"),
    [
        ([GOOD], True),
        ([GOOD, GOOD], True),
        ([GOOD, BAD], False),
        ([BAD, OPEN], False),
        ([GOOD, OPEN], None),
        ([], None),
    ],
)
def test_part_holds_where_all_comparisons_do(comparisons: list[Comparison], holds: bool | None) -> None:
    assert part("x", comparisons).holds is holds


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        ([[GOOD], [GOOD]], "holds"),
        ([[GOOD], [BAD]], "partly"),
        ([[GOOD], [BAD], [OPEN]], "partly"),
        ([[BAD], [OPEN]], "fails"),
        ([[BAD], [BAD]], "fails"),
        ([[GOOD], [OPEN]], "cannot tell"),
        ([[OPEN]], "cannot tell"),
        ([], "cannot tell"),
    ],
)
def test_verdict_of_parts(parts: list[list[Comparison]], verdict: str) -> None:
    assert settle([part("x", each) for each in parts]) == verdict


@pytest.mark.parametrize(
    ("relation", "left", "right", "holds"),
    [(">", 1, 1, False), (">=", 1, 1, True), ("<", 1, 1, False), ("<=", 1, 1, True), ("<", math.inf, 30, False)],
)
def test_relations_at_the_edge(relation: str, left: float, right: float, holds: bool) -> None:
    assert Comparison("x", left, relation, right).holds is holds  # type: ignore[arg-type]


def test_evidence_counts_and_lists_at_most_four_counterexamples() -> None:
    assert part("first", GOOD).evidence == "first: a: 2, above 1"
    assert part("first", GOOD, BAD, OPEN).evidence == "first: 1 of 3, 1 without a value; b: 1, not above 2"
    assert part("first", [BAD] * 6).evidence.endswith("; and 2 more")
    assert part("first", OPEN).evidence == "first: no values"
    near = Comparison("near", 10.1, ">", 10)
    assert part("first", GOOD, near).evidence == "first: 2 of 2; closest near: 10.1, above 10"


def test_times_are_shown_in_a_unit_that_suits_them() -> None:
    assert Comparison("x", 90.0, "<", 60.0, "time/train_s").text == "x: 90.0 s, not below 60.0 s"
    assert Comparison("x", 7200.0, "<", 10800.0, "time/train_s").text == "x: 2.00 h, below 3.00 h"


def test_blinded_part_has_no_numbers() -> None:
    assert Part("x", (GOOD, BAD)).blinded().holds is None


def test_missing_rival_leaves_a_lead_open_and_a_better_one_ends_it() -> None:
    def against(**rivals: float) -> bool | None:
        return against_best(["p"], "test/acc1_pct", "W", 50.0, rivals, lower=False).holds

    assert against(A=40.0, B=45.0) is True
    assert against(A=40.0, B=math.nan) is None
    assert against(A=60.0, B=math.nan) is False
    assert against(A=math.nan) is None
    assert against_best(["p"], "x", "W", 50.0, {"A": 60.0}, lower=True).holds is True


# --- histograms and pictures ------------------------------------------------------------------------------------------


def test_width_is_the_std_of_bin_middles() -> None:
    # middles 0.5 and 2.5 with counts 3 and 1: mean 1, variance (3 x 0.25 + 2.25) / 4 = 0.75
    assert _pictures.width(Histogram(4, 1.0, (0, 1, 2, 3), (3, 0, 1))) == pytest.approx(math.sqrt(0.75), abs=1e-12)
    assert math.isnan(_pictures.width(Histogram(0, 0.0, (0, 1), (0,))))


def test_first_mode_is_the_lowest_peak_that_counts() -> None:
    counts = [0, 0, 1, 0, 0, 0, 10, 30, 10, 0, 0, 0, 20, 60, 20, 0, 0, 0]
    edges = tuple(float(i) for i in range(len(counts) + 1))
    found = Histogram(sum(counts), 0.0, edges, tuple(counts))
    # without smoothing: the bump of 1 at bin 2 is below 10% of 60, the first peak is bin 7
    assert _pictures.first_mode(found, smooth=1) == 7.5
    assert _pictures.first_mode(found, smooth=1, least=0.6) == 13.5
    assert math.isnan(_pictures.first_mode(Histogram(0, 0.0, (0, 1), (0,))))


def grid_of(tiles: list[list[int | None]], side: int = 6) -> Snapshot[Histogram]:
    """A picture with a row for each class; a number is the grey level of a tile, None an empty one."""
    image = np.full((side * len(tiles), side * 8, 3), 255, dtype=np.uint8)
    for i, row in enumerate(tiles):
        for j, level in enumerate(row):
            if level is not None:
                image[i * side : (i + 1) * side, j * side : (j + 1) * side] = level
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return Snapshot(0, 1, Histogram(1, 0.0, (0, 1), (1,)), buffer.getvalue(), "samples_by_class.png")


def test_distance_within_classes_averages_pairs_then_classes() -> None:
    # first class: pairs 10, 20, 10; mean 40/3. Second: one pair of 6. A class with one image has no pair
    found = grid_of([[0, 10, 20, None], [7, 13, None, None], [9, None, None, None]])
    assert _pictures.distance_within_classes(found) == pytest.approx((40 / 3 + 6) / 2, abs=1e-9)


def test_picture_without_classes_has_no_distance() -> None:
    found = grid_of([[0, 10]])
    assert math.isnan(_pictures.distance_within_classes(Snapshot(0, 1, found.content, found.picture, "samples.png")))
    assert math.isnan(_pictures.distance_within_classes(grid_of([[0, None]])))


# --- the latent objective ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", _latent.WEIGHTS)
@pytest.mark.parametrize("threshold", [0.5, 2.0])
def test_weights_and_objective_are_those_that_trials_use(kind: _latent.Weighting, threshold: float) -> None:
    losses = np.linspace(0, 6, 25)
    difficulty = torch.tensor(losses)
    weights = cudfkd.curriculum_weight(difficulty, threshold, kind).numpy()
    assert _latent.weight(losses, threshold, kind) == pytest.approx(weights, abs=1e-12)
    objective = cudfkd.latent_objective(difficulty, threshold, kind).numpy()
    assert _latent.objective(losses, threshold, kind) == pytest.approx(objective, abs=1e-12)


@pytest.mark.parametrize("kind", _latent.WEIGHTS)
def test_bound_and_descent_hold_for_falling_weights(kind: _latent.Weighting) -> None:
    assert _latent.largest_excess(kind) <= _latent.ROUNDING
    assert _latent.largest_rise(kind) <= _latent.ROUNDING


def test_rising_weights_break_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    # F = L^2 / 2 with v = L is convex: it lies above its tangents
    monkeypatch.setattr(_latent, "weight", lambda loss, threshold, kind: loss)
    monkeypatch.setattr(_latent, "objective", lambda loss, threshold, kind: loss**2 / 2)
    assert _latent.largest_excess("log") > 1
