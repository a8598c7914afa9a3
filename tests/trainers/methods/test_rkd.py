"""Distances and angles between samples."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from trainers.methods import Case
from trainers.methods.ce import ce_loss
from trainers.methods.rkd import Config, angles, distances, faults, rkd_angle_loss, rkd_distance_loss


def huber(x: float) -> float:
    return x**2 / 2 if abs(x) < 1 else abs(x) - 0.5


def test_distances_by_hand() -> None:
    # s: 1, 3, 2 with mean 2; t: 1, 2, 1 with mean 4/3. Differences 0.25, 0, 0.25, each twice: 4 * 0.25^2 / 2 / 9
    s, t = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([[0.0], [1.0], [2.0]])
    assert distances(s).flatten().tolist() == pytest.approx([0, 0.5, 1.5, 0.5, 0, 1, 1.5, 1, 0])
    assert float(rkd_distance_loss(s, t)) == pytest.approx(0.125 / 9)


def test_angles_by_hand() -> None:
    # s: right angle at 0 and 45 degrees at 1 and 2; t: 60 degrees everywhere. Each angle occurs twice among 27 triples
    s = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    t = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(0.75)]])
    assert float(angles(s)[0, 1, 2]) == 0
    assert float(angles(s)[1, 0, 2]) == pytest.approx(math.sqrt(0.5))
    assert float(rkd_angle_loss(s, t)) == pytest.approx(
        2 * (0.125 + 2 * (math.sqrt(0.5) - 0.5) ** 2 / 2) / 27, rel=1e-5
    )


def test_equal_naive_loops() -> None:
    torch.manual_seed(0)
    s, t = torch.randn(4, 3), 2 * torch.randn(4, 5)

    def naive_distance(f: Tensor, i: int, j: int) -> float:
        pairs = [math.dist(f[a].tolist(), f[b].tolist()) for a in range(4) for b in range(4) if a != b]
        return math.dist(f[i].tolist(), f[j].tolist()) / (sum(pairs) / len(pairs))

    def naive_angle(f: Tensor, i: int, j: int, k: int) -> float:
        if i in (j, k):
            return 0.0
        return float(torch.cosine_similarity(f[j] - f[i], f[k] - f[i], dim=0))

    n = range(4)
    distance = sum(huber(naive_distance(s, i, j) - naive_distance(t, i, j)) for i in n for j in n) / 16
    angle = sum(huber(naive_angle(s, i, j, k) - naive_angle(t, i, j, k)) for i in n for j in n for k in n) / 64
    assert float(rkd_distance_loss(s, t)) == pytest.approx(distance, rel=1e-4)
    assert float(rkd_angle_loss(s, t)) == pytest.approx(angle, rel=1e-4)


def test_scale_rotation_and_shift_change_nothing() -> None:
    torch.manual_seed(0)
    f = torch.randn(6, 4)
    turned = 3 * f @ torch.linalg.qr(torch.randn(4, 4))[0] + 1
    assert float(rkd_distance_loss(turned, f)) == pytest.approx(0, abs=1e-10)
    assert float(rkd_angle_loss(turned, f)) == pytest.approx(0, abs=1e-10)


def test_equal_samples_have_finite_gradients() -> None:
    for rows in (torch.ones(4, 3), torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 1.0]])):
        s = rows.clone().requires_grad_()
        t = torch.randn(len(rows), 3)
        (rkd_distance_loss(s, t) + rkd_angle_loss(s, t)).backward()
        assert s.grad is not None and s.grad.isfinite().all()


def test_gradient_goes_to_the_student_alone() -> None:
    s, t = (torch.randn(4, 3, requires_grad=True) for _ in range(2))
    (rkd_distance_loss(s, t) + rkd_angle_loss(s, t)).backward()
    assert s.grad is not None
    assert t.grad is None


def test_terms_are_weighted(distilling: Callable[..., Any]) -> None:
    _, method, batch = distilling("rkd", {"ce_weight": 0.5, "distance_weight": 3.0, "angle_weight": 7.0})
    s, t = batch.student.maps.pooled, batch.taught.maps.pooled
    assert {name: value.item() for name, value in method.terms(batch).items()} == pytest.approx(
        {
            "ce": 0.5 * ce_loss(batch.student_logits, batch.labels).item(),
            "distance": 3 * rkd_distance_loss(s, t).item(),
            "angle": 7 * rkd_angle_loss(s, t).item(),
        },
        rel=1e-5,
    )


def test_largest_tensor_is_that_of_all_triples(largest: Callable[..., int]) -> None:
    batch, dims = 16, 32
    s, t = torch.randn(batch, dims, requires_grad=True), torch.randn(batch, dims)
    made = largest(lambda: rkd_distance_loss(s, t) + rkd_angle_loss(s, t))
    assert made <= max(batch**3, batch**2 * dims)  # B^3 d, 16 times more, where triples are broadcast


def test_defaults_are_the_references() -> None:
    assert Config().model_dump() == {"ce_weight": 1.0, "distance_weight": 25.0, "angle_weight": 50.0}


def test_two_samples_are_too_few(case_of: Callable[..., Case]) -> None:
    assert faults(Config(), case_of("vgg13", "resnet20", batch_size=3)) == []
    assert len(faults(Config(), case_of("vgg13", "resnet20", batch_size=2))) == 1
