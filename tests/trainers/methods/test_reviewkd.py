"""Knowledge review."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.config import Scaled
from trainers.methods import Case
from trainers.methods.ce import ce_loss
from trainers.methods.reviewkd import PRESETS, Config, Fusion, faults, hcl_loss, levels, warmup_factor


def test_value_by_hand() -> None:
    # 2x2 maps that differ by (1, 1, 1, 5): full size (3 * 1 + 25) / 4 = 7; the pool to 1x1 differs by 2 and weighs 1/2
    s, t = torch.tensor([[[[1.0, 1.0], [1.0, 5.0]]]]), torch.zeros(1, 1, 2, 2)
    assert float(hcl_loss([s], [t])) == pytest.approx((7 + 0.5 * 4) / 1.5)
    assert float(hcl_loss([s, s], [t, t])) == pytest.approx(2 * 6)  # levels are summed


def test_weights_belong_to_the_order_of_the_pools() -> None:
    ones = torch.ones(1, 1, 1, 1)
    assert float(hcl_loss([ones], [0 * ones])) == 1  # no pool is smaller than one pixel
    torch.manual_seed(0)
    s = torch.randn(1, 1, 4, 4)  # pools to 2 and 1 weigh 1/2 and 1/4, not 1/4 and 1/8
    expected = (
        float(s.square().mean()) + 0.5 * float(F.avg_pool2d(s, 2).square().mean()) + 0.25 * float(s.mean()) ** 2
    ) / 1.75
    assert float(hcl_loss([s], [torch.zeros(1, 1, 4, 4)])) == pytest.approx(expected, rel=1e-5)


def test_equals_a_naive_loop() -> None:
    torch.manual_seed(0)
    s, t = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    total, weights = 0.0, 0.0
    for size, weight in ((8, 1.0), (4, 0.5), (2, 0.25), (1, 0.125)):
        step = 8 // size
        squares = []
        for i, c, h, w in np.ndindex(2, 3, size, size):
            window = (i, c, slice(step * h, step * (h + 1)), slice(step * w, step * (w + 1)))
            squares.append((float(s[window].mean()) - float(t[window].mean())) ** 2)
        total += weight * float(np.mean(squares))
        weights += weight
    assert float(hcl_loss([s], [t])) == pytest.approx(total / weights, rel=1e-4)


def test_same_maps_cost_nothing_and_gradient_goes_to_the_student_alone() -> None:
    s, t = (torch.randn(2, 3, 8, 8, requires_grad=True) for _ in range(2))
    assert float(hcl_loss([s], [s])) == 0
    hcl_loss([s], [t]).backward()
    assert s.grad is not None
    assert t.grad is None


def test_fusion_follows_the_reference_step_by_step() -> None:
    torch.manual_seed(0)
    fusion = Fusion(3, 4, 5, 8, deepest=False).eval()
    maps, below = torch.randn(2, 3, 4, 4), torch.randn(2, 4, 2, 2)
    mixed = fusion.into(maps)
    up = below.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert fusion.attention is not None
    weights = torch.sigmoid(fusion.attention(torch.cat([mixed, up], 1)))
    joint = torch.stack([mixed[:, c] * weights[:, 0] + up[:, c] * weights[:, 1] for c in range(4)], 1)
    grown = joint.repeat_interleave(2, 2).repeat_interleave(2, 3)
    output, carried = fusion(maps, below)
    assert torch.allclose(carried, grown, atol=1e-6)  # what is carried has the teacher's size, before the 3x3
    assert torch.allclose(output, fusion.out(grown), atol=1e-5)
    assert output.shape == (2, 5, 8, 8)
    deepest = Fusion(3, 4, 5, 1, deepest=True)
    assert deepest.attention is None
    assert deepest(torch.randn(2, 3, 1, 1), None)[1].shape == (2, 4, 1, 1)
    for convolution in (fusion.into[0], fusion.out[0]):
        bound = (3 / convolution.weight[0].numel()) ** 0.5  # Kaiming uniform with a = 1
        assert float(convolution.weight.abs().max()) <= bound
        assert convolution.bias is None


def test_warmup_by_hand() -> None:
    assert [warmup_factor(epoch, 20, 0) for epoch in (0, 5, 20, 100)] == [0.0, 0.25, 1.0, 1.0]
    assert [warmup_factor(epoch, 20, 1) for epoch in (0, 4, 19)] == [0.05, 0.25, 1.0]
    assert warmup_factor(0, 0, 0) == 1.0
    assert [type(mark) for mark in Config.model_fields["warmup_epochs"].metadata if isinstance(mark, Scaled)] == [
        Scaled
    ]


@pytest.mark.parametrize("student_maps", ["post", "pre"])
def test_terms_are_weighted(student_maps: str, distilling: Callable[..., Any]) -> None:
    fields = {"ce_weight": 0.5, "review_weight": 3.0, "student_maps": student_maps, "max_mid_channels": 16}
    _, method, batch = distilling("reviewkd", fields)
    method.start_epoch(10)
    own, taught = batch.student.maps, batch.taught.maps
    inputs = levels(own.stages if student_maps == "post" else own.pre_relu, own.pooled)
    outputs: list[Tensor] = []
    carried = None
    for fusion, maps in zip(method.fusions, inputs, strict=True):
        output, carried = fusion(maps, carried)
        outputs.append(output)
    assert [each.shape[1:] for each in outputs] == [(256, 1, 1), (256, 2, 2), (128, 4, 4), (64, 8, 8)]
    assert carried is not None and carried.shape[1] == 16
    targets = [taught.pooled[:, :, None, None], *reversed(taught.pre_relu)]
    assert {name: float(value) for name, value in method.terms(batch).items()} == pytest.approx(
        {
            "ce": 0.5 * float(ce_loss(batch.student_logits, batch.labels)),
            "reviewkd": 10 / 20 * 3 * float(hcl_loss(outputs, targets)),
        },
        rel=1e-4,
    )


def test_fusions_are_trained_and_kept(distilling: Callable[..., Any]) -> None:
    loop, method, _ = distilling("reviewkd", {"warmup_epochs": 0})
    before = {name: value.detach().clone() for name, value in method.modules.named_parameters()}
    loop.run_epoch(0)
    assert all(not torch.equal(value, before[name]) for name, value in method.modules.named_parameters())
    assert set(before) <= set(loop.state_dict()["trained"])


def test_channels_of_the_middle_are_those_of_the_deepest_student_map_up_to_512(distilling: Callable[..., Any]) -> None:
    _, method, _ = distilling("reviewkd", {})
    assert method.fusions[0].into[0].out_channels == 64


def test_defaults_and_presets_are_the_references() -> None:
    assert Config().model_dump() == {
        "ce_weight": 1.0,
        "review_weight": 5.0,
        "warmup_epochs": 20,
        "warmup_from": 0,
        "student_maps": "post",
        "max_mid_channels": 512,
    }
    weights = {name: fields["review_weight"] for name, fields in PRESETS.items() if "-" in name}
    five = ("wrn_40_2-wrn_16_2", "wrn_40_2-wrn_40_1", "wrn_40_2-shufflev1", "resnet32x4-resnet8x4")
    assert weights == {
        **dict.fromkeys((*five, "resnet32x4-shufflev1", "vgg13-vgg8"), 5.0),
        **dict.fromkeys(("resnet32x4-shufflev2", "vgg13-mobilenetv2", "resnet50-mobilenetv2"), 8.0),
        **dict.fromkeys(("vgg13-mobilenetv2-30", "resnet50-mobilenetv2-30"), 30.0),
        **dict.fromkeys(("resnet110-resnet32", "resnet110-resnet20"), 1.0),
        "resnet56-resnet20": 0.6,
    }
    assert PRESETS["imagenet"] == {"review_weight": 1.0, "warmup_epochs": 1, "student_maps": "pre"}
    assert PRESETS["mdistiller"] == {"warmup_from": 1}


def test_pairs_it_cannot_serve_are_refused(case_of: Callable[..., Case]) -> None:
    for teacher, student in (("resnet50", "mobilenetv2"), ("resnet32x4", "shufflev2"), ("vgg13", "vgg8")):
        assert faults(Config(), case_of(teacher, student)) == []
    (fault,) = faults(Config(), case_of("vgg13", "resnet20"))
    assert "vgg13 -> resnet20" in fault and "stages" in fault
