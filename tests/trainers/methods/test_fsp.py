"""Flow of the solution procedure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from trainers.methods import Case
from trainers.methods.ce import ce_loss
from trainers.methods.fsp import Config, faults, fsp_loss, fsp_matrix, maps_of


def test_value_by_hand() -> None:
    # one channel each, two positions: M_s = (1 * 3 + 2 * 4) / 2 = 5.5, M_t = (1 + 1) / 2; (5.5 - 1)^2
    one, two = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[3.0, 4.0]]]])
    ones = torch.ones(1, 1, 1, 2)
    assert float(fsp_loss([one, two], [ones, ones])) == 20.25
    assert float(fsp_loss([one, two, one], [ones, ones, ones])) == 40.5  # pairs are summed


def test_equals_a_naive_loop() -> None:
    torch.manual_seed(0)
    shapes = [(2, 3, 4, 4), (2, 2, 4, 4), (2, 5, 2, 2)]
    s, t = ([torch.randn(shape) for shape in shapes] for _ in range(2))

    def matrix(a: torch.Tensor, b: torch.Tensor, i: int, x: int, y: int) -> float:
        total, size = 0.0, b.shape[2]
        step = a.shape[2] // size
        for h, w in np.ndindex(size, size):
            pooled = float(a[i, x, step * h : step * (h + 1), step * w : step * (w + 1)].mean())
            total += pooled * float(b[i, y, h, w]) / size**2
        return total

    naive = 0.0
    for k in range(2):
        sizes = (2, shapes[k][1], shapes[k + 1][1])
        for at in np.ndindex(*sizes):
            naive += (matrix(s[k], s[k + 1], *at) - matrix(t[k], t[k + 1], *at)) ** 2 / np.prod(sizes)
    assert float(fsp_loss(s, t)) == pytest.approx(naive, rel=1e-4)


def test_positions_may_be_shuffled_together() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    assert torch.allclose(fsp_matrix(a, b), fsp_matrix(a.flip(3), b.flip(3)), atol=1e-6)
    assert torch.allclose(fsp_matrix(a, b), fsp_matrix(b, a).transpose(1, 2))
    assert float(fsp_loss([a, b], [a, b])) == 0


def test_no_tensor_holds_every_channel_pair_at_every_position(largest: Callable[..., int]) -> None:
    a, b = (torch.randn(4, 32, 16, 16, requires_grad=True) for _ in range(2))
    other = torch.randn(4, 32, 16, 16)
    assert largest(lambda: fsp_loss([a, b], [other, other])) <= a.numel()  # the broadcast form: 32 times as many


def test_gradient_goes_to_the_student_alone() -> None:
    s, t = ([torch.randn(2, 3, 2, 2, requires_grad=True) for _ in range(2)] for _ in range(2))
    fsp_loss(s, t).backward()
    assert all(each.grad is not None for each in s)
    assert all(each.grad is None for each in t)


def test_first_stage_trains_the_trunk_and_the_recipe_cross_entropy_alone(distilling: Callable[..., Any]) -> None:
    fields = {"first_stage_epochs": 1, "ce_weight": 0.5, "fsp_weight": 3.0}
    loop, method, batch = distilling("fsp", fields, teacher="resnet14")
    before = {name: value.detach().clone() for name, value in loop.student.named_parameters()}
    assert loop.run_epoch(0)["train/lr"] == 0.05
    still = {name for name, value in loop.student.named_parameters() if torch.equal(value, before[name])}
    assert still == {"classifier.weight", "classifier.bias"}
    expected = 3 * fsp_loss(maps_of(batch.student.maps), maps_of(batch.taught.maps))
    assert float(method.first_stage.terms(batch)["fsp"]) == pytest.approx(float(expected))
    assert len(maps_of(batch.student.maps)) == 4  # with the stem
    row = loop.run_epoch(1)
    assert {name for name in row if name.startswith("train/loss")} == {"train/loss", "train/loss_ce"}
    assert {name: float(value) for name, value in method.terms(batch).items()} == {
        "ce": 0.5 * float(ce_loss(batch.student_logits, batch.labels))
    }


def test_defaults_are_the_references() -> None:
    assert Config().model_dump() == {"ce_weight": 1.0, "first_stage_epochs": 30, "fsp_weight": 1.0}


def test_unequal_widths_are_refused(case_of: Callable[..., Case]) -> None:
    pairs = (("wrn_40_2", "wrn_16_2"), ("resnet110", "resnet20"), ("resnet32x4", "resnet8x4"), ("vgg13", "vgg8"))
    for teacher, student in pairs:
        assert faults(Config(), case_of(teacher, student)) == []
    (fault,) = faults(Config(), case_of("wrn_40_2", "wrn_40_1"))
    assert "wrn_40_2 -> wrn_40_1" in fault and "[16, 32, 64, 128]" in fault and "[16, 16, 32, 64]" in fault
    crossed = ("vgg13", "mobilenetv2"), ("resnet50", "mobilenetv2"), ("resnet50", "vgg8"), ("resnet32x4", "shufflev1")
    for teacher, student in (*crossed, ("resnet32x4", "shufflev2"), ("wrn_40_2", "shufflev1")):
        assert len(faults(Config(), case_of(teacher, student))) == 1
    (fault,) = faults(Config(), case_of("resnet50", "resnet20"))
    assert "stages" in fault
