"""CuDFKD's formulas: the printed check values, naive transcriptions, and limits."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from trainers.methods._losses import js_divergence, kl_per_sample, l1_per_sample
from trainers.methods.cudfkd import (
    PRESETS,
    Config,
    Curriculum,
    adversarial_loss,
    adversarial_weight,
    cudfkd_loss,
    curriculum_regulariser,
    curriculum_weight,
    latent_objective,
    threshold,
)

CLOSED_FORMS: tuple[Curriculum, ...] = ("hard", "soft", "log")


def values(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def pair(samples: int = 16, classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(samples, classes, generator=generator), 3 * torch.randn(samples, classes, generator=generator)


def test_log_weight_check_values() -> None:
    v = curriculum_weight(values(0, 0.5, 1, 2, 3, 5, 8), 2.0, "log").tolist()
    assert v == pytest.approx([1, 0.928, 0.830, 0.568, 0.305, 0.054, 0.003], abs=5e-4)
    assert curriculum_weight(values(1, 3), 1.0, "log").tolist() == pytest.approx([0.684, 0.163], abs=5e-4)


def test_weights_equal_the_printed_forms() -> None:
    for level in (0.5, 1.0, 2.0, 7.0):
        for number in (0.0, 0.3, 1.0, 1.9, 2.0, 6.0):
            found = {name: float(curriculum_weight(values(number), level, name)) for name in get_args(Curriculum)}
            inside = number < level
            assert found == pytest.approx(
                {
                    "none": 1.0,
                    "hard": 1.0 if inside else 0.0,
                    "soft": 1 - number / level if inside else 0.0,
                    "log": (1 + math.exp(-level)) / (1 + math.exp(number - level)),
                }
            )


def test_latent_objective_check_value() -> None:
    assert float(latent_objective(values(3), 2.0, "log")) == pytest.approx(2.059119, abs=1e-6)
    assert latent_objective(values(1, 3), 2.0, "hard").tolist() == [1, 2]  # min(L, lambda)
    assert latent_objective(values(1, 3), 2.0, "soft").tolist() == [0.75, 1]  # L - L^2 / 4; lambda / 2
    assert latent_objective(values(1, 3), 2.0, "none").tolist() == [1, 3]


@pytest.mark.parametrize("curriculum", CLOSED_FORMS)
@pytest.mark.parametrize("level", [1.0, 2.0, 4.5])
def test_weight_minimises_v_l_plus_g(curriculum: Curriculum, level: float) -> None:
    grid = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    for number in (0.0, 0.4, 1.3, 1.99, 3.0, 5.0):
        objective = grid * number + curriculum_regulariser(grid, level, curriculum)
        best = float(curriculum_weight(values(number), level, curriculum))
        assert float(grid[objective.argmin()]) == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("curriculum", CLOSED_FORMS)
def test_slope_of_the_minimum_is_the_weight(curriculum: Curriculum) -> None:
    """Envelope: d/dl min_v (v l + g) = v*, and the minimum is F up to its value at 0."""

    def minimum(difficulty: Tensor) -> Tensor:
        weight = curriculum_weight(difficulty, 2.0, curriculum)
        return weight * difficulty + curriculum_regulariser(weight, 2.0, curriculum)

    l, h = values(0.1, 0.7, 1.5, 1.9, 2.2, 4.0), 1e-5  # noqa: E741
    slope = (minimum(l + h) - minimum(l - h)) / (2 * h)
    assert torch.allclose(slope, curriculum_weight(l, 2.0, curriculum), atol=1e-6)
    assert torch.allclose(minimum(l) - minimum(values(0)), latent_objective(l, 2.0, curriculum), atol=1e-9)


@pytest.mark.parametrize("curriculum", CLOSED_FORMS)
def test_latent_objective_is_the_integral_of_the_weight(curriculum: Curriculum) -> None:
    points = (torch.arange(300_000, dtype=torch.float64) + 0.5) * 1e-5  # midpoints of [0, 3]
    assert float(curriculum_weight(points, 2.0, curriculum).sum() * 1e-5) == pytest.approx(
        float(latent_objective(values(3), 2.0, curriculum)), abs=2e-5
    )


@pytest.mark.parametrize("curriculum", get_args(Curriculum))
def test_weights_fall_from_1_and_stay_in_0_to_1(curriculum: Curriculum) -> None:
    v = curriculum_weight(torch.linspace(0, 10, 500), 2.0, curriculum)
    assert float(v[0]) == pytest.approx(1)
    assert (v.diff() <= 0).all()
    assert v.min() >= 0
    assert v.max() <= 1 + 1e-6


def test_high_threshold_gives_plain_distillation() -> None:
    l = values(0.5, 3, 9)  # noqa: E741
    assert curriculum_weight(l, 1e9, "hard").tolist() == [1, 1, 1]
    assert curriculum_weight(l, 1e9, "soft").tolist() == pytest.approx([1, 1, 1])
    assert curriculum_weight(l, 60.0, "log").tolist() == pytest.approx([1, 1, 1])


def test_nothing_overflows_at_200() -> None:
    l = torch.tensor([200.0, 1e6])  # noqa: E741
    v = curriculum_weight(l, 2.0, "log")
    assert v.isfinite().all()
    assert v.max() < 1e-30
    assert curriculum_regulariser(v, 2.0, "log").isfinite().all()
    # Far out F is flat: (1 + e^-lambda)(lambda + ln(1 + e^-lambda))
    flat = (1 + math.exp(-2)) * (2 + math.log1p(math.exp(-2)))
    assert float(latent_objective(torch.tensor([200.0]), 2.0, "log")) == pytest.approx(flat, rel=1e-5)


@pytest.mark.parametrize("level", [1.0, 5.0, 12.0, 17.0, 40.0])
def test_log_regulariser_is_finite_where_the_weight_rounds_to_1(level: float) -> None:
    v = curriculum_weight(torch.cat([torch.zeros(1), torch.logspace(-9, 1, 200)]), level, "log")
    assert curriculum_regulariser(v, level, "log").isfinite().all()


def test_threshold_grows_with_updates() -> None:
    assert threshold(2.0, 1e-4, 0) == 2
    assert threshold(2.0, 1e-4, 250 * 400) == pytest.approx(12)  # CIFAR-10
    assert [threshold(1.0, 2e-5, n * 400) for n in (300, 400, 500)] == pytest.approx([3.4, 4.2, 5.0])


def official_loop(epochs: int, config: Config) -> list[float]:
    """The weight each epoch uses: alpha is added at the end of every epoch strictly between the two."""
    used, weight = [], config.adv_init
    for epoch in range(epochs):
        used.append(weight)
        if int(config.k_begin * epochs) < epoch < int(config.k_end * epochs):
            weight += config.alpha
    return used


@pytest.mark.parametrize(
    ("epochs", "k_begin", "k_end", "alpha", "adv_init"),
    [
        (250, 0.25, 0.75, 0.5, 0.0), (250, 0.25, 0.75, 0.35, 0.0), (250, 0.25, 0.75, 0.05, 0.5), (300, 0.2, 0.8, 0.35, 0.0),
        (400, 0.2, 0.8, 0.35, 0.0), (300, 0.2, 0.75, 0.15, 0.0), (500, 0.2, 0.75, 0.12, 0.0), (400, 0.2, 0.75, 0.15, 1.0),
        (300, 1 / 3, 0.75, 0.2, 0.0), (300, 0.25, 0.8, 0.1, 0.0), (300, 1 / 3, 2 / 3, 0.1, 0.0), (20, 0.2, 0.75, 1.5, 0.0),
        (20, 0.25, 0.8, 1.0, 0.3), (7, 0.2, 0.3, 1.0, 0.0), (10, 0.0, 1.0, 1.0, 0.0), (3, 0.1, 0.2, 1.0, 0.7), (1, 0.0, 1.0, 1.0, 0.1),
        (23, 0.2, 0.75, 0.5, 0.0), (50, 0.0, 0.5, 0.2, 0.0),
    ],
)  # fmt: skip
def test_ramp_equals_the_official_loop(
    epochs: int, k_begin: float, k_end: float, alpha: float, adv_init: float
) -> None:
    config = Config(k_begin=k_begin, k_end=k_end, alpha=alpha, adv_init=adv_init)
    found = [adversarial_weight(epoch, epochs, config) for epoch in range(epochs)]
    assert found == pytest.approx(official_loop(epochs, config))


@pytest.mark.parametrize(
    ("epochs", "k_begin", "k_end", "alpha", "adv_init", "plateau"),
    [
        (250, 0.25, 0.75, 0.5, 0.0, 62.0), (250, 0.25, 0.75, 0.35, 0.0, 43.4), (250, 0.25, 0.75, 0.05, 0.5, 6.7),
        (300, 0.2, 0.8, 0.35, 0.0, 62.65), (400, 0.2, 0.8, 0.35, 0.0, 83.65), (300, 0.2, 0.75, 0.15, 0.0, 24.6),
        (500, 0.2, 0.75, 0.12, 0.0, 32.88), (400, 0.2, 0.75, 0.15, 1.0, 33.85),
    ],
)  # fmt: skip
def test_plateaus_of_the_scripts(
    epochs: int, k_begin: float, k_end: float, alpha: float, adv_init: float, plateau: float
) -> None:
    config = Config(k_begin=k_begin, k_end=k_end, alpha=alpha, adv_init=adv_init)
    begin = int(k_begin * epochs)
    assert adversarial_weight(epochs - 1, epochs, config) == pytest.approx(plateau)
    assert adversarial_weight(begin + 1, epochs, config) == adv_init
    assert adversarial_weight(begin + 2, epochs, config) == pytest.approx(adv_init + alpha)


def test_other_ramps() -> None:
    off = Config(ramp="off", adv_init=0.5)
    assert {adversarial_weight(epoch, 20, off) for epoch in range(20)} == {0.5}
    literal = Config(ramp="literal", alpha=0.5, adv_init=0.1)  # e_b = 5, e_e = 15
    assert [adversarial_weight(epoch, 20, literal) for epoch in (0, 4, 5, 10, 15, 19)] == [0.1, 0.1, 2.5, 5.0, 7.5, 7.5]


def test_adversarial_loss_equals_a_naive_loop() -> None:
    s, t = pair()
    agree = s.argmax(1) == t.argmax(1)
    assert 0 < agree.sum() < len(s)
    for mask in (True, False):
        naive = 0.0
        for i in range(len(s)):
            p, q = (torch.softmax(row[i].double() / 3, 0).tolist() for row in (t, s))
            kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
            naive -= 9 * kl / len(s) if agree[i] or not mask else 0  # masked out: a zero in the mean over all
        found = adversarial_loss(s, t, Config(agreement_mask=mask))
        assert float(found) == pytest.approx(naive, rel=1e-4)


def test_adversarial_js_form() -> None:
    s, t = pair()
    config = Config(adversarial_loss="js")
    assert float(adversarial_loss(s, t, config)) == pytest.approx(1 - float(js_divergence(s, t)))
    hot = config.model_copy(update={"adversarial_temperature": 1.0})
    assert float(adversarial_loss(s, t, hot)) == pytest.approx(1 - float(js_divergence(s, t, temperature=1.0)))
    assert float(adversarial_loss(t, t, config)) == 1  # clipped from below


@pytest.mark.parametrize("curriculum", get_args(Curriculum))
@pytest.mark.parametrize("student_loss", ["kl", "l1"])
def test_student_loss_equals_a_naive_loop(curriculum: Curriculum, student_loss: str) -> None:
    s, t = pair()
    level = 1.5
    sample = Config.model_validate({"curriculum": curriculum, "student_loss": student_loss, "temperature": 2.0})
    batch = sample.model_copy(update={"weight": "batch"})
    difficulty = (kl_per_sample(s, t, 2.0) if student_loss == "kl" else l1_per_sample(s, t)).tolist()

    def weight(number: float) -> float:
        return float(curriculum_weight(values(number), level, curriculum))

    found, v, found_difficulty = cudfkd_loss(s, t, level, sample)
    assert float(found) == pytest.approx(
        sum(weight(each) * each for each in difficulty) / 16, rel=1e-5
    )  # divided by B, not by sum v
    assert v.shape == found_difficulty.shape == (16,)
    found, v, found_difficulty = cudfkd_loss(s, t, level, batch)
    mean = sum(difficulty) / 16
    assert float(found) == pytest.approx(weight(mean) * mean, rel=1e-5)
    assert v.shape == found_difficulty.shape == (1,)


def test_weight_carries_no_gradient() -> None:
    s, t = pair()
    s.requires_grad_()
    loss, v, difficulty = cudfkd_loss(s, t, 2.0, Config())
    assert not v.requires_grad
    assert not difficulty.requires_grad
    loss.backward()
    expected = torch.autograd.grad((v * kl_per_sample(s, t, 20.0)).mean(), s)[0]
    assert s.grad is not None
    assert torch.allclose(s.grad, expected)


def test_hard_batch_above_the_threshold_gives_no_gradient() -> None:
    s, t = pair()
    s.requires_grad_()
    cudfkd_loss(s, t, 0.01, Config(curriculum="hard", weight="batch"))[0].backward()
    assert s.grad is not None
    assert not s.grad.any()


def test_presets() -> None:
    assert set(PRESETS) == {"paper-equations", "code-2022-08", "plain-dfkd", "fig6-none"}
    configs = {name: Config.model_validate(dict(fields)) for name, fields in PRESETS.items()}
    assert configs["paper-equations"].active() == Config().active()
    assert configs["code-2022-08"].weight == "batch"
    assert (configs["plain-dfkd"].curriculum, configs["plain-dfkd"].ramp) == ("none", "code")
    assert (configs["fig6-none"].curriculum, configs["fig6-none"].ramp) == ("none", "off")


def test_defaults_are_the_cifar10_script() -> None:
    c = Config()
    assert (c.temperature, c.lambda_0, c.lambda_slope, c.adv_init, c.alpha, c.k_begin, c.k_end) == (
        20,
        2,
        1e-4,
        0,
        0.5,
        0.25,
        0.75,
    )
    assert (c.bn, c.one_hot, c.balance, c.activation, c.adversarial_temperature, c.agreement_mask) == (
        1,
        1,
        20,
        0,
        3,
        True,
    )
    assert (c.generator_lr, c.generator_beta1, c.generator_beta2, c.generator_steps, c.student_steps, c.latent_dim) == (
        1e-3,
        0.9,
        0.99,
        1,
        10,
        512,
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"k_begin": 0.5, "k_end": 0.5}, "k_begin 0.5 must be below k_end 0.5"),
        ({"k_begin": 0.8}, "k_begin 0.8 must be below k_end 0.75"),
        ({"lambda_0": 0}, "greater than 0"),
        ({"curriculum": "linear"}, "'none', 'hard', 'soft' or 'log'"),
        ({"lamda_0": 1.0}, "Extra inputs"),
        ({"alpha": float("nan")}, "finite"),
        ({"generator_beta1": 1.0}, "less than 1"),
    ],
)
def test_out_of_bounds_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Config.model_validate(fields)
