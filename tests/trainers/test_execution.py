"""What changes bits but not meaning: memory format, a teacher without BatchNorm layers, fused updates. Each is fixed at the first claim."""

from __future__ import annotations

import itertools
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
NEW = Execution.of_new(1)
WAYS = {
    "channels_last": LAST,
    "folded": Execution(folded_teacher=True),
    "fused": Execution(fused_optimizer=True),
    "new": NEW,
}
DATA_FREE = {"augment": False, "updates_per_epoch": 4}
ONE_UPDATE = {True: {"updates_per_epoch": 1}, False: {"batch_size": 80}}
"""Of data-free trials, and of others, whose images are then all in one batch."""
GENERATOR = {"latent_dim": 8, "generator_width": 4}
TRIALS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ce": ({}, {}),
    "kd": ({}, {}),
    "kd-adam": ({}, {"optimizer": "adam", "lr": 1e-3}),
    "kd-dot": ({}, {"optimizer": "dot"}),
    "crd": ({"negatives": 16}, {}),
    "ofd": ({}, {}),  # looks at the teacher's BatchNorm layers
    "ft": ({}, {}),  # has a first stage
    "cudfkd": ({**GENERATOR, "generator_depth": 1, "student_steps": 2}, DATA_FREE),
    "cmi": ({**GENERATOR, "iterations": 2, "synthesis_batch": 8}, DATA_FREE),
    "predfkd": (GENERATOR, DATA_FREE),
}


@pytest.fixture(autouse=True)
def _small_counts_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "LARGE_PIXELS", 1)  # tiny trials are on digits


def losses(trial: Trial, root: Path) -> list[float]:
    return [row["train/loss"] for row in attempts.rows(read_status(root, trial.digest()))]


def weights(trial: Trial, root: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(trial_folder(root, trial.digest()) / "weights.pt")["state"]  # type: ignore[no-any-return]


def trial_of(tiny: Any, name: str, **changes: Any) -> Trial:
    hparams, recipe = TRIALS[name]
    found = tiny._trial(name.split("-")[0], hparams, recipe | changes, None, with_teacher=name != "ce")
    return found  # type: ignore[no-any-return]


UPDATE, EPOCH = (2e-4, 1e-4, 1e-4), (1e-3, 1e-2, 1e-3)
"""Of losses relative, of weights relative and absolute: later updates make more of a difference that was rounding once."""
LENGTHS = [(name, ONE_UPDATE[TRIALS[name][1] is DATA_FREE], UPDATE) for name in sorted(set(TRIALS) - {"ft"})]
LENGTHS += [(name, {}, EPOCH) for name in ("kd", "cudfkd")]


@pytest.mark.parametrize("execution", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(("name", "recipe", "close"), LENGTHS)
def test_no_way_changes_a_result_beyond_rounding(
    name: str,
    recipe: dict[str, Any],
    close: tuple[float, float, float],
    execution: Execution,
    tiny: Any,
    new_root: Callable[[], Path],
) -> None:
    """After one update, and of some after an epoch."""
    trial = trial_of(tiny, name, epochs=1, **recipe)
    usual, other = new_root(), new_root()
    list(run_trial(trial, usual, usual))
    list(run_trial(trial, other, other, execution=execution))
    assert losses(trial, usual) == pytest.approx(losses(trial, other), rel=close[0])
    for ours, theirs in zip(weights(trial, usual).values(), weights(trial, other).values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=close[1], atol=close[2])


@pytest.mark.parametrize(("begun", "later"), [(NEW, Execution()), (Execution(), NEW)], ids=["new", "old"])
@pytest.mark.parametrize("name", TRIALS)
def test_a_broken_trial_keeps_its_ways_and_its_bits(
    name: str, begun: Execution, later: Execution, tiny: Any, new_root: Callable[[], Path]
) -> None:
    """What a later launch asks for does not count."""
    trial = trial_of(tiny, name, epochs=2)
    whole, broken = new_root(), new_root()
    list(run_trial(trial, whole, whole, execution=begun))
    first = run_trial(trial, broken, broken, execution=begun)
    next(first)
    first.close()
    list(run_trial(trial, broken, broken, execution=later))
    recorded = json.loads((trial_folder(broken, trial.digest()) / "trial.json").read_text())["execution"]
    assert recorded == begun.model_dump()
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
    assert Execution.model_validate({"threads": 2}) == Execution(
        threads=2, memory_format="contiguous", folded_teacher=False, fused_optimizer=False, passes="eager"
    )


def test_methods_look_at_a_teacher_with_all_its_layers(tiny: Any, new_root: Callable[[], Path]) -> None:
    """Only what answers batches is folded: running statistics and margins come from the teacher itself."""
    root, seen = new_root(), []
    real = train.make_loop

    def look(setup: train.Setup) -> train.Loop:
        seen.append((norms(setup.teacher), norms(setup.answering)))
        return real(setup)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "make_loop", look)
        list(run_trial(trial_of(tiny, "ofd", epochs=1), root, root, execution=NEW))
    assert seen == [(9, 0)]


def test_every_optimiser_of_a_new_trial_is_fused(tiny: Any, new_root: Callable[[], Path]) -> None:
    """The student's, a first stage's, a generator's, a head's, a VAE's."""
    root, seen = new_root(), dict[str, list[Any]]()
    real = torch.optim.Optimizer.__init__

    def note(optimizer: Any, *given: Any, **named: Any) -> None:
        real(optimizer, *given, **named)
        seen[name].append(optimizer.param_groups[0].get("fused"))

    for name, execution in itertools.product(sorted(set(TRIALS) - {"kd-dot"}), (NEW, Execution())):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.optim.Optimizer, "__init__", note)
            seen[name] = []
            trial = trial_of(tiny, name, epochs=1).model_copy(update={"seed": 3 + (execution is NEW)})
            list(run_trial(trial, root, root, execution=execution))
        assert set(seen[name]) == ({True} if execution is NEW else {None}), name
        assert len(seen[name]) >= {"ft": 2, "cudfkd": 2, "cmi": 3, "predfkd": 3}.get(name, 1), name


def test_a_probe_is_fused_too(tiny: Any, root: Path) -> None:
    trial, fused = tiny.probe(tiny.teacher(), epochs=1), []
    real = train.make_loop

    def look(setup: train.Setup) -> train.Loop:
        loop: Any = real(setup)
        fused.append(loop.optimizer.param_groups[0]["fused"])
        return loop  # type: ignore[no-any-return]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "make_loop", look)
        list(run_trial(trial, root, root, execution=NEW))
    assert fused == [True]


def norms(network: torch.nn.Module | None) -> int:
    assert network is not None
    return sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in network.modules())
