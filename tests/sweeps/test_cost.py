"""Estimates from operations: networks' own counts, one published log, and how methods differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweeps import cost, resolve, spec
from trainers.config import Trial

NOWHERE = Path("/nowhere")


def trial(experiment: str, **labels: str) -> Trial:
    profile = spec.load_profile("paper")
    loaded = spec.load(experiment, profile)
    cell = next(cell for cell in loaded.cells if all(cell.labels[axis] == label for axis, label in labels.items()))
    return resolve.resolve(loaded, profile, cell, 0, NOWHERE)[0]


def test_forward_operations_of_known_networks() -> None:
    # ResNet18 on 32x32: 0.5556 G multiplications and additions of convolutions and the classifier, each counted as two
    assert cost.forward_flops("resnet18", 100, 3, 32) == pytest.approx(2 * 0.5554e9, rel=1e-3)
    by_hand = 2 * (9 * 3 * 16 * 32**2)  # the stem of resnet8 alone
    assert cost.forward_flops("resnet8", 10, 3, 32) > by_hand
    assert cost.forward_flops("resnet8", 10, 3, 64) == pytest.approx(
        4 * cost.forward_flops("resnet8", 10, 3, 32), rel=0.01
    )


def test_an_epoch_of_the_published_log_takes_as_long_as_it_took() -> None:
    found = trial("cudfkd/fig10", alpha="0.2")
    seconds = cost.gpu_seconds(found, NOWHERE)
    assert seconds is not None
    assert seconds / 300 == pytest.approx(208, rel=0.02)


def test_more_epochs_cost_in_proportion_and_a_measurement_nothing() -> None:
    found = trial("cudfkd/fig10", alpha="0.2")
    longer = found.model_copy(update={"protocol": found.protocol.model_copy(update={"epochs": 600})})
    assert cost.gpu_seconds(longer, NOWHERE) == pytest.approx(2 * (cost.gpu_seconds(found, NOWHERE) or 0))
    measured = trial("cudfkd/fig8", **{"measured against": "clean teacher"})
    assert cost.gpu_seconds(measured, NOWHERE) == 0.0


def test_a_set_of_unknown_size_has_no_estimate(place: Any) -> None:
    plan = place.plan(place.write())
    teacher = next(iter(plan.trials.values()))
    assert cost.gpu_seconds(teacher, NOWHERE) is None  # digits: never trained on a GPU for its cost's sake


def test_generators_count_only_where_there_is_one() -> None:
    config = trial("cudfkd/fig10", alpha="0.2").hparams
    assert cost.generator_flops(object(), 3, 32) == 0.0
    assert config["generator_width"] == 64
