"""Distillation from softened logits."""

import math

import pytest
import torch
from pydantic import ValidationError

from trainers.methods import Batch, Output
from trainers.methods.ce import ce_loss
from trainers.methods.kd import Config, Method, kd_loss

S = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
T = torch.tensor([[math.log(9), 0.0], [1.0, 2.0]])


def test_value_by_hand() -> None:
    # T = 2 halves the logits: p = (3/4, 1/4), q = (1/2, 1/2), KL = 0.130812; the second sample agrees: 4 * (0.130812 + 0) / 2
    assert float(kd_loss(S, T, 2.0)) == pytest.approx(0.261624, abs=2e-6)


def test_equals_a_naive_loop() -> None:
    torch.manual_seed(0)
    s, t = torch.randn(4, 3), torch.randn(4, 3)
    naive = 0.0
    for i in range(4):
        p, q = (torch.softmax(row[i].double() / 4, 0).tolist() for row in (t, s))
        naive += 16 / 4 * sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
    assert float(kd_loss(s, t, 4.0)) == pytest.approx(naive, rel=1e-4)


def test_loss_is_zero_for_equal_logits() -> None:
    assert float(kd_loss(T, T, 4.0)) == 0


def test_adding_a_constant_to_a_row_changes_nothing() -> None:
    shifted = kd_loss(S + torch.tensor([[3.0], [-5.0]]), T + torch.tensor([[2.0], [9.0]]), 4.0)
    assert float(shifted) == pytest.approx(float(kd_loss(S, T, 4.0)), abs=1e-5)


def test_gradient_goes_to_the_student_alone() -> None:
    s, t = S.clone().requires_grad_(), T.clone().requires_grad_()
    kd_loss(s, t, 4.0).backward()
    assert s.grad is not None
    assert s.grad.abs().sum() > 0
    assert t.grad is None


def test_terms_are_weighted() -> None:
    labels = torch.tensor([0, 1])
    config = Config(temperature=2.0, ce_weight=0.3, kd_weight=0.7)
    terms = Method(config, None).terms(Batch(torch.arange(2), labels, Output(S), Output(T)))
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(
        {"ce": 0.3 * float(ce_loss(S, labels)), "kd": 0.7 * float(kd_loss(S, T, 2.0))}
    )


@pytest.mark.parametrize("fields", [{"temperature": 0}, {"ce_weight": -1}, {"kd_weight": -0.1}, {"tau": 4}])
def test_out_of_bounds_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate(fields)
