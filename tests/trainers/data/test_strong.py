"""Operations of the strong view, each against Pillow's for single images."""

from __future__ import annotations

import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from trainers.data._strong import GREY, NUMBER, OPERATIONS, grey_square, operate, strong_view


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(image: Tensor) -> Image.Image:
    pixels = image.permute(1, 2, 0).numpy()
    return Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])


def pixels(image: Image.Image) -> Tensor:
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.view(image.height, image.width, -1).permute(2, 0, 1)


def by_pillow(image: Image.Image, name: str, value: float) -> Image.Image:
    """The operation as the official code writes it."""
    enhance = {
        "brightness": ImageEnhance.Brightness,
        "colour": ImageEnhance.Color,
        "contrast": ImageEnhance.Contrast,
        "sharpness": ImageEnhance.Sharpness,
    }
    if name in enhance:
        return enhance[name](image).enhance(value)
    affine = {
        "shear_x": (1, value, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, value, 1, 0),
        "translate_x": (1, 0, value * image.width, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, value * image.height),
    }
    if name in affine:
        return image.transform(image.size, Image.Transform.AFFINE, affine[name])
    return {
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "identity": lambda: image,
        "posterize": lambda: ImageOps.posterize(image, int(value)),
        "rotate": lambda: image.rotate(value),
        "solarize": lambda: ImageOps.solarize(image, value),
    }[name]()


def samples(channels: int, size: int) -> Tensor:
    """Six images of different contrast, one of a single level."""
    noise = torch.randint(0, 256, (6, channels, size, size), dtype=torch.uint8, generator=stream(1))
    noise[1] = noise[1] // 4 + 60
    noise[2] = (noise[2].float() ** 2 / 255).to(torch.uint8)
    noise[3] = 77
    return noise


@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 8)])
@pytest.mark.parametrize("name", [name for name, _, _ in OPERATIONS])
def test_operation_equals_pillow(name: str, channels: int, size: int) -> None:
    images = samples(channels, size)
    low, high = OPERATIONS[NUMBER[name]][1:]
    magnitude = low + (high - low) * torch.linspace(0.02, 0.97, len(images))
    made = operate(images.float(), torch.full((len(images),), NUMBER[name]), magnitude)
    assert torch.equal(made, made.round())
    for image, ours, value in zip(images, made, magnitude.tolist(), strict=True):
        theirs = pixels(by_pillow(picture(image), name, value)).float()
        if name in (
            "rotate",
            "shear_x",
            "shear_y",
        ):  # Pillow steps in fixed point: a source on an edge may fall either way
            assert (ours != theirs).float().mean() <= 0.02
        else:  # Pillow blends in float32 in another order: a level may be cut off on either side
            assert (ours - theirs).abs().max() <= (
                1 if name in ("brightness", "colour", "contrast", "sharpness") else 0
            )


def test_each_image_has_its_own_operation() -> None:
    images = samples(3, 32).float()
    operation = torch.tensor(
        [NUMBER[name] for name in ("identity", "solarize", "rotate", "equalize", "posterize", "colour")]
    )
    magnitude = torch.tensor([0.5, 100.0, 20.0, 0.5, 5.0, 0.3])
    made = operate(images, operation, magnitude)
    for i in range(6):
        alone = operate(images[i : i + 1], operation[i : i + 1], magnitude[i : i + 1])
        assert torch.equal(made[i : i + 1], alone)
    assert torch.equal(made[0], images[0])


def test_square_is_grey_and_at_most_half_the_side() -> None:
    images = torch.zeros(4, 3, 8, 8)
    draws = torch.tensor([[0.999, 0.5, 0.999, 0.0], [0.5, 0.0, 0.999, 0.5], [0.5, 0.0, 0.5, 0.5]])
    made = grey_square(images, draws)
    covered = (made != 0).all(dim=1)
    # sides 4, 2, 4, 0; left edges 4 - 2 = 2, max(0, -1) = 0, 8 - 2 = 5.99 -> 5, 4; both ends belong to it
    assert covered.sum(dim=(1, 2)).tolist() == [16, 9, 12, 1]
    assert made[0, :, 4, 4].tolist() == list(GREY)
    assert grey_square(torch.zeros(1, 1, 8, 8), draws[:, :1])[0, 0, 4, 4] == 120


@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 8)])
def test_view_is_made_of_pixels_and_its_generator_alone(channels: int, size: int) -> None:
    images = samples(channels, size)
    state = torch.random.get_rng_state()
    made = strong_view(images, stream(3))
    assert made.dtype == torch.uint8
    assert made.shape == images.shape
    assert torch.equal(made, strong_view(images, stream(3)))
    assert not torch.equal(made, strong_view(images, stream(4)))
    assert torch.equal(torch.random.get_rng_state(), state)
