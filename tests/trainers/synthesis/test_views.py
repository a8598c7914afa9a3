"""Views of synthetic images: what they show, that they are seeded, and that gradient reaches the images."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.data import Info
from trainers.synthesis import views
from trainers.synthesis.views import global_view, local_view, random_boxes

INFO = Info(classes=3, channels=2, size=8, mean=(0.5,) * 2, std=(0.25,) * 2, crop_padding=2, flip=False)
CPU = torch.device("cpu")


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(count: int = 6) -> Tensor:
    return torch.rand(count, 2, 8, 8, generator=stream(1)) + 0.1  # no pixel is black


def test_global_view_is_a_crop_of_the_padded_image() -> None:
    images = batch()
    padded = F.pad(images, (2, 2, 2, 2))
    crops = [
        [padded[i, :, top : top + 8, left : left + 8] for top in range(5) for left in range(5)]
        for i in range(len(images))
    ]
    seen = global_view(images, INFO, stream())
    for found, allowed in zip(seen, crops, strict=True):
        assert any(torch.equal(found, each) for each in allowed)
    assert not torch.equal(seen, images)


def test_local_view_of_a_known_box_is_the_bilinear_resize(monkeypatch: pytest.MonkeyPatch) -> None:
    # Rows 2 to 5, columns 4 to 7: inside the box the usual resize of the crop itself
    monkeypatch.setattr(views, "random_boxes", lambda n, *rest: torch.tensor([[0.25, 0.5, 0.5, 0.5]]).expand(n, 4))
    images = batch()
    expected = F.interpolate(images[:, :, 2:6, 4:8], size=(8, 8), mode="bilinear", align_corners=False)
    found = local_view(images, INFO, 0.25, stream())
    assert torch.allclose(found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=1e-6)
    # The first row lies a quarter pixel above the box: 0.25 of row 1, 0.75 of row 2; the last column is at the image's end
    row = 0.25 * images[:, :, 1, 7] + 0.75 * images[:, :, 2, 7]
    assert torch.allclose(found[..., 0, 7], row, atol=1e-6)


def test_local_view_of_the_whole_image_is_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "random_boxes", lambda n, *rest: torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(n, 4))
    assert torch.allclose(local_view(batch(), INFO, 0.25, stream()), batch(), atol=1e-6)
    flips = local_view(batch(200)[:1].expand(200, 2, 8, 8), replace(INFO, flip=True), 0.25, stream())
    mirrored = sum(torch.allclose(each, batch()[0].flip(2), atol=1e-6) for each in flips)
    plain = sum(torch.allclose(each, batch()[0], atol=1e-6) for each in flips)
    assert mirrored + plain == 200
    assert 70 < mirrored < 130


def test_boxes_lie_inside_with_the_asked_area_and_ratio() -> None:
    boxes = random_boxes(4000, 0.25, stream(), CPU)
    top, left, height, width = boxes.unbind(1)
    assert boxes.min() >= 0
    assert (top + height).max() <= 1 + 1e-6
    assert (left + width).max() <= 1 + 1e-6
    area, ratio = height * width, width / height
    assert area.min() >= 0.25 - 1e-4
    assert ratio.min() >= 3 / 4 - 1e-4
    assert ratio.max() <= 4 / 3 + 1e-4
    assert area.min() < 0.26 and area.max() > 0.95
    assert float(ratio.log().mean()) == pytest.approx(0, abs=0.01)
    assert float(random_boxes(100, 1.0, stream(), CPU)[:, 2:].min()) > 0.86  # sqrt(3 / 4): cut where nothing fits


def test_without_flip_only_the_flip_is_missing() -> None:
    for view in (
        lambda info: global_view(batch(40), info, stream()),
        lambda info: local_view(batch(40), info, 0.25, stream()),
    ):
        plain, flipped = view(INFO), view(replace(INFO, flip=True))
        same = torch.tensor([torch.equal(a, b) for a, b in zip(plain, flipped, strict=True)])
        mirrored = torch.tensor([torch.allclose(a, b.flip(2), atol=1e-6) for a, b in zip(plain, flipped, strict=True)])
        assert 0 < same.sum() < 40
        assert (same | mirrored).all()


@pytest.mark.parametrize("kind", ["global", "local"])
def test_views_are_seeded_and_carry_gradient(kind: str) -> None:
    def view(images: Tensor, seed: int) -> Tensor:
        if kind == "global":
            return global_view(images, INFO, stream(seed))
        return local_view(images, INFO, 0.25, stream(seed))

    images = batch().requires_grad_()
    assert torch.equal(view(images, 0), view(images, 0))
    assert not torch.equal(view(images, 0), view(images, 1))
    weight = torch.rand(6, 2, 8, 8, generator=stream(9))
    (found,) = torch.autograd.grad((view(images, 0) * weight).sum(), images)
    nudge = torch.randn(6, 2, 8, 8, generator=stream(10))
    difference = ((view(images + nudge, 0) - view(images, 0)) * weight).sum()  # a view is linear in the image
    assert float(difference.detach()) == pytest.approx(float((found * nudge).sum()), rel=1e-3)
    assert found.abs().sum() > 0


def test_small_and_large_images_keep_their_size() -> None:
    for size in (8, 64):
        images = torch.rand(2, 3, size, size)
        info = replace(INFO, channels=3, size=size)
        assert (
            global_view(images, info, stream()).shape == local_view(images, info, 0.25, stream()).shape == images.shape
        )
