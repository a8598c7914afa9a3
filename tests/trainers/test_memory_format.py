"""Networks whose maps lie in memory as convolutions like them: another order of sums, the same training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainers import attempts, checkpoint, models, train
from trainers.attempts import read_status
from trainers.config import Execution, Trial
from trainers.data import Info
from trainers.methods import Context, freeze, module
from trainers.protocols import PROTOCOLS
from trainers.run import run_trial
from trainers.train import trial_folder

LAST = Execution(memory_format="channels_last")


@pytest.fixture(autouse=True)
def _small_counts_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "LARGE_PIXELS", 1)  # tiny trials are on digits


def losses(trial: Trial, root: Path) -> list[float]:
    return [row["train/loss"] for row in attempts.rows(read_status(root, trial.digest()))]


def weights(trial: Trial, root: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(trial_folder(root, trial.digest()) / "weights.pt")["state"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", ["kd", "cudfkd"])
def test_the_format_changes_no_result_beyond_rounding(name: str, tiny: Any, new_root: Callable[[], Path]) -> None:
    trial = getattr(tiny, name)(epochs=1)
    usual, last = new_root(), new_root()
    list(run_trial(trial, usual, usual))
    list(run_trial(trial, last, last, execution=LAST))
    assert losses(trial, usual) == pytest.approx(losses(trial, last), rel=1e-3)
    for ours, theirs in zip(weights(trial, usual).values(), weights(trial, last).values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", ["kd", "cudfkd"])
def test_a_broken_trial_keeps_its_format_and_its_bits(name: str, tiny: Any, new_root: Callable[[], Path]) -> None:
    trial = getattr(tiny, name)(epochs=2)
    whole, broken = new_root(), new_root()
    list(run_trial(trial, whole, whole, execution=LAST))
    begun = run_trial(trial, broken, broken, execution=LAST)
    next(begun)
    begun.close()
    list(run_trial(trial, broken, broken, execution=Execution()))  # what a later launch asks for does not count
    recorded = json.loads((trial_folder(broken, trial.digest()) / "trial.json").read_text())["execution"]
    assert recorded["memory_format"] == "channels_last"
    for ours, theirs in zip(weights(trial, whole).values(), weights(trial, broken).values(), strict=True):
        assert torch.equal(ours, theirs)


def test_small_images_have_the_bits_of_contiguous_ones(
    tiny: Any, new_root: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, large, small, usual = tiny.kd(epochs=1), new_root(), new_root(), new_root()
    list(run_trial(trial, large, large, execution=LAST))
    list(run_trial(trial, usual, usual))
    monkeypatch.setattr(train, "LARGE_PIXELS", 16)
    list(run_trial(trial, small, small, execution=LAST))

    def equal(one: Path, other: Path) -> bool:
        pairs = zip(weights(trial, one).values(), weights(trial, other).values(), strict=True)
        return all(torch.equal(*pair) for pair in pairs)

    assert equal(small, usual)
    assert not equal(large, usual)


def test_maps_follow_the_weights_through_every_layer(tiny: Any) -> None:
    network = models.build("resnet8", classes=10, channels=3, size=8, seed=0, role="student")
    network.to(memory_format=train.MEMORY_FORMATS["channels_last"])
    with torch.no_grad():
        maps = network.features(torch.randn(2, 3, 8, 8)).stages
    assert all(each.is_contiguous(memory_format=torch.channels_last) for each in maps)


@pytest.mark.parametrize("name", ["contiguous", "channels_last"])
def test_a_generator_takes_the_format_of_its_student(name: str, tmp_path: Path) -> None:
    networks = [models.build("resnet8", classes=10, channels=3, size=8, seed=0) for _ in range(2)]
    for network in networks:
        network.to(memory_format=train.MEMORY_FORMATS[name])
    freeze(networks[1])
    file, labels = module("cudfkd"), torch.zeros(0, dtype=torch.int64)
    info = Info(10, 3, 8, (0.5,) * 3, (0.5,) * 3, crop_padding=0, flip=False)
    context = Context(*networks, info, PROTOCOLS["cudfkd-cifar100"], 0, torch.device("cpu"), labels, tmp_path)
    method = file.Method(file.Config(), context)
    images = method.images()
    assert context.memory_format is train.MEMORY_FORMATS[name]
    convolution = method.generator.layers[2]
    assert convolution.weight.is_contiguous(memory_format=train.MEMORY_FORMATS[name])
    assert images.is_contiguous(memory_format=train.MEMORY_FORMATS[name])


def test_trials_of_older_versions_keep_the_order_they_were_begun_with() -> None:
    assert Execution.model_validate({"threads": 2}).memory_format == "contiguous"
    assert Execution.of_new(2) == Execution(threads=2, memory_format="channels_last")
