"""Contrastive representation distillation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from trainers import seeding
from trainers.errors import ConfigError
from trainers.methods.ce import ce_loss
from trainers.methods.crd import PRESETS, Bank, Config, bank_scores, crd_loss, draw
from trainers.methods.kd import kd_loss

SMALL = {"negatives": 8, "dims": 8}


@pytest.mark.parametrize(("negatives", "images"), [(4, 10), (16384, 50000)])
def test_value_by_hand(negatives: int, images: int) -> None:
    # all P = 1 / n: the positive gives ln(1 / (1 + K)), each negative ln(K / (1 + K)); e shifts them a little
    same = torch.full((3, negatives + 1), 1 / images)
    expected = -(math.log(1 / (1 + negatives)) + negatives * math.log(negatives / (1 + negatives)))
    slack = 1e-7 * images * (1 + negatives / (1 + negatives))
    assert float(crd_loss(same, images)) == pytest.approx(expected, abs=slack + 1e-5 * negatives**0.5)


def test_equals_a_naive_loop() -> None:
    torch.manual_seed(0)
    probabilities = torch.rand(3, 5)
    naive, m = 0.0, 4 / 20
    for row in probabilities.tolist():
        naive -= math.log(row[0] / (row[0] + m + 1e-7)) / 3
        naive -= sum(math.log(m / (p + m + 1e-7)) for p in row[1:]) / 3
    assert float(crd_loss(probabilities, 20)) == pytest.approx(naive, rel=1e-5)


def test_loss_falls_when_positives_rise_and_negatives_fall() -> None:
    base = torch.full((1, 3), 0.1)
    more, less = base.clone(), base.clone()
    more[0, 0], less[0, 1] = 0.2, 0.05
    assert float(crd_loss(more, 20)) < float(crd_loss(base, 20)) > float(crd_loss(less, 20))


def test_scores_are_those_of_gathered_rows(largest: Callable[..., int]) -> None:
    torch.manual_seed(0)
    vectors, bank = torch.randn(4, 16, requires_grad=True), torch.randn(50, 16)
    rows = torch.randint(0, 50, (4, 30))
    gathered = torch.einsum("bd,bkd->bk", vectors, bank[rows]) / 0.07
    assert torch.allclose(bank_scores(vectors, bank, rows, 0.07), gathered, atol=1e-4)
    assert largest(lambda: bank_scores(vectors, bank, rows, 0.07).sum()) <= 50 * 16  # gathered: 4 * 30 * 16


def test_negatives_are_different_images_of_other_classes() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3])
    rows = torch.tensor([1, 4, 9, 5])
    for mode in ("exact", "relax"):
        stream = seeding.stream(0, "test")
        drawn = torch.stack([draw(rows, labels, 5, mode, stream) for _ in range(2000)])
        positive, others = drawn[:, :, 0], drawn[:, :, 1:]
        assert (labels[others] != labels[rows][None, :, None]).all()
        assert all(len(set(each.tolist())) == 5 for each in others[:50].flatten(0, 1))
        assert (labels[positive] == labels[rows]).all()
        assert (positive == rows).all() == (mode == "exact")
        share = torch.stack([(others[:, 0] == image).any(dim=1).float().mean() for image in range(3, 10)])
        assert torch.allclose(share, torch.full((7,), 5 / 7), atol=0.05)  # image 0 has seven of other classes
        if mode == "relax":
            counts = torch.bincount(positive[:, 0], minlength=10)[:3] / 2000
            assert torch.allclose(counts, torch.full((3,), 1 / 3), atol=0.05)


def test_images_of_a_batch_have_negatives_of_their_own() -> None:
    labels = torch.arange(40) % 4
    drawn = draw(torch.tensor([0, 4]), labels, 10, "exact", seeding.stream(0, "test"))  # both of class 0
    assert set(drawn[0, 1:].tolist()) != set(drawn[1, 1:].tolist())


def test_constant_is_that_of_the_first_batch() -> None:
    bank = Bank(10, 4, seeding.stream(0, "test"))
    bound = 1 / math.sqrt(4 / 3)
    assert float(bank.student.abs().max()) <= bound < 1.2 * float(bank.student.abs().max())
    assert not torch.equal(bank.student, bank.teacher)
    scores = torch.stack([torch.zeros(2, 3), torch.full((2, 3), math.log(2))])
    divided = bank.divide(scores)
    assert bank.scale.tolist() == pytest.approx([10.0, 20.0])  # n * mean exp, one for each direction
    assert torch.allclose(divided, torch.full((2, 2, 3), 0.1))
    assert torch.allclose(bank.divide(scores + 1)[0], torch.full((2, 3), math.e / 10))
    assert bank.scale.tolist() == pytest.approx([10.0, 20.0])


def test_rows_move_towards_the_batch_and_stay_of_length_one() -> None:
    bank = Bank(5, 2, seeding.stream(0, "test"))
    before = bank.student.clone()
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    bank.renew(torch.tensor([3, 0]), vectors, -vectors, 0.5)
    for row, vector in ((3, vectors[0]), (0, vectors[1])):
        mixed = 0.5 * before[row] + 0.5 * vector
        assert torch.allclose(bank.student[row], mixed / mixed.norm())
    assert torch.equal(bank.student[[1, 2, 4]], before[[1, 2, 4]])
    assert not torch.equal(bank.student[3], bank.teacher[3])


def naive_contrast(student: np.ndarray, teacher: np.ndarray, bank: Any, drawn: list[list[int]], n: int) -> float:
    """Both directions of a first batch, row by row."""
    total = 0.0
    for vectors, other in ((student, bank.teacher.numpy()), (teacher, bank.student.numpy())):
        raised = [
            [math.exp(float(v @ other[row]) / 0.07) for row in rows] for v, rows in zip(vectors, drawn, strict=True)
        ]
        scale = float(np.mean(raised)) * n
        m = 8 / n
        for row in raised:
            p = [value / scale for value in row]
            total -= math.log(p[0] / (p[0] + m + 1e-7)) / len(raised)
            total -= sum(math.log(m / (each + m + 1e-7)) for each in p[1:]) / len(raised)
    return total


def test_terms_are_weighted(distilling: Callable[..., Any]) -> None:
    fields = {**SMALL, "ce_weight": 0.5, "crd_weight": 2.0, "kd_weight": 0.3, "kd_temperature": 2.0}
    _, method, batch = distilling("crd", fields)
    bank = Bank(32, 8, seeding.stream(0, "bank", "crd"))
    own, taught = (
        torch.nn.functional.normalize(head(maps.pooled), dim=1).detach().numpy()
        for head, maps in zip(method.heads, (batch.student.maps, batch.taught.maps), strict=True)
    )
    method.start_epoch(2)
    stream = seeding.stream(0, "negatives", 2)
    drawn = draw(batch.rows, method.context.labels, 8, "exact", stream).tolist()
    expected = {
        "ce": 0.5 * float(ce_loss(batch.student_logits, batch.labels)),
        "kd": 0.3 * float(kd_loss(batch.student_logits, batch.teacher_logits, 2.0)),
        "crd": 2 * naive_contrast(own, taught, bank, drawn, 32),
    }
    assert {name: float(value) for name, value in method.terms(batch).items()} == pytest.approx(expected, rel=1e-4)
    moved = (method.bank.student != bank.student).any(dim=1)
    assert moved[:16].all() and not moved[16:].any()  # the rows of the batch


def test_both_heads_are_trained_and_banks_are_kept(distilling: Callable[..., Any]) -> None:
    loop, method, _ = distilling("crd", SMALL)
    before = {name: value.detach().clone() for name, value in method.modules.state_dict().items()}
    loop.run_epoch(0)
    assert {"bank.student", "bank.teacher", "bank.scale", "heads.0.weight", "heads.1.weight"} <= set(before)
    assert all(not torch.equal(value, before[name]) for name, value in method.modules.state_dict().items())
    assert {f"bank.{name}" for name in ("student", "teacher", "scale")} <= set(loop.state_dict()["trained"])


def test_too_many_negatives_are_refused(distilling: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"negatives 16384 .*of the 32 training images.*set it to \d+ or fewer"):
        distilling("crd", {})


def test_defaults_and_presets_are_the_references() -> None:
    assert Config().model_dump() == {
        "ce_weight": 1.0,
        "crd_weight": 0.8,
        "dims": 128,
        "negatives": 16384,
        "temperature": 0.07,
        "mode": "exact",
        "bank_momentum": 0.5,
        "kd_weight": 0.0,
        "kd_temperature": 4.0,
    }
    assert PRESETS == {"crd-kd": {"kd_weight": 1.0}}
