"""Every method, trained in the ways that new trials are, and in bfloat16: one update is that of the plain way."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.trainers.methods.test_contract import TRAINED, bases, loop_of
from trainers import train
from trainers.config import Execution
from trainers.methods import module

ONE_UPDATE = {"distill": {"batch_size": 32}, "datafree": {"updates_per_epoch": 1}}
"""All images in one batch, or one batch of what was made."""


@pytest.fixture(autouse=True)
def _small_counts_as_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "LARGE_PIXELS", 1)  # so that maps are channels-last here, too


def updated(name: str, **how: Any) -> tuple[dict[str, float], torch.Tensor]:
    """Losses of the first update of the recipe, and how far it moved the student."""
    loop = loop_of(name, bases(name)[0].active(), **how, **ONE_UPDATE[module(name).KIND])
    before = torch.cat([weight.detach().flatten().clone() for weight in loop.student.parameters()])
    row = loop.run_epoch(loop.first_epochs)
    after = torch.cat([weight.detach().flatten() for weight in loop.student.parameters()])
    assert after.dtype == torch.float32
    return {key: value for key, value in row.items() if key.startswith("train/loss")}, after - before


def off(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("name", TRAINED)
def test_a_new_trial_makes_the_update_of_a_plain_one(name: str) -> None:
    losses, moved = updated(name)
    ours, own_move = updated(name, execution=Execution.of_new(1))
    assert ours == pytest.approx(losses, rel=1e-3, abs=1e-6)
    assert off(own_move, moved) < 1e-2


@pytest.mark.parametrize("name", TRAINED)
def test_bfloat16_makes_nearly_the_same_update(name: str) -> None:
    """Of most methods the cosine is above 0.95; a student that decides like its teacher has a gradient of little but rounding."""
    losses, moved = updated(name)
    ours, own_move = updated(name, precision="bf16")
    assert ours["train/loss"] == pytest.approx(losses["train/loss"], rel=0.1, abs=1e-3)
    assert float(torch.cosine_similarity(own_move, moved, dim=0)) > 0.7
