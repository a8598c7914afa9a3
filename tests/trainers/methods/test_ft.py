"""Factor transfer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from trainers.methods.ce import ce_loss
from trainers.methods.ft import PRESETS, Config, decoder, encoder, factor, ft_loss


def test_value_by_hand() -> None:
    # mean over one channel of x^2: s (3, 4) / 5, t (1, 0): (|0.6 - 1| + 0.8) / 2
    s, t = torch.tensor([[[[math.sqrt(3), 2.0]]]]), torch.tensor([[[[7.0, 0.0]]]])
    assert float(ft_loss(s, t)) == pytest.approx(0.6)


def test_equals_a_naive_loop() -> None:
    torch.manual_seed(0)
    s, t = torch.randn(3, 4, 4, 4), torch.randn(3, 4, 2, 2)  # the larger one is pooled

    def strengths(rows: list[list[float]]) -> list[float]:
        values = [sum(channel[at] ** 2 for channel in rows) / len(rows) for at in range(4)]
        length = math.sqrt(sum(value**2 for value in values))
        return [value / length for value in values]

    naive = 0.0
    for i in range(3):
        mine = [
            [float(s[i, c, 2 * h : 2 * h + 2, 2 * w : 2 * w + 2].mean()) for h in (0, 1) for w in (0, 1)]
            for c in range(4)
        ]
        other = t[i].flatten(1).tolist()
        naive += sum(abs(a - b) for a, b in zip(strengths(mine), strengths(other), strict=True)) / 12
    assert float(ft_loss(s, t)) == pytest.approx(naive, rel=1e-5)


def test_scale_and_sign_change_nothing() -> None:
    x = torch.randn(2, 3, 4, 4)
    assert float(ft_loss(x, -5 * x)) == pytest.approx(0, abs=1e-6)
    assert torch.allclose(factor(x).norm(dim=1), torch.ones(2))


def test_gradient_goes_to_the_student_alone() -> None:
    s, t = (torch.randn(2, 3, 2, 2, requires_grad=True) for _ in range(2))
    ft_loss(s, t).backward()
    assert s.grad is not None
    assert t.grad is None


def test_layers_are_the_references() -> None:
    plain, normed, mirror = encoder(8, 4, norm=False), encoder(8, 4, norm=True), decoder(8, 4)
    convolutions = [(each.in_channels, each.out_channels) for each in plain if isinstance(each, nn.Conv2d)]
    assert convolutions == [(8, 8), (8, 4), (4, 4)]
    mirrored = [(each.in_channels, each.out_channels) for each in mirror if isinstance(each, nn.ConvTranspose2d)]
    assert mirrored == [(4, 4), (4, 8), (8, 8)]
    assert [type(each) for each in normed] == [nn.Conv2d, nn.BatchNorm2d, nn.LeakyReLU] * 3
    assert not any(isinstance(each, nn.BatchNorm2d) for each in (*plain, *mirror))
    assert isinstance(mirror[-1], nn.LeakyReLU) and mirror[-1].negative_slope == 0.1
    assert mirror(plain(torch.randn(2, 8, 5, 5))).shape == (2, 8, 5, 5)


def test_first_stage_trains_the_paraphraser_alone(distilling: Callable[..., Any]) -> None:
    loop, method, batch = distilling("ft", {"first_stage_epochs": 1})
    before = {name: value.clone() for name, value in loop.trained.state_dict().items()}
    row = loop.run_epoch(0)
    assert row["train/lr"] == 0.01
    moved = {name for name, value in loop.trained.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if name.startswith("paraphraser.")}
    maps = batch.taught.maps.stages[-1]
    again = method.paraphraser["decoder"](method.paraphraser["encoder"](maps))
    (value,) = method.first_stage.terms(batch).values()
    assert float(value) == pytest.approx(float((again - maps).square().mean()), rel=1e-5)


def test_then_student_and_translator_are_trained(distilling: Callable[..., Any]) -> None:
    loop, method, batch = distilling("ft", {"first_stage_epochs": 1, "ce_weight": 0.5, "ft_weight": 30.0})
    loop.run_epoch(0)
    before = {name: value.detach().clone() for name, value in loop.trained.named_parameters()}
    loop.run_epoch(1)
    still = {name for name, value in loop.trained.named_parameters() if torch.equal(value, before[name])}
    still -= {f"translator.{layer}.bias" for layer in (0, 3, 6)}  # next to no gradient, before a BN
    assert still == {name for name in before if name.startswith("paraphraser.")}
    assert all(value.grad is None for value in method.paraphraser.parameters())  # none that would count in a norm
    target = method.paraphraser["encoder"](batch.taught.maps.stages[-1])
    translated = method.translator(batch.student.maps.stages[-1])
    assert {name: float(value) for name, value in method.terms(batch).items()} == pytest.approx(
        {
            "ce": 0.5 * float(ce_loss(batch.student_logits, batch.labels)),
            "ft": 30 * float(ft_loss(translated, target)),
        },
        rel=1e-4,
    )


def test_other_students_have_the_recipes_rate(distilling: Callable[..., Any]) -> None:
    loop, _, _ = distilling("ft", {"first_stage_epochs": 1, **PRESETS["other-students"]})
    assert loop.run_epoch(0)["train/lr"] == 0.05


def test_defaults_are_the_references() -> None:
    assert Config().model_dump() == {
        "ce_weight": 1.0,
        "ft_weight": 200.0,
        "factor_ratio": 0.5,
        "first_stage_epochs": 30,
        "first_stage_lr": 0.01,
    }
