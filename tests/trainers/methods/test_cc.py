"""Correlation congruence in both forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from trainers.methods import Case
from trainers.methods.cc import PRESETS, Config, faults, gaussian_kernel, gaussian_loss, neighbours_loss
from trainers.methods.ce import ce_loss


def test_neighbours_by_hand() -> None:
    # d = (1, 2), (3, 0), (0, 1): 1 * 3 + 2 * 0 = 3 and 3 * 0 + 0 * 1 = 0, mean 1.5
    s, t = torch.tensor([[1.0, -2.0], [3.0, 5.0], [2.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 5.0], [2.0, 1.0]])
    assert float(neighbours_loss(s, t)) == 1.5


def test_gaussian_by_hand() -> None:
    # exp(-0.8) = 0.449329 for right angles, times 1 + 0.8 + 0.32 = 2.12 on the diagonal
    kernel = gaussian_kernel(torch.tensor([[2.0, 0.0], [0.0, 3.0]]), 0.4)
    assert kernel.flatten().tolist() == pytest.approx([0.952577, 0.449329, 0.449329, 0.952577], abs=1e-6)
    # against two equal rows, two of four entries differ by 0.503248
    loss = gaussian_loss(torch.eye(2), torch.tensor([[1.0, 1.0], [2.0, 2.0]]), 0.4)
    assert float(loss) == pytest.approx(0.503248**2 / 2, abs=1e-6)


def test_neighbours_equal_a_naive_loop() -> None:
    torch.manual_seed(0)
    s, t = torch.randn(5, 3), torch.randn(5, 3)
    d = [[abs(float(s[i, k] - t[i, k])) for k in range(3)] for i in range(5)]
    naive = sum(d[i][k] * d[i + 1][k] for i in range(4) for k in range(3)) / 4
    assert float(neighbours_loss(s, t)) == pytest.approx(naive, rel=1e-5)


def test_gaussian_equals_a_naive_loop() -> None:
    torch.manual_seed(0)
    s, t = torch.randn(4, 3), torch.randn(4, 3)

    def kernel(e: torch.Tensor, i: int, j: int) -> float:
        a, b = e[i].tolist(), e[j].tolist()
        cosine = sum(x * y for x, y in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)
        return math.exp(-1.4) * sum(1.4**p / math.factorial(p) * cosine**p for p in range(3))

    naive = sum((kernel(s, i, j) - kernel(t, i, j)) ** 2 for i in range(4) for j in range(4)) / 16
    assert float(gaussian_loss(s, t, 0.7)) == pytest.approx(naive, rel=1e-4)


def test_series_is_close_to_the_gaussian() -> None:
    rows = torch.nn.functional.normalize(torch.randn(6, 4), dim=1)
    assert torch.allclose(gaussian_kernel(rows, 0.1), torch.exp(-0.1 * torch.cdist(rows, rows) ** 2), atol=2e-3)


def test_neighbours_depend_on_the_order_and_the_gaussian_does_not() -> None:
    torch.manual_seed(0)
    s, t = torch.randn(6, 4), torch.randn(6, 4)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert float(neighbours_loss(s[order], t[order])) != pytest.approx(float(neighbours_loss(s, t)), rel=1e-3)
    assert float(gaussian_loss(s[order], t[order], 0.4)) == pytest.approx(float(gaussian_loss(s, t, 0.4)), rel=1e-5)


@pytest.mark.parametrize("form", ["neighbours", "gaussian"])
def test_both_embeddings_are_trained_and_kept(distilling: Callable[..., Any], form: str) -> None:
    loop, method, _ = distilling("cc", {"form": form})
    assert [tuple(each.weight.shape) for each in method.modules.values()] == [(128, 64), (128, 256)]
    before = {name: value.detach().clone() for name, value in method.modules.named_parameters()}
    loop.run_epoch(0)
    assert len(before) == 4
    assert all(not torch.equal(value, before[name]) for name, value in method.modules.named_parameters())
    assert set(before) <= set(loop.state_dict()["trained"])


@pytest.mark.parametrize("form", ["neighbours", "gaussian"])
def test_terms_are_weighted(distilling: Callable[..., Any], form: str) -> None:
    _, method, batch = distilling("cc", {"ce_weight": 0.5, "cc_weight": 10.0, "form": form, "gamma": 0.3})
    student = method.modules["embed_student"](batch.student.maps.pooled)
    teacher = method.modules["embed_teacher"](batch.taught.maps.pooled)
    loss = neighbours_loss(student, teacher) if form == "neighbours" else gaussian_loss(student, teacher, 0.3)
    assert {name: value.item() for name, value in method.terms(batch).items()} == pytest.approx(
        {"ce": 0.5 * ce_loss(batch.student_logits, batch.labels).item(), "cc": 10 * loss.item()}, rel=1e-5
    )


def test_defaults_and_presets_are_the_references() -> None:
    expected = {"ce_weight": 1.0, "cc_weight": 0.02, "form": "neighbours", "gamma": 0.4, "embed_dim": 128}
    assert Config().model_dump() == expected
    assert PRESETS == {"gaussian": {"form": "gaussian"}}


def test_a_batch_of_one_is_refused(case_of: Callable[..., Case]) -> None:
    assert faults(Config(), case_of("vgg13", "resnet20")) == []
    assert len(faults(Config(), case_of("vgg13", "vgg8", batch_size=1))) == 1
