"""DOT: two momentum buffers, and the loop that gives it two gradients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from trainers import checkpoint
from trainers.attempts import read_status
from trainers.attempts import rows as recorded
from trainers.config import Protocol
from trainers.dot import DOT, dot_step
from trainers.errors import ConfigError
from trainers.run import run_trial
from trainers.train import require_runnable, trial_folder

BASE = {"name": "p", "source": "test", "epochs": 2, "batch_size": 16, "lr": 0.1}


def number(value: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(value))


def test_two_steps_by_hand() -> None:
    # m 0.8, d 0.1, lr 0.5: 1 - 0.5 (1 + 2) = -0.5; buffers 0.7 and 0.9 * 2 = 1.8: -0.5 - 0.5 * 2.5 = -1.75
    theta = number(1.0)
    optimizer = DOT([theta], lr=0.5, momentum=0.8, delta=0.1, weight_decay=0.0)
    optimizer.step([torch.tensor(1.0)], [torch.tensor(2.0)])
    assert float(theta) == pytest.approx(-0.5)
    optimizer.step([torch.tensor(0.0)], [torch.tensor(0.0)])
    assert float(theta) == pytest.approx(-1.75)


def test_weight_decay_enters_the_buffer_of_the_task_alone() -> None:
    theta = number(2.0)
    optimizer = DOT([theta], lr=0.5, momentum=0.8, delta=0.1, weight_decay=0.25)
    optimizer.step([torch.tensor(1.0)], [torch.tensor(1.0)])
    state = optimizer.state[theta]
    assert (float(state["task"]), float(state["rest"])) == (1.5, 1.0)


@pytest.mark.parametrize("reached_by", ["both", "task", "rest"])
def test_without_delta_or_with_one_gradient_it_is_sgd(reached_by: str) -> None:
    torch.manual_seed(0)
    one, two = (nn.Parameter(torch.ones(3)) for _ in range(2))
    delta = 0.0 if reached_by == "both" else 0.075
    dot = DOT([one], lr=0.1, momentum=0.9, delta=delta, weight_decay=0.01)
    sgd = torch.optim.SGD([two], lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(5):
        task = None if reached_by == "rest" else torch.randn(3)
        rest = None if reached_by == "task" else torch.randn(3)
        two.grad = sum((each for each in (task, rest) if each is not None), torch.zeros(3))
        dot.step([task], [rest])
        sgd.step()
        assert torch.allclose(one, two, atol=1e-6)


def test_terms_are_told_apart() -> None:
    shared, head, adapter = number(1.0), number(2.0), number(3.0)
    optimizer = DOT([shared, head, adapter], lr=0.1, momentum=0.5, delta=0.25, weight_decay=0.0)
    terms = {"ce": shared * head, "kd": shared.square(), "hint": 5 * shared * adapter}
    dot_step(optimizer, terms)
    states: list[dict[str, Tensor]] = [optimizer.state[each] for each in (shared, head, adapter)]
    assert {name: float(value) for name, value in states[0].items()} == {"task": 2.0, "rest": 17.0}
    assert {name: float(value) for name, value in states[1].items()} == {"task": 1.0}
    assert {name: float(value) for name, value in states[2].items()} == {"rest": 5.0}


def test_a_method_without_a_task_is_refused() -> None:
    theta = number(1.0)
    optimizer = DOT([theta], lr=0.1, momentum=0.9, delta=0.05, weight_decay=0.0)
    with pytest.raises(ConfigError, match=r"'ce' apart, and this method has only kd; use 'sgd'"):
        dot_step(optimizer, {"kd": theta.square()})


def test_broken_after_each_epoch_gives_the_same_bits(tiny: Any, new_root: Callable[[], Path]) -> None:
    trial = tiny.kd(epochs=3, optimizer="dot", weight_decay=1e-3)
    whole, broken = new_root(), new_root()
    list(run_trial(trial, whole, whole))
    for _ in range(3):
        epochs = run_trial(trial, broken, broken)
        next(epochs)
        epochs.close()
    list(run_trial(trial, broken, broken))
    kept = [checkpoint.load(trial_folder(root, trial.digest()) / "weights.pt")["state"] for root in (whole, broken)]
    assert all(torch.equal(value, kept[1][name]) for name, value in kept[0].items())


def test_it_differs_from_sgd_in_the_loop_and_delta_matters(tiny: Any, new_root: Callable[[], Path]) -> None:
    root = new_root()
    losses = []
    for recipe in (
        {},
        {"optimizer": "dot"},
        {"optimizer": "dot", "dot_delta": 0.0},
        {"optimizer": "dot", "dot_delta": 0.05},
    ):
        trial = tiny.kd(epochs=1, **recipe)
        list(run_trial(trial, root, root))
        losses.append(recorded(read_status(root, trial.digest()))[-1]["train/loss"])
    sgd, default, zero, other = losses
    assert zero == pytest.approx(sgd, rel=1e-3)
    assert len({sgd, default, other}) == 3


def test_delta_counts_only_for_dot(tiny: Any) -> None:
    plain = tiny.kd().digest()
    assert tiny.kd(dot_delta=0.09).digest() == plain
    assert tiny.kd(optimizer="adam", dot_delta=0.09).digest() == tiny.kd(optimizer="adam").digest()
    dot = tiny.kd(optimizer="dot").digest()
    assert len({plain, dot, tiny.kd(optimizer="dot", dot_delta=0.09).digest()}) == 3
    assert tiny.kd(optimizer="dot", momentum=0.8).digest() != dot


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"momentum": 0.95}, r"\[0, 1\), got 0.875 and 1.025"),
        ({"momentum": 0.05}, r"\[0, 1\), got -0.025"),
        ({"clip_norm": 1.0}, "clip_norm"),
        ({"nesterov": True}, "nesterov"),
    ],
)
def test_recipes_that_mean_nothing_are_refused(fields: dict[str, Any], message: str) -> None:
    Protocol.model_validate({**BASE, **fields})
    with pytest.raises(ValidationError, match=message):
        Protocol.model_validate({**BASE, **fields, "optimizer": "dot"})


def test_data_free_methods_have_no_task(tiny: Any) -> None:
    with pytest.raises(ConfigError, match="optimizer 'dot' needs a loss on labels"):
        require_runnable(tiny.cudfkd(optimizer="dot"))
