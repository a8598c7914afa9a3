"""Probabilities of being near."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from trainers.methods import Case
from trainers.methods.ce import ce_loss
from trainers.methods.pkt import Config, faults, neighbourhood, pkt_loss


def test_value_by_hand() -> None:
    # s at right angles: (1, 1/2) / 1.5; t in one direction: (1/2, 1/2). A row: ln(3/4) / 2 + ln(3/2) / 2, two rows / 4
    s, t = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [3.0, 3.0]])
    assert float(pkt_loss(s, t)) == pytest.approx((math.log(0.75) + math.log(1.5)) / 4, rel=1e-5)


def test_equals_a_naive_loop() -> None:
    torch.manual_seed(0)
    s, t = torch.randn(4, 3), torch.randn(4, 5)

    def naive(f: Tensor) -> list[list[float]]:
        near = [[(float(torch.cosine_similarity(a, b, dim=0)) + 1) / 2 for b in f] for a in f]
        return [[value / sum(row) for value in row] for row in near]

    p, q = naive(t), naive(s)
    expected = sum(p[i][j] * math.log((p[i][j] + 1e-7) / (q[i][j] + 1e-7)) for i in range(4) for j in range(4)) / 16
    assert float(pkt_loss(s, t)) == pytest.approx(expected, rel=1e-4)


def test_loss_is_zero_for_a_scaled_feature_and_positive_else() -> None:
    torch.manual_seed(0)
    t = torch.randn(6, 4)
    assert float(pkt_loss(2.5 * t, t)) == pytest.approx(0, abs=1e-8)
    assert float(pkt_loss(torch.randn(6, 4), t)) > 0


def test_rows_are_probabilities() -> None:
    rows = neighbourhood(torch.randn(6, 4))
    assert rows.sum(dim=1).tolist() == pytest.approx([1.0] * 6)
    assert float(rows.min()) >= 0


def test_opposite_and_dead_samples_are_finite() -> None:
    s = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]], requires_grad=True)
    loss = pkt_loss(s, torch.randn(3, 2))
    loss.backward()
    assert loss.isfinite()
    assert s.grad is not None and s.grad.isfinite().all()


def test_gradient_goes_to_the_student_alone() -> None:
    s, t = (torch.randn(4, 3, requires_grad=True) for _ in range(2))
    pkt_loss(s, t).backward()
    assert s.grad is not None
    assert t.grad is None


def test_terms_are_weighted(distilling: Callable[..., Any]) -> None:
    _, method, batch = distilling("pkt", {"ce_weight": 0.5, "pkt_weight": 1000.0})
    loss = pkt_loss(batch.student.maps.pooled, batch.taught.maps.pooled)
    assert {name: value.item() for name, value in method.terms(batch).items()} == pytest.approx(
        {"ce": 0.5 * ce_loss(batch.student_logits, batch.labels).item(), "pkt": 1000 * loss.item()}, rel=1e-5
    )


def test_defaults_are_the_references() -> None:
    assert Config().model_dump() == {"ce_weight": 1.0, "pkt_weight": 30000.0}


def test_a_batch_of_one_is_refused(case_of: Callable[..., Case]) -> None:
    assert faults(Config(), case_of("vgg13", "resnet20")) == []
    assert len(faults(Config(), case_of("vgg13", "vgg8", batch_size=1))) == 1
