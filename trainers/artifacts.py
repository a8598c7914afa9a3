"""Pictures and histograms that a trial keeps beside its numbers, each written whole or not at all."""

from __future__ import annotations

import io
import json
from pathlib import Path

import torch
from torch import Tensor

from trainers.checkpoint import replace_bytes

SAMPLES = 64
BINS = 50


def write_samples(path: Path, images: Tensor, count: int = SAMPLES, scale_to: int = 64) -> None:
    """A square grid of the first `count` images as PNG.

    Args:
        images: shape (N, C, H, W) in [0, 1], C = 1 or 3.
        scale_to: small images are enlarged by whole pixels to about this size, so that a person can see them.
    """
    side = max(1, int(min(count, len(images)) ** 0.5))
    write_grid(path, images[: side * side], columns=side, scale_to=scale_to)


def write_grid(path: Path, images: Tensor, *, columns: int, scale_to: int = 64) -> int:
    """Images (N, C, H, W) in [0, 1] row by row as one PNG, a white line of one pixel around each; N is a multiple of `columns`.

    Returns:
        Height and width in pixels of one image with its line.
    """
    from PIL import Image

    factor = max(1, scale_to // images.shape[-1])
    pixels = (images.float().cpu() * 255).round().to(torch.uint8)
    pixels = pixels.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
    pixels = torch.nn.functional.pad(pixels, (1, 1, 1, 1), value=255)
    rows = [torch.cat(list(part), dim=2) for part in pixels.split(columns)]
    grid = torch.cat(rows, dim=1).permute(1, 2, 0)  # (H, W, C)
    picture = Image.fromarray(grid.numpy() if grid.shape[2] == 3 else grid[:, :, 0].numpy())
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    replace_bytes(path, buffer.getvalue())
    return images.shape[-1] * factor + 2


def write_samples_by_class(
    path: Path, images: Tensor, classes: Tensor, *, per_class: int = 8, most: int = 10, scale_to: int = 64
) -> None:
    """A grid with one row for each class: the first `per_class` images of each of the `most` lowest classes that occur.

    Args:
        images: shape (N, C, H, W) in [0, 1].
        classes: shape (N,), int64: whom the teacher takes each image for. Rows that are not full are padded with white.
    """
    present = classes.unique()[:most]
    rows = []
    for label in present:
        chosen = images[classes == label][:per_class]
        blank = images.new_ones((per_class - len(chosen), *images.shape[1:]))
        rows.append(torch.cat([chosen, blank]))
    write_grid(path, torch.cat(rows), columns=per_class, scale_to=scale_to)


def write_histogram(
    path: Path, values: Tensor, quantity: str, *, low: float | None = None, high: float | None = None
) -> None:
    """Counts of `values` in equal bins, with the mean, as JSON: what a figure needs without a model load."""
    values = values.float().cpu()
    low = float(values.min()) if low is None else low
    high = max(float(values.max()), low + 1e-6) if high is None else high
    counts = torch.histc(values, bins=BINS, min=low, max=high)
    edges = torch.linspace(low, high, BINS + 1)
    content = {
        "quantity": quantity,
        "n": len(values),
        "mean": float(values.mean()),
        "edges": [round(float(edge), 6) for edge in edges],
        "counts": [int(count) for count in counts],
    }
    replace_bytes(path, json.dumps(content).encode())
