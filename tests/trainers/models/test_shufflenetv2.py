"""ShuffleNet V2: its stages against torchvision's, and its pre-ReLU maps."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers import _torchvision, models
from trainers.models._basic import run
from trainers.models.shufflenetv2 import BasicUnit

assert _torchvision.datasets  # that import lets the next one pass beside a torch without CUDA
from torchvision.models import shufflenet_v2_x1_0  # noqa: E402


def images(size: int = 16) -> Tensor:
    return torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(0))


def test_stages_and_head_compute_what_torchvisions_compute() -> None:
    # In train mode, where batch norms keep untrained weights from fading to nothing.
    ours, theirs = models.build("shufflev2", classes=10, seed=0), shufflenet_v2_x1_0(num_classes=10)
    theirs.conv1[0] = nn.Conv2d(3, 24, 1, bias=False)
    theirs.maxpool = nn.Identity()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    with torch.inference_mode():
        assert ours(images()).abs().max() > 0.1
        torch.testing.assert_close(ours(images()), theirs(images()), atol=1e-5, rtol=1e-4)
        stem = theirs.conv1(images())
        torch.testing.assert_close(run(ours.stages[:1], stem), theirs.stage2(stem), atol=1e-5, rtol=1e-4)


def test_gradients_are_those_of_units_with_the_relu_on_their_branch_alone() -> None:
    torch.manual_seed(0)
    stem = torch.randn(2, 8, 4, 4)
    units = nn.ModuleList(BasicUnit(8) for _ in range(3))
    outside, inside = (stem.clone().requires_grad_() for _ in range(2))
    run(nn.ModuleList([nn.Sequential(*units)]), F.relu(outside)).square().sum().backward()
    maps = F.relu(inside)
    for unit in units:
        passing, used = maps.chunk(2, 1)
        both = torch.stack([passing, F.relu(unit.branch(used))], 2)  # a channel of each in turn
        maps = both.flatten(1, 2)
    maps.square().sum().backward()
    assert torch.allclose(outside.grad, inside.grad, atol=1e-6) and inside.grad.abs().max() > 0


def test_pre_relu_maps_are_so_in_every_second_channel_alone() -> None:
    features = models.build("shufflev2", classes=10, seed=0).features(images())
    for maps, before in zip(features.stages, features.pre_relu, strict=True):
        assert torch.equal(before[:, ::2], maps[:, ::2])
        assert before[:, 1::2].min() < 0
