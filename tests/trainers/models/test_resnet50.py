"""ResNet50 of CIFAR is torchvision's with another stem."""

import torch
from torch import nn

from trainers import _torchvision, models

assert _torchvision.datasets  # that import lets the next one pass beside a torch without CUDA
from torchvision.models import resnet50  # noqa: E402


def test_blocks_compute_what_torchvisions_compute() -> None:
    ours, theirs = models.build("resnet50", classes=7, seed=0).eval(), resnet50(num_classes=7).eval()
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    images = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert ours(images).abs().max() > 0.1
        torch.testing.assert_close(ours(images), theirs(images), atol=1e-5, rtol=1e-5)


def test_initial_weights_have_the_stated_spread() -> None:
    # Kaiming normal over fan-out: 3x3 conv to 512, sqrt(2 / (9 * 512)) = 0.0208; 1x1 to 2048, sqrt(2 / 2048) = 0.03125.
    block = models.build("resnet50", classes=10, seed=0).stages[3][2]
    assert abs(block.conv2.weight.std().item() - 0.0208) < 0.0003
    assert abs(block.conv3.weight.std().item() - 0.03125) < 0.0003
