"""Images that stay in their files: read ahead of need by threads, cropped to one size, a bounded number at a time."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from trainers.errors import DataError

AHEAD = 2  # batches being read besides the one in use
SHOWN = 10  # unreadable files of one batch that are named, at most
AREA = (0.08, 1.0)  # share of the image that a random crop takes
ASPECT = (3 / 4, 4 / 3)  # its width over its height
ATTEMPTS = 10  # to find a crop that fits
DRAWS = 4  # numbers an attempt takes: area, aspect, left, top

Box = tuple[int, int, int, int]
"""Left, top, width and height in pixels."""
_Begun = tuple[Tensor, list[Future[str | None]]]
"""A batch (B, S, S, 3), and for each of its rows what tells when it is filled, and what was wrong with the file."""


@dataclass(frozen=True)
class Files:
    """Image files as a `Streamed`; the names of 1.28 million of them take 40 MiB.

    Attributes:
        folder: what the names are relative to.
        names: (N,), paths as bytes.
        size: height and width in pixels that every image is brought to.
    """

    folder: Path
    names: NDArray[np.bytes_]
    size: int

    def take(self, rows: Tensor) -> Files:
        return replace(self, names=self.names[rows.cpu().numpy()])

    def batches(
        self, chunks: Sequence[Tensor], generator: torch.Generator | None, device: torch.device
    ) -> Iterator[Tensor]:
        """As `Split.batches` has it; `AHEAD` + 1 batches and one decoded image a thread are in memory at most.

        All random numbers are drawn here, in the order of the chunks, so the number of threads changes nothing. There are
        as many as torch uses, which is this trial's share of the machine.
        """
        if not chunks:
            return
        rows = torch.cat(list(chunks)).cpu().split([len(chunk) for chunk in chunks])  # waits for a GPU once, here
        begun: deque[_Begun] = deque()
        pool = ThreadPoolExecutor(torch.get_num_threads(), "images")
        try:
            for number in range(len(rows) + AHEAD):
                if number < len(rows):
                    begun.append(self._begin(pool, rows[number], generator, device))
                if number >= AHEAD:
                    yield _finished(*begun.popleft()).to(device, non_blocking=True).permute(0, 3, 1, 2).contiguous()
        finally:
            pool.shutdown(cancel_futures=True)

    def _begin(
        self, pool: ThreadPoolExecutor, rows: Tensor, generator: torch.Generator | None, device: torch.device
    ) -> _Begun:
        shape = (len(rows), self.size, self.size, 3)
        batch = torch.empty(shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
        draws: list[NDArray[np.float64] | None] = [None] * len(rows)
        if generator is not None:
            numbers = torch.rand((len(rows), ATTEMPTS, DRAWS), generator=generator, dtype=torch.float64)
            draws = list(numbers.numpy())
        names = self.names[rows.numpy()]
        return batch, [
            pool.submit(fill, target, self.folder / os.fsdecode(name), draw)
            for target, name, draw in zip(batch.numpy(), names, draws, strict=True)
        ]


def _finished(batch: Tensor, filled: Sequence[Future[str | None]]) -> Tensor:
    """The batch, when all of its images are there.

    Raises:
        DataError: every file of it that could not be read.
    """
    faults = [fault for fault in [each.result() for each in filled] if fault is not None]
    if faults:
        more = [f"and {len(faults) - SHOWN} more unreadable images"] if len(faults) > SHOWN else []
        raise DataError("\n".join([*faults[:SHOWN], *more, "remedy: put good copies of these files in their places"]))
    return batch


def fill(target: NDArray[np.uint8], path: Path, draws: NDArray[np.float64] | None) -> str | None:
    """Read one image into `target`.

    Args:
        target: (S, S, 3).
        path: of the file. Grey and CMYK images become RGB, as ImageNet has some of both.
        draws: (ATTEMPTS, DRAWS) of [0, 1), for a random crop; None for the middle.

    Returns:
        What is wrong with the file, with its path; None where nothing is.
    """
    size = len(target)
    try:
        with Image.open(path) as file:
            image = file.convert("RGB")
        target[:] = np.asarray(centre(image, size) if draws is None else crop(image, size, draws))
    except UnidentifiedImageError:  # its own message repeats the path
        return f"{path}: of no known image format"
    except OSError as error:
        return f"{path}: cannot be read: {error.strerror or error}"
    except Exception as error:  # whatever a decoder meets in a broken file; reported with the file's name
        return f"{path}: cannot be read: {str(error) or type(error).__name__}"
    return None


def centre(image: Image.Image, size: int) -> Image.Image:
    """The shorter side resized to 8/7 of `size` (256 for 224), bilinear with antialiasing, then the middle cut out."""
    shorter, least = size * 8 // 7, min(image.size)
    wide, high = (int(shorter * side / least) for side in image.size)
    left, top = round((wide - size) / 2), round((high - size) / 2)
    return image.resize((wide, high), Image.Resampling.BILINEAR).crop((left, top, left + size, top + size))


def crop(image: Image.Image, size: int, draws: NDArray[np.float64]) -> Image.Image:
    """A random part of the image at `size` x `size`, bilinear with antialiasing."""
    left, top, width, height = crop_box(*image.size, draws)
    part = image.crop((left, top, left + width, top + height))
    return part.resize((size, size), Image.Resampling.BILINEAR)


def crop_box(width: int, height: int, draws: NDArray[np.float64]) -> Box:
    """Where a random resized crop lies (Szegedy et al. 2015, Sec. 6, with the constants of torchvision).

        area = W H (0.08 + 0.92 u0), aspect = exp(ln 3/4 + (ln 4/3 - ln 3/4) u1)
        w = round(sqrt(area aspect)), h = round(sqrt(area / aspect)), of the first attempt with w <= W and h <= H
        left = floor(u2 (W - w + 1)), top = floor(u3 (H - h + 1))

    Where no attempt fits: the largest box in the middle whose aspect is in the range.

    Args:
        width: W, of the image, in pixels.
        height: H, likewise.
        draws: u, (ATTEMPTS, DRAWS) of [0, 1), a row an attempt.
    """
    narrow, wide = (math.log(bound) for bound in ASPECT)
    for area_draw, aspect_draw, left_draw, top_draw in draws.tolist():
        area = width * height * (AREA[0] + (AREA[1] - AREA[0]) * area_draw)
        aspect = math.exp(narrow + (wide - narrow) * aspect_draw)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(left_draw * (width - w + 1)), int(top_draw * (height - h + 1)), w, h
    w, h = width, height
    if width / height < ASPECT[0]:
        h = round(width / ASPECT[0])
    elif width / height > ASPECT[1]:
        w = round(height * ASPECT[1])
    return (width - w) // 2, (height - h) // 2, w, h
