"""Accuracy, agreement, loyalty, and what a finished trial is summed up by."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from trainers import metrics
from trainers.data import Info, Split
from trainers.metrics import Window, acc_pct, agree1_pct, jsd_nat, loyalties, summarise, windows

P, Q = (0.7, 0.2, 0.1), (0.1, 0.3, 0.6)


def logits(*probabilities: tuple[float, ...]) -> Tensor:
    """Logits whose softmax is the given rows."""
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_accuracy_by_hand() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [2.0, 3.0, 1.0], [1.0, 3.0, 2.0]])
    labels = torch.tensor([0, 1, 0, 0])
    assert float(acc_pct(scores, labels)) == 25  # only the first is right
    assert float(acc_pct(scores, labels, 2)) == 75  # the fourth has label 0 last
    assert float(acc_pct(scores, labels, 5)) == 100  # of three classes, all are among the best five


def test_agreement_counts_equal_decisions() -> None:
    student = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    teacher = torch.tensor([[9.0, 0.0], [0.0, 0.1], [0.0, 5.0], [0.0, 1.0]])
    assert float(agree1_pct(student, teacher)) == 75
    assert float(agree1_pct(student, 10 * student + 3)) == 100


def test_loyalty_check_values() -> None:
    jsd = float(jsd_nat(logits(P), logits(Q)))
    assert jsd == pytest.approx(0.230645, abs=1e-6)
    assert jsd / math.log(2) == pytest.approx(0.332751, abs=1e-6)
    values = {name: float(value) for name, value in loyalties(logits(P), logits(Q)).items()}
    assert values == pytest.approx({"loyalty": 0.423154, "loyalty_nat": 0.519744, "loyalty_code": 0.306995}, abs=1e-6)


def test_jsd_equals_a_naive_loop() -> None:
    torch.manual_seed(0)
    s, t = torch.randn(6, 5), 3 * torch.randn(6, 5)
    for i in range(6):
        p, q = (np.exp(row.double().numpy()) / np.exp(row.double().numpy()).sum() for row in (s[i], t[i]))
        m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        naive = sum(a * math.log(a / c) + b * math.log(b / c) for a, b, c in zip(p, q, m, strict=True)) / 2
        assert float(jsd_nat(s, t)[i]) == pytest.approx(naive, rel=1e-9)


def test_loyalty_limits() -> None:
    same = loyalties(torch.randn(3, 4), torch.zeros(3, 4))
    assert {name: value.shape for name, value in same.items()} == dict.fromkeys(same, torch.Size([3]))
    equal = loyalties(torch.randn(3, 4).repeat(1, 1), torch.zeros(3, 4))
    assert all((value <= 1).all() for value in equal.values())
    x = torch.randn(5, 4)
    assert all(torch.equal(value, torch.ones(5, dtype=torch.float64)) for value in loyalties(x, x).values())
    far = loyalties(torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]]))  # disjoint predictions: JSD = ln 2
    assert {name: float(value) for name, value in far.items()} == pytest.approx(
        {"loyalty": 0.0, "loyalty_nat": 1 - math.sqrt(math.log(2)), "loyalty_code": 0.0876}, abs=5e-5
    )


def test_evaluate_names_the_split_and_needs_no_teacher() -> None:
    scores, labels = logits(P, Q), torch.tensor([0, 0])
    row, per_sample = metrics.evaluate("val", scores, labels, None)
    assert row == {"val/acc1_pct": 50, "val/acc5_pct": 100}
    assert per_sample == {}
    row, per_sample = metrics.evaluate("test", scores, labels, logits(Q, Q))
    assert set(row) == {
        f"test/{name}" for name in ("acc1_pct", "acc5_pct", "agree1_pct", "loyalty", "loyalty_nat", "loyalty_code")
    }
    assert row["test/agree1_pct"] == 50
    assert row["test/loyalty"] == pytest.approx((0.423154 + 1) / 2, abs=1e-6)
    assert per_sample["loyalty"].shape == (2,)


def test_windows_by_hand() -> None:
    assert windows(10, 4, 2) == (Window("from", 4, 10), Window("inner", 4, 8), Window("all", 0, 10))


def rows(*accuracies: float) -> list[dict[str, float]]:
    return [
        {
            "test/acc1_pct": acc,
            "test/loyalty": 1 - acc / 100,
            "train/loss": 9.0,
            "time/train_s": i + 1.0,
            "time/total_s": i + 1.5,
        }
        for i, acc in enumerate(accuracies)
    ]


@pytest.mark.parametrize(("size", "sizes"), [(8, [1000, 1000, 1]), (112, [1000, 1000, 1]), (224, [250] * 8 + [1])])
def test_evaluation_takes_all_rows_in_order_and_fewer_large_images_at_once(size: int, sizes: list[int]) -> None:
    split = Split(torch.zeros(2001, 1), torch.zeros(2001, dtype=torch.int64))
    info = Info(classes=2, channels=1, size=size, mean=(0.0,), std=(1.0,), crop_padding=0, flip=False)
    chunks = metrics.evaluation_chunks(split, info)
    assert [len(chunk) for chunk in chunks] == sizes and torch.equal(torch.cat(chunks), torch.arange(2001))


def test_image_as_large_as_a_whole_batch_is_shown_alone() -> None:
    info = Info(classes=2, channels=1, size=10_000, mean=(0.0,), std=(1.0,), crop_padding=0, flip=False)
    chunks = metrics.evaluation_chunks(Split(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64)), info)
    assert [len(chunk) for chunk in chunks] == [1, 1]


def test_summary_by_hand() -> None:
    result = summarise(rows(10, 40, 60, 80, 20), windows(5, 1, 1))
    assert result["last/test/acc1_pct"] == 20
    assert result["best/test/acc1_pct"] == 80
    assert result["best/test/loyalty"] == pytest.approx(0.9)  # each metric has a maximum of its own
    assert result["stats/from/test/acc1_pct_mean"] == 50  # 40 60 80 20
    assert result["stats/from/test/acc1_pct_var"] == 500  # (100 + 100 + 900 + 900) / 4, the population variance
    assert result["stats/from/test/acc1_pct_std"] == pytest.approx(math.sqrt(500))
    assert result["stats/inner/test/acc1_pct_mean"] == 60  # 40 60 80
    assert result["stats/inner/test/acc1_pct_var"] == pytest.approx(800 / 3)
    assert result["stats/all/test/acc1_pct_mean"] == 42
    assert (result["time/train_s"], result["time/total_s"]) == (5.0, 5.5)
    assert not any(name.startswith(("last/train", "stats/from/test/loyalty")) for name in result)


def test_window_without_an_epoch_gives_no_value() -> None:
    result = summarise(rows(10, 20), windows(2, 5, 5))
    assert not any(name.startswith(("stats/from", "stats/inner")) for name in result)
    assert result["stats/all/test/acc1_pct_mean"] == 15
    assert not any(name.startswith("stats/inner") for name in summarise(rows(1, 2, 3), windows(3, 0, 5)))


def test_trial_without_epochs_has_an_empty_result() -> None:
    assert summarise([], windows(0, 0, 5)) == {}
