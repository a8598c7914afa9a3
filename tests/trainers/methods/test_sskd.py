"""Self-supervision: similarities of views, the selection by the teacher's rank, and two stages."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from trainers.methods import Batch, Case, Output, presets
from trainers.methods._losses import kl_per_sample
from trainers.methods.kd import kd_loss
from trainers.methods.sskd import (
    Config,
    faults,
    head_loss,
    head_rate,
    kept_mean,
    kept_rows,
    similarities,
    ss_loss,
    tf_loss,
)

SMALL = {"head_epochs": 2, "head_step_1": 1, "head_step_2": 1}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_similarities_equal_a_naive_loop() -> None:
    embedded = noise(12, 5)
    found = similarities(embedded)
    assert found.shape == (9, 3)
    for row in range(9):
        image, turn = divmod(row, 3)
        for column in range(3):
            one, two = embedded[4 * image + 1 + turn].tolist(), embedded[4 * column].tolist()
            dot = sum(a * b for a, b in zip(one, two, strict=True))
            norm = math.sqrt(sum(a * a for a in one)) * math.sqrt(sum(b * b for b in two))
            assert float(found[row, column]) == pytest.approx(dot / norm, rel=1e-4, abs=1e-6)


def test_similarities_make_nothing_larger_than_their_sides(largest: Callable[[Callable[[], Tensor]], int]) -> None:
    embedded = noise(64, 32).requires_grad_()
    assert largest(lambda: similarities(embedded).sum()) <= 64 * 32  # not 48 x 16 x 32


def test_head_loss_by_hand() -> None:
    # Views of image 0 lie along x, of image 1 along y: cosines 1 with their own, 0 with the other: ln(1 + e) - 1 = 0.313262.
    embedded = torch.tensor([[2.0, 0.0]] * 4 + [[0.0, 3.0]] * 4)
    assert float(head_loss(embedded)) == pytest.approx(0.313262, abs=1e-6)
    assert float(head_loss(torch.ones(16, 3))) == pytest.approx(math.log(4), abs=1e-5)  # nothing to tell by: ln B


def scores_with_ranks(ranks: list[int], columns: int = 8) -> tuple[Tensor, Tensor]:
    """Scores in which `ranks[r]` columns are above the truth of row r."""
    scores, truth = torch.zeros(len(ranks), columns), torch.arange(len(ranks)) % columns
    for row, rank in enumerate(ranks):
        others = [column for column in range(columns) if column != truth[row]]
        scores[row, others[:rank]] = 2.0
        scores[row, truth[row]] = 1.0
    return scores, truth


def test_kept_rows_by_hand() -> None:
    # 12 rows, 5 wrong, share 0.75: 7 + int(3.75) = 10 rows; the wrong one left out ranks worst
    scores, truth = scores_with_ranks([0, 3, 0, 1, 0, 0, 5, 0, 2, 0, 4, 0])
    kept = kept_rows(scores, truth, 0.75)
    assert kept.sum() == 10
    assert kept.tolist() == [1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 0, 1]
    assert kept_rows(scores, truth, 1.0).sum() == 12
    assert kept_rows(scores, truth, 0.0).sum() == 7


def test_equal_ranks_at_the_cut_are_kept_in_the_order_of_rows() -> None:
    scores, truth = scores_with_ranks([2, 2, 2, 2, 0])
    assert kept_rows(scores, truth, 0.5).tolist() == [1, 1, 0, 0, 1]


def test_kept_rows_equal_a_naive_selection() -> None:
    scores, truth = noise(48, 6), torch.randint(0, 6, (48,), generator=torch.Generator().manual_seed(1))
    for share in (0.1, 0.5, 0.75, 0.9):
        ranks = [sorted(row.tolist(), reverse=True).index(float(row[y])) for row, y in zip(scores, truth, strict=True)]
        order = sorted(range(48), key=lambda row: ranks[row])
        wrong = sum(rank > 0 for rank in ranks)
        chosen = set(order[: 48 - wrong + int(wrong * share)])
        assert set(kept_rows(scores, truth, share).nonzero()[:, 0].tolist()) == chosen


def test_losses_average_over_kept_rows_only() -> None:
    student, teacher, labels = noise(12, 5), 3 * noise(12, 5, seed=1), torch.arange(12) % 5
    values, kept = kl_per_sample(student, teacher, 4.0), kept_rows(teacher, labels, 0.5)
    chosen = [float(value) for value, one in zip(values, kept, strict=True) if one]
    assert 0 < len(chosen) < 12
    assert float(tf_loss(student, teacher, labels, 4.0, 0.5)) == pytest.approx(sum(chosen) / len(chosen), rel=1e-5)
    assert float(tf_loss(student, teacher, labels, 4.0, 1.0)) == pytest.approx(
        float(kd_loss(student, teacher, 4.0)), rel=1e-5
    )
    assert float(kept_mean(values, torch.zeros(12))) == 0


def test_ss_loss_by_hand_and_zero_for_equal_matrices() -> None:
    # One image of two: rows (1, 0) for the teacher and (0, 0) for the student at T = 0.5: p = sigmoid(2) = 0.880797,
    # KL to (1/2, 1/2) = ln 2 - H(p) = 0.327823 nats, times 0.25; all three rows of image 0 alike, those of image 1 agree.
    teacher = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 0.0]] * 3)
    h = -(0.880797 * math.log(0.880797) + 0.119203 * math.log(0.119203))
    expected = 0.25 * (math.log(2) - h) / 2
    assert float(ss_loss(torch.zeros(6, 2), teacher, 0.5, 1.0)) == pytest.approx(expected, rel=1e-4)
    assert float(ss_loss(teacher, teacher, 0.5, 0.75)) == 0


def test_head_rate_is_the_reference_s() -> None:
    rates = [head_rate(epoch, Config()) for epoch in (0, 29, 30, 44, 45, 59)]
    assert rates == pytest.approx([0.05, 0.05, 0.005, 0.005, 5e-4, 5e-4])


def state(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], two[name]) for name in one)


def test_first_stage_trains_the_teacher_s_head_alone_and_the_second_leaves_it(distilling: Callable[..., Any]) -> None:
    loop, method, _ = distilling("sskd", SMALL)
    student, heads = state(loop.student), {name: state(part) for name, part in method.modules.items()}
    losses = [loop.run_epoch(epoch)["train/loss_first_head"] for epoch in range(2)]
    assert losses == pytest.approx([math.log(16)] * 2, rel=0.05)  # noise cannot be told apart
    assert same(state(loop.student), student)  # BatchNorm statistics too
    assert same(state(method.modules["student_head"]), heads["student_head"])
    trained = state(method.modules["teacher_head"])
    assert not same(trained, heads["teacher_head"])
    row = loop.run_epoch(2)
    assert {"train/loss_ce", "train/loss_kd", "train/loss_tf", "train/loss_ss"} <= set(row)
    assert same(state(method.modules["teacher_head"]), trained)
    assert not same(state(method.modules["student_head"]), heads["student_head"])
    assert all(p.grad is None and not p.requires_grad for p in method.modules["teacher_head"].parameters())


def test_terms_are_weighted_and_look_at_their_views(distilling: Callable[..., Any]) -> None:
    fields = {"ce_weight": 0.2, "kd_weight": 0.3, "tf_weight": 0.4, "ss_weight": 0.5, **SMALL}
    loop, method, _ = distilling("sskd", fields)
    images, labels = noise(16, 1, 8, 8), torch.arange(4)
    loop.trained.requires_grad_(False)
    answers = [network.features(images) for network in (loop.student, loop.setup.teacher)]
    s, t = (Output(each.logits, each) for each in answers)
    terms = method.terms(Batch(torch.arange(4), labels, s, t, 4))
    terms = {name: float(value.detach()) for name, value in terms.items()}
    turned = [row for row in range(16) if row % 4]
    assert terms["ce"] == pytest.approx(0.2 * float(torch.nn.functional.cross_entropy(s.logits[::4], labels)))
    assert terms["kd"] == pytest.approx(0.3 * float(kd_loss(s.logits[::4], t.logits[::4], 4.0)))
    assert terms["tf"] == pytest.approx(0.4 * float(kd_loss(s.logits[turned], t.logits[turned], 4.0)), rel=1e-5)
    heads = [
        method.modules[f"{side}_head"](each.pooled) for side, each in zip(("student", "teacher"), answers, strict=True)
    ]
    assert terms["ss"] == pytest.approx(
        0.5 * float(ss_loss(*(similarities(each) for each in heads), 0.5, 0.75)), rel=1e-5
    )


def test_without_self_supervision_there_is_no_first_stage(distilling: Callable[..., Any]) -> None:
    for fields, views in (({"ss_weight": 0.0}, "rotations"), ({"ss_weight": 0.0, "tf_weight": 0.0}, "plain")):
        loop, method, _ = distilling("sskd", fields)
        assert loop.first_epochs == 0
        assert len(method.modules) == 0
        assert method.views == views


def test_defaults_and_presets_are_the_reference_s() -> None:
    expected = {
        "ce_weight": 0.1, "kd_weight": 0.9, "tf_weight": 2.7, "ss_weight": 10, "temperature": 4, "tf_temperature": 4,
        "ss_temperature": 0.5, "tf_keep": 1, "ss_keep": 0.75, "head_epochs": 60, "head_lr": 0.05, "head_step_1": 30, "head_step_2": 45,
    }  # fmt: skip
    assert Config().model_dump() == expected
    assert Config.model_validate(presets("sskd")["no-kd"]).model_dump() == expected | {"kd_weight": 0}
    stages = {"ce_weight": 1, "head_epochs": 30, "head_lr": 0.1, "head_step_1": 10, "head_step_2": 20}
    assert Config.model_validate(presets("sskd")["imagenet"]).model_dump() == expected | stages


@pytest.mark.parametrize("fields", [{"ss_keep": 1.1}, {"head_epochs": 0}, {"head_step_1": 50}, {"ss_temperature": 0}])
def test_out_of_bounds_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate(fields)


def test_a_batch_of_one_is_refused(case_of: Callable[..., Case]) -> None:
    (fault,) = faults(Config(), case_of("wrn_40_2", "wrn_16_2", batch_size=1))
    assert "wrn_40_2 -> wrn_16_2" in fault
    assert "batch_size 1" in fault
    assert "set it to 2" in fault
    assert faults(Config(ss_weight=0), case_of("wrn_40_2", "wrn_16_2", batch_size=1)) == []
    assert faults(Config(), case_of("wrn_40_2", "wrn_16_2")) == []
