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


def test_mean_curve_averages_each_epoch_that_every_seed_has() -> None:
    # epoch 0: (3 + 1) / 2 = 2, deviations 1 each, sqrt(2 / 1); epoch 1 has one seed only
    curves = [[(0, 3.0), (1, 9.0)], [(0, 1.0), (1, math.nan)], []]
    assert stats.mean_curve(curves) == [(0, stats.Summary(2.0, pytest.approx(math.sqrt(2), abs=1e-12), 2))]
    assert stats.mean_curve([[(0, 1.0)], [(1, 1.0)]]) == []
    assert stats.mean_curve([]) == []


def test_statistics_over_epochs_are_those_of_the_averaged_curve() -> None:
    # averages by epoch 2, 3, 1: mean 2, population variance (0 + 1 + 1) / 3; each seed's own would be 8/9 and 32/9
    curves = [[(0, 3.0), (1, 1.0), (2, 1.0)], [(0, 1.0), (1, 5.0), (2, 1.0)]]
    assert stats.over_epochs(curves, "mean") == stats.Summary(2.0, None, 2)
    assert stats.over_epochs(curves, "var").value == pytest.approx(2 / 3, abs=1e-12)
    assert stats.over_epochs(curves, "std").value == pytest.approx(math.sqrt(2 / 3), abs=1e-12)
    assert stats.over_epochs([[], []], "mean").n == 0


def test_window_is_found_by_its_mean_and_variance() -> None:
    values = [10.0, 50.0, 80.0, 90.0, 85.0, 92.0]
    part = values[2:]
    mean = sum(part) / 4
    var = sum((value - mean) ** 2 for value in part) / 4
    assert stats.windows_of(values, mean, var) == {(2, 6)}
    assert stats.windows_of(values, mean, var + 0.1) == set()
    assert stats.windows_of(values, math.nan, math.nan) == set()
    assert stats.windows_of([], 1.0, 0.0) == set()


def test_equal_values_fit_every_window_among_them() -> None:
    assert stats.windows_of([1.0, 2.0, 2.0], 2.0, 0.0) == {(1, 2), (2, 3), (1, 3)}


def test_window_of_a_long_curve_is_found_once() -> None:
    values = [90 - 80 * 0.97**epoch + math.sin(epoch) for epoch in range(300)]
    part = values[80:]
    mean = sum(part) / len(part)
    var = sum((value - mean) ** 2 for value in part) / len(part)
    assert stats.windows_of(values, mean, var) == {(80, 300)}


def test_largest_is_the_maximum_even_where_less_is_better() -> None:
    assert stats.largest([6.0, 7.0, math.nan]) == stats.Summary(7.0, None, 2)


@pytest.mark.parametrize(
    ("mode", "select", "counts", "text"),
    [
        ("mean_std", "best", [3, 3], "best over epochs, per metric; mean ± sample std, n = 3"),
        ("mean_std", "last", [2, 3, 0], "last epoch; mean ± sample std, n = 2 to 3"),
        ("best", "best", [4], "best over epochs, per metric; best over seeds, n = 4"),
        ("mean_curve", "best and last epoch", [4], "best and last epoch; mean ± sample std over seeds, n = 4"),
        ("mean_std", "best", [1, 0], "best over epochs, per metric; one seed"),
        ("mean_std", "best", [0], "best over epochs, per metric; no finished run"),
    ],
)
def test_statistic_is_stated(mode: stats.Mode, select: str, counts: list[int], text: str) -> None:
    assert stats.statistic(mode, select, counts) == text
