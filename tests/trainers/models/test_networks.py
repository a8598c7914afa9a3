"""Every network: size, maps, arithmetic and where its weights come from."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers import _torchvision, models
from trainers.errors import ConfigError

# Printed for 100 classes with 32x32 images by the public code of the papers compared.
COUNTS = {
    "resnet8": 83_892,
    "resnet14": 181_108,
    "resnet20": 278_324,
    "resnet32": 472_756,
    "resnet44": 667_188,
    "resnet56": 861_620,
    "resnet110": 1_736_564,
    "resnet8x4": 1_233_540,
    "resnet32x4": 7_433_860,
    "wrn_16_1": 180_916,
    "wrn_16_2": 703_284,
    "wrn_40_1": 569_780,
    "wrn_40_2": 2_255_156,
    "vgg8": 3_965_028,
    "vgg11": 9_277_284,
    "vgg13": 9_462_180,
    "vgg16": 14_774_436,
    "vgg19": 20_086_692,
    "resnet18": 11_220_132,
    "resnet34": 21_328_292,
    "mobilenetv2": 812_836,
    "shufflev1": 949_258,
    "shufflev2": 1_355_528,
    "resnet50": 23_705_252,
}
COUNTS_1000 = {"resnet18_imagenet": 11_689_512, "resnet34_imagenet": 21_797_672}  # of torchvision, 1000 classes
OURS = {  # in no publication
    "wrn_10_1",
    "mobilenetv2_small",
    "shufflev1_small",
    "shufflev2_small",
    "vgg8_small",
    "vgg13_small",
    "resnet50_small",
    "resnet8x2",
    "resnet14x2",
}
COUNTS_200 = {  # printed for 200 classes alone
    "resnet18_tiny7": 11_279_112,
    "resnet34_tiny7": 21_387_272,
    "resnet18_tiny3": 11_271_496,
    "resnet34_tiny3": 21_379_656,
}
COUNTS_10_200 = {
    "resnet18": (11_173_962, 11_271_432),
    "resnet34": (21_282_122, 21_379_592),
    "vgg11": (9_231_114, 9_328_584),
    "wrn_40_2": (2_243_546, 2_268_056),
    "wrn_40_1": (563_930, 576_280),
    "wrn_16_2": (691_674, 716_184),
    "wrn_16_1": (175_066, 187_416),
}
# Channels at height = width, for images of 32 pixels.
RESNET = ((16, 32), (32, 16), (64, 8))
X4 = ((64, 32), (128, 16), (256, 8))
WIDE2 = ((32, 32), (64, 16), (128, 8))
VGG = ((128, 16), (256, 8), (512, 4), (512, 4))
RESNET18 = ((64, 32), (128, 16), (256, 8), (512, 4))
MAPS = {
    "resnet20": RESNET,
    "resnet8x4": X4,
    "wrn_16_2": WIDE2,
    "wrn_16_1": RESNET,
    "vgg8": VGG,
    "vgg11": VGG,
    "resnet18": RESNET18,
    "resnet18_tiny3": RESNET18,
    "resnet18_tiny7": ((64, 8), (128, 4), (256, 2), (512, 1)),
}
MAPS_64 = {
    "resnet20": ((16, 64), (32, 32), (64, 16)),
    "resnet8x4": ((64, 64), (128, 32), (256, 16)),
    "wrn_16_1": ((16, 64), (32, 32), (64, 16)),
    "wrn_16_2": ((32, 64), (64, 32), (128, 16)),
    "vgg11": ((128, 32), (256, 16), (512, 8), (512, 4)),
    "resnet18": ((64, 64), (128, 32), (256, 16), (512, 8)),
    "resnet18_tiny3": ((64, 64), (128, 32), (256, 16), (512, 8)),
    "resnet18_tiny7": ((64, 16), (128, 8), (256, 4), (512, 2)),
    "resnet34_tiny3": ((64, 64), (128, 32), (256, 16), (512, 8)),
    "resnet34_tiny7": ((64, 16), (128, 8), (256, 4), (512, 2)),
}
TINY18 = ("resnet18_tiny7", "resnet18_tiny3")
MOBILE = ("mobilenetv2", "mobilenetv2_small", "shufflev1", "shufflev1_small", "shufflev2", "shufflev2_small")
SMALL = ("resnet8", "resnet8x4", "wrn_10_1", "wrn_16_2", "vgg8", "vgg11", "resnet18", *TINY18, *MOBILE)


def images(size: int = 32, channels: int = 3, batch: int = 2) -> Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(0))


def test_every_network_that_is_listed_has_its_printed_count_or_is_known_to_have_none() -> None:
    assert set(models.known()) - set(COUNTS) - set(COUNTS_200) - set(COUNTS_1000) == OURS
    assert len(models.known()) == 39


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_for_100_classes(name: str) -> None:
    assert models.parameters(name, classes=100) == COUNTS[name]


@pytest.mark.parametrize("name", COUNTS_200)
def test_parameters_for_200_classes_of_64_pixels(name: str) -> None:
    assert models.parameters(name, classes=200, size=64) == COUNTS_200[name]
    assert models.parameters(name, classes=100, size=64) == COUNTS_200[name] - 100 * (512 + 1)


@pytest.mark.parametrize("name", COUNTS_1000)
def test_parameters_for_imagenet(name: str) -> None:
    assert models.parameters(name, classes=1000, size=224) == COUNTS_1000[name]


@pytest.mark.parametrize("name", COUNTS_10_200)
def test_parameters_for_10_and_200_classes(name: str) -> None:
    assert (models.parameters(name, classes=10), models.parameters(name, classes=200)) == COUNTS_10_200[name]


@pytest.mark.parametrize(
    ("name", "layers", "channels"),
    [
        ("resnet34", 36, 8512),
        ("resnet18", 20, 4800),
        ("resnet34_tiny7", 36, 8512),
        ("resnet18_tiny3", 20, 4800),
        ("vgg11", 8, 2752),
        ("wrn_40_2", 37, 2704),
        ("wrn_40_1", 37, 1360),
        ("wrn_16_2", 13, 912),
        ("resnet34_imagenet", 36, 8512),
    ],
)
def test_batch_norms_are_as_many_as_printed(name: str, layers: int, channels: int) -> None:
    norms = [module for module in models.build(name, classes=10).modules() if isinstance(module, nn.BatchNorm2d)]
    assert (len(norms), sum(norm.num_features for norm in norms)) == (layers, channels)


@pytest.mark.parametrize("name", MAPS)
def test_maps_have_the_printed_shapes(name: str) -> None:
    network = models.build(name, classes=100, seed=0)
    features = network.eval().features(images())
    shapes = tuple((maps.shape[1], maps.shape[2]) for maps in features.stages)
    assert shapes == MAPS[name]
    assert [maps.shape for maps in features.pre_relu] == [maps.shape for maps in features.stages]
    assert features.pooled.shape == (2, MAPS[name][-1][0]) and features.logits.shape == (2, 100)
    assert network.classifier.weight.shape == (100, MAPS[name][-1][0])


@pytest.mark.parametrize("name", MAPS_64)
def test_maps_of_64_pixels(name: str) -> None:
    network = models.build(name, classes=200, size=64, seed=0).eval()
    with torch.inference_mode():
        features = network.features(images(64, batch=1))
        assert torch.equal(network(images(64, batch=1)), features.logits)
    assert tuple((maps.shape[1], maps.shape[2]) for maps in features.stages) == MAPS_64[name]
    assert [maps.shape for maps in features.pre_relu] == [maps.shape for maps in features.stages]
    assert features.pooled.shape == (1, MAPS_64[name][-1][0]) and features.logits.shape == (1, 200)


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32), (3, 64)])
@pytest.mark.parametrize("name", SMALL)
def test_forward_and_features_give_the_same_bits_and_move_norms_alike(name: str, channels: int, size: int) -> None:
    one, two = (models.build(name, classes=10, channels=channels, size=size, seed=1) for _ in range(2))
    batch = images(size, channels)
    features = two.features(batch)
    assert torch.equal(one(batch), features.logits)
    for (key, ours), theirs in zip(one.state_dict().items(), two.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), key
    assert torch.equal(one.eval()(batch), two.eval().features(batch).logits)
    assert torch.equal(two.classifier(features.pooled), features.logits)


@pytest.mark.parametrize("name", MOBILE)
def test_gradient_reaches_every_weight_from_8_pixels(name: str) -> None:
    network = models.build(name, classes=10, channels=1, size=8, seed=0)
    F.cross_entropy(network(images(8, 1, 8)), torch.arange(8)).backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), key


def test_resnet50_gives_the_same_bits_with_and_without_maps() -> None:
    network = models.build("resnet50", classes=10, channels=1, size=8, seed=1)
    batch = images(8, 1)
    assert torch.equal(network(batch), network.features(batch).logits)


@pytest.mark.parametrize(
    "name", ["resnet8", "resnet8x4", "resnet18", *TINY18, "resnet50", "vgg8", "vgg11", "shufflev1", "shufflev2"]
)
def test_pre_relu_maps_become_the_stage_maps(name: str) -> None:
    features = models.build(name, classes=10, seed=0).features(images())
    for maps, before in zip(features.stages, features.pre_relu, strict=True):
        assert torch.equal(F.relu(before), maps)
        assert before.min() < 0


def test_stem_map_is_what_the_first_stage_starts_from() -> None:
    batch = images(8)
    for name in ("resnet8", "resnet18_tiny7", *MOBILE):
        network = models.build(name, classes=10, seed=0).eval()
        stem = network.features(batch).stem
        assert torch.equal(stem, F.relu(network.norm(network.conv(batch)))), name
    wide, vgg = (models.build(name, classes=10, seed=0).eval() for name in ("wrn_10_1", "vgg8"))
    assert torch.equal(wide.features(batch).stem, wide.conv(batch)) and wide.conv(batch).min() < 0
    assert torch.equal(vgg.features(batch).stem, F.relu(vgg.blocks[0](batch)))


def test_wide_stage_maps_are_signed_sums_and_pre_relu_is_their_next_batch_norm() -> None:
    network = models.build("wrn_16_2", classes=10, seed=0)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:  # running statistics other than 0 and 1, so that the right norm is told from a wrong one
        nn.init.uniform_(norm.running_mean, -1, 1)
    features = network.eval().features(images())
    assert all(maps.min() < 0 for maps in features.stages)
    after = (network.stages[1][0].norm1, network.stages[2][0].norm1, network.norm)
    for maps, before, norm in zip(features.stages, features.pre_relu, after, strict=True):
        assert torch.equal(norm(maps), before)
    assert torch.equal(F.relu(features.pre_relu[-1]).mean((2, 3)), features.pooled)


def test_wide_batch_norms_run_once_when_maps_are_collected() -> None:
    network = models.build("wrn_16_1", classes=10, seed=0)
    network.features(images())
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.num_batches_tracked is not None and int(module.num_batches_tracked) == 1


@pytest.mark.parametrize("name", ["vgg8", "vgg11"])
def test_fourth_pool_is_only_for_64_pixels(name: str) -> None:
    def sizes(size: int) -> list[int]:
        network = models.build(name, classes=10, size=size).eval()
        return [maps.shape[2] for maps in network.features(images(size, batch=1)).stages]

    assert sizes(32) == [16, 8, 4, 4]
    assert sizes(64) == [32, 16, 8, 4]
    assert sizes(8) == [4, 2, 1, 1]


def test_initial_weights_have_the_stated_spread() -> None:
    # Wide: N(0, sqrt(2 / (9 * 128))) = 0.0417 in the last stage; 1x1 shortcut sqrt(2 / 128) = 0.125; linear bias 0.
    wide = models.build("wrn_16_2", classes=10, seed=0)
    last = wide.stages[2]
    assert last[1].conv2.weight.std().item() == pytest.approx(0.0417, rel=0.02)
    assert last[0].shortcut.weight.std().item() == pytest.approx(0.125, rel=0.03)
    assert not wide.classifier.bias.any()
    # VGG: conv sqrt(2 / (9 * 512)) = 0.0208, linear 0.01, biases 0.
    vgg = models.build("vgg8", classes=100, seed=0)
    convs = [module for module in vgg.modules() if isinstance(module, nn.Conv2d)]
    assert convs[-1].weight.std().item() == pytest.approx(0.0208, rel=0.01)
    assert vgg.classifier.weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert not any(conv.bias.any() for conv in convs if conv.bias is not None)
    # CIFAR resnet: Kaiming normal, fan_out 9 * 64: 0.0589; PyTorch's default would be 0.0241.
    small = models.build("resnet8", classes=10, seed=0)
    conv = [module for module in small.modules() if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3)][-1]
    assert conv.weight.std().item() == pytest.approx(0.0589, rel=0.02)


@pytest.mark.parametrize("name", TINY18)
def test_initial_weights_of_the_tiny_networks(name: str) -> None:
    # Kaiming normal, fan_out 9 * 512: 0.0208; PyTorch's default would be uniform within 1 / sqrt(9 * 512) = 0.0147.
    network = models.build(name, classes=200, size=64, seed=0)
    assert network.stages[-1][-1].conv2.weight.std().item() == pytest.approx(0.0208, rel=0.01)
    assert network.stages[1][0].shortcut[0].weight.std().item() == pytest.approx(0.125, rel=0.02)  # fan_out 128
    stem = network.conv
    if name == "resnet18_tiny7":  # fan_out 49 * 64: 0.02525
        assert (stem.kernel_size, stem.stride, stem.padding) == ((7, 7), (2, 2), (3, 3)) and stem.bias is None
        assert stem.weight.std().item() == pytest.approx(0.02525, rel=0.03)
    else:  # PyTorch's own: uniform within 1 / sqrt(9 * 3) = 0.19245, for the bias too
        assert (stem.kernel_size, stem.stride, stem.padding) == ((3, 3), (1, 1), (1, 1)) and stem.bias is not None
        assert 0.19 < stem.weight.abs().max().item() <= 0.19246 and 0.15 < stem.bias.abs().max().item() <= 0.19246


def test_imagenet_layout_computes_what_torchvision_computes() -> None:
    assert _torchvision.datasets  # that import lets the next one pass beside a torch without CUDA
    from torchvision.models import resnet18

    ours, theirs = models.build("resnet18_tiny7", classes=200, size=64, seed=0), resnet18(num_classes=200)
    state = list(ours.state_dict().values())
    assert [each.shape for each in state] == [each.shape for each in theirs.state_dict().values()]
    theirs.load_state_dict(dict(zip(theirs.state_dict(), state, strict=True)))
    assert torch.allclose(ours(images(64)), theirs(images(64)), atol=1e-5)


def test_weights_depend_on_seed_and_role_alone() -> None:
    def weight(seed: int, role: str) -> Tensor:
        return models.build("resnet8", classes=10, seed=seed, role=role).classifier.weight

    first = weight(0, "student")
    torch.rand(7)
    assert torch.equal(weight(0, "student"), first)
    assert not torch.equal(weight(0, "teacher"), first) and not torch.equal(weight(1, "student"), first)


def test_building_leaves_the_callers_random_state() -> None:
    before = torch.get_rng_state()
    models.build("resnet8", classes=10, seed=0)
    models.build("resnet8", classes=10)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "name", ["wrn_16_2", "wrn_10_1", "wrn_22_12", "vgg8", "resnet8x4", "resnet34", "resnet34_tiny3"]
)
def test_name_exists(name: str) -> None:
    assert models.exists(name)


@pytest.mark.parametrize(
    "name",
    [
        "wrn_17_2",
        "wrn_4_1",
        "wrn_16_0",
        "wrn_16",
        "resnet9",
        "resnet20x4",
        "resnet18_",
        "resnet20_tiny7",
        "vgg",
        "mobilenetv2_x1",
        "resnet50_imagenet",
        "shufflev3",
        "",
        "no.such.module",
        "_basic",
    ],
)
def test_unknown_name_is_an_error_that_lists_the_known(name: str) -> None:
    assert not models.exists(name)
    with pytest.raises(ConfigError, match=r"unknown network .* known: mobilenetv2, .*wrn_40_2|cannot import"):
        models.build(name, classes=10)


def test_images_too_small_for_the_pools_are_an_error() -> None:
    with pytest.raises(ConfigError, match="images of 4 pixels; allowed are 8"):
        models.build("vgg8", classes=10, size=4)


USERS = """
from torch import nn
from trainers.models import Features, Network

class Flat(Network):
    def __init__(self, classes, pixels):
        super().__init__()
        self.classifier = nn.Linear(pixels, classes)
    def forward(self, images):
        return self.classifier(images.flatten(1))
    def features(self, images):
        return Features(self(images), images.flatten(1), (), (), images)

def build(classes, channels, size):
    return Flat(classes, channels * size * size)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "users_networks"
    folder.mkdir()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.startswith("users_networks")]:
        del sys.modules[name]


def test_users_module_is_built_with_seeded_weights(package: Path) -> None:
    (package / "flat.py").write_text(USERS)
    assert models.exists("users_networks.flat") and not models.exists("users_networks.other")
    one, two = (models.build("users_networks.flat", classes=10, channels=1, size=8, seed=3) for _ in range(2))
    assert one(images(8, 1)).shape == (2, 10) and torch.equal(one.classifier.weight, two.classifier.weight)
    assert models.shapes("users_networks.flat", classes=10, channels=1, size=8) == (64, (), (1, 8, 8))


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "has no build"), ("from torch import nn\ndef build(**sizes): return nn.Flatten()", "returned Flatten")],
)
def test_users_module_without_a_network_is_an_error(package: Path, text: str, message: str) -> None:
    (package / "wrong.py").write_text(text)
    with pytest.raises(ConfigError, match=message):
        models.build("users_networks.wrong", classes=10)


def test_interface_cannot_be_built() -> None:
    with pytest.raises(TypeError, match="abstract"):
        models.Network()  # type: ignore[abstract]
