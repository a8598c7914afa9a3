"""Correlations between channels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers.methods.ce import ce_loss
from trainers.methods.ickd import PRESETS, Config, embedder, ickd_loss
from trainers.methods.kd import kd_loss


def test_value_by_hand() -> None:
    # G_s = I; G_t = all fours, rows become (1, 1) / sqrt 2: two rows of (1 - 0.707107)^2 + 0.5 = 0.585786, / (1 * 2)
    s, t = torch.eye(2).view(1, 2, 1, 2), torch.tensor([[2.0, 0.0], [2.0, 0.0]]).view(1, 2, 1, 2)
    assert float(ickd_loss(s, t)) == pytest.approx(2 - math.sqrt(2), rel=1e-5)


def naive_loss(s: Tensor, t: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for a, b in zip(s.double().flatten(2), t.double().flatten(2), strict=True):
        for c in range(len(a)):
            rows = [torch.stack([x[c] @ other for other in x]) for x in (a, b)]
            total = total + (F.normalize(rows[0], dim=0) - F.normalize(rows[1], dim=0)).square().sum()
    return total / (s.shape[0] * s.shape[1])


@pytest.mark.parametrize(("channels", "student", "teacher"), [(5, 2, 4), (3, 4, 4), (8, 2, 2), (4, 3, 2)])
def test_value_and_gradient_equal_a_naive_loop(channels: int, student: int, teacher: int) -> None:
    torch.manual_seed(0)
    s = torch.randn(3, channels, student, student, requires_grad=True)
    t = torch.randn(3, channels, teacher, teacher)
    found, expected = ickd_loss(s, t), naive_loss(s, t)
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    gradients = [torch.autograd.grad(each, s)[0] for each in (found, expected)]
    assert torch.allclose(*gradients, atol=1e-5)


def test_loss_is_zero_for_a_scaled_map_and_ignores_where_things_are() -> None:
    torch.manual_seed(0)
    t = torch.randn(3, 6, 4, 4)
    assert float(ickd_loss(2.5 * t, t)) == pytest.approx(0, abs=1e-6)
    moved = t.flatten(2)[:, :, torch.randperm(16)].view_as(t)
    assert float(ickd_loss(moved, t)) == pytest.approx(0, abs=1e-6)


def test_dead_channels_have_a_finite_gradient() -> None:
    s = torch.randn(2, 3, 2, 2)
    s[:, 1] = 0
    s.requires_grad_()
    t = torch.randn(2, 3, 2, 2)
    loss = ickd_loss(s, t)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(naive_loss(s, t).detach()), rel=1e-4)
    assert s.grad is not None and s.grad.isfinite().all()
    silent = torch.zeros(2, 3, 2, 2)
    assert float(ickd_loss(silent, silent)) == 0
    assert float(ickd_loss(silent, t)) == pytest.approx(1)


def test_no_tensor_is_larger_than_the_maps(largest: Callable[..., int]) -> None:
    s, t = torch.randn(4, 256, 4, 4, requires_grad=True), torch.randn(4, 256, 4, 4)
    assert largest(lambda: ickd_loss(s, t)) <= t.numel()  # matrices between channels: 16 times more


def test_gradient_goes_to_the_student_alone() -> None:
    s, t = (torch.rand(2, 3, 2, 2, requires_grad=True) for _ in range(2))
    ickd_loss(s, t).backward()
    assert s.grad is not None
    assert t.grad is None


def test_embedding_is_a_convolution_without_bias_and_a_norm_trained_and_kept(distilling: Callable[..., Any]) -> None:
    layers = embedder(3, 5)
    assert [type(layer) for layer in layers] == [nn.Conv2d, nn.BatchNorm2d]
    assert [tuple(each.shape) for each in layers.parameters()] == [(5, 3, 1, 1), (5,), (5,)]
    loop, method, _ = distilling("ickd", {})
    before = {name: value.detach().clone() for name, value in method.modules.named_parameters()}
    loop.run_epoch(0)
    assert all(not torch.equal(value, before[name]) for name, value in method.modules.named_parameters())
    assert set(before) <= set(loop.state_dict()["trained"])


def test_terms_are_weighted(distilling: Callable[..., Any]) -> None:
    fields = {"ce_weight": 0.5, "ickd_weight": 7.0, "kd_weight": 0.3, "temperature": 2.0}
    _, method, batch = distilling("ickd", fields)
    loss = ickd_loss(method.modules["embed"](batch.student.maps.stages[-1]), batch.taught.maps.stages[-1])
    assert {name: value.item() for name, value in method.terms(batch).items()} == pytest.approx(
        {
            "ce": 0.5 * ce_loss(batch.student_logits, batch.labels).item(),
            "ickd": 7 * loss.item(),
            "kd": 0.3 * kd_loss(batch.student_logits, batch.teacher_logits, 2.0).item(),
        },
        rel=1e-4,
    )
    _, method, batch = distilling("ickd", {})
    assert set(method.terms(batch)) == {"ce", "ickd"}


def test_defaults_and_presets_are_the_references() -> None:
    assert Config().model_dump() == {"ce_weight": 1.0, "ickd_weight": 2.5, "kd_weight": 0.0, "temperature": 4.0}
    assert PRESETS == {"with-kd": {"kd_weight": 1.0}, "sample-script": {"ickd_weight": 4.0}}
