"""Overhaul of feature distillation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainers import models
from trainers.methods import Case
from trainers.methods.ce import ce_loss
from trainers.methods.ofd import PRESETS, Config, faults, margin, norms_before_relu, ofd_loss


def maps(*values: float) -> Tensor:
    return torch.tensor(values).view(1, 1, 1, -1)


def test_value_by_hand() -> None:
    # margin -1. t > 0: (3 - 2)^2. t in (m, 0]: (0 - -0.5)^2 where s is above, else 0. t under m: (0 - -1)^2, or 0
    s, t = maps(3.0, 0.0, -0.7, 0.0, -2.0), maps(2.0, -0.5, -0.5, -4.0, -4.0)
    lowest = torch.tensor([-1.0])
    assert float(ofd_loss([s], [t], [lowest])) == pytest.approx(1 + 0.25 + 1)
    assert float(ofd_loss([s, s], [t, t], [lowest, lowest])) == pytest.approx(1.5 * 2.25)


def test_equals_a_naive_loop() -> None:
    torch.manual_seed(0)
    shapes = [(3, 2, 4, 4), (3, 4, 2, 2)]
    s, t = ([torch.randn(shape) for shape in shapes] for _ in range(2))
    margins = [-torch.rand(2), -torch.rand(4)]
    naive = 0.0
    for k in range(2):
        for at in np.ndindex(*shapes[k]):
            a, b, m = float(s[k][at]), float(t[k][at]), float(margins[k][at[1]])
            if b > 0:
                distance = (a - b) ** 2
            elif b > m:
                distance = (a - b) ** 2 if a > b else 0.0
            else:
                distance = (a - m) ** 2 if a > m else 0.0
            naive += 2.0 ** (k - 1) * distance / 3
    assert float(ofd_loss(s, t, margins)) == pytest.approx(naive, rel=1e-5)


def test_the_larger_map_is_pooled() -> None:
    s, t = torch.ones(1, 1, 2, 2), torch.ones(1, 1, 4, 4)
    assert float(ofd_loss([s], [t], [torch.tensor([-1.0])])) == 0


def test_gradient_goes_to_the_student_alone() -> None:
    s, t = (torch.randn(2, 3, 2, 2, requires_grad=True) for _ in range(2))
    ofd_loss([s], [t], [torch.full((3,), -1.0)]).backward()
    assert s.grad is not None
    assert t.grad is None


def test_margin_by_hand_and_by_sampling() -> None:
    # N(0, 1): mean of the negative half is -sqrt(2 / pi); the sign of gamma does not matter
    half = -math.sqrt(2 / math.pi)
    found = margin(torch.tensor([1.0, -2.0, 1.0, 0.0]), torch.tensor([0.0, 0.0, 5.0, 0.0]))
    assert found.tolist() == pytest.approx([half, 2 * half, -3.0, 0.0], abs=1e-6)  # 5 sigma above 0: -3 sigma
    torch.manual_seed(0)
    sample = 0.5 + 2 * torch.randn(2_000_000)
    (value,) = margin(torch.tensor([2.0]), torch.tensor([0.5])).tolist()
    assert value == pytest.approx(float(sample[sample < 0].mean()), abs=0.01)


def test_margin_of_a_channel_far_below_zero_is_its_mean() -> None:
    assert margin(torch.tensor([0.1, 0.0]), torch.tensor([-9.0, -2.0])).tolist() == pytest.approx([-9.0, -2.0])


@pytest.mark.parametrize(
    ("network", "names"),
    [
        ("resnet8", ["stages.0.0.norm2", "stages.1.0.norm2", "stages.2.0.norm2"]),  # beside projections
        ("resnet14", ["stages.0.1.norm2", "stages.1.1.norm2", "stages.2.1.norm2"]),
        ("wrn_16_2", ["stages.1.0.norm1", "stages.2.0.norm1", "norm"]),  # of the block that follows
        ("vgg8", ["blocks.1.1", "blocks.2.1", "blocks.3.1", "blocks.4.1"]),
        ("mobilenetv2", ["groups.1.1.layers.7", "groups.2.2.layers.7", "groups.4.2.layers.7", "groups.6.0.layers.7"]),
    ],
)
def test_norms_of_each_family_are_found(network: str, names: list[str]) -> None:
    built = models.build(network, classes=3, channels=3, size=32, seed=0).eval()
    found = norms_before_relu(built, torch.randn(2, 3, 32, 32))
    layers = {id(layer): name for name, layer in built.named_modules()}
    assert [layers[id(norm)] for norm in found] == names
    assert not any(layer._forward_hooks for layer in built.modules())


def test_terms_are_weighted_and_the_teacher_is_left_as_it_was(distilling: Callable[..., Any]) -> None:
    loop, method, batch = distilling("ofd", {"ce_weight": 0.5, "ofd_weight": 0.01})
    teacher = loop.setup.teacher
    assert not any(layer._forward_hooks for layer in teacher.modules())
    assert not any(value.requires_grad for value in teacher.parameters())
    norms = [stage[-1].norm2 for stage in teacher.stages]
    margins = [margin(norm.weight, norm.bias) for norm in norms]
    own = [part(each) for part, each in zip(method.connectors, batch.student.maps.pre_relu, strict=True)]
    assert {name: float(value) for name, value in method.terms(batch).items()} == pytest.approx(
        {
            "ce": 0.5 * float(ce_loss(batch.student_logits, batch.labels)),
            "ofd": 0.01 * float(ofd_loss(own, batch.taught.maps.pre_relu, margins)),
        },
        rel=1e-4,
    )
    for part, wide in zip(method.connectors, (64, 128, 256), strict=True):
        assert [type(layer) for layer in part] == [nn.Conv2d, nn.BatchNorm2d]
        assert part[0].kernel_size == (1, 1) and part[0].bias is None and part[0].out_channels == wide


def test_connectors_are_trained_and_kept(distilling: Callable[..., Any]) -> None:
    loop, method, _ = distilling("ofd", {})
    before = {name: value.detach().clone() for name, value in method.modules.named_parameters()}
    loop.run_epoch(0)
    assert all(not torch.equal(value, before[name]) for name, value in method.modules.named_parameters())
    assert set(before) <= set(loop.state_dict()["trained"])


def test_defaults_and_presets_are_the_references() -> None:
    assert Config().model_dump() == {"ce_weight": 1.0, "ofd_weight": 0.001}
    assert PRESETS == {"imagenet": {"ofd_weight": 0.0001}}


def test_pairs_it_cannot_serve_are_refused(case_of: Callable[..., Case]) -> None:
    for teacher, student in (("resnet50", "mobilenetv2"), ("resnet32x4", "shufflev1"), ("resnet110", "resnet20")):
        assert faults(Config(), case_of(teacher, student)) == []
    (fault,) = faults(Config(), case_of("vgg13", "resnet20"))
    assert "vgg13 -> resnet20" in fault and "stages" in fault
    (fault,) = faults(Config(), case_of("shufflev2", "resnet20"))  # its stages end in a concatenation
    assert "shufflev2 -> resnet20" in fault and "stage 1, 2, 3" in fault and "choose" in fault
