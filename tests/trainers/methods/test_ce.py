"""Cross-entropy on the labels."""

import math

import pytest
import torch

from trainers.methods.ce import ce_loss


def test_value_by_hand() -> None:
    # softmax (3/4, 1/4) with label 0, and (1/2, 1/2) with label 1: (ln 4/3 + ln 2) / 2
    logits = torch.tensor([[math.log(3), 0.0], [1.0, 1.0]])
    assert float(ce_loss(logits, torch.tensor([0, 1]))) == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)


def test_equals_a_naive_loop() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 5), torch.randint(0, 5, (6,))
    naive = 0.0
    for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
        naive -= math.log(math.exp(row[label]) / sum(math.exp(value) for value in row)) / 6
    assert float(ce_loss(logits, labels)) == pytest.approx(naive, rel=1e-5)


def test_adding_a_constant_changes_nothing() -> None:
    logits, labels = torch.randn(6, 5), torch.randint(0, 5, (6,))
    assert torch.allclose(ce_loss(logits + 7, labels), ce_loss(logits, labels), atol=1e-5)


def test_half_precision_is_summed_in_float32() -> None:
    assert ce_loss(torch.randn(6, 5).bfloat16(), torch.zeros(6, dtype=torch.int64)).dtype == torch.float32
