"""Likelihood of the teacher's maps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from trainers.methods import Case
from trainers.methods.ce import ce_loss
from trainers.methods.vid import Config, Gaussian, faults, vid_loss


def test_value_by_hand() -> None:
    # softplus(a) = 5 - 1e-5, so sigma^2 = 5; exact mean: ln 5 / 2 = 0.804719; off by 2: + 4 / 5 / 2
    t = torch.randn(2, 3, 4, 4)
    scale = torch.full((3,), math.log(math.expm1(5 - 1e-5)))
    assert float(vid_loss(t, t, scale)) == pytest.approx(0.804719, abs=1e-6)
    assert float(vid_loss(t + 2, t, scale)) == pytest.approx(1.204719, abs=1e-5)


def test_equals_a_naive_loop() -> None:
    torch.manual_seed(0)
    m, t, a = torch.randn(2, 3, 2, 2), torch.randn(2, 3, 2, 2), torch.randn(3)
    naive = 0.0
    for i, c, y, x in np.ndindex(*m.shape):
        variance = math.log(1 + math.exp(float(a[c]))) + 1e-5
        naive += 0.5 * (float(m[i, c, y, x] - t[i, c, y, x]) ** 2 / variance + math.log(variance)) / m.numel()
    assert float(vid_loss(m, t, a)) == pytest.approx(naive, rel=1e-4)


def test_the_best_variance_is_the_mean_squared_error_and_the_loss_may_be_negative() -> None:
    m, t = torch.full((1, 1, 2, 2), 0.1), torch.zeros(1, 1, 2, 2)
    losses = {v: float(vid_loss(m, t, torch.tensor([math.log(math.expm1(v - 1e-5))]))) for v in (0.005, 0.01, 0.02)}
    assert min(losses, key=lambda v: losses[v]) == 0.01
    assert losses[0.01] == pytest.approx(0.5 + math.log(0.01) / 2, abs=1e-4)


@pytest.mark.parametrize("variance", [1.1e-5, 0.5, 5.0, 1e3])
def test_variance_starts_where_it_is_told(variance: float) -> None:
    scale = Gaussian(2, 3, variance).scale.detach()
    assert (F.softplus(scale) + 1e-5).tolist() == pytest.approx([variance] * 3, rel=1e-4)


def test_mean_is_three_convolutions_without_bias() -> None:
    shapes = [tuple(each.shape) for each in Gaussian(2, 5, 5.0).mean.parameters()]
    assert shapes == [(5, 2, 1, 1), (5, 5, 1, 1), (5, 5, 1, 1)]


def test_the_larger_map_is_pooled() -> None:
    gaussian = Gaussian(2, 3, 5.0)
    s, t = torch.rand(2, 2, 8, 8), torch.rand(2, 3, 4, 4)
    assert gaussian(s, t).item() == pytest.approx(gaussian(F.adaptive_avg_pool2d(s, 4), t).item())
    assert gaussian(s[..., :2, :2], t).isfinite()


def test_gradient_goes_to_the_student_and_the_variances_alone() -> None:
    m, t, a = torch.rand(2, 3, 2, 2), torch.rand(2, 3, 2, 2), torch.rand(3)
    for each in (m, t, a):
        each.requires_grad_()
    vid_loss(m, t, a).backward()
    assert m.grad is not None and a.grad is not None
    assert t.grad is None


def test_variances_are_trained_and_kept(distilling: Callable[..., Any]) -> None:
    loop, method, _ = distilling("vid", {})
    before = {name: value.detach().clone() for name, value in method.modules.named_parameters()}
    loop.run_epoch(0)
    assert len(before) == 12
    assert all(not torch.equal(value, before[name]) for name, value in method.modules.named_parameters())
    assert set(before) <= set(loop.state_dict()["trained"])


def test_terms_are_weighted_and_take_every_stage(distilling: Callable[..., Any]) -> None:
    _, method, batch = distilling("vid", {"ce_weight": 0.5, "vid_weight": 10.0})
    stages = zip(method.modules["stages"], batch.student.maps.stages, batch.taught.maps.stages, strict=True)
    loss = sum(vid_loss(each.mean(s), t, each.scale).item() for each, s, t in stages)
    assert {name: value.item() for name, value in method.terms(batch).items()} == pytest.approx(
        {"ce": 0.5 * ce_loss(batch.student_logits, batch.labels).item(), "vid": 10 * loss}, rel=1e-5
    )


def test_defaults_are_the_references() -> None:
    assert Config().model_dump() == {"ce_weight": 1.0, "vid_weight": 1.0, "init_variance": 5.0}


def test_refusals(case_of: Callable[..., Case]) -> None:
    assert faults(Config(), case_of("resnet18", "vgg8")) == []
    assert len(faults(Config(), case_of("vgg13", "resnet20"))) == 1
    with pytest.raises(ValidationError, match="init_variance"):
        Config(init_variance=1e-5)
