"""One number for a cell: values worked out by hand, and the edges."""

from __future__ import annotations

import math

import pytest

from analysis import stats


def test_mean_and_sample_std_of_three_seeds() -> None:
    # mean (90 + 92 + 97) / 3 = 93; squares 9 + 1 + 16 = 26; 26 / 2 = 13
    found = stats.mean_std([90.0, 92.0, 97.0])
    assert found.value == pytest.approx(93.0, abs=1e-12)
    assert found.std == pytest.approx(math.sqrt(13), abs=1e-12)
    assert found.n == 3


def test_one_seed_has_no_std() -> None:
    assert stats.mean_std([93.1]) == stats.Summary(93.1, None, 1)


def test_equal_seeds_have_std_zero_exactly() -> None:
    assert stats.mean_std([0.1, 0.1, 0.1]) == stats.Summary(0.1, 0.0, 3)


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf, -math.inf]])
def test_no_finite_value_is_empty(values: list[float]) -> None:
    for found in (stats.mean_std(values), stats.best(values)):
        assert math.isnan(found.value)
        assert found.std is None
        assert found.n == 0


def test_nan_is_left_out_and_lowers_n() -> None:
    assert stats.mean_std([1.0, math.nan, 3.0]).n == 2


def test_best_seed_has_no_spread_and_knows_the_direction() -> None:
    assert stats.best([1.0, 3.0, 2.0]) == stats.Summary(3.0, None, 3)
    assert stats.best([1.0, 3.0, 2.0], lower_is_better=True).value == 1.0


def test_mean_curve_averages_before_it_selects() -> None:
    # means by epoch: 2, 3, 1; the best over each seed alone would average (3 + 5) / 2 = 4
    curves = [[(0, 3.0), (1, 1.0), (2, 1.0)], [(0, 1.0), (1, 5.0), (2, 1.0)]]
    assert stats.mean_curve(curves, "best").value == 3.0
    assert stats.mean_curve(curves, "best").std == pytest.approx(math.sqrt(8), abs=1e-12)
    assert stats.mean_curve(curves, "last") == stats.Summary(1.0, 0.0, 2)
    assert stats.mean_curve(curves, "best", lower_is_better=True).value == 1.0


def test_mean_curve_takes_epochs_that_every_seed_has() -> None:
    curves = [[(0, 3.0), (1, 9.0)], [(0, 1.0)], []]
    assert stats.mean_curve(curves, "best") == stats.Summary(2.0, pytest.approx(math.sqrt(2)), 2)
    assert stats.mean_curve([[(0, 1.0)], [(1, 1.0)]], "last").n == 0
    assert stats.mean_curve([], "last").n == 0


@pytest.mark.parametrize(
    ("mode", "select", "counts", "text"),
    [
        ("mean_std", "best", [3, 3], "best over epochs, per metric; mean ± sample std, n = 3"),
        ("mean_std", "last", [2, 3, 0], "last epoch; mean ± sample std, n = 2 to 3"),
        ("best", "best", [4], "best over epochs, per metric; best over seeds, n = 4"),
        ("mean_std", "best", [1, 0], "best over epochs, per metric; one seed"),
        ("mean_std", "best", [0], "best over epochs, per metric; no finished run"),
    ],
)
def test_statistic_is_stated(mode: stats.Mode, select: str, counts: list[int], text: str) -> None:
    assert stats.statistic(mode, select, counts) == text
