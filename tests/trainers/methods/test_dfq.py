"""DFQ: its generator's loss by hand and by loops, and CuDFKD without a curriculum, which it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainers import checkpoint, datafree
from trainers.config import Trial
from trainers.data.digits import INFO
from trainers.methods import Case, config_type, cudfkd, dfq
from trainers.methods.dfq import PRESETS, Config, dfq_loss, faults
from trainers.run import run_trial
from trainers.synthesis import bn_statistics
from trainers.train import trial_folder

LN3 = math.log(3)


def test_loss_by_hand() -> None:
    # Teacher (3/4, 1/4) both times, student (1/2, 1/2): KL = 3/4 ln 3/2 + 1/4 ln 1/2 = 0.130812; CE = ln 4/3;
    # the mean prediction is (3/4, 1/4): 3/4 ln 3/4 + 1/4 ln 1/4 = -0.562335.
    t, s = torch.tensor([[LN3, 0.0], [LN3, 0.0]]), torch.zeros(2, 2)
    terms = dfq_loss(s, t, torch.tensor(5.0), Config(bn=0.1, one_hot=2.0, balance=3.0, adversarial=4.0))
    assert list(terms) == ["bn", "one_hot", "balance", "adversarial"]
    assert [float(value) for value in terms.values()] == pytest.approx(
        [0.5, 2 * math.log(4 / 3), -3 * 0.562335, -4 * 0.130812], rel=1e-5
    )


def test_loss_equals_a_naive_loop() -> None:
    generator = torch.Generator().manual_seed(1)
    s, t = (3 * torch.randn(6, 4, generator=generator) for _ in range(2))
    q, p = ([[math.exp(a) / sum(math.exp(b) for b in row) for a in row] for row in each.tolist()] for each in (s, t))
    mean = [sum(column) / len(p) for column in zip(*p, strict=True)]
    naive = 1.7 + 20 * sum(each * math.log(each) for each in mean)
    for teacher, student in zip(p, q, strict=True):
        naive -= math.log(max(teacher)) / 6
        naive -= sum(a * math.log(a / b) for a, b in zip(teacher, student, strict=True)) / 6  # no mask, T = 1
    found = torch.stack(list(dfq_loss(s, t, torch.tensor(1.7), Config()).values())).sum()
    assert float(found) == pytest.approx(naive, rel=1e-5)


def test_disagreement_is_what_the_generator_is_paid_for() -> None:
    t = torch.tensor([[2.0, 0.0, -1.0]])
    same = dfq_loss(t, t, torch.zeros(()), Config())["adversarial"]
    other = dfq_loss(-t, t, torch.zeros(()), Config())["adversarial"]
    assert float(same) == pytest.approx(0, abs=1e-6)
    assert float(other) < -1


def test_terms_of_weight_0_are_left_out() -> None:
    t = torch.randn(3, 4)
    off = Config(bn=0, one_hot=0, balance=0, adversarial=0)
    assert dfq_loss(None, t, torch.zeros(()), off) == {}


def as_trial(tiny: Any, method: str, fields: dict[str, Any]) -> Trial:
    small = {"latent_dim": 256, "generator_width": 4, "generator_depth": 1, "student_steps": 2}
    file = {"dfq": dfq, "cudfkd": cudfkd}[method]
    changes = {
        "method": method,
        "hparams": config_type(method).model_validate({**fields, **small}).active(),
        "versions": {"method": file.VERSION, "loop": datafree.VERSION},
    }
    trial: Trial = tiny.cudfkd(trial=changes, epochs=4)
    return trial


def test_cudfkd_without_curriculum_ramp_and_mask_is_dfq(tiny: Any, new_root: Callable[[], Path]) -> None:
    plain = {
        "curriculum": "none", "alpha": 0.0, "adv_init": 1.0, "agreement_mask": False, "adversarial_temperature": 1.0, "temperature": 1.0,
        "balance_temperature": 1.0, "generator_beta1": 0.5, "generator_beta2": 0.999, "generator_init": "default",
    }  # fmt: skip
    assert dfq.Config().latent_dim == 256
    states, rows = [], []
    for trial in (as_trial(tiny, "dfq", {}), as_trial(tiny, "cudfkd", plain)):
        root = new_root()
        epochs = list(run_trial(trial, root, root))
        rows.append([
            {key: value for key, value in epoch.row.items() if key.startswith(("train/loss", "test/"))} for epoch in epochs
        ])  # fmt: skip
        states.append(checkpoint.load(trial_folder(root, trial.digest()) / "weights.pt")["state"])
    assert len(rows[0]) == 4
    assert {"train/loss_synthesis_adversarial", "train/loss_synthesis_bn", "test/acc1_pct"} <= set(rows[0][0])
    assert rows[0] == rows[1]
    assert set(states[0]) == set(states[1])
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_defaults_are_the_benchmark() -> None:
    c = Config()
    assert (c.bn, c.one_hot, c.balance, c.adversarial, c.student_loss, c.temperature) == (1, 1, 20, 1, "kl", 1)
    assert (c.latent_dim, c.generator_lr, c.generator_beta1, c.generator_beta2) == (256, 1e-3, 0.5, 0.999)
    assert (c.generator_steps, c.student_steps, c.generator_init) == (1, 10, "default")
    assert PRESETS == {"follow-up-tiny": {"student_loss": "l1", "generator_depth": 3}}
    assert "temperature" in Config.model_validate(dict(PRESETS["follow-up-tiny"])).inactive()


def test_teacher_without_statistics_is_refused(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = tiny.cudfkd().protocol
    assert faults(Config(), Case(protocol, INFO, "resnet8", "resnet8")) == []
    monkeypatch.setattr(bn_statistics, "bn_layers", lambda *arguments: 0)
    (fault,) = faults(Config(), Case(protocol, INFO, "resnet8", "resnet8"))
    assert "'resnet8' has none; set bn to 0" in fault
    assert faults(Config(bn=0), Case(protocol, INFO, "resnet8", "resnet8")) == []
