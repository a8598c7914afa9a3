"""Decoupled distillation: target class and other classes."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from trainers.methods import Batch, Output, presets
from trainers.methods.ce import ce_loss
from trainers.methods.dkd import Config, Method, dkd_loss, warmup
from trainers.methods.kd import kd_loss

S = torch.tensor([[0.25, 0.25, 0.5]]).log()
T = torch.tensor([[0.5, 0.25, 0.25]]).log()
Y = torch.tensor([0])


def pair(samples: int = 6, classes: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    s, t = (3 * torch.randn(samples, classes, generator=generator) for _ in range(2))
    return s, t, torch.randint(0, classes, (samples,), generator=generator)


def test_value_by_hand() -> None:
    # b_t = (1/2, 1/2), b_s = (1/4, 3/4): 1/2 ln 2 + 1/2 ln 2/3 = 0.143841;
    # others: (1/2, 1/2) against (1/3, 2/3): 1/2 ln 3/2 + 1/2 ln 3/4 = 0.058892
    target, others = dkd_loss(S, T, Y, 1.0)
    assert float(target) == pytest.approx(0.143841, abs=1e-6)
    assert float(others) == pytest.approx(0.058892, abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_equals_a_naive_loop(temperature: float) -> None:
    s, t, y = pair()
    target, others = 0.0, 0.0
    for i in range(len(s)):
        q, p = (torch.softmax(row[i].double() / temperature, 0).tolist() for row in (s, t))
        k = int(y[i])
        target += p[k] * math.log(p[k] / q[k]) + (1 - p[k]) * math.log((1 - p[k]) / (1 - q[k]))
        for j in set(range(5)) - {k}:
            a, b = p[j] / (1 - p[k]), q[j] / (1 - q[k])
            others += a * math.log(a / b)
    found = dkd_loss(s, t, y, temperature)
    factor = temperature**2 / len(s)
    assert [float(value) for value in found] == pytest.approx([factor * target, factor * others], rel=1e-4)


def test_parts_add_up_to_kd() -> None:
    # KL over all classes = TCKD + (1 - p_t,y) NCKD, sample by sample
    s, t, y = pair()
    for i in range(len(s)):
        row = (s[i : i + 1], t[i : i + 1])
        target, others = dkd_loss(*row, y[i : i + 1], 4.0)
        share = 1 - torch.softmax(t[i] / 4, 0)[y[i]]
        assert float(target + share * others) == pytest.approx(float(kd_loss(*row, 4.0)), rel=1e-4, abs=1e-6)


def test_zero_for_equal_logits_and_unchanged_by_a_constant() -> None:
    s, t, y = pair()
    assert [float(value) for value in dkd_loss(t, t, y, 4.0)] == [0, 0]
    one, two = dkd_loss(s, t, y, 4.0), dkd_loss(s + 5, t - 3, y, 4.0)
    assert [float(value) for value in two] == pytest.approx([float(value) for value in one], rel=1e-4)


def test_sure_networks_give_finite_losses_and_gradients() -> None:
    # softmax of both is 1 and 0 in float32: the logarithm of a probability would be -inf
    s = torch.tensor([[400.0, 0.0, -3.0], [-400.0, 0.0, 5.0]], requires_grad=True)
    losses = torch.stack(dkd_loss(s, torch.tensor([[-400.0, 1.0, 0.0], [400.0, 1.0, 0.0]]), torch.tensor([0, 0]), 1.0))
    losses.sum().backward()
    assert losses.isfinite().all()
    assert s.grad is not None
    assert s.grad.isfinite().all()


def test_teacher_gets_no_gradient() -> None:
    s, t, y = pair()
    s.requires_grad_(), t.requires_grad_()
    torch.stack(dkd_loss(s, t, y, 4.0)).sum().backward()
    assert s.grad is not None
    assert t.grad is None


def test_warmup_counts_epochs_from_one() -> None:
    assert [warmup(epoch, 20) for epoch in (0, 9, 19, 200)] == [0.05, 0.5, 1, 1]
    assert warmup(0, 1) == 1


def test_terms_are_weighted_and_warmed_up() -> None:
    s, t, y = pair()
    method = Method(Config(ce_weight=0.5, alpha=2.0, beta=3.0), None)
    target, others = (float(value) for value in dkd_loss(s, t, y, 4.0))
    for epoch, rise in ((0, 0.05), (30, 1.0)):
        method.start_epoch(epoch)
        terms = method.terms(Batch(torch.arange(6), y, Output(s), Output(t)))
        expected = {"ce": 0.5 * float(ce_loss(s, y)), "tckd": rise * 2 * target, "nckd": rise * 3 * others}
        assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected)


def test_defaults_and_presets_are_the_reference_s() -> None:
    expected = {"ce_weight": 1, "alpha": 1, "beta": 8, "temperature": 4, "warmup_epochs": 20}
    assert Config().model_dump() == expected
    imagenet = Config.model_validate(presets("dkd")["imagenet"])
    assert imagenet.model_dump() == expected | {"beta": 0.5, "temperature": 1, "warmup_epochs": 1}


@pytest.mark.parametrize("fields", [{"alpha": -1}, {"beta": -0.1}, {"temperature": 0}, {"warmup_epochs": 0}])
def test_out_of_bounds_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate(fields)
