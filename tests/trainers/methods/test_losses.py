"""Shared terms: each by hand, by a naive loop over samples and classes, and one property."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from trainers.methods._losses import (
    activation_loss,
    agreement_mask,
    class_balance,
    distillation_loss,
    js_divergence,
    kl_per_sample,
    l1_per_sample,
    one_hot_loss,
)

LN3 = math.log(3)


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    exponentials = [math.exp(value / temperature) for value in row]
    return [each / sum(exponentials) for each in exponentials]


def pair(samples: int = 5, classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(samples, classes, generator=generator), 3 * torch.randn(samples, classes, generator=generator)


def test_kl_by_hand() -> None:
    # p = (3/4, 1/4), q = (1/2, 1/2): 3/4 ln 3/2 + 1/4 ln 1/2 = 0.130812; at T = 2 the same p from doubled logits, times 4.
    s, t = torch.zeros(1, 2), torch.tensor([[LN3, 0.0]])
    assert float(kl_per_sample(s, t, 1.0)) == pytest.approx(0.130812, abs=1e-6)
    assert float(kl_per_sample(s, 2 * t, 2.0)) == pytest.approx(4 * 0.130812, abs=4e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0, 20.0])
def test_kl_equals_a_naive_loop(temperature: float) -> None:
    s, t = pair()
    for i, value in enumerate(kl_per_sample(s, t, temperature)):
        p, q = softmax(t[i].tolist(), temperature), softmax(s[i].tolist(), temperature)
        naive = temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        assert float(value) == pytest.approx(
            naive, rel=1e-3
        )  # float32 loses digits at T = 20, where p and q are almost equal


def test_kl_at_high_temperature_is_half_the_variance_of_the_difference() -> None:
    s, t = pair()
    expected = (t - s).var(dim=1, unbiased=False) / 2
    assert torch.allclose(kl_per_sample(s, t, 60.0), expected, rtol=0.1)


def test_kl_of_logits_far_apart_is_finite() -> None:
    values = kl_per_sample(torch.tensor([[1e4, -1e4]]), torch.tensor([[-1e4, 1e4]]), 1.0)
    assert float(values) == pytest.approx(2e4)


def test_l1_by_hand_and_by_loop() -> None:
    assert (
        float(l1_per_sample(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[2.0, 0.0, 3.0]]))) == 1
    )  # (1 + 2 + 0) / 3
    s, t = pair()
    for i, value in enumerate(l1_per_sample(s, t)):
        assert float(value) == pytest.approx(sum(abs(float(s[i, j] - t[i, j])) for j in range(4)) / 4, rel=1e-6)


def test_one_hot_by_hand_and_by_loop() -> None:
    assert float(one_hot_loss(torch.tensor([[LN3, 0.0], [0.0, LN3]]))) == pytest.approx(-math.log(0.75))
    _, t = pair()
    naive = sum(-math.log(max(softmax(row))) for row in t.tolist()) / len(t)
    assert float(one_hot_loss(t)) == pytest.approx(naive, rel=1e-5)


def test_class_balance_by_hand_and_by_loop() -> None:
    assert float(class_balance(torch.tensor([[LN3, 0.0], [0.0, LN3]]))) == pytest.approx(
        -math.log(2)
    )  # mean (1/2, 1/2)
    assert float(class_balance(torch.tensor([[LN3, 0.0]] * 2))) == pytest.approx(
        0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    )
    _, t = pair()
    rows = [softmax(row, 5.0) for row in t.tolist()]
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    assert float(class_balance(t, 5.0)) == pytest.approx(sum(p * math.log(p) for p in mean), rel=1e-5)


def test_class_balance_has_its_limits() -> None:
    assert float(class_balance(torch.zeros(3, 10))) == pytest.approx(-math.log(10))
    collapsed = torch.tensor([[1e4, 0.0, 0.0]], requires_grad=True)
    value = class_balance(collapsed)
    value.backward()
    assert float(value.detach()) == pytest.approx(0, abs=1e-6)
    assert collapsed.grad is not None
    assert collapsed.grad.isfinite().all()


def test_activation_by_hand() -> None:
    assert float(activation_loss(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))) == -1.5


def test_mask_marks_equal_decisions_without_gradient() -> None:
    s = torch.tensor([[2.0, 1.0], [2.0, 1.0]], requires_grad=True)
    mask = agreement_mask(s, torch.tensor([[5.0, 0.0], [0.0, 5.0]]))
    assert mask.tolist() == [1, 0]
    assert not mask.requires_grad


def test_js_check_value() -> None:
    s, t = torch.tensor([[0.7, 0.2, 0.1]]).log(), torch.tensor([[0.1, 0.3, 0.6]]).log()
    assert float(js_divergence(s, t, temperature=1.0, clamp=0.0)) == pytest.approx(0.295348, abs=1e-6)
    assert float(js_divergence(3 * s, 3 * t, clamp=0.0)) == pytest.approx(
        0.295348, abs=1e-6
    )  # its own temperature is 3


def test_js_equals_a_naive_loop_with_the_clamp() -> None:
    s, t = pair()
    s, t = 6 * s, 6 * t
    total = 0.0
    for i in range(len(s)):
        p, q = softmax(s[i].tolist(), 3.0), softmax(t[i].tolist(), 3.0)
        m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        p, q, m = ([min(max(x, 0.01), 0.99) for x in v] for v in (p, q, m))
        total += sum(0.5 * c * (math.log(c / a) + math.log(c / b)) for a, b, c in zip(p, q, m, strict=True))
    assert float(js_divergence(s, t)) == pytest.approx(total / len(s), rel=1e-4)


def test_js_of_equal_logits_is_zero() -> None:
    s, _ = pair()
    assert float(js_divergence(s, s)) == 0


def test_distillation_is_the_mean_over_the_batch() -> None:
    s, t = pair()
    for temperature in (1.0, 4.0):
        naive = sum(kl_per_sample(s, t, temperature).tolist()) / len(s)
        assert float(distillation_loss(s, t, "kl", temperature)) == pytest.approx(naive, rel=1e-6)
    assert float(distillation_loss(s, t, "l1", 4.0)) == pytest.approx(float((s - t).abs().mean()), rel=1e-6)
