"""Similarities between samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from trainers.methods import Case
from trainers.methods.ce import ce_loss
from trainers.methods.sp import Config, faults, sp_loss


def maps(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows)[:, :, None, None]


def test_value_by_hand() -> None:
    # G_s = I; G_t = all ones, rows divided by sqrt 2: each row (1 - 0.707107)^2 + 0.5 = 0.585786, two rows / 4
    assert float(sp_loss(maps([1, 0], [0, 1]), maps([1, 0], [1, 0]))) == pytest.approx(1 - math.sqrt(0.5), rel=1e-6)


def test_equals_a_naive_loop() -> None:
    torch.manual_seed(0)
    s, t = torch.randn(4, 2, 2, 2), torch.randn(4, 3, 4, 4)

    def naive(feature_map: torch.Tensor) -> list[list[float]]:
        rows = feature_map.flatten(1).tolist()
        gram = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in rows] for x in rows]
        return [[value / math.sqrt(sum(v**2 for v in row)) for value in row] for row in gram]

    a, b = naive(s), naive(t)
    expected = sum((a[i][j] - b[i][j]) ** 2 for i in range(4) for j in range(4)) / 16
    assert float(sp_loss(s, t)) == pytest.approx(expected, rel=1e-5)


def test_loss_is_zero_for_a_scaled_map() -> None:
    t = torch.randn(4, 3, 2, 2)
    assert float(sp_loss(2.5 * t, t)) == pytest.approx(0, abs=1e-12)


def test_batch_size_enters() -> None:
    torch.manual_seed(0)
    s, t = torch.randn(8, 3, 2, 2), torch.randn(8, 3, 2, 2)
    halves = (sp_loss(s[:4], t[:4]) + sp_loss(s[4:], t[4:])) / 2
    assert float(sp_loss(s, t)) != pytest.approx(float(halves), rel=0.01)


def test_gradient_goes_to_the_student_alone() -> None:
    s, t = (torch.randn(3, 2, 2, 2, requires_grad=True) for _ in range(2))
    sp_loss(s, t).backward()
    assert s.grad is not None
    assert t.grad is None


def test_terms_are_weighted_and_take_the_last_stage(distilling: Callable[..., Any]) -> None:
    _, method, batch = distilling("sp", {"ce_weight": 0.5, "sp_weight": 10.0})
    loss = sp_loss(batch.student.maps.stages[-1], batch.taught.maps.stages[-1])
    assert {name: value.item() for name, value in method.terms(batch).items()} == pytest.approx(
        {"ce": 0.5 * ce_loss(batch.student_logits, batch.labels).item(), "sp": 10 * loss.item()}, rel=1e-5
    )


def test_defaults_are_the_references() -> None:
    assert Config().model_dump() == {"ce_weight": 1.0, "sp_weight": 3000.0}


def test_a_batch_of_one_is_refused(case_of: Callable[..., Case]) -> None:
    assert faults(Config(), case_of("vgg13", "resnet20")) == []  # stages need not match
    assert len(faults(Config(), case_of("vgg13", "vgg8", batch_size=1))) == 1
