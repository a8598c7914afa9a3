"""Recipes: each named once, each with its source; and the learning rate of an epoch."""

import pytest
import torch

from trainers import protocols
from trainers.config import Protocol
from trainers.errors import ConfigError
from trainers.protocols import PROTOCOLS, learning_rate


def recipe(**fields: object) -> Protocol:
    return Protocol.model_validate({"name": "r", "source": "test", "epochs": 10, "batch_size": 4, "lr": 0.1, **fields})


def test_names_are_unique_and_sources_given() -> None:
    assert len(PROTOCOLS) == len(protocols._ALL) >= 8
    assert all(protocol.source and protocols.get(name) is protocol for name, protocol in PROTOCOLS.items())


def test_unknown_protocol() -> None:
    with pytest.raises(ConfigError, match=r"unknown protocol 'scratch'.*known: .*cudfkd-cifar10, "):
        protocols.get("scratch")


def test_papers_recipes_hold_the_printed_numbers() -> None:
    scratch = PROTOCOLS["scratch-200"]
    assert (scratch.epochs, scratch.batch_size, scratch.lr, scratch.momentum, scratch.weight_decay) == (
        200,
        256,
        0.1,
        0.9,
        1e-4,
    )
    assert (scratch.schedule, scratch.milestones, scratch.gamma, scratch.keep) == ("step", (120, 150, 180), 0.1, "best")
    assert PROTOCOLS["scratch-200-noisy"].stop_at_acc1_pct == 94.07
    for name, epochs, batch in (
        ("cudfkd-cifar10", 250, 512),
        ("cudfkd-cifar10-noisy", 250, 768),
        ("cudfkd-cifar100", 300, 768),
    ):
        p = PROTOCOLS[name]
        assert (p.epochs, p.batch_size, p.lr, p.momentum, p.weight_decay, p.updates_per_epoch) == (
            epochs,
            batch,
            0.1,
            0.9,
            1e-4,
            400,
        )
        assert (p.schedule, p.lr_min, p.stats_from_epoch, p.augment) == ("cosine", 0.0, 80, False)


def test_demo_has_at_least_20_epochs() -> None:
    assert PROTOCOLS["demo-cudfkd"].epochs >= 20  # with fewer, int(k N) makes cells of the paper's Fig. 9 equal


def test_cosine_equals_torchs_scheduler() -> None:
    protocol = recipe(lr=0.1, lr_min=0.01)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10, eta_min=0.01)
    for epoch in range(10):
        assert learning_rate(protocol, epoch) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        scheduler.step()


def test_cosine_by_hand() -> None:
    assert [learning_rate(recipe(), epoch) for epoch in (0, 5)] == pytest.approx(
        [0.1, 0.05]
    )  # (1 + cos 0)/2 = 1, (1 + cos pi/2)/2 = 1/2


def test_step_multiplies_from_the_milestone_on() -> None:
    protocol = recipe(schedule="step", milestones=(3, 6), gamma=0.1)
    rates = [learning_rate(protocol, epoch) for epoch in range(8)]
    assert rates == pytest.approx([0.1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.001, 0.001])


def test_warmup_is_linear_and_then_gone() -> None:
    protocol = recipe(schedule="constant", warmup_epochs=4)
    assert [learning_rate(protocol, epoch) for epoch in range(6)] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])


def test_one_epoch_is_no_division_by_zero() -> None:
    assert learning_rate(recipe(epochs=0), 0) == learning_rate(recipe(epochs=1), 0) == 0.1
