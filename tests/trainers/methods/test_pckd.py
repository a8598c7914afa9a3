"""PCKD: each loss by hand and by loops, its switches, and the rows of the paper's tables."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from trainers.config import canonical_json
from trainers.methods import Batch, Case, Output, presets
from trainers.methods._losses import kl_per_sample
from trainers.methods._preview import difficulty, preview_weight, threshold
from trainers.methods.pckd import Config, _align, ca_loss, cc_printed, cc_release, fa_loss, faults

DEFAULTS = {
    "form": "release", "ce_weight": 1, "alpha": 1, "temperature": 4, "beta_fa": 20, "beta_ca": 1, "beta_cc": 0.05,
    "weighting": "preview", "eps": 0.005, "gamma": 2, "weight_gradient": False, "contrast_temperature": 4, "tau": 0.07,
    "include_positive": False, "teacher_projection": "linear", "hidden_factor": 16,
}  # fmt: skip


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- feature and centre alignment ----


def test_fa_by_hand_and_by_loop() -> None:
    teacher = torch.tensor([[1.0, 0.0]] * 3)
    # same direction 0, orthogonal 2, opposite 4
    assert float(fa_loss(torch.tensor([[3.0, 0.0], [0.0, 5.0], [-2.0, 0.0]]), teacher)) == pytest.approx(2)
    for vector, expected in (((3.0, 0.0), 0), ((0.0, 5.0), 2), ((-2.0, 0.0), 4)):
        assert float(fa_loss(torch.tensor([vector]), teacher[:1])) == pytest.approx(expected)
    s, t = noise(8, 5), noise(8, 5, seed=1)
    naive = sum(2 - 2 * float(a @ b / (a.norm() * b.norm())) for a, b in zip(s, t, strict=True)) / 8
    assert float(fa_loss(s, t)) == pytest.approx(naive, rel=1e-5)
    assert float(fa_loss(3 * s, 0.1 * t)) == pytest.approx(naive, rel=1e-5)


def linear(weight: list[list[float]], bias: list[float]) -> nn.Linear:
    made = nn.Linear(len(weight[0]), len(weight))
    made.load_state_dict({"weight": torch.tensor(weight), "bias": torch.tensor(bias)})
    return made


def test_ca_by_hand() -> None:
    student, teacher = linear([[1.0, 2.0], [3.0, 4.0]], [0.0, 3.0]), linear([[1.0, 0.0], [3.0, 3.0]], [0.0, 0.0])
    # differences 2 and 1 in the weights, 3 in the biases: (4 + 1 + 9) / 6 elements of [W, b], or 4 + 1
    assert float(ca_loss(student, teacher, "release").detach()) == pytest.approx(14 / 6)
    assert float(ca_loss(student, teacher, "printed").detach()) == pytest.approx(5)
    for form in ("release", "printed"):
        assert float(ca_loss(student, student, form).detach()) == 0
        ca_loss(student, teacher, form).backward()
    assert teacher.weight.grad is None
    assert student.weight.grad is not None


# ---- centre contrast ----


@pytest.mark.parametrize(("classes", "without", "within"), [(100, 4.595120, 4.605170), (10, math.log(9), math.log(10))])
def test_printed_contrast_of_equal_similarities(classes: int, without: float, within: float) -> None:
    centres = torch.ones(classes, 6)
    features, labels = noise(7, 6).abs(), torch.arange(7)
    assert cc_printed(features, centres, labels, 0.07).tolist() == pytest.approx([without] * 7, rel=1e-4)
    assert cc_printed(features, centres, labels, 0.07, True).tolist() == pytest.approx([within] * 7, rel=1e-4)


def test_printed_contrast_ends_below_zero_at_evenly_spread_centres() -> None:
    # own cosine 1, others -1/99: ln 99 - (100/99) / 0.07 = -9.83
    centres = torch.eye(100) - 1 / 100
    for tau, expected in ((0.07, -9.83), (4.0, 4.34)):
        loss = cc_printed(5 * centres[:3], centres, torch.arange(3), tau)
        assert loss.tolist() == pytest.approx([expected] * 3, abs=0.01)
        assert float(loss[0]) == pytest.approx(math.log(99) - 100 / (99 * tau), rel=1e-4)


@pytest.mark.parametrize("include_positive", [False, True])
def test_printed_contrast_equals_a_naive_loop(include_positive: bool) -> None:
    features, centres, labels = noise(6, 5), noise(4, 5, seed=1), torch.arange(6) % 4
    for row, value in enumerate(cc_printed(features, centres, labels, 0.3, include_positive)):
        y = int(labels[row])
        scores = [math.exp(float(F.cosine_similarity(features[row], centre, dim=0)) / 0.3) for centre in centres]
        below = sum(score for c, score in enumerate(scores) if include_positive or c != y)
        assert float(value) == pytest.approx(-math.log(scores[y] / below), rel=1e-4)


def test_release_contrast_of_equal_scores() -> None:
    # 512 vectors: (4 / 0.07) ln 511 = 356.364 for an anchor, twice that for a view
    zeros = torch.zeros(256, 10)
    losses = cc_release(zeros, zeros, torch.arange(256) // 4 % 10, 4.0)
    assert losses.shape == (256,)
    assert losses.tolist() == pytest.approx([712.73] * 256, abs=0.01)


def test_release_contrast_equals_a_naive_loop() -> None:
    u, w, labels = noise(8, 3), noise(8, 3, seed=1), torch.tensor([0, 0, 1, 1, 2, 2, 1, 1])
    vectors, both = torch.cat([u, w]).double(), torch.cat([labels, labels]).tolist()
    anchors = []
    for a in range(16):
        below = sum(math.exp(float(vectors[a] @ vectors[k]) / 4) for k in range(16) if k != a)
        positives = [p for p in range(16) if p != a and both[p] == both[a]]
        mean = sum(float(vectors[a] @ vectors[p]) / 4 - math.log(below) for p in positives) / len(positives)
        anchors.append(-4 / 0.07 * mean)
    expected = [anchors[i] + anchors[i + 8] for i in range(8)]
    assert cc_release(u, w, labels, 4.0).tolist() == pytest.approx(expected, rel=1e-4)


def test_release_contrast_of_large_scores_is_finite() -> None:
    u = (300 * noise(8, 3)).requires_grad_()
    loss = cc_release(u, 300 * noise(8, 3, seed=1), torch.arange(8) // 4, 4.0).sum()
    loss.backward()
    assert loss.isfinite()
    assert u.grad is not None
    assert u.grad.isfinite().all()


@pytest.mark.parametrize(("student", "teacher", "millions"), [(64, 64, 0.13), (128, 128, 0.53), (256, 256, 2.1)])
def test_g_has_the_reference_s_size(student: int, teacher: int, millions: float) -> None:
    count = sum(parameter.numel() for parameter in _align(student, teacher, 16 * teacher).parameters())
    assert count / 1e6 == pytest.approx(millions, rel=0.04)


# ---- the joined loss ----


def four_views(made: Any) -> Batch:
    images, labels = noise(64, 1, 8, 8), torch.arange(16) % 10
    answers = [network.features(images) for network in (made.loop.student, made.loop.setup.teacher)]
    return Batch(torch.arange(16), labels, *(Output(each.logits, each) for each in answers), 4)


def values(terms: dict[str, Tensor]) -> dict[str, float]:
    return {name: float(value.detach()) for name, value in terms.items()}


def test_terms_of_the_release_form(distilling: Callable[..., Any]) -> None:
    fields = {"ce_weight": 0.5, "alpha": 2.0, "beta_fa": 3.0, "beta_ca": 4.0, "beta_cc": 0.1, "eps": 0.01}
    made = distilling("pckd", fields, teacher="resnet8")
    made.loop.trained.requires_grad_(False)
    method, batch = made.method, four_views(made)
    method.start_epoch(2)
    s, t, labels = batch.student.logits[::4], batch.taught.logits[::4], batch.labels
    v = preview_weight(difficulty(s, labels), threshold(0.01, 2))
    assert 0 < (v < 1).sum() < 16
    f_s, f_t = batch.student.maps.pooled, batch.taught.maps.pooled
    student, teacher = made.loop.student.classifier, made.loop.setup.teacher.classifier
    own = F.normalize(method.modules["own_head"](f_s), dim=1) @ student.weight.T
    other = F.normalize(method.modules["teacher_head"](f_s), dim=1) @ teacher.weight.T
    cc = cc_release(own, other, labels.repeat_interleave(4), 4.0)
    terms = values(method.terms(batch))
    assert terms["ce"] == pytest.approx(0.5 * float(F.cross_entropy(s, labels)))
    assert terms["kd"] == pytest.approx(2 * float((v * kl_per_sample(s, t, 4.0)).mean()), rel=1e-5)
    assert terms["fa"] == pytest.approx(3 * float(fa_loss(method.modules["align"](f_s), f_t)), rel=1e-4)
    assert terms["ca"] == pytest.approx(4 * float(ca_loss(student, teacher, "release").detach()), rel=1e-5)
    assert terms["cc"] == pytest.approx(0.1 * float((v.repeat_interleave(4) * cc).mean()), rel=1e-4)


@pytest.mark.parametrize("teacher", ["resnet8", "resnet8x4"])
@pytest.mark.parametrize("projection", ["linear", "align"])
def test_printed_contrast_maps_features_only_where_widths_differ(
    distilling: Callable[..., Any], teacher: str, projection: str
) -> None:
    fields = {"form": "printed", "beta_ca": 0.0, "weighting": "none", "teacher_projection": projection}
    made = distilling("pckd", fields, teacher=teacher)
    modules, batch = made.method.modules, four_views(made)
    mapped = projection == "linear" and teacher == "resnet8x4"
    assert set(modules) == {"align"} | ({"teacher_head"} if mapped else set())
    f_s, labels = batch.student.maps.pooled, batch.labels.repeat_interleave(4)
    met = modules["align"](f_s) if projection == "align" else modules["teacher_head"](f_s) if mapped else f_s
    own, other = (net.classifier.weight for net in (made.loop.student, made.loop.setup.teacher))
    expected = 0.05 * (cc_printed(f_s, own, labels, 0.07) + cc_printed(met, other, labels, 0.07)).mean()
    assert values(made.method.terms(batch))["cc"] == pytest.approx(float(expected.detach()), rel=1e-4)


def test_centres_of_the_student_learn_from_the_contrast_and_the_teacher_s_do_not(
    distilling: Callable[..., Any],
) -> None:
    made = distilling("pckd", {"beta_ca": 0.0}, teacher="resnet8x4")
    made.method.terms(four_views(made))["cc"].backward()
    assert made.loop.student.classifier.weight.grad.abs().sum() > 0
    assert made.loop.setup.teacher.classifier.weight.grad is None
    heads = made.method.modules
    assert all(
        parameter.grad is not None for name in ("own_head", "teacher_head") for parameter in heads[name].parameters()
    )
    assert all(parameter.grad is None for parameter in heads["align"].parameters())


@pytest.mark.parametrize("weight_gradient", [False, True])
def test_gradient_goes_through_the_weight_of_kd_only_where_asked(
    distilling: Callable[..., Any], weight_gradient: bool
) -> None:
    made = distilling("pckd", {**presets("pckd")["kd-preview"], "weight_gradient": weight_gradient})
    s, t, labels = noise(16, 10).requires_grad_(), noise(16, 10, seed=1), torch.arange(16) % 10
    loss = made.method.terms(Batch(torch.arange(16), labels, Output(s), Output(t)))["kd"]
    weight = preview_weight(difficulty(s, labels), threshold(0.005, 0)).detach()
    (found,) = torch.autograd.grad(loss, s)
    (cut,) = torch.autograd.grad((weight * kl_per_sample(s, t, 4.0)).mean(), s)
    assert torch.allclose(found, cut, atol=1e-7) is not weight_gradient


@pytest.mark.parametrize("preset", ["kd", "kd-preview", "kd-focal", "ca"])
def test_rows_without_contrast_and_alignment_pay_for_no_rotations(distilling: Callable[..., Any], preset: str) -> None:
    made = distilling("pckd", {**presets("pckd")[preset]}, teacher="resnet8")
    assert made.method.views == "plain"
    assert made.method.needs_features is False
    assert len(made.method.modules) == 0
    row = made.loop.run_epoch(0)
    assert ("train/mean_v" in row) == (preset in ("kd-preview", "kd-focal"))


def test_threshold_depends_on_the_epoch_alone(distilling: Callable[..., Any]) -> None:
    made = distilling("pckd", {"beta_ca": 0.0})
    row = made.loop.run_epoch(1)  # as after a restart: no epoch before
    assert row["train/lambda"] == pytest.approx(1.005**2)
    assert 0.2 < row["train/mean_v"] < 1


# ---- switches, presets, faults ----

TABLES: dict[str, list[tuple[str, dict[str, Any]]]] = {
    "V": [
        ("kd", {"alpha": 1, "ckd": 0, "weighting": "none"}),
        ("kd-preview", {"alpha": 1, "ckd": 0, "weighting": "preview"}),
        ("ckd", {"alpha": 0, "ckd": 1, "weighting": "none"}),
        ("kd-ckd", {"alpha": 1, "ckd": 1, "weighting": "none"}),
        ("pckd-no-kd", {"alpha": 0, "ckd": 1, "weighting": "preview"}),
        ("pckd", {"alpha": 1, "ckd": 1, "weighting": "preview"}),
    ],
    "VIII": [
        ("kd-focal", {"alpha": 1, "ckd": 0, "weighting": "focal"}),
        ("ckd-focal", {"alpha": 0, "ckd": 1, "weighting": "focal"}),
        ("kd-ckd-focal", {"alpha": 1, "ckd": 1, "weighting": "focal"}),
    ],
    "IX": [("curriculum", {"alpha": 1, "ckd": 1, "weighting": "curriculum"})],
}


@pytest.mark.parametrize(("preset", "row"), [each for rows in TABLES.values() for each in rows])
def test_preset_is_its_row_of_the_tables(preset: str, row: dict[str, Any]) -> None:
    weights = (
        {"beta_fa": 20, "beta_ca": 1, "beta_cc": 0.05} if row["ckd"] else {"beta_fa": 0, "beta_ca": 0, "beta_cc": 0}
    )
    expected = DEFAULTS | weights | {"alpha": row["alpha"], "weighting": row["weighting"]}
    assert Config.model_validate(presets("pckd")[preset]).model_dump() == expected


def test_table_vi_has_all_switches_and_ends_as_ckd() -> None:
    parts = {"fa": 20, "ca": 1, "cc": 0.05}
    rows = {}
    for preset in ("fa", "ca", "cc", "ca-cc", "fa-ca", "fa-cc", "ckd"):
        names = set(parts) if preset == "ckd" else set(preset.split("-"))
        config = Config.model_validate(presets("pckd")[preset])
        assert (config.alpha, config.weighting) == (0, "none")
        assert {part: getattr(config, f"beta_{part}") for part in parts} == {
            part: value if part in names else 0 for part, value in parts.items()
        }
        rows[preset] = canonical_json(config.active())
    assert len(set(rows.values())) == 7


def test_every_preset_is_another_configuration() -> None:
    every = {name: canonical_json(Config.model_validate(fields).active()) for name, fields in presets("pckd").items()}
    assert len(every) == 18
    assert len(set(every.values())) == 18
    assert Config.model_validate(presets("pckd")["imagenet"]).model_dump() == DEFAULTS | {"beta_cc": 0.005}
    assert Config.model_validate(presets("pckd")["printed"]).model_dump() == DEFAULTS | {"form": "printed"}
    assert Config().model_dump() == DEFAULTS


def test_what_has_no_effect_makes_no_other_configuration() -> None:
    off = {"beta_fa": 0.0, "beta_ca": 0.0, "beta_cc": 0.0}
    changed = {"form": "printed", "tau": 0.5, "hidden_factor": 2, "gamma": 3.0, "contrast_temperature": 1.0}
    assert Config(**off, **changed).active() == Config(**off).active()
    ckd, eps = (
        {"alpha": 0.0, "weighting": "none"},
        {"eps": 0.05, "gamma": 5.0, "temperature": 2.0, "weight_gradient": True},
    )
    assert Config(**ckd, **eps).active() == Config(**ckd).active()
    fa = {"alpha": 0.0, "beta_ca": 0.0, "beta_cc": 0.0}
    assert Config(**fa, weighting="focal").active() == Config(**fa, weighting="none").active()


@pytest.mark.parametrize(
    "fields", [{"eps": -0.1}, {"tau": 0}, {"weighting": "hard"}, {"hidden_factor": 0}, {"gamma": 0}]
)
def test_out_of_bounds_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate(fields)


def test_centres_of_unequal_shape_are_refused_unless_left_out(case_of: Callable[..., Case]) -> None:
    # one family, two widths: shapes are compared, not names
    (fault,) = faults(Config(), case_of("wrn_40_2", "wrn_40_1"))
    assert "wrn_40_2 -> wrn_40_1" in fault
    assert "(100, 128)" in fault
    assert "(100, 64)" in fault
    assert "beta_ca to 0" in fault
    assert faults(Config(beta_ca=0), case_of("wrn_40_2", "wrn_40_1")) == []
    for teacher, student in (("wrn_40_2", "wrn_16_2"), ("resnet110", "resnet20"), ("vgg13", "vgg8")):
        assert faults(Config(), case_of(teacher, student)) == []


def test_a_batch_of_one_is_refused(case_of: Callable[..., Case]) -> None:
    (fault,) = faults(Config(), case_of("wrn_40_2", "wrn_16_2", batch_size=1))
    assert "wrn_40_2 -> wrn_16_2" in fault
    assert "set it to 2" in fault
