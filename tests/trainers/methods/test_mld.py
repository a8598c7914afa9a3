"""Multi-level logit distillation: as released, and as it was written to be."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from trainers.methods import Batch, Output, presets
from trainers.methods.ce import ce_loss
from trainers.methods.mld import Config, Method, batch_terms, class_terms, masks, mld_loss

LN3 = math.log(3)


def pairs(samples: int = 6, classes: int = 4) -> list[tuple[Tensor, Tensor]]:
    """Student's and teacher's logits of the weak and of the strong view."""
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(samples, classes, generator=generator), 3 * torch.randn(samples, classes, generator=generator))
        for _ in range(2)
    ]


def test_batch_and_class_terms_by_hand() -> None:
    # Student flat: all products 1/2. Teacher (3/4, 1/4) and (1/4, 3/4): products 0.625 and 0.375, so each of the four
    # squares is 1/64; a row's two over B = 2 (or K = 2) give 1/64.
    s, t = torch.zeros(2, 2), torch.tensor([[LN3, 0.0], [0.0, LN3]])
    for function in (batch_terms, class_terms):
        assert torch.allclose(function(s, t, 1.0), torch.full((2,), 1 / 64))
        assert torch.allclose(function(s, 5 * t, 5.0), torch.full((2,), 1 / 64))  # no T^2


def test_masks_by_hand() -> None:
    # Sureness 0.75, 0.5, 0.9: median 0.75. Sums of the classes 0.75 + 0.5 + 0.1 = 1.35 and 1.65: median 1.5.
    probabilities = torch.tensor([[0.75, 0.25], [0.5, 0.5], [0.1, 0.9]])
    samples, classes = masks(probabilities.log())
    assert samples.tolist() == [1, 1, 0]
    assert classes.tolist() == [1, 0]


def softmax(logits: Tensor, temperature: float) -> np.ndarray:
    exponentials = np.exp(logits.double().numpy() / temperature)
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def naive(weak: tuple[Tensor, Tensor], strong: tuple[Tensor, Tensor], form: str) -> list[float]:
    """Loops over temperatures, samples and classes."""
    p = softmax(weak[1], 1.0)
    m = [float(each <= np.percentile(p.max(axis=1), 50)) for each in p.max(axis=1)]
    n = [float(each <= np.percentile(p.sum(axis=0), 50)) for each in p.sum(axis=0)]
    totals = [0.0, 0.0, 0.0]
    for temperature in (4.0, 3.0, 5.0, 2.0, 6.0):
        for view, (student, teacher) in (("weak", weak), ("strong", strong)):
            q, p = softmax(student, temperature), softmax(teacher, temperature)
            kl = temperature**2 * (p * np.log(p / q)).sum(axis=1)
            rows = ((q @ q.T - p @ p.T) ** 2).sum(axis=1) / len(q)
            columns = ((q.T @ q - p.T @ p) ** 2).sum(axis=1) / q.shape[1]
            if form == "released":
                if view == "weak":
                    totals[0] += kl.mean() * np.mean(m)
                    totals[1] += rows.sum() * np.mean(m)
                    totals[2] += columns.sum() * np.mean(n)
                if (view == "strong") == (temperature in (4, 3, 5)):
                    totals[0] += kl.mean()
            else:
                totals[0] += (kl * m).mean() if view == "weak" else kl.mean()
                totals[1] += (rows * m).sum()
                totals[2] += (columns * n).sum() if view == "weak" else columns.sum()
    return totals


@pytest.mark.parametrize("form", ["released", "masked"])
def test_equals_a_naive_loop(form: str) -> None:
    weak, strong = pairs()
    assert [float(value) for value in mld_loss(weak, strong, form)] == pytest.approx(
        naive(weak, strong, form), rel=1e-4
    )


@pytest.mark.parametrize("form", ["released", "masked"])
def test_zero_for_equal_logits(form: str) -> None:
    (_, weak), (_, strong) = pairs()
    assert [float(value) for value in mld_loss((weak, weak), (strong, strong), form)] == [0, 0, 0]


def test_masked_form_leaves_sure_samples_of_the_weak_view_alone() -> None:
    weak, strong = pairs()
    student = weak[0].clone().requires_grad_()
    mld_loss((student, weak[1]), strong, "masked")[0].backward()
    assert student.grad is not None
    moved = student.grad.abs().sum(dim=1) > 0
    assert torch.equal(moved.float(), masks(weak[1])[0])


def test_terms_are_weighted_over_both_views() -> None:
    weak, strong = pairs()
    s, t = (torch.stack([weak[i], strong[i]], dim=1).flatten(0, 1).requires_grad_() for i in range(2))
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    config = Config(ce_weight=0.2, instance_weight=2.0, batch_weight=3.0, class_weight=4.0)
    terms = Method(config, None).terms(Batch(torch.arange(6), labels, Output(s), Output(t), 2))
    instance, between, category = (float(value) for value in mld_loss(weak, strong, "released"))
    both = float(ce_loss(weak[0], labels) + ce_loss(strong[0], labels))
    expected = {"ce": 0.2 * both, "instance": 2 * instance, "batch": 3 * between, "class": 4 * category}
    assert {name: float(value.detach()) for name, value in terms.items()} == pytest.approx(expected)
    torch.stack(list(terms.values())).sum().backward()
    assert s.grad is not None
    assert t.grad is None


def test_defaults_and_presets_are_the_reference_s() -> None:
    expected = {"form": "released", "ce_weight": 0.1, "instance_weight": 0.9, "batch_weight": 0.9, "class_weight": 0.9}
    assert Config().model_dump() == expected
    assert Config.model_validate(presets("mld")["masked"]).model_dump() == expected | {"form": "masked"}
    assert Method.views == "weak_strong"


@pytest.mark.parametrize("fields", [{"form": "paper"}, {"class_weight": -1}])
def test_out_of_bounds_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate(fields)
