"""Cross-entropy whose samples are weighted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from trainers.methods import module
from trainers.methods._preview import difficulty, preview_weight, threshold
from trainers.methods.ce import ce_loss
from trainers.methods.ce_preview import PRESETS, Config, ce_preview_loss


def test_value_by_hand() -> None:
    # p_y = 1/2 and 1/8, so CE = ln 2 and 3 ln 2; weights 1 and 1/3: (ln 2 + ln 2) / 2
    logits = torch.tensor([[1.0, 1.0], [7.0, 1.0]]).log()
    assert float(ce_preview_loss(logits, torch.tensor([0, 1]), torch.tensor([1.0, 1 / 3]))) == pytest.approx(0.693147)


def test_is_cross_entropy_where_nothing_is_hard() -> None:
    logits = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(8) % 4
    weights = preview_weight(difficulty(logits, labels), 100.0)
    assert float(ce_preview_loss(logits, labels, weights)) == pytest.approx(float(ce_loss(logits, labels)))


def test_weight_gets_no_gradient() -> None:
    logits = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.arange(8) % 4
    weights = preview_weight(difficulty(logits, labels), 1.0)
    (through,) = torch.autograd.grad(ce_preview_loss(logits, labels, weights), logits, retain_graph=True)
    (cut,) = torch.autograd.grad(ce_preview_loss(logits, labels, weights.detach()), logits)
    assert torch.equal(through, cut)


def test_needs_no_teacher_and_logs_its_weights(distilling: Callable[..., Any], tmp_path: Path) -> None:
    assert module("ce_preview").NEEDS_TEACHER is False
    loop, method, batch = distilling("ce_preview", {"eps": 0.01})
    row = loop.run_epoch(1)
    assert row["train/lambda"] == pytest.approx(1.01**2)
    assert 0.2 < row["train/mean_v"] < 1
    loop.write_artifacts(tmp_path / "made", 1)
    assert json.loads((tmp_path / "made" / "difficulty.json").read_text())["n"] == 32
    weights = preview_weight(difficulty(batch.student_logits, batch.labels), threshold(0.01, 1))
    expected = ce_preview_loss(batch.student_logits, batch.labels, weights)
    assert float(method.terms(batch)["ce"].detach()) == pytest.approx(float(expected.detach()))


def test_focal_weights_are_those_of_the_probabilities(distilling: Callable[..., Any]) -> None:
    loop, method, batch = distilling("ce_preview", {"weighting": "focal", "gamma": 3.0})
    row = loop.run_epoch(1)
    assert 0 < row["train/mean_v"] < 1
    assert "train/lambda" not in row
    p = batch.student_logits.softmax(dim=1).gather(1, batch.labels[:, None])[:, 0]
    expected = (-p.log() * (1 - p) ** 3).mean()
    assert float(method.terms(batch)["ce"].detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_defaults_are_the_reference_s_and_bounded() -> None:
    assert Config().model_dump() == {"weighting": "preview", "eps": 0.005, "gamma": 2.0}
    for wrong in ({"eps": -0.1}, {"gamma": 0.0}, {"weighting": "curriculum"}):
        with pytest.raises(ValidationError):
            Config.model_validate(wrong)


def test_weighting_is_told_apart_and_preview_keeps_its_older_digest() -> None:
    assert Config(gamma=3.0).active() == {"eps": 0.005}
    assert Config.model_validate({**PRESETS["focal"], "eps": 0.01}).active() == {"weighting": "focal", "gamma": 2.0}
