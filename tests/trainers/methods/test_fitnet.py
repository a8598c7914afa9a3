"""Hints through a regressor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from trainers.methods import Case
from trainers.methods.ce import ce_loss
from trainers.methods.fitnet import Config, faults, hint_loss


def test_value_by_hand() -> None:
    # ((1 - 0)^2 + (2 - 4)^2) / 2
    assert float(hint_loss(torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[0.0, 4.0]]]]))) == 2.5


def test_equals_a_naive_loop() -> None:
    torch.manual_seed(0)
    s, t = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    naive = sum(float(s[i] - t[i]) ** 2 for i in np.ndindex(*s.shape)) / s.numel()
    assert float(hint_loss(s, t)) == pytest.approx(naive, rel=1e-5)


def test_gradient_goes_to_the_student_alone() -> None:
    s, t = (torch.randn(2, 3, 2, 2, requires_grad=True) for _ in range(2))
    hint_loss(s, t).backward()
    assert s.grad is not None
    assert t.grad is None


def test_terms_are_weighted_and_look_at_the_hint_stage(distilling: Callable[..., Any]) -> None:
    _, method, batch = distilling("fitnet", {"ce_weight": 0.5, "hint_weight": 3.0, "hint_stage": 3})
    terms = method.terms(batch)
    hint = hint_loss(method.modules["regressor"](batch.student.maps.stages[2]), batch.taught.maps.stages[2])
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(
        {"ce": 0.5 * ce_loss(batch.student_logits, batch.labels).item(), "hint": 3 * hint.item()}, rel=1e-5
    )


def test_regressor_is_trained_and_kept(distilling: Callable[..., Any]) -> None:
    loop, method, _ = distilling("fitnet", {})
    before = {name: value.detach().clone() for name, value in method.modules.named_parameters()}
    loop.run_epoch(0)
    assert before
    assert all(not torch.equal(value, before[name]) for name, value in method.modules.named_parameters())
    assert {f"trained.{name}" for name in before} <= {f"trained.{name}" for name in loop.state_dict()["trained"]}


def test_regressor_ends_in_a_relu_also_before_signed_teacher_maps(distilling: Callable[..., Any]) -> None:
    _, method, batch = distilling("fitnet", {}, teacher="wrn_10_1")
    assert float(batch.taught.maps.stages[1].min()) < 0
    assert isinstance(method.modules["regressor"][-1], torch.nn.ReLU)


def test_defaults_are_the_references() -> None:
    assert Config().model_dump() == {"ce_weight": 1.0, "hint_weight": 100.0, "hint_stage": 2}


def test_pairs_it_cannot_serve_are_refused(case_of: Callable[..., Case]) -> None:
    assert faults(Config(), case_of("resnet18", "vgg8")) == []  # 8 -> 16 pixels
    (fault,) = faults(Config(), case_of("resnet20", "resnet18_tiny7"))
    assert "resnet20 -> resnet18_tiny7" in fault
    assert "4x4" in fault and "16x16" in fault and "hint_stage" in fault
    (fault,) = faults(Config(hint_stage=4), case_of("vgg13", "resnet20"))
    assert "hint_stage 4" in fault and "1..3" in fault
