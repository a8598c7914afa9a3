"""MB-DFKD as the third-party re-implementation has it: when the ring takes a batch, and what the student is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from trainers import models
from trainers.config import Protocol, Scaled
from trainers.data.digits import INFO
from trainers.methods import Case, Context, Output, freeze, mbdfkd
from trainers.methods.mbdfkd import PRESETS, Config, Method, faults, is_kept

RECIPE = Protocol(name="p", source="test", epochs=20, batch_size=16, lr=0.1, updates_per_epoch=2)


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


def test_it_says_that_it_is_no_original() -> None:
    assert "third-party re-implementation" in (mbdfkd.__doc__ or "")
    assert "third-party re-implementation" in (Config.__doc__ or "")


def test_presets_and_defaults_are_the_third_partys_values() -> None:
    assert set(PRESETS) == {"third-party-cifar100", "batch-js"}
    assert Config.model_validate(dict(PRESETS["third-party-cifar100"])) == Config()
    assert Config.model_validate(dict(PRESETS["batch-js"])).js_reduction == "batch"
    c = Config()
    assert (c.memory_slots, c.push_every, c.replay_share, c.student_steps, c.js_reduction) == (
        10,
        5,
        1 / 8,
        10,
        "element",
    )
    assert any(isinstance(mark, Scaled) and mark.power == 1 for mark in Config.model_fields["push_every"].metadata)
    with pytest.raises(ValidationError, match="greater than 0"):
        Config(push_every=0)


def test_batches_are_kept_after_epochs_0_5_10() -> None:
    assert [epoch for epoch in range(12) if is_kept(epoch, 5)] == [0, 5, 10]
    assert [epoch for epoch in range(4) if is_kept(epoch, 1)] == [0, 1, 2, 3]


def test_paper_scale_fills_the_ring_eight_times() -> None:
    assert sum(is_kept(epoch, 5) for epoch in range(400)) == 80


def test_first_images_of_the_last_batch_come_back_beside_novel_ones(tmp_path: Path) -> None:
    method = method_of(tmp_path, push_every=2, memory_slots=2)
    kept = []
    for epoch in range(5):
        method.start_epoch(epoch)
        batches = [method.images() for _ in range(6)]
        expected = kept[-2:]
        assert {len(each) for each in batches} == {18 if expected else 16}
        for each in batches:
            assert not expected or any(torch.equal(each[16:], slot) for slot in expected)
        if len(expected) == 2:  # a slot for every update, not for the epoch
            assert not all(torch.equal(each[16:], batches[0][16:]) for each in batches)
        assert method.end_epoch(epoch) == {"memory_batches": min(epoch // 2 + 1, 2)}
        if epoch % 2 == 0:
            kept.append(batches[-1][:2].clone())


def test_generator_stays_in_train_mode(tmp_path: Path) -> None:
    method = method_of(tmp_path)
    assert method.images().mean(dim=(0, 2, 3)).abs().max() < 1e-4  # standardised by the batch's own statistics
    method.synthesise()
    assert method.generator.training
    assert method.context.student.training
    method.write_artifacts(tmp_path, 0)
    assert method.generator.training


def test_student_loss_is_the_mean_over_all_logits(tmp_path: Path) -> None:
    s, t = torch.tensor([[1.0, 2.0], [0.0, 4.0]]), torch.tensor([[0.0, 2.0], [3.0, 0.0]])
    terms, logged = method_of(tmp_path).student_terms(Output(s), Output(t))
    assert float(terms["l1"]) == 2  # (1 + 0 + 3 + 4) / 4
    assert not logged


def test_slots_are_a_stream_of_the_epoch(tmp_path: Path) -> None:
    one, two = (method_of(tmp_path, push_every=1) for _ in range(2))
    for method in (one, two):
        for epoch in range(3):
            method.start_epoch(epoch)
            method.images()
            method.end_epoch(epoch)
    one.images()  # draws that are gone when the epoch is entered again
    for method in (one, two):
        method.start_epoch(3)
    assert all(torch.equal(one.images()[16:], two.images()[16:]) for _ in range(5))


def test_a_batch_too_small_to_keep_anything_is_refused() -> None:
    small = RECIPE.model_copy(update={"batch_size": 7})
    assert faults(Config(), Case(RECIPE, INFO, "resnet8", "resnet8")) == []
    assert faults(Config(), Case(small, INFO, "resnet8", "resnet8")) == [
        "replay_share 0.125 of batch_size 7 gives 0 replayed images; at least 1 are needed"
    ]
