"""DAFL: its generator's loss by hand and by loops, its student's images, and the authors' settings."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from trainers.methods.dafl import PRESETS, Config, dafl_loss

LN3 = math.log(3)


def some(samples: int = 6, classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return 3 * torch.randn(samples, classes, generator=generator), torch.randn(samples, 5, generator=generator)


def test_loss_by_hand() -> None:
    # Each row decides with 3/4: CE = ln 4/3. The mean prediction is (1/2, 1/2): -ln 2. Mean |f| = (1 + 2 + 0 + 3) / 4 = 1.5.
    t, f = torch.tensor([[LN3, 0.0], [0.0, LN3]]), torch.tensor([[1.0, -2.0], [0.0, 3.0]])
    terms = dafl_loss(t, f, Config(one_hot=2.0, balance=3.0, activation=0.1))
    assert list(terms) == ["one_hot", "balance", "activation"]
    assert [float(value) for value in terms.values()] == pytest.approx([2 * math.log(4 / 3), -3 * math.log(2), -0.15])


def test_loss_equals_a_naive_loop() -> None:
    t, f = some()
    rows = [[math.exp(a) / sum(math.exp(b) for b in row) for a in row] for row in t.tolist()]
    mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    naive = sum(-math.log(max(row)) for row in rows) / len(rows)
    naive += 20 * sum(p * math.log(p) for p in mean)
    naive -= 1e-3 * sum(abs(x) for row in f.tolist() for x in row) / f.numel()
    found = torch.stack(list(dafl_loss(t, f, Config()).values())).sum()
    assert float(found) == pytest.approx(naive, rel=1e-5)


def test_loss_knows_no_order_of_images_and_no_offset_of_logits() -> None:
    t, f = some()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    first, second = dafl_loss(t, f, Config()), dafl_loss(t[order] + 7, f[order], Config())
    for key, value in first.items():
        assert float(value) == pytest.approx(float(second[key]), rel=1e-4)


def test_terms_of_weight_0_are_left_out() -> None:
    t, f = some()
    assert dafl_loss(t, f, Config(one_hot=0, balance=0, activation=0)) == {}
    assert list(dafl_loss(t, f, Config(balance=0, activation=0))) == ["one_hot"]


def test_shared_images_are_those_of_the_generators_update(
    build_method: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    method = build_method("dafl", {"images": "shared", "generator_steps": 2})
    seen: list[Tensor] = []
    terms = method.generator_terms
    monkeypatch.setattr(method, "generator_terms", lambda images: seen.append(images) or terms(images))
    for _ in range(2):
        method.synthesise()
        images = method.images()
        assert torch.equal(images, seen[-1])  # of the last update, as they were before it
        assert torch.equal(images, method.images())
        assert not images.requires_grad
    assert len(seen) == 4
    assert not torch.equal(seen[1], seen[3])


def test_generator_takes_no_heed_of_the_student(build_method: Callable[..., Any]) -> None:
    one, two = build_method("dafl", {}), build_method("dafl", {})
    for parameter in two.context.student.parameters():
        parameter.data.mul_(2)
    assert one.synthesise() == two.synthesise()


def test_defaults_are_the_benchmark() -> None:
    c = Config()
    assert (c.one_hot, c.balance, c.activation, c.student_loss, c.temperature) == (1, 20, 1e-3, "kl", 1)
    assert (c.latent_dim, c.generator_lr, c.generator_beta1, c.generator_beta2) == (512, 1e-3, 0.5, 0.999)
    assert (c.generator_steps, c.student_steps, c.generator, c.images, c.generator_init) == (
        1, 5, "large", "fresh", "default",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "latent_dim", "lr", "one_hot", "entropy_log10", "activation"),
    [
        ("original-cifar10", 1000, 0.02, 0.05, 5, 0.01),
        ("original-cifar100", 1000, 0.02, 0.5, 20, 0.1),
        ("original-mnist", 100, 0.2, 1.0, 5, 0.1),
    ],
)
def test_presets_are_the_authors_settings(
    preset: str, latent_dim: int, lr: float, one_hot: float, entropy_log10: float, activation: float
) -> None:
    assert len(PRESETS) == 3
    c = Config.model_validate(dict(PRESETS[preset]))
    assert (c.latent_dim, c.generator_lr, c.one_hot, c.activation) == (latent_dim, lr, one_hot, activation)
    assert c.balance == pytest.approx(0.4343 * entropy_log10, rel=1e-4)
    assert c.balance * math.log(0.3) == pytest.approx(entropy_log10 * math.log10(0.3))
    assert (c.generator, c.images, c.student_steps, c.generator_steps) == ("dafl", "shared", 1, 1)
    assert (c.generator_beta1, c.generator_beta2, c.student_loss, c.temperature) == (0.9, 0.999, "kl", 1)


def test_original_generator_has_tanh_and_an_eps_of_08(build_method: Callable[..., Any]) -> None:
    layers = build_method("dafl", dict(PRESETS["original-cifar10"])).generator.layers
    assert [layer.eps for layer in layers if isinstance(layer, torch.nn.BatchNorm2d)] == [1e-5, 0.8, 0.8, 1e-5]
    assert isinstance(layers[-2], torch.nn.Tanh)
