"""Main directions of maps, from stage to stage."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trainers.methods import Case
from trainers.methods.ce import ce_loss
from trainers.methods.kdsvd import (
    Config,
    Eigenvectors,
    aligned_vector,
    faults,
    kdsvd_loss,
    right_vectors,
    teacher_vector,
)


def rank_one(*direction: float) -> Tensor:
    """A map (1, 1, 2, W) whose rows are multiples of one direction."""
    row = torch.tensor(direction)
    return torch.stack([row, -2 * row]).view(1, 1, 2, -1)


def test_value_by_hand() -> None:
    # v_s = (0.8, 0.6) then (1, 0); v_t = (1, 0) twice. Entries exp(-(v_i - u_j)^2 / 8):
    # s: distances 0.2, 0.4, 0.8, 0.6; t: 0, 1, 1, 0
    s, t = [rank_one(4, 3), rank_one(2, 0)], [rank_one(1, 0), rank_one(-5, 0)]
    pairs = [(0.2, 0.0), (0.4, 1.0), (0.8, 1.0), (0.6, 0.0)]
    expected = sum((math.exp(-(a**2) / 8) - math.exp(-(b**2) / 8)) ** 2 for a, b in pairs)
    assert float(kdsvd_loss(s, t)) == pytest.approx(expected, rel=1e-4)
    assert expected == pytest.approx(0.013157, abs=1e-6)


def naive_loss(student_maps: list[Tensor], teacher_maps: list[Tensor]) -> float:
    total, batch = 0.0, len(student_maps[0])
    for i in range(batch):
        directions: list[tuple[np.ndarray, np.ndarray]] = []
        for s, t in zip(student_maps, teacher_maps, strict=True):
            teacher, student = (
                np.linalg.svd(each[i].double().numpy().reshape(-1, each.shape[-1]), full_matrices=False)[2]
                for each in (t, s)
            )
            target = teacher[0] * (-1 if teacher[0].sum() < 0 else 1)
            best = max(student[:4], key=lambda v: abs(v @ target))
            directions.append((best * np.sign(best @ target), target))
        for (s1, t1), (s0, t0) in zip(directions[1:], directions, strict=False):
            for a in range(len(s1)):
                for b in range(len(s0)):
                    total += (math.exp(-((s1[a] - s0[b]) ** 2) / 8) - math.exp(-((t1[a] - t0[b]) ** 2) / 8)) ** 2
    return total / batch


def test_equals_a_naive_loop() -> None:
    torch.manual_seed(0)
    s = [torch.randn(3, 2, 8, 8), torch.randn(3, 3, 4, 4), torch.rand(3, 4, 2, 2)]
    t = [torch.randn(3, 4, 8, 8), torch.randn(3, 5, 4, 4), torch.rand(3, 6, 2, 2)]
    assert float(kdsvd_loss(s, t)) == pytest.approx(naive_loss(s, t), rel=1e-3)


def test_signs_and_scales_of_maps_change_nothing() -> None:
    torch.manual_seed(0)
    s, t = ([torch.randn(3, 2, 8, 8), torch.randn(3, 3, 4, 4)] for _ in range(2))
    expected = float(kdsvd_loss(s, t))
    assert float(kdsvd_loss([-3 * s[0], s[1]], [t[0], -0.1 * t[1]])) == pytest.approx(expected, rel=1e-4)
    assert float(kdsvd_loss(t, t)) == pytest.approx(0, abs=1e-8)


def test_sign_rule_holds_whatever_the_decomposition_returns() -> None:
    t = torch.randn(5, 3, 6, 6)
    vector = teacher_vector(t)
    assert bool((vector.sum(dim=1) >= 0).all())
    assert torch.allclose(vector.norm(dim=1), torch.ones(5))
    s = torch.randn(5, 3, 6, 6)
    assert bool(((aligned_vector(s, vector) * vector).sum(dim=1) >= 0).all())


def test_the_student_is_searched_among_four_vectors() -> None:
    values = torch.diag(torch.tensor([6.0, 5.0, 4.0, 3.0, 2.0])).view(1, 1, 5, 5)  # v_i is the i-th unit vector
    for target, found in ((3, 3), (4, None)):
        chosen = aligned_vector(values, torch.eye(5)[target][None])[0]
        assert (float(chosen[target]) == pytest.approx(1, abs=1e-5)) is (found is not None)


def test_gradient_equals_autograds_where_eigenvalues_are_apart() -> None:
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(2, 4, 4, dtype=torch.float64))[0]
    gram = basis @ torch.diag(torch.tensor([8.0, 4.0, 2.0, 1.0], dtype=torch.float64)) @ basis.transpose(1, 2)
    weights = torch.randn(2, 4, 4, dtype=torch.float64)
    gradients = []
    for eigenvectors in (Eigenvectors.apply, lambda m: torch.linalg.eigh(m)[1].flip(-1)):
        matrices = gram.clone().requires_grad_()
        (weights * eigenvectors(matrices).abs()).sum().backward()
        assert matrices.grad is not None
        gradients.append((matrices.grad + matrices.grad.transpose(1, 2)) / 2)
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["zeros", "identity", "repeated", "huge"])
def test_gradient_is_finite_where_eigenvalues_meet(kind: str) -> None:
    first = {
        "zeros": torch.zeros(2, 3, 4, 4),
        "identity": torch.eye(4).expand(2, 3, 4, 4).clone(),
        "repeated": torch.ones(2, 3, 4, 4),
        "huge": 1e8 * torch.rand(2, 3, 4, 4),
    }[kind].requires_grad_()
    loss = kdsvd_loss([first, torch.rand(2, 3, 2, 2)], [torch.rand(2, 3, 4, 4), torch.rand(2, 3, 2, 2)])
    loss.backward()
    assert loss.isfinite()
    assert first.grad is not None and first.grad.isfinite().all()


def test_vectors_are_those_of_columns() -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 4, 4)
    found = right_vectors(maps, 4)
    expected = torch.linalg.svd(maps.flatten(1, 2))[2].transpose(1, 2)
    assert torch.allclose((found * expected).sum(dim=1).abs(), torch.ones(2, 4), atol=1e-4)


def test_gradient_goes_to_the_student_alone() -> None:
    s, t = ([torch.rand(2, 3, 4, 4, requires_grad=True), torch.rand(2, 3, 2, 2, requires_grad=True)] for _ in range(2))
    kdsvd_loss(s, t).backward()
    assert all(each.grad is not None for each in s)
    assert all(each.grad is None for each in t)


def test_terms_are_weighted(distilling: Callable[..., Any]) -> None:
    _, method, batch = distilling("kdsvd", {"ce_weight": 0.5, "kdsvd_weight": 10.0})
    loss = kdsvd_loss(batch.student.maps.stages, batch.taught.maps.stages)
    assert {name: value.item() for name, value in method.terms(batch).items()} == pytest.approx(
        {"ce": 0.5 * ce_loss(batch.student_logits, batch.labels).item(), "kdsvd": 10 * loss.item()}, rel=1e-5
    )


def test_defaults_are_the_references() -> None:
    assert Config().model_dump() == {"ce_weight": 1.0, "kdsvd_weight": 1.0}


def test_pairs_it_cannot_serve_are_refused(case_of: Callable[..., Case]) -> None:
    assert faults(Config(), case_of("wrn_40_2", "wrn_40_1")) == []  # channels may differ
    assert faults(Config(), case_of("resnet32x4", "resnet8x4")) == []
    (fault,) = faults(Config(), case_of("resnet18", "vgg8"))
    assert "[32, 16, 8, 4]" in fault and "[16, 8, 4, 4]" in fault
    (fault,) = faults(Config(), case_of("vgg13", "resnet20"))
    assert "4 stages" in fault
