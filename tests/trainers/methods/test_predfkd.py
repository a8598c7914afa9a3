"""PRE-DFKD's memory: its formulas by hand and by naive loops, and one update against the released procedure written out."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

from trainers import models, seeding
from trainers.config import Protocol
from trainers.data.digits import INFO
from trainers.methods import Case, Context, freeze
from trainers.methods.predfkd import (
    PRESETS,
    Config,
    Method,
    faults,
    first_adam_step,
    latent_loss,
    synthesis_images,
    vae_loss,
)

RECIPE = Protocol(name="p", source="test", epochs=20, batch_size=16, lr=0.1, updates_per_epoch=12)


def method_of(tmp_path: Path, **fields: Any) -> Method:
    student, teacher = (
        models.build("resnet8", classes=10, channels=1, size=8, seed=0, role=role) for role in ("student", "teacher")
    )
    freeze(teacher)
    context = Context(
        student=student,
        teacher=teacher,
        info=INFO,
        protocol=RECIPE,
        seed=0,
        device=torch.device("cpu"),
        labels=torch.zeros(0, dtype=torch.int64),
        pool_folder=tmp_path,
    )
    return Method(Config(latent_dim=8, generator_width=4, **fields), context)


def values(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: each.clone() for name, each in module.state_dict().items()}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, two[name]) for name, value in one.items())


def test_presets_and_defaults_are_the_released_command() -> None:
    assert set(PRESETS) == {"released-cifar100", "batch-js"}
    assert Config.model_validate(dict(PRESETS["released-cifar100"])) == Config()
    assert Config.model_validate(dict(PRESETS["batch-js"])).js_reduction == "batch"
    c = Config()
    assert (c.vae_steps, c.vae_share, c.vae_lr, c.divergence, c.latent_lr) == (4, 0.5, 0.02 / 40, 1e-5, 0.02)
    assert (c.replay_share, c.student_steps, c.decoder_matching, c.js_reduction) == (1 / 8, 10, True, "element")


def test_latent_loss_by_hand() -> None:
    # z = +-1 in one dimension: variance 2, mean 0, so (2 - 1)^2; in the other 0 and 2: variance 2, mean 1, so 1 and 1.
    # Sure, opposite answers: CE 0 and 5 log10(1/2) = -1.505150.
    z, t = torch.tensor([[1.0, 0.0], [-1.0, 2.0]]), torch.tensor([[1e3, 0.0], [0.0, 1e3]])
    assert float(latent_loss(t, z, Config())) == pytest.approx((1 + 1) / 2 + (0 + 1) / 2 - 1.505150, abs=1e-5)


def test_latent_loss_equals_a_naive_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    z, t = torch.randn(6, 3, generator=generator), 2 * torch.randn(6, 4, generator=generator)
    p = torch.softmax(t, 1).tolist()
    mean = [sum(column) / 6 for column in zip(*p, strict=True)]
    naive = 0.3 * sum(-math.log(max(row)) for row in p) / 6 + 2.0 * sum(each * math.log10(each) for each in mean)
    for column in zip(*z.tolist(), strict=True):
        centre = sum(column) / 6
        variance = sum((each - centre) ** 2 for each in column) / 5
        naive += ((variance - 1) ** 2 + centre**2) / 3
    assert float(latent_loss(t, z, Config(one_hot=0.3, balance=2.0))) == pytest.approx(naive, rel=1e-5)


def test_latent_step_is_that_of_a_fresh_adam() -> None:
    z = torch.randn(5, 3, requires_grad=True)
    gradient = torch.randn(5, 3) * torch.tensor([1.0, 1e-6, 0.0])
    stepped = first_adam_step(z, gradient, 0.02)
    optimizer = torch.optim.Adam([z], lr=0.02)
    z.grad = gradient
    optimizer.step()
    assert torch.allclose(stepped, z.detach(), atol=1e-7)
    assert not stepped.requires_grad


def test_vae_loss_by_hand() -> None:
    ones = torch.ones(2, 1, 2, 2)
    t = torch.tensor([[1.0, 2.0], [0.0, 4.0]])
    mean, log_variance = torch.tensor([[1.0], [0.0]]), torch.zeros(2, 1)  # divergence (1/2 + 0) / 2
    found = vae_loss(3 * ones, ones, t, torch.zeros(2, 2), mean, log_variance, 0.1)
    assert float(found) == pytest.approx(2 + (1 + 2 + 0 + 4) / 4 + 0.1 * 0.25)


def test_vae_loss_is_the_divergence_where_nothing_is_lost() -> None:
    images, t, z = torch.randn(4, 1, 8, 8), torch.randn(4, 10), torch.zeros(4, 5)
    assert float(vae_loss(images, images, t, t, z, z, 1.0)) == 0
    assert float(vae_loss(images, images, t, t, z + 2, z, 1.0)) == pytest.approx(5 * 4 / 2)


def test_batches_are_novel_images_and_then_those_of_the_decoder(tmp_path: Path) -> None:
    method = method_of(tmp_path)
    method.start_epoch(3)
    method.synthesise()
    generator, decoder = copy.deepcopy(method.generator), copy.deepcopy(method.decoder).eval()
    before = values(method.decoder)
    images = method.images()
    assert images.shape == (18, 1, 8, 8)
    assert not images.requires_grad
    latents = seeding.stream(0, "latent", 3)
    torch.randn(16, 8, generator=latents)  # the generator's own update
    assert torch.equal(images[:16], generator(torch.randn(16, 8, generator=latents)))

    z = torch.randn(2, 8, generator=seeding.stream(0, "memory", 3)).requires_grad_()
    optimizer = torch.optim.Adam([z], lr=0.02)
    latent_loss(method.context.frozen(decoder(z)), z, method.config).backward()
    optimizer.step()
    assert torch.allclose(images[16:], decoder(z).detach(), atol=1e-5)
    assert same(before, values(method.decoder))  # replaying moves nothing in it
    assert all(each.grad is None for each in method.decoder.parameters())


@pytest.mark.parametrize("matching", [True, False])
@pytest.mark.parametrize("epoch", [0, 3])
def test_vae_update_is_the_released_procedure(tmp_path: Path, matching: bool, epoch: int) -> None:
    method = method_of(tmp_path, decoder_matching=matching)
    method.start_epoch(epoch)
    method.synthesise()
    novel = method.images()[:8]  # B / 2
    encoder, decoder, teacher = (
        copy.deepcopy(method.encoder),
        copy.deepcopy(method.decoder).train(),
        method.context.frozen,
    )
    noise = torch.Generator()
    noise.set_state(method.memory.get_state())
    method.after_student_update()

    optimizers = [torch.optim.Adam(each.parameters(), lr=5e-4) for each in (encoder, decoder)]
    images = novel
    if epoch > 0:  # in a trial's first cycle there is nothing to remember
        z = torch.randn(2, 8, generator=noise).requires_grad_()
        optimizer = torch.optim.Adam([z], lr=0.02)
        latent_loss(teacher(decoder(z)), z, method.config).backward()
        optimizer.step()
        if not matching:
            optimizers[1].zero_grad()
        images = torch.cat([novel, decoder(z).detach()])
    mean, log_variance = encoder(images)
    decoded = decoder(mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=noise))
    loss = F.l1_loss(decoded, images) + F.l1_loss(teacher(decoded), teacher(images))
    loss = loss + 1e-5 * (-0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1)).mean()
    loss.backward()
    for each in optimizers:
        each.step()

    assert method.end_epoch(epoch)["loss_vae"] == pytest.approx(float(loss.detach()), rel=1e-4)
    for mine, other in ((method.encoder, encoder), (method.decoder, decoder)):
        for name, value in mine.state_dict().items():
            assert torch.allclose(value, other.state_dict()[name], atol=2e-5), name


def test_memory_is_learnt_after_the_first_updates_of_a_cycle(tmp_path: Path) -> None:
    method = method_of(tmp_path, vae_steps=2, student_steps=5)
    method.start_epoch(0)
    changed = []
    for _ in range(2):
        method.synthesise()
        for _ in range(5):
            method.images()
            before = values(method.encoder)
            method.after_student_update()
            changed.append(not same(before, values(method.encoder)))
    assert changed == 2 * [True, True, False, False, False]


def test_first_cycle_of_a_trial_alone_learns_without_memory(tmp_path: Path) -> None:
    method = method_of(tmp_path, student_steps=4)
    seen: list[int] = []
    method.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    for epoch in (0, 1):
        method.start_epoch(epoch)
        for _ in range(2):
            method.synthesise()
            for _ in range(4):
                method.images()
                method.after_student_update()
    assert seen == 4 * [8] + 12 * [10]


def test_decoder_comes_to_make_what_it_was_shown(tmp_path: Path) -> None:
    method = method_of(tmp_path, vae_lr=5e-3, student_steps=40, vae_steps=40)
    method.start_epoch(0)
    method.synthesise()
    method.images()
    shown, losses = method.novel, []
    for _ in range(40):
        method.novel = shown
        method.after_student_update()
    losses = [float(each) for each in method.losses]
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_memory_that_never_learns(tmp_path: Path) -> None:
    method = method_of(tmp_path, vae_steps=0)
    assert {"vae_lr", "vae_share", "divergence", "decoder_matching"} <= method.config.inactive()
    before = values(method.encoder)
    method.synthesise()
    method.images()
    method.after_student_update()
    assert same(before, values(method.encoder))
    assert method.end_epoch(0) == {}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vae_steps": 5, "student_steps": 4}, "vae_steps 5 must not exceed student_steps 4"),
        ({"vae_share": 1.5}, "less than or equal to 1"),
        ({"latent_lr": 0}, "greater than 0"),
        ({"js_reduction": "sum"}, "'element' or 'batch'"),
    ],
)
def test_out_of_bounds_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config.model_validate(fields)


def test_faults_name_what_is_too_small() -> None:
    assert faults(Config(), Case(RECIPE, INFO, "resnet8", "resnet8")) == []
    small = RECIPE.model_copy(update={"batch_size": 8})
    assert faults(Config(vae_share=0.2), Case(small, INFO, "resnet8", "resnet8")) == [
        "replay_share 0.125 of batch_size 8 gives 1 replayed images; at least 2 are needed",
        "vae_share 0.2 of batch_size 8 gives fewer than 2 images",
    ]
    assert faults(Config(vae_share=0.2, vae_steps=0, replay_share=1), Case(small, INFO, "resnet8", "resnet8")) == []


def test_synthesis_costs_the_generator_the_replay_and_the_vae() -> None:
    paper = Protocol(name="p", source="test", epochs=400, batch_size=1024, lr=0.1, updates_per_epoch=360)
    # 36 x 1024 novel, 360 x 128 replayed, 144 updates of 512 + 2 x 128
    assert synthesis_images(Config(), paper) == 36_864 + 46_080 + 110_592
    cut = paper.model_copy(update={"updates_per_epoch": 13})  # 2 cycles, 4 + 3 VAE updates
    assert synthesis_images(Config(), cut) == 2 * 1024 + 13 * 128 + 7 * 768
