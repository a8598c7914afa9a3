"""Linear probes: the trunk stays as it was, features are computed once, and a continued probe gives the same bits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from trainers import data, models, probe
from trainers.config import DataSpec, Trial, Upstream
from trainers.data import Info
from trainers.errors import ConfigError
from trainers.methods.linear_probe import probe_loss, resized, trunk_features
from trainers.run import run_trial
from trainers.train import Epoch, require_runnable, train, trial_folder

SOURCE = Info(classes=10, channels=1, size=8, mean=(0.25,), std=(0.5,), crop_padding=1, flip=False)


def epochs(trial: Trial, root: Path) -> list[Epoch]:
    return list(run_trial(trial, root, root))


def weights(trial: Trial, root: Path) -> dict[str, torch.Tensor]:
    (file,) = trial_folder(root, trial.digest()).glob("weights.pt")
    found: dict[str, torch.Tensor] = torch.load(file, weights_only=True)["state"]
    return found


def test_images_of_another_size_are_resized_and_others_stay() -> None:
    images = torch.arange(0, 256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(resized(images, 16), images.float() / 255)
    half = resized(images, 8)
    assert half.shape == (1, 1, 8, 8)
    assert half.mean().item() == pytest.approx((images.float() / 255).mean().item(), abs=1e-3)  # a linear ramp
    assert (half.diff(dim=3) > 0).all()


def test_loss_of_equal_logits_is_the_log_of_the_classes() -> None:
    assert probe_loss(torch.zeros(3, 7), torch.tensor([0, 3, 6])).item() == pytest.approx(math.log(7))


def test_features_are_the_trunks_on_images_standardised_with_its_own_constants() -> None:
    trunk = models.build("resnet8", classes=10, channels=1, size=8, seed=0).train()
    split = data.load(DataSpec(name="digits_turned"), Path()).test
    found = trunk_features(trunk, split, SOURCE, SOURCE)
    assert not trunk.training
    with torch.no_grad():
        images = (split.images[:5].float() / 255 - 0.25) / 0.5
        torch.testing.assert_close(found[:5], trunk.features(images).pooled)
    assert found.shape == (len(split), 64)


def test_only_the_linear_layer_is_trained(tiny: Any, root: Path) -> None:
    trial = tiny.probe(tiny.teacher(), epochs=3, lr=0.1)
    rows = [epoch.row for epoch in epochs(trial, root)]
    trained, start = weights(trial, root), weights(tiny.teacher(), root)
    for name, tensor in start.items():
        assert torch.equal(trained[f"trunk.{name}"], tensor)
    fresh = probe.build("resnet8", SOURCE, 10, trial.seed).classifier.weight
    assert not torch.equal(trained["classifier.weight"], fresh)
    assert [row["train/loss"] for row in rows] == sorted((row["train/loss"] for row in rows), reverse=True)
    assert rows[-1]["test/acc1_pct"] > 30  # ten classes; features of a teacher that saw 80 upright digits


def test_accuracy_is_that_of_the_whole_network(tiny: Any, root: Path) -> None:
    trial = tiny.probe(tiny.teacher(), epochs=2, lr=0.1)
    last = epochs(trial, root)[-1].row
    info = data.info(tiny.data, root)
    whole = probe.build("resnet8", info, 10, 0)
    whole.load_state_dict(weights(trial, root))
    split = data.load(trial.data, root).test
    with torch.no_grad():
        images = (resized(split.images, 8) - info.mean[0]) / info.std[0]
        right = whole.eval()(images).argmax(dim=1) == split.labels
    assert last["test/acc1_pct"] == pytest.approx(100 * right.double().mean().item())


def test_a_continued_probe_gives_the_same_bits(tiny: Any, root: Path, tmp_path: Path) -> None:
    trial = tiny.probe(tiny.teacher(), epochs=3)
    whole = list(train(trial, root, tmp_path / "whole", data_root=root))
    for epoch in train(trial, root, tmp_path / "cut", data_root=root):
        if epoch.number == 1:
            break
    rest = list(train(trial, root, tmp_path / "cut", data_root=root))
    assert [epoch.number for epoch in rest] == [2]
    timeless = [
        {k: v for k, v in e.row.items() if k.startswith(("test/", "train/loss"))} for e in (whole[-1], rest[-1])
    ]
    assert timeless[0] == timeless[1]
    one, two = (torch.load(tmp_path / name / "weights.pt", weights_only=True)["state"] for name in ("whole", "cut"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_digest_names_the_subject_and_the_target_but_not_what_a_probe_ignores(tiny: Any) -> None:
    trial = tiny.probe(tiny.teacher())
    assert trial.upstreams() == (tiny.teacher(),)
    assert tiny.probe(tiny.teacher(), updates_per_epoch=7).digest() == trial.digest()
    assert tiny.probe(tiny.teacher(), lr=0.2).digest() != trial.digest()
    assert tiny.probe(tiny.ce(epochs=5)).digest() != trial.digest()
    other = tiny.probe(tiny.teacher(), trial={"data": DataSpec(name="digits_turned")})
    assert other.digest() != trial.digest()


def test_a_probe_needs_a_trained_subject(tiny: Any) -> None:
    alone = tiny.probe(tiny.teacher(), trial={"subject": None})
    with pytest.raises(ConfigError, match="a subject is what an evaluate or probe trial looks at"):
        require_runnable(alone)
    imported = Upstream(weights="x.pt", sha256="0" * 64, network="resnet8")
    with pytest.raises(ConfigError, match="a probe needs a finished trial as its subject"):
        require_runnable(tiny.probe(tiny.teacher(), trial={"subject": imported}))
