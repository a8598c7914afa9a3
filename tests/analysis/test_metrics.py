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
        ("stats/from/test/acc1_pct_mean", "μ Acc@1 (%)", "93.46"),
        ("stats/from/test/acc1_pct_var", "σ² Acc@1 (%²)", "93.46"),
        ("stats/inner/test/acc1_pct_std", "σ Acc@1 (inner) (%)", "93.46"),
        ("stats/all/val/acc1_pct_mean", "μ val Acc@1 (all epochs) (%)", "93.46"),
        ("train/peak_memory_mib", "Peak memory (GiB)", "0.09"),
        ("epoch10/train/difficulty", "Difficulty v·l at epoch 10 (nats)", "93.4560"),
        ("last/train/difficulty", "Difficulty v·l at the last epoch (nats)", "93.4560"),
        ("epoch50/train/easiest", "g of the easiest images at epoch 50", "93.4560"),
        ("last/train/spread", "g of evenly spread images at the last epoch", "93.4560"),
        ("test/embedding", "Silhouette", "93.4560"),
        ("best/test/silhouette", "Silhouette", "93.4560"),
        ("classifier/centres", "Mean cosine", "93.4560"),
        ("classifier/mean_cosine", "Mean cosine", "93.4560"),
        ("train/mean_v", "Mean weight v", "93.4560"),
    ],
)
def test_title_and_digits(name: str, title: str, text: str) -> None:
    assert metrics.metric(name).title == title
    assert metrics.metric(name).text(93.456) == text


@pytest.mark.parametrize(
    ("largest", "title", "text"),
    [
        (None, "Training time (h)", "0.50"),
        (7200.0, "Training time (h)", "0.50"),
        (7199.0, "Training time (min)", "30.00"),
        (120.0, "Training time (min)", "30.00"),
        (119.0, "Training time (s)", "1800.0"),
    ],
)
def test_times_take_a_unit_that_suits_the_largest(largest: float | None, title: str, text: str) -> None:
    found = metrics.metric("time/train_s", largest)
    assert (found.title, found.text(1800.0)) == (title, text)


@pytest.mark.parametrize("name", ["time/train_s", "train/peak_memory_mib", "stats/from/test/acc1_pct_var"])
def test_costs_and_variances_are_better_when_lower(name: str) -> None:
    assert metrics.metric(name).lower_is_better


def test_what_is_measured_in_training_has_one_value_a_run() -> None:
    assert metrics.result_name("train/peak_memory_mib", "best") == "train/peak_memory_mib"
    assert metrics.result_name("time/train_s", "last") == "time/train_s"
    assert metrics.result_name("classifier/mean_cosine", "best") == "classifier/mean_cosine"
    assert metrics.result_name("test/silhouette", "best") == "best/test/silhouette"
    assert metrics.result_name("epoch10/train/difficulty", "last") == "epoch10/train/difficulty"


def test_losses_are_better_when_lower() -> None:
    assert metrics.metric("train/loss_kd").lower_is_better
    assert not metrics.metric("test/acc1_pct").lower_is_better


def test_result_name_adds_the_selection_once() -> None:
    assert metrics.result_name("test/acc1_pct", "best") == "best/test/acc1_pct"
    assert metrics.result_name("last/test/acc1_pct", "best") == "last/test/acc1_pct"


def test_unknown_printed_metric_is_an_error() -> None:
    with pytest.raises(ReportError, match=r"x.csv: unknown metric 'acc9'; known: Acc@1"):
        metrics.printed_name("acc9", "x.csv")
