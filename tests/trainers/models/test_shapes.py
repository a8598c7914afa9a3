"""Shapes of maps and multiply-adds as printed, and `shapes`, which knows them without weights."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from trainers import models
from trainers.errors import ConfigError

RESNET = ((16, 32, 32), (32, 16, 16), (64, 8, 8))
X4 = ((64, 32, 32), (128, 16, 16), (256, 8, 8))
WIDE2 = ((32, 32, 32), (64, 16, 16), (128, 8, 8))
VGG = ((128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 4, 4))
RESNET18 = ((64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4))
# For images of 32 pixels: d, stage maps, stem.
PRINTED = {
    **{f"resnet{depth}": (64, RESNET, (16, 32, 32)) for depth in (8, 14, 20, 32, 44, 56, 110)},
    **{f"resnet{depth}x4": (256, X4, (32, 32, 32)) for depth in (8, 32)},
    **{f"wrn_{depth}_1": (64, RESNET, (16, 32, 32)) for depth in (10, 16, 40)},
    **{f"wrn_{depth}_2": (128, WIDE2, (16, 32, 32)) for depth in (16, 40)},
    **{f"vgg{depth}": (512, VGG, (64, 32, 32)) for depth in (8, 11, 13, 16, 19)},
    **{f"resnet{depth}": (512, RESNET18, (64, 32, 32)) for depth in (18, 34)},
    "resnet50": (2048, ((256, 32, 32), (512, 16, 16), (1024, 8, 8), (2048, 4, 4)), (64, 32, 32)),
    "mobilenetv2": (1280, ((12, 16, 16), (16, 8, 8), (48, 4, 4), (160, 2, 2)), (16, 16, 16)),
    "shufflev1": (960, ((240, 16, 16), (480, 8, 8), (960, 4, 4)), (24, 32, 32)),
    "shufflev2": (1024, ((116, 16, 16), (232, 8, 8), (464, 4, 4)), (24, 32, 32)),
}
IMAGENET = (512, ((64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)), (64, 112, 112))
MMAC = {  # multiply-adds of convolutions and linear layers per image of 32 pixels, in millions
    "resnet20": 40.8,
    "resnet32": 69.1,
    "resnet56": 125.8,
    "resnet110": 253.2,
    "resnet8x4": 177.1,
    "resnet32x4": 1083.0,
    "wrn_16_2": 101.1,
    "wrn_40_1": 83.3,
    "wrn_40_2": 327.6,
    "vgg8": 96.2,
    "vgg13": 284.9,
    "mobilenetv2": 6.5,
    "shufflev1": 38.7,
    "shufflev2": 44.5,
    "resnet50": 1298.0,
}
MMAC_224 = {"resnet18_imagenet": 1814, "resnet34_imagenet": 3664}  # as torchvision prints them, 1000 classes
ANY_SIZE = (
    "resnet8",
    "resnet8x4",
    "wrn_16_2",
    "resnet18",
    "resnet18_tiny3",
    "resnet18_imagenet",
    "mobilenetv2",
    "mobilenetv2_small",
    "shufflev1",
    "shufflev1_small",
    "shufflev2",
    "shufflev2_small",
)


def mmac(name: str, classes: int, size: int) -> float:
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        models.build(name, classes=classes, size=size).eval()(torch.empty(1, 3, size, size))
    return counter.get_total_flops() / 2 / 1e6


def measured(name: str, channels: int, size: int) -> models.Shapes:
    def shape(maps: Tensor) -> tuple[int, int, int]:
        return maps.shape[1], maps.shape[2], maps.shape[3]

    network = models.build(name, classes=10, channels=channels, size=size).eval()
    with torch.inference_mode():
        found = network.features(torch.zeros(2, channels, size, size))
    assert [maps.shape for maps in found.pre_relu] == [maps.shape for maps in found.stages]
    assert network.classifier.weight.shape == (10, found.pooled.shape[1])
    return models.Shapes(found.pooled.shape[1], tuple(shape(maps) for maps in found.stages), shape(found.stem))


@pytest.mark.parametrize("name", PRINTED)
def test_maps_and_pooled_features_have_the_printed_shapes(name: str) -> None:
    assert models.shapes(name, classes=100) == PRINTED[name]


@pytest.mark.parametrize("name", ["resnet18_imagenet", "resnet34_imagenet"])
def test_maps_of_224_pixels(name: str) -> None:
    assert models.shapes(name, classes=1000, size=224) == IMAGENET


@pytest.mark.parametrize("name", MMAC)
def test_multiply_adds_are_as_printed(name: str) -> None:
    assert mmac(name, 100, 32) == pytest.approx(MMAC[name], rel=0.01)


@pytest.mark.parametrize("name", MMAC_224)
def test_multiply_adds_of_224_pixels_are_as_printed(name: str) -> None:
    assert mmac(name, 1000, 224) == pytest.approx(MMAC_224[name], rel=0.01)


@pytest.mark.parametrize("size", [1, 8, 32])
@pytest.mark.parametrize("name", ANY_SIZE)
def test_shapes_are_those_of_the_features(name: str, size: int) -> None:
    assert models.shapes(name, classes=10, channels=1, size=size) == measured(name, 1, size)


@pytest.mark.parametrize(("name", "size"), [("vgg8", 8), ("vgg8", 64), ("resnet18_tiny7", 64), ("resnet50", 8)])
def test_shapes_are_those_of_the_features_at_sizes_of_their_own(name: str, size: int) -> None:
    assert models.shapes(name, classes=10, size=size) == measured(name, 3, size)


def test_small_networks_at_the_size_they_are_for() -> None:
    def small(name: str) -> models.Shapes:
        return models.shapes(name, classes=10, channels=1, size=8)

    assert small("mobilenetv2_small") == (1280, ((12, 8, 8), (16, 4, 4), (48, 2, 2), (160, 1, 1)), (16, 8, 8))
    assert small("vgg8_small") == (128, ((32, 4, 4), (64, 2, 2), (128, 2, 2), (128, 2, 2)), (16, 8, 8))
    assert small("resnet50_small") == (256, ((64, 8, 8), (128, 4, 4), (256, 2, 2), (256, 1, 1)), (16, 8, 8))
    assert small("resnet8x2") == (128, ((32, 8, 8), (64, 4, 4), (128, 2, 2)), (16, 8, 8))
    assert small("shufflev1_small") == (240, ((60, 4, 4), (120, 2, 2), (240, 1, 1)), (24, 8, 8))
    assert small("shufflev2_small") == (512, ((40, 4, 4), (80, 2, 2), (160, 1, 1)), (24, 8, 8))


def test_shapes_are_found_once_and_leave_the_random_state_and_the_device() -> None:
    before = torch.get_rng_state()
    first = models.shapes("resnet14", classes=7)
    assert models.shapes("resnet14", classes=7) is first
    assert torch.equal(torch.get_rng_state(), before) and torch.empty(0).device.type == "cpu"


def test_weights_of_a_network_built_afterwards_are_initialised() -> None:
    models.shapes("resnet8", classes=10)
    weight = models.build("resnet8", classes=10, seed=0).conv.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 16)) ** 0.5, rel=0.1)


def test_shapes_of_what_cannot_be_built_are_an_error() -> None:
    with pytest.raises(ConfigError, match="images of 4 pixels; allowed are 8"):
        models.shapes("vgg8", classes=10, size=4)
    with pytest.raises(ConfigError, match="unknown network 'resnet9'"):
        models.shapes("resnet9", classes=10)
