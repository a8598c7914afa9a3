"""Discrepancy between the channels of both networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.methods import Case
from trainers.methods.ce import ce_loss
from trainers.methods.nst import Config, faults, mean_kernel, nst_loss


def test_value_by_hand() -> None:
    # one channel each, (1, 0) and (3, 4) / 5: 1 + 1 - 2 * 0.6^2
    s, t = torch.tensor([[[[2.0, 0.0]]]]), torch.tensor([[[[3.0, 4.0]]]])
    assert float(nst_loss([s], [t])) == pytest.approx(1.28)
    assert float(nst_loss([s, s], [t, t])) == pytest.approx(2.56)  # stages are summed


def naive_loss(s: Tensor, t: Tensor) -> float:
    def kernel(a: Tensor, b: Tensor) -> float:
        rows = [F.normalize(each.flatten(2).double(), dim=2) for each in (a, b)]
        values = [float(x @ y) ** 2 for i in range(len(a)) for x in rows[0][i] for y in rows[1][i]]
        return sum(values) / len(values)

    return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)


@pytest.mark.parametrize(("student", "teacher", "size"), [(2, 3, 3), (6, 5, 2), (2, 9, 2)])
def test_equals_a_naive_loop_on_either_side_of_more_channels_than_positions(
    student: int, teacher: int, size: int
) -> None:
    torch.manual_seed(0)
    s, t = torch.randn(2, student, size, size), torch.randn(2, teacher, size, size)
    assert float(nst_loss([s], [t])) == pytest.approx(naive_loss(s, t), rel=1e-4)


def test_loss_is_zero_for_identical_maps_of_any_scale() -> None:
    for channels in (3, 40):
        t = torch.randn(2, channels, 4, 4)
        assert float(nst_loss([t], [t])) == pytest.approx(0, abs=1e-7)
        assert float(nst_loss([3 * t], [t])) == pytest.approx(0, abs=1e-6)


def test_order_and_sign_of_channels_change_nothing() -> None:
    torch.manual_seed(0)
    s, t = torch.randn(2, 5, 4, 4), torch.randn(2, 7, 4, 4)
    expected = float(nst_loss([s], [t]))
    assert float(nst_loss([-s.flip(1)], [t])) == pytest.approx(expected, rel=1e-4)
    assert float(nst_loss([s.relu()], [t])) != pytest.approx(expected, rel=0.01)


def test_the_larger_map_is_pooled() -> None:
    s, t = torch.rand(2, 3, 8, 8), torch.rand(2, 5, 4, 4)
    pooled = F.adaptive_avg_pool2d(s, 4)
    assert float(nst_loss([s], [t])) == pytest.approx(float(nst_loss([pooled], [t])), rel=1e-5)
    assert float(nst_loss([t], [s])) == pytest.approx(float(nst_loss([t], [pooled])), rel=1e-5)


def test_gradients_of_both_ways_agree() -> None:
    torch.manual_seed(0)
    wide = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)  # 6 channels, 4 positions
    other = torch.randn(2, 5, 4, dtype=torch.float64)
    (found,) = torch.autograd.grad(mean_kernel(wide, other), wide)
    (expected,) = torch.autograd.grad((wide @ other.transpose(1, 2)).square().mean(), wide)
    assert torch.allclose(found, expected)


@pytest.mark.parametrize(("channels", "size"), [(256, 4), (8, 16)])
def test_no_tensor_is_larger_than_the_maps(largest: Callable[..., int], channels: int, size: int) -> None:
    s, t = torch.randn(4, channels // 2, size, size, requires_grad=True), torch.randn(4, channels, size, size)
    # a broadcast makes 4 * C * C * H * W; matrices between channels 4 * C * C; between positions 4 * (H * W)^2
    assert largest(lambda: nst_loss([s], [t])) <= t.numel()


def test_gradient_goes_to_the_student_alone() -> None:
    s, t = (torch.rand(2, 3, 4, 4, requires_grad=True) for _ in range(2))
    nst_loss([s], [t]).backward()
    assert s.grad is not None
    assert t.grad is None


def test_terms_are_weighted_and_take_every_stage(distilling: Callable[..., Any]) -> None:
    _, method, batch = distilling("nst", {"ce_weight": 0.5, "nst_weight": 10.0})
    loss = sum(
        nst_loss([a], [b]).item() for a, b in zip(batch.student.maps.stages, batch.taught.maps.stages, strict=True)
    )
    assert {name: value.item() for name, value in method.terms(batch).items()} == pytest.approx(
        {"ce": 0.5 * ce_loss(batch.student_logits, batch.labels).item(), "nst": 10 * loss}, rel=1e-4
    )


def test_defaults_are_the_references() -> None:
    assert Config().model_dump() == {"ce_weight": 1.0, "nst_weight": 50.0}


def test_unequal_numbers_of_stages_are_refused(case_of: Callable[..., Case]) -> None:
    assert faults(Config(), case_of("resnet18", "vgg8")) == []
    assert len(faults(Config(), case_of("vgg13", "resnet20"))) == 1
