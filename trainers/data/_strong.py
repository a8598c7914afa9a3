"""The strong view of MLD: two of 14 random operations with random magnitudes, then a grey square; whole batches, without a host wait.

Each operation gives what Pillow gives for one image, so that the view is the one of the method's official code.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

OPERATIONS: tuple[tuple[str, float, float], ...] = (
    ("autocontrast", 0, 1),
    ("brightness", 0.05, 0.95),
    ("colour", 0.05, 0.95),
    ("contrast", 0.05, 0.95),
    ("equalize", 0, 1),
    ("identity", 0, 1),
    ("posterize", 4, 8),
    ("rotate", -30, 30),
    ("sharpness", 0.05, 0.95),
    ("shear_x", -0.3, 0.3),
    ("shear_y", -0.3, 0.3),
    ("solarize", 0, 256),
    ("translate_x", -0.3, 0.3),
    ("translate_y", -0.3, 0.3),
)
"""Name, and the range of the uniform magnitude: factors, bits, degrees counter-clockwise, slopes, levels, shares of the side."""
NUMBER = {name: number for number, (name, _, _) in enumerate(OPERATIONS)}
CHOSEN = 2
"""Operations that an image goes through, drawn with replacement."""
GREY = (125.0, 123.0, 114.0)
LARGEST_SQUARE = 0.5
"""Of the image's side."""


def strong_view(images: Tensor, generator: torch.Generator) -> Tensor:
    """Two random operations on each image, then a grey square at a random place.

    Args:
        images: (B, C, H, W) uint8.
        generator: on the images' device.

    Returns:
        (B, C, H, W) uint8.
    """
    batch, device = len(images), images.device
    chosen = torch.randint(len(OPERATIONS), (CHOSEN, batch), generator=generator, device=device)
    draws = torch.rand((CHOSEN, batch), generator=generator, device=device)
    square = torch.rand((3, batch), generator=generator, device=device)
    low = _constant(tuple(low for _, low, _ in OPERATIONS), device)[chosen]
    high = _constant(tuple(high for _, _, high in OPERATIONS), device)[chosen]
    result = images.float()
    for operation, magnitude in zip(chosen, low + (high - low) * draws, strict=True):
        result = operate(result, operation, magnitude)
    return grey_square(result, square).to(torch.uint8)


@lru_cache(maxsize=32)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Kept, because copying numbers to a GPU for each batch would make the host wait for it."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device)


def operate(images: Tensor, operation: Tensor, magnitude: Tensor) -> Tensor:
    """One operation on each image.

    Args:
        images: (B, C, H, W), whole numbers in 0 ... 255.
        operation: (B,) int64, a place in `OPERATIONS`.
        magnitude: (B,), in that operation's range.

    Returns:
        (B, C, H, W), whole numbers in 0 ... 255.
    """

    def is_(name: str) -> Tensor:
        return (operation == NUMBER[name]).view(-1, 1, 1, 1)

    value = magnitude.view(-1, 1, 1, 1)
    images = _moved(images, operation, magnitude)
    result = torch.where(is_("autocontrast"), _autocontrast(images), images)
    result = torch.where(is_("equalize"), _equalized(images), result)
    step = torch.pow(2.0, 8 - value.floor())  # posterize keeps the upper int(value) bits
    result = torch.where(is_("posterize"), (images / step).floor() * step, result)
    result = torch.where(is_("solarize") & (images >= value), 255 - images, result)
    grey = _grey(images)
    towards = torch.where(is_("colour"), grey, torch.zeros_like(images))
    towards = torch.where(is_("contrast"), (grey.mean(dim=(2, 3), keepdim=True) + 0.5).floor(), towards)
    towards = torch.where(is_("sharpness"), _smoothed(images), towards)
    blended = (towards + value * (images - towards)).floor()
    return torch.where(is_("brightness") | is_("colour") | is_("contrast") | is_("sharpness"), blended, result)


def _moved(images: Tensor, operation: Tensor, magnitude: Tensor) -> Tensor:
    """Rotation, shear or shift of each image about its place, nearest pixel, black outside; others stay.

    An output pixel (x, y) shows the input at x' = cos a (x - m) - sin a (y - m) + m + shear y + shift and likewise y',
    all measured from the upper left corner to pixel centres, m the middle.
    """
    batch, channels, height, width = images.shape

    def part(name: str, factor: float = 1.0) -> Tensor:
        return torch.where(operation == NUMBER[name], magnitude * factor, 0.0).view(-1, 1, 1)

    angle = part("rotate", math.pi / 180)
    y = (torch.arange(height, device=images.device) + 0.5).view(1, -1, 1)
    x = (torch.arange(width, device=images.device) + 0.5).view(1, 1, -1)
    right, down = x - width / 2, y - height / 2
    source_x = angle.cos() * right - angle.sin() * down + width / 2 + part("shear_x") * y + part("translate_x", width)
    source_y = angle.sin() * right + angle.cos() * down + height / 2 + part("shear_y") * x + part("translate_y", height)
    column, row = source_x.floor().long(), source_y.floor().long()  # (B, H, W)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).view(batch, 1, -1).expand(-1, channels, -1)
    return images.flatten(2).gather(2, place).view_as(images) * inside[:, None]


def _autocontrast(images: Tensor) -> Tensor:
    """Each channel stretched to 0 ... 255; a channel of one level stays."""
    low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
    scale = 255.0 / (high - low).clamp(min=1).double()
    stretched = (images * scale - low * scale).floor().clamp(0, 255).to(images.dtype)
    return torch.where(high > low, stretched, images)


def _equalized(images: Tensor) -> Tensor:
    """Each channel's histogram flattened, in steps of (pixels - pixels of its highest level) // 255; without a step it stays."""
    batch, channels, height, width = images.shape
    levels = images.flatten(2).long()
    counts = torch.zeros((batch, channels, 256), dtype=torch.long, device=images.device)
    counts.scatter_add_(2, levels, torch.ones_like(levels))
    highest = counts.gather(2, levels.amax(dim=2, keepdim=True))
    step = (height * width - highest) // 255
    below = counts.cumsum(dim=2) - counts
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    flattened = table.gather(2, levels).view_as(images).to(images.dtype)
    return torch.where(step.view(batch, channels, 1, 1) > 0, flattened, images)


def _grey(images: Tensor) -> Tensor:
    """Luma of colour images (ITU-R 601-2), (B, 1, H, W); grey images are their own."""
    if images.shape[1] != 3:
        return images
    weights = _constant((19595.0, 38470.0, 7471.0), images.device).view(1, 3, 1, 1)
    return (((images * weights).sum(dim=1, keepdim=True) + 32768) / 65536).floor()


def _smoothed(images: Tensor) -> Tensor:
    """Mean of 3 x 3 pixels in which the middle counts five times; the outermost pixels stay."""
    height, width = images.shape[2:]
    kernel = images.new_ones((3, 3))
    kernel[1, 1] = 5.0
    mixed = F.conv2d(images.flatten(0, 1)[:, None], kernel[None, None]).view(*images.shape[:2], height - 2, width - 2)
    result = images.clone()
    result[:, :, 1:-1, 1:-1] = (mixed / 13 + 0.5).floor()
    return result


def grey_square(images: Tensor, draws: Tensor) -> Tensor:
    """A grey square of side up to half the image's, cut at its edges.

    Args:
        images: (B, C, H, W) in 0 ... 255.
        draws: (3, B) in [0, 1): side over half the image's, and the middle's place over the image's width and height.
    """
    height, width = images.shape[2:]
    side = draws[0] * LARGEST_SQUARE * width
    left = (draws[1] * width - side / 2).clamp(min=0).floor()
    top = (draws[2] * height - side / 2).clamp(min=0).floor()
    x, y = (torch.arange(size, device=images.device) for size in (width, height))
    columns = (x >= left[:, None]) & (x <= (left + side)[:, None])  # (B, W), both ends covered
    rows = (y >= top[:, None]) & (y <= (top + side)[:, None])
    colour = GREY if images.shape[1] == len(GREY) else (sum(GREY) / len(GREY) // 1,)
    filling = _constant(colour, images.device).view(1, -1, 1, 1)
    return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], filling, images)
