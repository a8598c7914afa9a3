"""MobileNetV2: its blocks against torchvision's, and what the CIFAR form has of its own."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers import _torchvision, models
from trainers.models.mobilenetv2 import InvertedResidual, MobileNetV2

assert _torchvision.datasets  # that import lets the next one pass beside a torch without CUDA
from torchvision.models.mobilenetv2 import InvertedResidual as Theirs  # noqa: E402


@pytest.fixture
def network() -> MobileNetV2:
    built = models.build("mobilenetv2", classes=10, seed=0)
    assert isinstance(built, MobileNetV2)
    return built.eval()


def images(size: int = 32) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("channels_out", "stride"), [(8, 1), (8, 2), (12, 1)])
def test_block_computes_what_torchvisions_computes(channels_out: int, stride: int) -> None:
    torch.manual_seed(0)
    ours, theirs = InvertedResidual(8, channels_out, stride, 6), Theirs(8, channels_out, stride, 6)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    maps = torch.randn(2, 8, 6, 6)
    assert torch.allclose(ours(maps), theirs(maps), atol=1e-6)  # nothing comes out of a batch norm above 6 here


def test_activations_are_not_cut_at_6(network: MobileNetV2) -> None:
    # Fresh batch norms in eval mode scale and add nothing, and the linear bias is 0: f(1024 x) = 1024 f(x).
    once, scaled = network.features(images()), network.features(1024 * images())
    assert scaled.stem.max() > 6 and once.logits.abs().max() > 0
    torch.testing.assert_close(scaled.logits, 1024 * once.logits, atol=0, rtol=1e-5)


def test_stage_maps_are_linear_and_the_pre_relu_maps_too(network: MobileNetV2) -> None:
    features = network.features(images())
    assert all(maps.min() < 0 for maps in features.stages)
    assert all(one is two for one, two in zip(features.stages, features.pre_relu, strict=True))


def test_stage_maps_follow_groups_2_3_5_and_7(network: MobileNetV2) -> None:
    maps, after = F.relu(network.norm(network.conv(images()))), []
    for group in network.groups:
        maps = group(maps)
        after.append(maps)
    expected = (after[1], after[2], after[4], after[6])
    assert all(torch.equal(one, two) for one, two in zip(network.features(images()).stages, expected, strict=True))
    assert [len(group) for group in network.groups] == [1, 2, 3, 4, 3, 3, 1]


def test_first_group_expands_by_one_with_a_convolution_of_its_own(network: MobileNetV2) -> None:
    convs = [module for module in network.groups[0].modules() if isinstance(module, nn.Conv2d)]
    assert [(conv.in_channels, conv.out_channels, conv.groups) for conv in convs] == [
        (16, 16, 1),
        (16, 16, 16),
        (16, 8, 1),
    ]


def test_initial_weights_have_the_stated_spread(network: MobileNetV2) -> None:
    # 1x1 conv to 1280: sqrt(2 / 1280) = 0.0395; depthwise 3x3 of 480: sqrt(2 / (9 * 480)) = 0.0215; linear 0.01, 0.
    assert network.last_conv.weight.std().item() == pytest.approx(0.0395, rel=0.01)
    assert network.groups[5][1].layers[3].weight.std().item() == pytest.approx(0.0215, rel=0.03)
    assert network.classifier.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not network.classifier.bias.any()
