"""Regressors, poolings and shapes shared by methods on maps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from trainers import models
from trainers.data.digits import INFO
from trainers.methods import Case
from trainers.methods._adapters import (
    batch_faults,
    has_regressor,
    hint_regressor,
    pooled_alike,
    probe,
    shapes_of,
    stage_count_faults,
)


@pytest.mark.parametrize(
    ("size", "wanted", "kind", "kernel", "stride"),
    [
        (16, 8, nn.Conv2d, 3, 2),
        (8, 16, nn.ConvTranspose2d, 4, 2),
        (8, 8, nn.Conv2d, 1, 1),
        (8, 5, nn.Conv2d, 4, 1),
        (32, 8, nn.Conv2d, 25, 1),
    ],
)
def test_regressor_reaches_the_teachers_shape(
    size: int, wanted: int, kind: type[nn.Module], kernel: int, stride: int
) -> None:
    regressor = hint_regressor((3, size, size), (5, wanted, wanted))
    assert isinstance(regressor[0], kind)
    assert (regressor[0].kernel_size, regressor[0].stride) == ((kernel, kernel), (stride, stride))
    assert regressor[0].bias is not None
    made = regressor(torch.randn(2, 3, size, size))
    assert made.shape == (2, 5, wanted, wanted)
    assert float(made.detach().min()) >= 0


def test_regressor_without_relu_is_signed() -> None:
    regressor = hint_regressor((3, 8, 8), (5, 8, 8), relu=False)
    assert [type(layer) for layer in regressor] == [nn.Conv2d, nn.BatchNorm2d]
    assert float(regressor(torch.randn(2, 3, 8, 8)).detach().min()) < 0


@pytest.mark.parametrize(("size", "wanted", "reached"), [(4, 8, True), (4, 16, False), (5, 8, False), (9, 8, True)])
def test_growing_works_by_two_only(size: int, wanted: int, reached: bool) -> None:
    assert has_regressor((3, size, size), (3, wanted, wanted)) is reached
    if not reached:
        with pytest.raises(ValueError, match=f"map of {size} to one of {wanted}"):
            hint_regressor((3, size, size), (3, wanted, wanted))


def test_the_larger_map_is_pooled() -> None:
    large, small = torch.arange(16.0).view(1, 1, 4, 4), torch.ones(1, 2, 2, 2)
    pooled, same = pooled_alike(large, small)
    assert pooled.flatten().tolist() == [2.5, 4.5, 10.5, 12.5]  # means of 2x2 blocks
    assert torch.equal(same, small)
    other, pooled = pooled_alike(small, large)
    assert torch.equal(other, small)
    assert pooled.flatten().tolist() == [2.5, 4.5, 10.5, 12.5]


def test_probing_leaves_no_trace() -> None:
    network = models.build("resnet8", classes=10, channels=1, size=8, seed=0)
    network.stages.eval()
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    random = torch.get_rng_state()
    features = probe(network, INFO, torch.device("cpu"))
    assert [tuple(each.shape) for each in features.stages] == [(2, 16, 8, 8), (2, 32, 4, 4), (2, 64, 2, 2)]
    assert not features.logits.requires_grad
    assert all(module.training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_shapes_of_a_pair_cost_no_weights(case_of: Callable[..., Case]) -> None:
    student, teacher = shapes_of(case_of("vgg13", "resnet20"))
    assert [each.shape[1:] for each in student.stages] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]
    assert [each.shape[1:] for each in teacher.stages] == [(128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 4, 4)]
    assert student.pooled.device.type == teacher.logits.device.type == "meta"
    network = models.build("resnet20", classes=100).eval()
    for mine, other in zip(student, network.features(torch.zeros(2, 3, 32, 32)), strict=True):
        assert [each.shape for each in mine] == [each.shape for each in other]


def test_refusals_name_pair_reason_and_remedy(case_of: Callable[..., Case]) -> None:
    assert stage_count_faults(case_of("vgg13", "vgg8")) == []
    (fault,) = stage_count_faults(case_of("vgg13", "resnet20"))
    assert "vgg13 -> resnet20" in fault
    assert "4 stages and the student 3" in fault
    assert batch_faults(case_of("vgg13", "vgg8", batch_size=2), 2) == []
    (fault,) = batch_faults(case_of("vgg13", "vgg8", batch_size=2), 3)
    assert "batch_size 2" in fault
    assert "3 or more" in fault
