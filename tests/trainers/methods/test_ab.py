"""Activation boundaries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from trainers.methods import Case
from trainers.methods.ab import Config, ab_loss, faults
from trainers.methods.ce import ce_loss


def maps(*values: float) -> torch.Tensor:
    return torch.tensor(values).view(1, -1, 1, 1)


def test_value_by_hand() -> None:
    # on the wrong side: (0.5 + 1)^2 and (-2 - 1)^2; inside the margin: (-0.5 + 1)^2 and (0.5 - 1)^2; beyond it: 0 and 0
    s, t = maps(0.5, -2.0, -0.5, 0.5, -3.0, 3.0), maps(-1.0, 1.0, -1.0, 1.0, -1.0, 1.0)
    assert float(ab_loss([s], [t], 1.0)) == 2.25 + 9 + 0.25 + 0.25
    assert float(ab_loss([s, s], [t, t], 1.0)) == 1.5 * 11.75  # the last stage counts 1, the one before it 1/2


def test_is_zero_for_the_same_maps_far_outside_the_margin() -> None:
    same = maps(5.0, -5.0, 1.1, -1.1)
    assert float(ab_loss([same], [same], 1.0)) == 0


def test_equals_a_naive_loop() -> None:
    torch.manual_seed(0)
    shapes = [(3, 2, 4, 4), (3, 4, 2, 2), (3, 5, 1, 1)]
    s, t = ([torch.randn(shape) for shape in shapes] for _ in range(2))
    naive = 0.0
    for stage in range(3):
        for at in np.ndindex(*shapes[stage]):
            a, b = float(s[stage][at]), float(t[stage][at])
            if b <= 0 and a > -0.5:
                naive += 2.0 ** (stage - 2) * (a + 0.5) ** 2 / 3
            if b > 0 and a <= 0.5:
                naive += 2.0 ** (stage - 2) * (a - 0.5) ** 2 / 3
    assert float(ab_loss(s, t, 0.5)) == pytest.approx(naive, rel=1e-5)


def test_only_the_teachers_signs_count() -> None:
    s, t = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    assert float(ab_loss([s], [t], 1.0)) == float(ab_loss([s], [9 * t], 1.0))


def test_gradient_goes_to_the_student_alone() -> None:
    s, t = (torch.randn(2, 3, 2, 2, requires_grad=True) for _ in range(2))
    ab_loss([s], [t], 1.0).backward()
    assert s.grad is not None
    assert t.grad is None


def test_first_stage_trains_trunk_and_connectors_and_the_recipe_cross_entropy_alone(
    distilling: Callable[..., Any],
) -> None:
    loop, method, batch = distilling("ab", {"first_stage_epochs": 1, "ce_weight": 0.5, "ab_weight": 0.002})
    assert [type(each) for each in method.connectors] == [nn.Sequential] * 3  # four times as many channels
    before = {name: value.detach().clone() for name, value in loop.trained.named_parameters()}
    assert loop.run_epoch(0)["train/lr"] == 0.05
    still = {name for name, value in loop.trained.named_parameters() if torch.equal(value, before[name])}
    still -= {f"connectors.{stage}.0.bias" for stage in range(3)}  # next to no gradient, before a BN
    assert still == {"student.classifier.weight", "student.classifier.bias"}
    connected = [part(own) for part, own in zip(method.connectors, batch.student.maps.pre_relu, strict=True)]
    expected = 0.002 * ab_loss(connected, batch.taught.maps.pre_relu, 1.0)
    assert float(method.first_stage.terms(batch)["ab"]) == pytest.approx(float(expected))

    trained = {name: value.detach().clone() for name, value in method.modules.named_parameters()}
    row = loop.run_epoch(1)
    assert {name for name in row if name.startswith("train/loss")} == {"train/loss", "train/loss_ce"}
    assert {name: float(value) for name, value in method.terms(batch).items()} == {
        "ce": 0.5 * float(ce_loss(batch.student_logits, batch.labels))
    }
    for name, value in method.modules.named_parameters():
        assert torch.equal(value, trained[name])
        assert value.grad is None and not value.requires_grad  # or they would count in a clipped norm


def test_second_stage_has_no_memory_of_the_first_optimiser(distilling: Callable[..., Any]) -> None:
    loop, _, _ = distilling("ab", {"first_stage_epochs": 1})
    loop.run_epoch(0)
    assert not loop.optimizer.state
    assert loop.first_optimizer.state


def test_maps_of_the_same_shape_are_compared_as_they_are(distilling: Callable[..., Any]) -> None:
    _, method, _ = distilling("ab", {}, teacher="resnet14")
    assert [type(each) for each in method.connectors] == [nn.Identity] * 3
    _, method, _ = distilling("ab", {})
    assert not any(isinstance(layer, nn.ReLU) for layer in method.connectors.modules())


def test_defaults_are_the_references() -> None:
    assert Config().model_dump() == {"ce_weight": 1.0, "first_stage_epochs": 30, "ab_weight": 3 / 1000, "margin": 1.0}


def test_pairs_it_cannot_serve_are_refused(case_of: Callable[..., Case]) -> None:
    for teacher, student in (("vgg13", "mobilenetv2"), ("resnet50", "vgg8"), ("wrn_40_2", "shufflev1")):
        assert faults(Config(), case_of(teacher, student)) == []
    (fault,) = faults(Config(), case_of("resnet50", "resnet20"))
    assert "resnet50 -> resnet20" in fault and "4 stages" in fault
    first, *_ = faults(Config(), case_of("resnet18", "resnet18_tiny7"))
    assert "resnet18 -> resnet18_tiny7" in first and "stage 1" in first and "resolution" in first
