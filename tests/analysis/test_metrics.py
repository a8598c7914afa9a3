"""Names, units and digits."""

from __future__ import annotations

import pytest

from analysis import metrics
from analysis.errors import ReportError


@pytest.mark.parametrize(
    ("name", "title", "text"),
    [
        ("test/acc1_pct", "Acc@1 (%)", "93.46"),
        ("best/test/agree1_pct", "Agree@1 (%)", "93.46"),
        ("val/acc1_pct", "val Acc@1 (%)", "93.46"),
        ("test/loyalty_code", "Loyalty (code)", "93.4560"),
        ("stats/duration_s", "duration (s)", "93.5"),
        ("train/loss_kd", "train/loss_kd", "93.4560"),
    ],
)
def test_title_and_digits(name: str, title: str, text: str) -> None:
    assert metrics.metric(name).title == title
    assert metrics.metric(name).text(93.456) == text


def test_losses_are_better_when_lower() -> None:
    assert metrics.metric("train/loss_kd").lower_is_better
    assert not metrics.metric("test/acc1_pct").lower_is_better


def test_result_name_adds_the_selection_once() -> None:
    assert metrics.result_name("test/acc1_pct", "best") == "best/test/acc1_pct"
    assert metrics.result_name("last/test/acc1_pct", "best") == "last/test/acc1_pct"


def test_unknown_printed_metric_is_an_error() -> None:
    with pytest.raises(ReportError, match=r"x.csv: unknown metric 'acc9'; known: Acc@1"):
        metrics.printed_name("acc9", "x.csv")
