"""The loss of PRE-DFKD's novel generator: by hand, by a naive loop, and its limits."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from trainers.config import Protocol
from trainers.data.digits import INFO
from trainers.methods._novel import NovelConfig, disagreement_loss, novel_faults, novel_loss


def logits(samples: int = 6, classes: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    s, t = (4 * torch.randn(samples, classes, generator=generator) for _ in range(2))
    return s, t, torch.randn(samples, 7, generator=generator)


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    exponentials = [math.exp(value / temperature) for value in row]
    return [each / sum(exponentials) for each in exponentials]


def recipe(batch_size: int) -> Protocol:
    return Protocol(name="p", source="test", epochs=1, batch_size=batch_size, lr=0.1, updates_per_epoch=1)


def test_defaults_are_the_released_command() -> None:
    c = NovelConfig()
    assert (c.one_hot, c.balance, c.activation, c.disagreement, c.js_reduction) == (1, 5, 0.1, 1, "element")
    assert (c.latent_dim, c.generator_width, c.generator_lr) == (1000, 64, 0.02)
    assert (c.generator_steps, c.student_steps, c.replay_share) == (1, 10, 1 / 8)
    assert [c.replayed(size) for size in (1024, 64, 20)] == [128, 8, 2]


def test_terms_by_hand() -> None:
    # Two sure, opposite answers: pbar = (1/2, 1/2), so 5 log10(1/2) = -1.505150; CE 0; mean |f| = 1.5.
    t, f = torch.tensor([[1e3, 0.0], [0.0, 1e3]]), torch.tensor([[1.0, -2.0], [0.0, 3.0]])
    terms = {name: float(value) for name, value in novel_loss(t, t, f, NovelConfig()).items()}
    assert terms == pytest.approx(
        {"one_hot": 0, "balance": -1.505150, "activation": -0.15, "disagreement": 1}, abs=1e-5
    )


def test_loss_equals_a_naive_loop() -> None:
    s, t, f = logits()
    p = [softmax(row) for row in t.tolist()]
    mean = [sum(column) / len(p) for column in zip(*p, strict=True)]
    naive = 1.0 * sum(-math.log(max(row)) for row in p) / 6 + 5.0 * sum(each * math.log10(each) for each in mean)
    naive -= 0.1 * sum(abs(value) for row in f.tolist() for value in row) / (6 * 7)
    divergence = 0.0
    for i in range(6):
        for a, b in zip(softmax(s[i].tolist(), 3.0), softmax(t[i].tolist(), 3.0), strict=True):
            a, m, b = (min(max(each, 0.01), 0.99) for each in (a, (a + b) / 2, b))
            divergence += 0.5 * m * math.log(m / a) + 0.5 * m * math.log(m / b)
    naive += 1 - min(max(divergence / (6 * 4), 0), 1)  # mean over B x K
    found = torch.stack(list(novel_loss(s, t, f, NovelConfig()).values())).sum()
    assert float(found) == pytest.approx(naive, rel=1e-5)


def test_batch_reduction_is_K_times_the_element_one() -> None:
    s, t, _ = logits()
    element, batch = (float(disagreement_loss(s, t, each)) for each in ("element", "batch"))
    assert 0 < batch < element < 1
    assert 1 - batch == pytest.approx(4 * (1 - element), rel=1e-5)


def test_disagreement_draws_images_away_from_the_student_and_gives_the_teacher_no_gradient() -> None:
    s, t, _ = (each.requires_grad_() for each in logits())
    loss = disagreement_loss(s, t, "batch")
    (gradient,) = torch.autograd.grad(loss, s, retain_graph=True)
    assert torch.autograd.grad(loss, t, allow_unused=True) == (None,)
    with torch.no_grad():
        assert disagreement_loss(s - 0.1 * gradient, t, "batch") < loss
    assert float(disagreement_loss(s.detach(), s, "batch")) == 1  # the most that there is


@pytest.mark.parametrize("off", ["one_hot", "balance", "activation"])
def test_weight_of_zero_leaves_its_term_out(off: str) -> None:
    s, t, f = logits()
    fields: dict[str, Any] = {off: 0.0}
    everything = novel_loss(s, t, f, NovelConfig())
    assert set(novel_loss(s, t, f, NovelConfig(**fields))) == set(everything) - {off}
    assert set(novel_loss(None, t, f, NovelConfig())) == set(everything) - {"disagreement"}


def test_faults_name_the_size_and_the_batch() -> None:
    assert novel_faults(NovelConfig(), recipe(16), INFO, least=2) == []
    found = novel_faults(NovelConfig(), recipe(15), replace(INFO, size=10), least=2)
    assert found == [
        "the generator needs an image size of at least 8 that 4 divides, got 10",
        "replay_share 0.125 of batch_size 15 gives 1 replayed images; at least 2 are needed",
    ]
