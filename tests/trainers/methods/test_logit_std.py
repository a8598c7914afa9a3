"""Distillation from standardised logits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from trainers import registry
from trainers.methods import Batch, Output
from trainers.methods.ce import ce_loss
from trainers.methods.logit_std import Config, Method, logit_std_loss, standardised


def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 4, generator=generator), 3 * torch.randn(5, 4, generator=generator)


def test_value_by_hand() -> None:
    # Two classes: std with K - 1 is |a - b| / sqrt 2, so logits become +-1 / sqrt 2. At T = sqrt 2 they are 1 apart:
    # p = sigmoid(1) = 0.731059, q the other way round; KL = (2 p - 1) * 1 = 0.462117, times T^2 = 2.
    loss = logit_std_loss(torch.tensor([[0.0, 7.0]]), torch.tensor([[3.0, 1.0]]), math.sqrt(2))
    assert float(loss) == pytest.approx(0.924234, abs=1e-5)


def test_equals_a_naive_loop() -> None:
    s, t = pair()
    total = 0.0
    for i in range(5):
        q, p = [], []
        for row, into in ((s[i].tolist(), q), (t[i].tolist(), p)):
            mean = sum(row) / 4
            std = math.sqrt(sum((x - mean) ** 2 for x in row) / 3)
            exponentials = [math.exp((x - mean) / (std + 1e-7) / 2) for x in row]
            into += [each / sum(exponentials) for each in exponentials]
        total += 4 / 5 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert float(logit_std_loss(s, t, 2.0)) == pytest.approx(total, rel=1e-4)


def test_scale_and_shift_of_a_row_change_nothing() -> None:
    s, t = pair()
    factors, shifts = torch.rand(5, 1) + 0.5, torch.randn(5, 1)
    assert float(logit_std_loss(factors * s + shifts, 9 * t - 2, 2.0)) == pytest.approx(
        float(logit_std_loss(s, t, 2.0)), rel=1e-4
    )
    assert float(logit_std_loss(2 * t + 1, t, 2.0)) == pytest.approx(0, abs=1e-6)


def test_rows_have_mean_zero_and_deviation_one() -> None:
    rows = standardised(pair()[1])
    assert torch.allclose(rows.mean(dim=1), torch.zeros(5), atol=1e-6)
    assert torch.allclose(rows.std(dim=1), torch.ones(5), atol=1e-5)


def test_terms_are_weighted_and_the_teacher_gets_no_gradient() -> None:
    s, t = (logits.requires_grad_() for logits in pair())
    labels = torch.tensor([0, 1, 2, 3, 0])
    terms = Method(Config(ce_weight=0.3, kd_weight=2.0), None).terms(
        Batch(torch.arange(5), labels, Output(s), Output(t))
    )
    expected = {"ce": 0.3 * float(ce_loss(s, labels).detach()), "kd": 2 * float(logit_std_loss(s, t, 2.0).detach())}
    assert {name: float(value.detach()) for name, value in terms.items()} == pytest.approx(expected)
    terms["kd"].backward()
    assert s.grad is not None
    assert t.grad is None


def test_defaults_are_the_reference_s_and_the_name_is_not_lskd() -> None:
    assert Config().model_dump() == {"temperature": 2, "ce_weight": 0.1, "kd_weight": 9}
    assert "lskd" not in registry.names("methods")
