"""ZSKT: KL and attention by hand and by loops, one z for a cycle, and the authors' settings."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.errors import ConfigError
from trainers.methods import Output
from trainers.methods.zskt import PRESETS, Config, attention_loss, attention_map, zskt_loss

LN3 = math.log(3)


def maps(seed: int, channels: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, channels, 4, 4, generator=generator), torch.randn(2, 2 * channels, 2, 3, generator=generator)


def test_kl_by_hand() -> None:
    # p = (3/4, 1/4), q = (1/2, 1/2): 3/4 ln 3/2 + 1/4 ln 1/2 = 0.130812; over both entries its half.
    s, t = torch.zeros(1, 2), torch.tensor([[LN3, 0.0]])
    assert float(zskt_loss(s, t, 1.0, "batch")) == pytest.approx(0.130812, abs=1e-6)
    assert float(zskt_loss(s, t, 1.0, "elements")) == pytest.approx(0.065406, abs=1e-6)
    assert float(zskt_loss(s, 2 * t, 2.0, "batch")) == pytest.approx(4 * 0.130812, abs=4e-6)


def test_kl_is_torchs_in_both_reductions() -> None:
    generator = torch.Generator().manual_seed(0)
    s, t = (3 * torch.randn(6, 10, generator=generator) for _ in range(2))
    log_q, p = F.log_softmax(s, dim=1), F.softmax(t, dim=1)
    assert torch.allclose(zskt_loss(s, t, 1.0, "elements"), (p * (p.log() - log_q)).mean())
    assert torch.allclose(zskt_loss(s, t, 1.0, "batch"), F.kl_div(log_q, p, reduction="batchmean"))


def test_attention_by_hand() -> None:
    # Squares (3, 4) over norm 5: (.6, .8); squares (4, 3): (.8, .6). Two differences of .2: mean .04; over two equal stages .08.
    student = torch.tensor([3.0, 4.0]).sqrt().view(1, 1, 1, 2)
    teacher = torch.tensor([4.0, 3.0]).sqrt().view(1, 1, 1, 2)
    assert attention_map(student)[0].tolist() == pytest.approx([0.6, 0.8])
    assert float(attention_loss((student,), (teacher,))) == pytest.approx(0.04)
    assert float(attention_loss((student, student), (teacher, teacher))) == pytest.approx(0.08)


def test_attention_equals_a_naive_loop() -> None:
    student, teacher = maps(0), maps(1, channels=5)
    naive = 0.0
    for s, t in zip(student, teacher, strict=True):
        B, _, H, W = s.shape
        for i in range(B):
            both = []
            for each in (s[i], t[i]):
                flat = [
                    sum(float(each[c, y, x]) ** 2 for c in range(len(each))) / len(each) for y in range(H) for x in range(W)
                ]  # fmt: skip
                norm = math.sqrt(sum(value**2 for value in flat))
                both.append([value / norm for value in flat])
            naive += sum((a - b) ** 2 for a, b in zip(*both, strict=True)) / (B * H * W)
    assert float(attention_loss(student, teacher)) == pytest.approx(naive, rel=1e-5)


def test_attention_knows_no_scale_and_no_order_of_channels() -> None:
    student, teacher = maps(0), maps(1)
    changed = tuple(-3 * each.flip(1) for each in student)
    assert float(attention_loss(changed, teacher)) == pytest.approx(float(attention_loss(student, teacher)), rel=1e-5)
    assert float(attention_loss(changed, student)) == pytest.approx(0, abs=1e-10)


def test_attention_refuses_stages_that_differ() -> None:
    first, second = maps(0)
    with pytest.raises(
        ConfigError, match=r"stages of equal sizes; the student has \[\(4, 4\)\], the teacher \[\(4, 4\), \(2, 3\)\]"
    ):
        attention_loss((first,), (first, second))
    with pytest.raises(ConfigError, match="set attention to 0"):
        attention_loss((first, first), (first, second))


def test_attention_enters_the_students_loss_with_its_weight(build_method: Callable[..., Any]) -> None:
    method = build_method("zskt", {"attention": 250.0})
    assert method.needs_features
    assert not build_method("zskt", {}).needs_features
    images = method.images()
    outputs = [network.features(images) for network in (method.context.student, method.context.frozen)]
    terms, _ = method.student_terms(*(Output(each.logits, each) for each in outputs))
    assert list(terms) == ["kd", "attention"]
    expected = 250 * attention_loss(outputs[0].stages, outputs[1].stages)
    assert len(outputs[0].stages) == 3
    assert float(terms["attention"]) == pytest.approx(float(expected))


def test_one_z_serves_a_whole_cycle(build_method: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    method = build_method("zskt", {"latent": "reused", "generator_steps": 3})
    seen: list[Tensor] = []
    terms = method.generator_terms
    monkeypatch.setattr(method, "generator_terms", lambda images: seen.append(images.detach()) or terms(images))
    method.synthesise()
    assert len(seen) == 3
    assert not torch.equal(seen[0], seen[2])  # the same z through a changed generator
    z = method.latent()
    images = method.images()
    assert torch.equal(images, method.images())
    with torch.no_grad():
        assert torch.equal(images, method.standardised(z))  # made by the generator after its updates
    method.synthesise()
    assert not torch.equal(z, method.latent())
    assert not torch.equal(images, method.images())
    assert not images.requires_grad


def test_defaults_are_the_benchmark() -> None:
    c = Config()
    assert (c.temperature, c.attention, c.reduction, c.latent, c.normalisation) == (1, 0, "batch", "fresh", "running")
    assert (c.generator, c.generator_schedule, c.generator_clip_norm) == ("large", "constant", None)
    assert (c.latent_dim, c.generator_lr, c.generator_beta1, c.generator_beta2) == (256, 1e-3, 0.5, 0.999)
    assert (c.generator_steps, c.student_steps) == (1, 5)


def test_presets() -> None:
    assert set(PRESETS) == {"original", "follow-up-cifar100"}
    assert PRESETS["follow-up-cifar100"] == {"temperature": 2.0}
    c = Config.model_validate(dict(PRESETS["original"]))
    assert (c.temperature, c.attention, c.reduction, c.latent, c.normalisation) == (
        1, 250, "elements", "reused", "batch",
    )  # fmt: skip
    assert (c.generator, c.generator_schedule, c.generator_clip_norm) == ("dafl", "student", 5)
    assert (c.latent_dim, c.generator_lr, c.generator_beta1, c.generator_beta2) == (100, 1e-3, 0.9, 0.999)
    assert (c.generator_steps, c.student_steps) == (1, 10)


def test_original_generator_ends_in_an_affine_norm(build_method: Callable[..., Any]) -> None:
    last = build_method("zskt", dict(PRESETS["original"])).generator.layers[-1]
    assert isinstance(last, torch.nn.BatchNorm2d)
    assert last.affine
