"""What ADI and CMI share: the lowest loss is kept, the pool grows by a batch an epoch, and the student's loss is plain."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from trainers import models
from trainers.config import Protocol
from trainers.data import Info
from trainers.data.digits import INFO
from trainers.methods import Case, Context, Output, Terms, faults, freeze, module
from trainers.methods._inversion import InversionConfig, InversionMethod, Lowest
from trainers.methods._losses import kl_per_sample

RECIPE = Protocol(name="p", source="test", epochs=3, batch_size=4, lr=0.1, updates_per_epoch=5)
LARGE = Info(classes=200, channels=3, size=64, mean=(0.5,) * 3, std=(0.25,) * 3, crop_padding=4, flip=True)


class Grey(InversionMethod):
    """Makes images of one level an epoch."""

    def invert(self) -> tuple[Tensor, Terms]:
        level = torch.full((), (self.epoch + 1) / 5, requires_grad=True)
        return torch.full((self.synthesis_batch, 1, 8, 8), float(level.detach())), {"level": 2 * level}


def context(folder: Path, info: Info = INFO) -> Context:
    student, teacher = (
        models.build("resnet8", classes=10, channels=1, size=8, seed=0, role=r) for r in ("student", "teacher")
    )
    freeze(teacher)
    return Context(
        student, teacher, info, RECIPE, seed=0, device=torch.device("cpu"), labels=torch.zeros(0), pool_folder=folder
    )


def test_the_lowest_offer_is_kept_as_a_copy() -> None:
    lowest, moving = Lowest(), torch.zeros(2)
    for value, loss in ((1.0, 3.0), (2.0, 1.0), (3.0, 2.0), (4.0, float("nan"))):
        moving.fill_(value)
        lowest.offer(torch.tensor(loss, requires_grad=True), moving, moving * 10)
    assert [each.tolist() for each in lowest.tensors] == [[2, 2], [20, 20]]
    assert not any(each.requires_grad for each in lowest.tensors)


def test_an_epoch_is_one_synthesis_and_the_pool_keeps_every_batch(tmp_path: Path) -> None:
    method = Grey(InversionConfig(synthesis_batch=2), context(tmp_path))
    assert method.student_steps == 5
    seen = []
    for epoch in range(3):
        method.start_epoch(epoch)
        terms = method.synthesise()
        assert {name: (float(value), value.requires_grad) for name, value in terms.items()} == {
            "level": (pytest.approx(0.4 * (epoch + 1)), False)
        }
        assert len(method.pool) == 2 * (epoch + 1)
        pixels = method.images() * INFO.std[0] + INFO.mean[0]
        assert len(pixels) == min(4, 2 * (epoch + 1))
        seen.append({round(float(level), 2) for level in pixels.amax(dim=(1, 2, 3))})
    assert seen[0] == {0.2}
    assert set().union(*seen) <= {0.2, 0.4, 0.6}
    assert len(method.pool.newest(100)) == 6


def test_batch_is_the_protocols_where_none_is_set(tmp_path: Path) -> None:
    assert Grey(InversionConfig(), context(tmp_path)).synthesis_batch == 4


def test_labels_are_drawn_anew_each_epoch_in_rising_order(tmp_path: Path) -> None:
    method = Grey(InversionConfig(synthesis_batch=1000), context(tmp_path))
    first = method.labels()
    assert (first.diff() >= 0).all()
    assert set(first.tolist()) == set(range(10))
    assert 60 < first.bincount().min() <= first.bincount().max() < 140
    assert torch.equal(first, method.labels())
    method.start_epoch(1)
    assert not torch.equal(first, method.labels())


def test_students_loss_is_kl_at_the_temperature(tmp_path: Path) -> None:
    method = Grey(InversionConfig(temperature=7.0), context(tmp_path))
    s, t = torch.randn(4, 10), torch.randn(4, 10)
    terms, logged = method.student_terms(Output(s), Output(t))
    assert {name: float(value) for name, value in terms.items()} == {
        "kd": pytest.approx(float(kl_per_sample(s, t, 7.0).mean()))
    }
    assert logged == {}


@pytest.mark.parametrize("name", ["adi", "cmi"])
def test_a_pool_that_would_not_fit_is_refused_before_anything_starts(name: str) -> None:
    long = RECIPE.model_copy(update={"epochs": 400, "batch_size": 1024})
    config = module(name).Config
    assert faults(name, config(), Case(long, LARGE, "resnet8", "resnet18")) == []
    (fault,) = faults(name, config(synthesis_batch=4096), Case(long, LARGE, "resnet8", "resnet18"))
    assert "1638400 images of 64x64 pixels = 18.8 GiB; at most 16 GiB" in fault
