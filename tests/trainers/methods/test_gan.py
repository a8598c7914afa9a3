"""What the methods with one persistent generator share: modes, schedule, limit of the gradient, pictures, continuation."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trainers import artifacts, checkpoint, datafree
from trainers.attempts import read_status
from trainers.attempts import rows as journal_rows
from trainers.config import Trial
from trainers.data._augment import standardise_unit
from trainers.data.digits import INFO
from trainers.methods import config_type, module, presets
from trainers.run import run_trial
from trainers.train import trial_folder

ORIGINALS = [("dafl", "original-cifar10"), ("zskt", "original"), ("dfad", "original")]


def copied(state: dict[str, Any]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items()}


@pytest.mark.parametrize("normalisation", ["running", "batch"])
@pytest.mark.parametrize("name", ["zskt", "dfad"])
def test_modes_during_and_after_the_generators_update(
    name: str, normalisation: str, build_method: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    method = build_method(name, {"normalisation": normalisation})
    student, by_batch = method.context.student, normalisation == "batch"
    seen = []
    terms = method.generator_terms
    monkeypatch.setattr(
        method, "generator_terms", lambda images: seen.append((method.generator.training, student.training)) or terms(images)
    )  # fmt: skip
    before = copied(student.state_dict())
    method.synthesise()
    assert seen == [(True, by_batch)]
    assert (method.generator.training, student.training) == (by_batch, False)
    moved = {key for key, value in student.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == ({key for key, _ in student.named_buffers()} if by_batch else set())  # never a weight
    again = build_method(name, {"normalisation": normalisation})
    again.load_state_dict(method.state_dict())
    assert again.generator.training is by_batch


@pytest.mark.parametrize("name", ["zskt", "dfad"])
def test_generators_learning_rate_keeps_its_ratio_to_the_students(name: str, build_method: Callable[..., Any]) -> None:
    constant, scheduled = (
        build_method(name, {"generator_schedule": schedule, "generator_lr": 2e-3})
        for schedule in ("constant", "student")
    )
    for epoch in range(4):
        for method in (constant, scheduled):
            method.start_epoch(epoch)
        assert constant.optimizer.param_groups[0]["lr"] == 2e-3
        cosine = (1 + math.cos(math.pi * epoch / 4)) / 2
        assert scheduled.optimizer.param_groups[0]["lr"] == pytest.approx(2e-3 * cosine)


def test_gradient_of_the_generator_is_limited(build_method: Callable[..., Any]) -> None:
    def norm(limit: float | None) -> float:
        method = build_method("zskt", {"generator_clip_norm": limit})
        method.synthesise()
        return math.sqrt(sum(float(p.grad.pow(2).sum()) for p in method.generator.parameters()))

    free = norm(None)
    assert norm(2 * free) == pytest.approx(free)
    assert norm(free / 3) == pytest.approx(free / 3, rel=1e-3)


@pytest.mark.parametrize("name", ["zskt", "dfad"])
def test_update_makes_the_same_latents_harder(name: str, build_method: Callable[..., Any]) -> None:
    method = build_method(name, {"generator_lr": 1e-4})
    latent = method.latent()
    method.latent = lambda: latent
    losses = [float(method.synthesise()["adversarial"]) for _ in range(20)]
    assert losses[-1] < losses[0] < 0


@pytest.mark.parametrize(("name", "preset"), ORIGINALS)
def test_pictures_of_standardised_images_are_pixels(
    name: str, preset: str, build_method: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    method = build_method(name, dict(presets(name)[preset]))
    method.synthesise()
    shown: list[Tensor] = []
    monkeypatch.setattr(artifacts, "write_samples", lambda path, images: shown.append(images))
    made: list[Tensor] = []
    frozen = method.context.frozen
    frozen.register_forward_pre_hook(lambda _, inputs: made.append(inputs[0]))
    before = copied(method.state_dict()["generator"])
    method.write_artifacts(tmp_path, 0)
    after = method.state_dict()["generator"]
    assert all(torch.equal(before[key], after[key]) for key in before)  # also in train mode
    assert (tmp_path / "samples_by_class.png").exists()
    pixels = shown[0]
    assert 0 <= pixels.min() < pixels.max() <= 1
    inside = (pixels > 0) & (pixels < 1)
    assert inside.float().mean() > 0.3
    assert torch.allclose(standardise_unit(pixels, INFO)[inside], made[0][inside], atol=1e-5)


def original_trial(tiny: Any, name: str, preset: str) -> Trial:
    fields = {**presets(name)[preset], "latent_dim": 8, "generator_width": 4, "student_steps": 2}
    changes = {
        "method": name,
        "hparams": config_type(name).model_validate(fields).active(),
        "versions": {"method": module(name).VERSION, "loop": datafree.VERSION},
    }
    trial: Trial = tiny.cudfkd(trial=changes, epochs=3, optimizer="adam", lr=2e-3, clip_norm=5.0)
    return trial


@pytest.mark.parametrize(("name", "preset"), ORIGINALS)
def test_originals_broken_after_each_epoch_give_the_same_bits(
    name: str, preset: str, tiny: Any, new_root: Callable[[], Path]
) -> None:
    trial = original_trial(tiny, name, preset)
    whole, broken = new_root(), new_root()
    list(run_trial(trial, whole, whole))
    for number in range(3):
        epochs = run_trial(trial, broken, broken)
        assert next(epochs).number == number
        epochs.close()
    list(run_trial(trial, broken, broken))
    files = [trial_folder(root, trial.digest()) / "weights.pt" for root in (whole, broken)]
    states = [checkpoint.load(file)["state"] for file in files]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    losses = [
        [row["train/loss"] for row in journal_rows(read_status(root, trial.digest()))] for root in (whole, broken)
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 3
