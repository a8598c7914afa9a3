"""CMI's formulas: by hand, transcribed naively; what an inversion keeps and forgets; presets as published."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from trainers import models
from trainers.config import Protocol
from trainers.data import Info
from trainers.data.digits import INFO
from trainers.methods import Case, Context, faults, freeze, synthesis_images, traits
from trainers.methods.cmi import PRESETS, Config, Head, Method, adversarial_loss, contrastive_loss

RECIPE = Protocol(name="p", source="test", epochs=6, batch_size=8, lr=0.1, updates_per_epoch=2)
CIFAR = Info(classes=10, channels=3, size=32, mean=(0.5,) * 3, std=(0.25,) * 3, crop_padding=4, flip=True)
SMALL = {"latent_dim": 8, "generator_width": 4, "iterations": 4, "bank_images": 16, "negatives": 6, "head_dim": 8}


def method(folder: Path, **fields: Any) -> Method:
    student, teacher = (
        models.build("resnet8", classes=10, channels=1, size=8, seed=0, role=r) for r in ("student", "teacher")
    )
    freeze(student)
    freeze(teacher)
    return Method(
        Config.model_validate({**SMALL, **fields}),
        Context(
            student,
            teacher,
            INFO,
            RECIPE,
            seed=0,
            device=torch.device("cpu"),
            labels=torch.zeros(0),
            pool_folder=folder,
        ),
    )


def unit(rows: int, seed: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_contrastive_by_hand() -> None:
    # Orthogonal pairs that match: every row has cosine 1 with its own and 0 with the other, at T = 1/2: -ln(e^2 / (e^2 + 1))
    eye = torch.eye(2)
    row = math.log(1 + math.exp(-2))
    assert float(contrastive_loss(eye, eye, 2, 0.5)) == pytest.approx(row)
    assert float(contrastive_loss(eye, eye, 1, 0.5)) == pytest.approx(
        2 * row
    )  # a mean over one and a mean over the other
    assert float(contrastive_loss(eye, eye.flip(0), 2, 0.5)) == pytest.approx(row + 2)


def test_contrastive_equals_a_naive_loop() -> None:
    local, whole, current, temperature = unit(7, 0), unit(7, 1), 3, 0.1
    rows = []
    for i in range(7):
        cosines = [
            sum(float(a) * float(b) for a, b in zip(local[i], whole[j], strict=True)) / temperature for j in range(7)
        ]
        rows.append(math.log(sum(math.exp(c) for c in cosines)) - cosines[i])
    assert float(contrastive_loss(local, whole, 3, 0.1)) == pytest.approx(
        sum(rows[:3]) / 3 + sum(rows[3:]) / 4, rel=1e-4
    )
    assert float(contrastive_loss(local, whole, 7, 0.1)) == pytest.approx(sum(rows) / 7, rel=1e-4)
    assert current == 3


def test_contrastive_is_blind_to_rotations_and_to_the_order_of_cached_rows() -> None:
    local, whole = unit(7, 0), unit(7, 1)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(2)))
    expected = float(contrastive_loss(local, whole, 3, 0.1))
    assert float(contrastive_loss(local @ rotation, whole @ rotation, 3, 0.1)) == pytest.approx(expected, rel=1e-4)
    order = torch.tensor([0, 1, 2, 6, 4, 3, 5])
    assert float(contrastive_loss(local[order], whole[order], 3, 0.1)) == pytest.approx(expected, rel=1e-5)


def test_contrastive_gradient_reaches_local_views_alone() -> None:
    local, whole = unit(4, 0).requires_grad_(), unit(4, 1).requires_grad_()
    contrastive_loss(local, whole, 2, 0.1).backward()
    assert local.grad is not None and local.grad.abs().sum() > 0
    assert whole.grad is None


def test_adversarial_by_hand_and_by_loop() -> None:
    # t = (ln 3, 0): p = (3/4, 1/4); s = (ln 9, 0): q = (.9, .1): 3/4 ln(.75/.9) + 1/4 ln(.25/.1) = 0.092332; the other disagrees
    s, t = torch.tensor([[math.log(9), 0.0], [0.0, 1.0]]), torch.tensor([[math.log(3), 0.0], [1.0, 0.0]])
    assert float(adversarial_loss(s, t)) == pytest.approx(-0.092332 / 2, abs=1e-6)
    generator = torch.Generator().manual_seed(3)
    s, t = torch.randn(12, 4, generator=generator), torch.randn(12, 4, generator=generator)
    naive = 0.0
    for a, b in zip(s.double().softmax(1), t.double().softmax(1), strict=True):
        if a.argmax() == b.argmax():
            naive -= sum(float(q) * math.log(float(q) / float(p)) for p, q in zip(a, b, strict=True)) / 12
    assert naive < 0
    assert float(adversarial_loss(s, t)) == pytest.approx(naive, rel=1e-4)


def test_head_is_linear_relu_linear_of_unit_length() -> None:
    head = Head(5, 3)
    features = torch.randn(4, 5)
    first, _, second = head.layers
    raw = torch.relu(features @ first.weight.T + first.bias) @ second.weight.T + second.bias
    assert torch.allclose(head(features), raw / raw.norm(dim=1, keepdim=True), atol=1e-6)
    assert sum(p.numel() for p in head.parameters()) == 5 * 5 + 5 + 5 * 3 + 3


def test_generator_and_latents_start_anew_while_the_head_goes_on(tmp_path: Path) -> None:
    cmi = method(tmp_path)
    assert cmi.contrast is not None
    first = cmi.new_generator()
    assert first.training
    assert float(first.project.weight.detach().std()) == pytest.approx(0.02, rel=0.2)
    assert not first.project.bias.detach().any()
    assert torch.equal(first.project.weight, cmi.new_generator().project.weight)
    cmi.start_epoch(1)
    assert not torch.equal(first.project.weight, cmi.new_generator().project.weight)
    weights = [cmi.contrast.head.layers[0].weight.detach().clone()]
    for epoch in (0, 1):
        cmi.start_epoch(epoch)
        cmi.synthesise()
        weights.append(cmi.contrast.head.layers[0].weight.detach().clone())
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])


def test_the_best_batch_goes_into_pool_and_bank_with_its_features(tmp_path: Path) -> None:
    cmi, made, losses = method(tmp_path, generator_lr=0.5), [], []
    assert cmi.contrast is not None
    loss, terms = cmi.contrast.loss, cmi.terms

    def record(images: Tensor, whole: Tensor, *streams: torch.Generator) -> tuple[Tensor, Tensor]:
        value, local = loss(images, whole, *streams)
        made.append((images.detach().clone(), local.detach().clone(), whole.detach().clone()))
        losses[-1] += 0.8 * float(value)
        return value, local

    def weighted(seen: Tensor, labels: Tensor) -> Any:
        found = terms(seen, labels)
        losses.append(sum(map(float, found[0].values())))
        return found

    cmi.contrast.loss, cmi.terms = record, weighted
    cmi.synthesise()
    images, local, whole = made[losses.index(min(losses))]
    assert torch.allclose(cmi.pool.newest(8), images, atol=0.51 / 255)
    assert cmi.contrast.bank is not None
    found = cmi.contrast.bank.sample(8, torch.Generator(), torch.device("cpu"))
    for kept, expected in zip(found, (local, whole), strict=True):
        assert torch.equal(kept[kept[:, 0].argsort()], expected[expected[:, 0].argsort()])


def test_cached_features_join_the_comparison_from_the_second_epoch_on(tmp_path: Path) -> None:
    cmi = method(tmp_path)
    assert cmi.contrast is not None and cmi.contrast.bank is not None
    for epoch, entries in ((0, 8), (1, 16), (2, 16)):
        cmi.start_epoch(epoch)
        terms = cmi.synthesise()
        assert len(cmi.contrast.bank) == entries
        # Chance level: ln(N) alone, ln(N + N') for current rows and for cached ones after that
        chance = 0.8 * (math.log(8) if epoch == 0 else 2 * math.log(14))
        assert float(terms["contrastive"]) == pytest.approx(chance, rel=0.35)


def test_without_the_contrastive_term_nothing_of_it_exists(tmp_path: Path) -> None:
    cmi = method(tmp_path, contrastive=0.0)
    assert cmi.contrast is None
    assert set(cmi.synthesise()) == {"bn", "one_hot", "adversarial"}
    assert set(cmi.state_dict()) == {"pool"}
    assert not list(tmp_path.glob("bank_*"))
    alone = method(tmp_path / "alone", negatives=0)
    assert alone.contrast is not None and alone.contrast.bank is None
    assert "contrastive" in alone.synthesise()


def test_stages_are_taken_where_a_network_has_four(tmp_path: Path) -> None:
    cmi = method(tmp_path, feature_layers="stages")
    assert cmi.contrast is not None
    assert cmi.contrast.head.layers[0].in_features == 16 + 16 + 32  # inputs of resnet8's three stages


def test_defaults_are_the_scratch_script() -> None:
    c = Config()
    assert (c.bn, c.one_hot, c.adversarial, c.contrastive, c.contrastive_temperature) == (1, 1, 0.5, 0.8, 0.1)
    assert (c.iterations, c.latent_dim, c.generator_width, c.generator_lr) == (200, 256, 64, 1e-3)
    assert (c.generator_beta1, c.generator_beta2, c.head_lr, c.head_dim) == (0.5, 0.999, 1e-3, 256)
    assert (c.bank_images, c.negatives, c.local_scale, c.feature_layers) == (40_960, 4096, 0.25, "auto")
    assert (c.temperature, c.synthesis_batch) == (20, None)
    assert traits("cmi") == {"Target": "Memory", "Student": "No", "Dynamic": "Yes"}


def test_presets() -> None:
    default = Config()
    configs = {name: Config.model_validate(dict(fields)) for name, fields in PRESETS.items()}
    assert configs == {
        "scratch": default.model_copy(update={"synthesis_batch": 256}),
        "cudfkd-fork": default.model_copy(update={"synthesis_batch": 512}),
        "cmi-cifar10": default.model_copy(update={"contrastive_temperature": 0.2}),
        "tiny": default.model_copy(update={"contrastive_temperature": 0.2, "temperature": 2.0}),
        "adversarial": default.model_copy(update={"one_hot": 0.5, "synthesis_batch": 256}),
    }


def test_faults_name_what_does_not_fit() -> None:
    def found(teacher: str = "wrn_40_2", info: Info = CIFAR, batch: int = 256, **fields: Any) -> list[str]:
        return faults(
            "cmi",
            Config.model_validate(fields),
            Case(RECIPE.model_copy(update={"batch_size": batch}), info, "resnet18", teacher),
        )

    assert found() == found("resnet34", batch=1024) == found("vgg11", batch=512) == []
    (fault,) = found(batch=768)
    assert "no multiple of the synthesis batch 768" in fault
    assert (
        found(batch=768, synthesis_batch=512)
        == found(batch=768, negatives=0)
        == found(batch=768, contrastive=0.0)
        == []
    )
    (fault,) = found(bank_images=409_600)
    assert "2 x 2704 features = 8.3 GiB" in fault
    (fault,) = found("vgg11", feature_layers="stages")
    assert "VGG has no stages" in fault
    odd = Info(classes=10, channels=3, size=30, mean=(0.5,) * 3, std=(0.25,) * 3, crop_padding=4, flip=True)
    (fault,) = found("resnet18", info=odd)
    assert fault == "CMI's generator needs an image size divisible by 4, got 30"
    with pytest.raises(ValidationError, match="one of bn, one_hot, adversarial and contrastive must be above 0"):
        Config(bn=0, one_hot=0, adversarial=0, contrastive=0)


def test_cost_counts_both_views() -> None:
    assert synthesis_images("cmi", Config(), RECIPE) == 200 * 8 * 2
    assert synthesis_images("cmi", Config(contrastive=0.0), RECIPE) == 200 * 8
