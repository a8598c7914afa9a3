"""Attention maps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from trainers.methods import Case
from trainers.methods.at import Config, at_loss, attention, faults
from trainers.methods.ce import ce_loss


def test_value_by_hand() -> None:
    # s: F^2 = (1, 0) is of length 1; t: (3, 4) / 5. ((1 - 0.6)^2 + 0.8^2) / 2 = 0.4
    s, t = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[math.sqrt(3), -2.0]]]])
    assert float(at_loss([s], [t], 2)) == pytest.approx(0.4)
    assert float(at_loss([s, s], [t, t], 2)) == pytest.approx(0.8)  # stages are summed


@pytest.mark.parametrize("power", [2, 4])
def test_equals_a_naive_loop(power: int) -> None:
    torch.manual_seed(0)
    s, t = torch.randn(3, 2, 2, 2), torch.randn(3, 5, 2, 2)

    def naive_attention(maps: torch.Tensor, i: int) -> list[float]:
        channels = maps[i].flatten(1).tolist()
        values = [sum(abs(c[at]) ** power for c in channels) / len(channels) for at in range(4)]
        length = math.sqrt(sum(value**2 for value in values))
        return [value / length for value in values]

    naive = sum(
        (a - b) ** 2 / 12 for i in range(3) for a, b in zip(naive_attention(s, i), naive_attention(t, i), strict=True)
    )
    assert float(at_loss([s], [t], power)) == pytest.approx(naive, rel=1e-5)


def test_scale_and_order_of_channels_change_nothing() -> None:
    torch.manual_seed(0)
    s, t = torch.randn(3, 4, 4, 4), torch.randn(3, 4, 4, 4)
    expected = float(at_loss([s], [t], 2))
    assert float(at_loss([7 * s], [-0.1 * t], 2)) == pytest.approx(expected, rel=1e-5)
    assert float(at_loss([s.flip(1)], [t], 2)) == pytest.approx(expected, rel=1e-5)
    assert float(at_loss([s], [s], 2)) == 0


def test_signed_maps_count_by_magnitude() -> None:
    s = torch.randn(2, 3, 4, 4)
    assert torch.allclose(attention(s, 2), attention(s.abs(), 2))
    assert not torch.allclose(attention(s, 2), attention(s.relu(), 2))


def test_dead_maps_have_a_finite_gradient() -> None:
    s = torch.zeros(2, 3, 4, 4, requires_grad=True)
    at_loss([s], [torch.rand(2, 3, 4, 4)], 2).backward()
    assert s.grad is not None and s.grad.isfinite().all()


def test_the_larger_map_is_pooled() -> None:
    s, t = torch.rand(2, 3, 8, 8), torch.rand(2, 5, 4, 4)
    pooled = torch.nn.functional.adaptive_avg_pool2d(s, 4)
    assert float(at_loss([s], [t], 2)) == pytest.approx(float(at_loss([pooled], [t], 2)))
    assert float(at_loss([t], [s], 2)) == pytest.approx(float(at_loss([t], [pooled], 2)))


def test_gradient_goes_to_the_student_alone() -> None:
    s, t = (torch.rand(2, 3, 4, 4, requires_grad=True) for _ in range(2))
    at_loss([s], [t], 2).backward()
    assert s.grad is not None
    assert t.grad is None


def test_terms_are_weighted_and_take_every_stage(distilling: Callable[..., Any]) -> None:
    _, method, batch = distilling("at", {"ce_weight": 0.5, "at_weight": 10.0})
    loss = sum(
        at_loss([a], [b], 2).item() for a, b in zip(batch.student.maps.stages, batch.taught.maps.stages, strict=True)
    )
    assert {name: value.item() for name, value in method.terms(batch).items()} == pytest.approx(
        {"ce": 0.5 * ce_loss(batch.student_logits, batch.labels).item(), "at": 10 * loss}, rel=1e-5
    )


def test_defaults_are_the_references() -> None:
    assert Config().model_dump() == {"ce_weight": 1.0, "at_weight": 1000.0, "power": 2}


def test_unequal_numbers_of_stages_are_refused(case_of: Callable[..., Case]) -> None:
    assert faults(Config(), case_of("resnet18", "vgg8")) == []
    assert len(faults(Config(), case_of("vgg13", "resnet20"))) == 1
