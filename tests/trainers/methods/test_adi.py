"""ADI's formulas: by hand, transcribed naively; what is kept of an inversion; presets as published."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from trainers import models
from trainers.config import Protocol
from trainers.data.digits import INFO
from trainers.methods import Case, Context, faults, freeze, synthesis_images, traits
from trainers.methods._losses import js_divergence
from trainers.methods.adi import PRESETS, Config, Method, adi_loss, adversarial_loss

RECIPE = Protocol(name="p", source="test", epochs=3, batch_size=8, lr=0.1, updates_per_epoch=2)


def method(folder: Path, info: Any = INFO, **fields: Any) -> Method:
    student, teacher = (
        models.build("resnet8", classes=10, channels=1, size=8, seed=0, role=r) for r in ("student", "teacher")
    )
    freeze(student)
    freeze(teacher)
    return Method(
        Config.model_validate(fields),
        Context(
            student,
            teacher,
            info,
            RECIPE,
            seed=0,
            device=torch.device("cpu"),
            labels=torch.zeros(0),
            pool_folder=folder,
        ),
    )


def logits(seed: int) -> Tensor:
    return 3 * torch.randn(5, 4, generator=torch.Generator().manual_seed(seed))


def test_adversarial_by_hand() -> None:
    # P = (.7, .2, .1) and Q = (.1, .3, .6) at T = 3: J = 0.295348; no probability is outside [.01, .99]
    s, t = 3 * torch.tensor([[0.7, 0.2, 0.1]]).log(), 3 * torch.tensor([[0.1, 0.3, 0.6]]).log()
    assert float(adversarial_loss(s, t, "divergence")) == pytest.approx(-0.295348, abs=1e-6)
    assert float(adversarial_loss(s, t, "clamped")) == pytest.approx(1 - 0.295348, abs=1e-6)


def test_adversarial_forms_differ_by_one_and_have_one_gradient() -> None:
    s, t = logits(0), logits(1)
    gradients = []
    for form in ("divergence", "clamped"):
        x = s.clone().requires_grad_()
        adversarial_loss(x, t, form).backward()
        gradients.append(x.grad)
    assert gradients[0] is not None and gradients[1] is not None
    assert torch.allclose(gradients[0], gradients[1])
    assert float(adversarial_loss(s, t, "clamped") - adversarial_loss(s, t, "divergence")) == pytest.approx(1)


def test_flat_predictions_over_100_classes_have_a_gradient_only_in_one_form() -> None:
    s = (0.01 * torch.randn(2, 100, generator=torch.Generator().manual_seed(2))).requires_grad_()
    t = 0.01 * torch.randn(2, 100, generator=torch.Generator().manual_seed(3))
    assert float(js_divergence(s.detach(), t)) < 0
    adversarial_loss(s, t, "clamped").backward()
    assert s.grad is not None and not s.grad.any()
    adversarial_loss(s, t, "divergence").backward()
    assert s.grad.any()


def test_terms_equal_a_naive_transcription() -> None:
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(5, 1, 3, 3, generator=generator)
    seen, labels, s, t, bn = (
        images.roll((1, 0), (2, 3)),
        torch.tensor([0, 1, 1, 2, 3]),
        logits(5),
        logits(6),
        torch.tensor(2.0),
    )
    config = Config(bn=3.0, one_hot=2.0, adversarial=0.5, tv=0.1, l2=0.25)
    found = {name: float(value) for name, value in adi_loss(images, seen, labels, s, t, bn, config).items()}
    ce = (
        sum(math.log(sum(math.exp(float(v)) for v in row)) - float(row[y]) for row, y in zip(t, labels, strict=True))
        / 5
    )
    x = images[:, 0]
    variation = [
        (x[:, :, :-1] - x[:, :, 1:]).abs().mean(), (x[:, :-1] - x[:, 1:]).abs().mean(),
        (x[:, :-1, :-1] - x[:, 1:, 1:]).abs().mean(), (x[:, :-1, 1:] - x[:, 1:, :-1]).abs().mean(),
    ]  # fmt: skip
    assert found == pytest.approx(
        {
            "bn": 6.0,
            "one_hot": 2 * ce,
            "adversarial": -0.5 * float(js_divergence(s, t)),
            "tv": 0.1 * float(sum(variation)),
            "l2": 0.25 * math.sqrt(sum(float(v) ** 2 for v in images.flatten())),
        },
        rel=1e-5,
    )


def test_the_norm_form_of_the_variation_looks_at_the_rolled_batch() -> None:
    images = torch.zeros(1, 1, 2, 2)
    images[0, 0, 1] = 1.0  # rolled down by one, the bright row is on top: the same norms; squared corners differ
    seen = torch.tensor([[[[5.0, 5.0], [5.0, 5.0]]]])
    arguments = (torch.tensor([0]), None, torch.zeros(1, 2), torch.zeros(()))
    rolled = adi_loss(images, seen, *arguments, Config(adversarial=0, tv=1.0, tv_form="l2_norms"))["tv"]
    plain = adi_loss(images, seen, *arguments, Config(adversarial=0, tv=1.0))["tv"]
    assert float(rolled) == 0
    assert float(plain) == 3  # down and both diagonals


def test_terms_of_weight_0_are_left_out() -> None:
    config = Config(bn=0, adversarial=0, tv=0)
    terms = adi_loss(
        torch.zeros(1, 1, 2, 2),
        torch.zeros(1, 1, 2, 2),
        torch.tensor([0]),
        None,
        torch.zeros(1, 2),
        torch.zeros(()),
        config,
    )
    assert {name: float(value) for name, value in terms.items()} == {"one_hot": pytest.approx(math.log(2))}


def test_inversion_lowers_the_loss(tmp_path: Path) -> None:
    adi = method(tmp_path, iterations=30, adversarial=0.0, jitter=0)
    _, last = adi.invert()
    adi.config = adi.config.model_copy(update={"iterations": 1})
    _, first = adi.invert()
    assert sum(float(each.detach()) for each in last.values()) < 0.95 * sum(
        float(each.detach()) for each in first.values()
    )


def test_clipped_images_are_in_the_valid_range_and_others_are_not(tmp_path: Path) -> None:
    clipped, free = (method(tmp_path, iterations=1, keep="last", clip=clip).invert()[0] for clip in (True, False))
    assert clipped.min() == pytest.approx(0, abs=1e-6) and clipped.max() == pytest.approx(1, abs=1e-6)
    assert free.min() < -0.1 and free.max() > 1.1
    assert torch.allclose(clipped, free.clamp(0, 1), atol=1e-6)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_best_is_what_had_the_lowest_loss_and_last_has_one_update_more(tmp_path: Path, keep: str) -> None:
    adi, levels, shown = method(tmp_path, iterations=6, clip=False, keep=keep), [5.0, 3.0, 1.0, 4.0, 2.0, 6.0], []

    def scripted(images: Tensor, seen: Tensor, labels: Tensor) -> dict[str, Tensor]:
        shown.append(images.detach() * INFO.std[0] + INFO.mean[0])
        return {"one_hot": levels[len(shown) - 1] + 1e-6 * images.sum()}

    adi.terms = scripted
    kept, _ = adi.invert()
    if keep == "best":
        assert torch.allclose(kept, shown[2], atol=1e-6)
    else:  # Adam's first steps have the length of the learning rate
        assert torch.allclose(kept, shown[5] - 0.1 * INFO.std[0], atol=1e-3)


def test_jitter_of_the_benchmark_and_of_the_original(tmp_path: Path) -> None:
    coloured = replace(INFO, size=32, flip=True)
    rolls, flips = zip(*method(tmp_path, coloured, iterations=400).jitters(), strict=True)
    assert {each for roll in rolls for each in roll} == set(range(-4, 5))
    assert 150 < sum(flips) < 250
    rolls, flips = zip(*method(tmp_path, coloured, iterations=400, jitter=2).jitters(), strict=True)
    assert {each for roll in rolls for each in roll} == set(range(-2, 3))
    assert not any(flips)
    assert not any(flip for _, flip in method(tmp_path, iterations=50).jitters())  # a mirrored digit is no digit


def test_balanced_labels_take_each_class_in_turn(tmp_path: Path) -> None:
    assert method(tmp_path, labels="balanced", synthesis_batch=12).labels().tolist() == [*range(10), 0, 1]


def test_images_are_of_the_drawn_classes(tmp_path: Path) -> None:
    adi = method(tmp_path, bn=0.0, adversarial=0.0, tv=0.0, iterations=60, jitter=0, keep="last")
    with torch.no_grad():
        adi.context.frozen.classifier.weight *= 50  # an untrained teacher is never sure
    images, _ = adi.invert()
    decisions = adi.context.frozen((images - INFO.mean[0]) / INFO.std[0]).argmax(dim=1)
    assert (decisions == adi.labels()).float().mean() > 0.8


def test_defaults_are_the_benchmark() -> None:
    c = Config()
    assert (c.bn, c.one_hot, c.adversarial, c.adversarial_form, c.tv, c.tv_form, c.l2) == (
        10,
        1,
        1,
        "divergence",
        1e-3,
        "l1_mean",
        0,
    )
    assert (c.iterations, c.image_lr, c.image_beta1, c.image_beta2, c.temperature) == (1000, 0.1, 0.5, 0.99, 20)
    assert (c.jitter, c.clip, c.keep, c.labels, c.synthesis_batch) == (None, True, "best", "uniform", None)
    assert traits("adi") == {"Target": "Adversarial", "Student": "Yes", "Dynamic": "No"}


def test_presets() -> None:
    configs = {name: Config.model_validate(dict(fields)) for name, fields in PRESETS.items()}
    default = Config()
    assert configs["benchmark"] == default.model_copy(update={"keep": "last"})
    assert configs["no-total-variation"] == default.model_copy(update={"tv": 0.0})
    assert configs["no-adversarial"] == default.model_copy(update={"adversarial": 0.0})
    weights = {
        name: (c.bn, c.image_lr, c.tv, c.adversarial) for name, c in configs.items() if "o" in name and c.clip is False
    }
    assert weights == {
        "deepinversion-cifar10": (10, 0.05, 2.5e-5, 0),
        "deepinversion-cifar10-better": (10, 0.1, 1e-3, 0),
        "deepinversion-cifar10-code": (100, 0.1, 2.5e-5, 0),
        "original-adaptive": (10, 0.05, 2.5e-5, 0.2),
    }
    for name in weights:
        c = configs[name]
        assert (c.iterations, c.image_beta1, c.image_beta2, c.jitter, c.labels) == (2000, 0.9, 0.999, 2, "balanced")
        assert (c.tv_form, c.adversarial_form, c.one_hot, c.l2) == ("l2_norms", "clamped", 1, 0)


def test_faults_and_bounds() -> None:
    config = Config()
    assert faults("adi", config, Case(RECIPE, INFO, "resnet8", "resnet8")) == []
    assert synthesis_images("adi", config, RECIPE) == 8000
    with pytest.raises(ValidationError, match="one of bn, one_hot, adversarial, tv and l2 must be above 0"):
        Config(bn=0, one_hot=0, adversarial=0, tv=0)
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        Config(jitter=-1)
