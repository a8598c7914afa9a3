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


# --- ours against a printed value ------------------------------------------------------------------------------------

PRINTED = stats.Summary(93.0, None, 1)
OURS = [92.9, 93.1, 93.3]
"""Mean 93.1, std 0.2, standard error 0.2 / sqrt(3) = 0.11547, 2 degrees of freedom; there P(T > t) = (1 - t / sqrt(t^2 + 2)) / 2."""


def upper(t: float) -> float:
    """P(T > t) for Student's t with 2 degrees of freedom, which has a closed form."""
    return (1 - t / math.sqrt(t * t + 2)) / 2


def test_one_sample_p_values_of_two_degrees_of_freedom() -> None:
    error = 0.2 / math.sqrt(3)
    assert stats.p_value(OURS, PRINTED, 0.0, "greater") == pytest.approx(upper(0.1 / error), abs=1e-12)
    assert stats.p_value(OURS, PRINTED, 0.0, "two-sided") == pytest.approx(2 * upper(0.1 / error), abs=1e-12)
    # TOST within 0.5: t = (0.1 + 0.5) / error and (0.5 - 0.1) / error; the second is smaller and decides
    assert stats.equivalence(OURS, PRINTED, 0.5) == pytest.approx(upper(0.4 / error), abs=1e-12)


def test_excess_is_the_two_sided_test_without_margin_and_less_sure_with_one() -> None:
    error = 0.2 / math.sqrt(3)
    far = stats.Summary(91.0, None, 1)
    assert stats.excess(OURS, far) == pytest.approx(2 * upper(2.1 / error), abs=1e-12)
    assert stats.excess(OURS, far, 0.5) == pytest.approx(2 * upper(1.6 / error), abs=1e-12)
    above = stats.Summary(95.2, None, 1)  # the other side: the difference is -2.1
    assert stats.excess(OURS, above, 0.5) == pytest.approx(stats.excess(OURS, far, 0.5), abs=1e-12)
    assert stats.excess(OURS, PRINTED, 0.5) == 1.0


def test_welch_is_used_where_the_printed_value_has_a_spread() -> None:
    # both variances 0.04 and n = 3: error sqrt(0.08 / 3), freedom 4, where P(T > t) = 1/2 - u (3 - u^2) / 4, u = t / sqrt(t^2 + 4)
    theirs = stats.Summary(93.0, 0.2, 3)
    t = 0.1 / math.sqrt(0.08 / 3)
    u = t / math.sqrt(t * t + 4)
    assert stats.p_value(OURS, theirs, 0.0, "greater") == pytest.approx(0.5 - u * (3 - u * u) / 4, abs=1e-12)
    low, high = stats.interval(OURS, theirs)
    assert (low + high) / 2 == pytest.approx(0.1, abs=1e-12)
    assert (high - low) / 2 == pytest.approx(2.776445 * math.sqrt(0.08 / 3), abs=1e-5)  # t table: 97.5% at 4


def test_interval_of_one_sample() -> None:
    low, high = stats.interval(OURS, PRINTED)
    assert low == pytest.approx(0.1 - 4.302653 * 0.2 / math.sqrt(3), abs=1e-5)  # t table: 97.5% at 2
    assert high == pytest.approx(0.1 + 4.302653 * 0.2 / math.sqrt(3), abs=1e-5)


@pytest.mark.parametrize("margin", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("printed_value", [92.0, 92.6, 93.05, 93.6, 95.0])
def test_interval_beyond_the_margin_is_what_excess_rejects(printed_value: float, margin: float) -> None:
    theirs = stats.Summary(printed_value, None, 1)
    low, high = stats.interval(OURS, theirs)
    assert (stats.excess(OURS, theirs, margin) <= 0.05) == (low >= margin or high <= -margin)
    low, high = stats.interval(OURS, theirs, level=0.9)  # TOST at 5% and the 90% interval are one test
    assert (stats.equivalence(OURS, theirs, margin) <= 0.05) == (-margin <= low and high <= margin)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([93.1], PRINTED),
        ([93.1, math.nan], PRINTED),
        ([], PRINTED),
        ([93.1, 93.1, 93.1], PRINTED),
        ([93.1, 93.1], stats.Summary(93.0, 0.0, 3)),
        ([93.1], stats.Summary(93.0, 0.2, 3)),
        (OURS, stats.Summary(math.nan, None, 0)),
    ],
)
def test_one_seed_or_no_spread_has_no_test(ours: list[float], theirs: stats.Summary) -> None:
    assert not stats.testable(ours, theirs)
    assert math.isnan(stats.equivalence(ours, theirs, 0.5))
    assert math.isnan(stats.excess(ours, theirs))
    assert all(map(math.isnan, stats.interval(ours, theirs)))


def test_equal_seeds_can_be_tested_against_a_value_with_a_spread() -> None:
    # ours has no variance: error 0.2 / sqrt(3), and the printed side's 2 degrees of freedom
    theirs = stats.Summary(93.0, 0.2, 3)
    expected = upper(0.1 / (0.2 / math.sqrt(3)))
    assert stats.p_value([93.1, 93.1, 93.1], theirs, 0.0, "greater") == pytest.approx(expected, abs=1e-12)
    low, high = stats.interval([93.1, 93.1, 93.1], theirs)
    assert high - low == pytest.approx(2 * 4.302653 * 0.2 / math.sqrt(3), abs=1e-5)


def test_nan_seeds_are_left_out_of_a_test() -> None:
    assert stats.excess([*OURS, math.nan], PRINTED) == stats.excess(OURS, PRINTED)


def test_holm_multiplies_by_what_is_left_and_never_falls() -> None:
    # sorted .01 .03 .04: 3 x .01, 2 x .03, max(1 x .04, .06)
    assert stats.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06], abs=1e-12)
    assert stats.holm([0.6, 0.9]) == [1.0, 1.0]
    assert stats.holm([]) == []


def test_holm_does_not_count_what_was_not_tested() -> None:
    found = stats.holm([math.nan, 0.02, 0.5])
    assert math.isnan(found[0])
    assert found[1:] == pytest.approx([0.04, 0.5], abs=1e-12)
