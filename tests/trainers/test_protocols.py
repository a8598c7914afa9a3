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


def test_recipes_of_distillation_with_data_hold_the_printed_numbers() -> None:
    cifar, imagenet, more = (150, 180, 210), (30, 60, 90), (40, 70, 100, 110)
    for name, epochs, batch, lr, decay, milestones in (
        ("cifar100-240", 240, 64, 0.05, 5e-4, cifar),
        ("cifar100-mld-480", 480, 64, 0.01, 5e-4, cifar),
        ("cifar100-mld-960", 960, 64, 0.01, 5e-4, cifar),
        ("imagenet-100-b256", 100, 256, 0.1, 1e-4, imagenet),
        ("imagenet-100-b512", 100, 512, 0.2, 1e-4, imagenet),
        ("imagenet-120", 120, 1024, 0.4, 1e-4, more),
        ("probe-100", 100, 64, 0.1, 1e-4, imagenet),
    ):
        p = PROTOCOLS[name]
        assert (p.epochs, p.batch_size, p.lr, p.weight_decay, p.milestones) == (epochs, batch, lr, decay, milestones)
        assert (p.schedule, p.gamma, p.momentum, p.nesterov, p.keep) == ("step", 0.1, 0.9, False, "last")
        assert p.augment == (name != "probe-100")
        assert p.warmup_epochs == (5 if name == "imagenet-120" else 0)
    assert 49 in PROTOCOLS["cifar100-240"].artifact_epochs  # the 50th epoch of PCKD's Fig. 7


def test_first_epoch_at_a_lower_rate_is_the_151st() -> None:
    rates = [learning_rate(PROTOCOLS["cifar100-240"], epoch) for epoch in range(240)]
    count = {rate: sum(each == pytest.approx(rate) for each in rates) for rate in (0.05, 0.005, 5e-4, 5e-5)}
    assert count == {0.05: 150, 0.005: 30, 5e-4: 30, 5e-5: 30}
    assert rates[149:151] == pytest.approx([0.05, 0.005])  # the 150th and the 151st, counted from 1
    longest = PROTOCOLS["cifar100-mld-960"]
    assert [learning_rate(longest, epoch) for epoch in (149, 150, 210, 959)] == pytest.approx([0.01, 1e-3, 1e-5, 1e-5])


def test_imagenet_warms_up_for_five_epochs() -> None:
    rates = [learning_rate(PROTOCOLS["imagenet-120"], epoch) for epoch in (0, 1, 4, 5, 39, 40, 110)]
    assert rates == pytest.approx([0.08, 0.16, 0.4, 0.4, 0.4, 0.04, 4e-5])


@pytest.mark.parametrize(("demo", "paper"), [("demo-kd", "cifar100-240"), ("demo-probe", "probe-100")])
def test_demo_steps_lie_at_the_papers_shares(demo: str, paper: str) -> None:
    short, full = PROTOCOLS[demo], PROTOCOLS[paper]
    assert short.epochs < full.epochs
    assert short.augment == full.augment
    shares = [[milestone / p.epochs for milestone in p.milestones] for p in (short, full)]
    assert shares[0] == pytest.approx(shares[1], abs=1 / short.epochs)


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
