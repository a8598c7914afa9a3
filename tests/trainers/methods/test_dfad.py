"""DFAD: the L1 game by hand and by loops, its order, and the authors' settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from trainers.methods.dfad import PRESETS, Config, dfad_loss


def test_loss_by_hand() -> None:
    s, t = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]), torch.tensor([[2.0, 0.0, 3.0], [1.0, -2.0, 0.0]])
    assert float(dfad_loss(s, t)) == 1.0  # (1 + 2 + 0 + 1 + 2 + 0) / 6


def test_loss_equals_a_naive_loop_and_torchs_l1() -> None:
    generator = torch.Generator().manual_seed(0)
    s, t = (torch.randn(7, 5, generator=generator) for _ in range(2))
    naive = sum(abs(a - b) for x, y in zip(s.tolist(), t.tolist(), strict=True) for a, b in zip(x, y, strict=True)) / 35
    assert float(dfad_loss(s, t)) == pytest.approx(naive, rel=1e-6)
    assert float(dfad_loss(s, t)) == pytest.approx(float(torch.nn.functional.l1_loss(s, t)), rel=1e-6)


def test_loss_is_a_distance() -> None:
    generator = torch.Generator().manual_seed(0)
    s, t, u = (torch.randn(4, 3, generator=generator) for _ in range(3))
    assert float(dfad_loss(s, s)) == 0
    assert torch.equal(dfad_loss(s, t), dfad_loss(t, s))
    assert dfad_loss(s, u) <= dfad_loss(s, t) + dfad_loss(t, u)
    assert float(dfad_loss(3 * s, 3 * t)) == pytest.approx(3 * float(dfad_loss(s, t)), rel=1e-6)


def test_generator_and_student_play_for_the_same_number(build_method: Callable[..., Any]) -> None:
    method = build_method("dfad", {})
    images = method.images()
    student, teacher = method.context.student(images), method.context.frozen(images)
    terms = method.generator_terms(images)
    assert list(terms) == ["adversarial"]
    assert float(terms["adversarial"]) == -float(dfad_loss(student, teacher))


def test_student_first_leaves_out_the_generators_first_update(build_method: Callable[..., Any]) -> None:
    method = build_method("dfad", {"first": "student", "normalisation": "batch"})
    weight = method.generator.project.weight
    before = weight.detach().clone()
    assert method.synthesise() == {}
    assert torch.equal(weight, before)
    assert method.generator.training  # as it will be for all of the student's images
    assert list(method.synthesise()) == ["adversarial"]
    assert not torch.equal(weight, before)
    method.start_epoch(1)
    assert list(method.synthesise()) == ["adversarial"]  # once in a trial, not in an epoch
    continued = build_method("dfad", {"first": "student", "normalisation": "batch"})
    continued.load_state_dict(method.state_dict())
    assert list(continued.synthesise()) == ["adversarial"]


def test_defaults_are_the_benchmark() -> None:
    c = Config()
    assert (c.first, c.normalisation, c.generator, c.generator_schedule) == (
        "generator", "running", "large", "constant",
    )  # fmt: skip
    assert (c.latent_dim, c.generator_lr, c.generator_beta1, c.generator_beta2) == (256, 1e-3, 0.5, 0.999)
    assert (c.generator_steps, c.student_steps) == (1, 5)


def test_preset_is_the_authors_code() -> None:
    assert set(PRESETS) == {"original"}
    c = Config.model_validate(dict(PRESETS["original"]))
    assert (c.first, c.normalisation, c.generator, c.generator_schedule) == ("student", "batch", "dafl", "student")
    assert (c.latent_dim, c.generator_lr, c.generator_beta1, c.generator_beta2) == (256, 1e-3, 0.9, 0.999)
    assert (c.generator_steps, c.student_steps) == (1, 5)
    assert c.inactive() == {"generator_depth"}
