"""Numbers of histograms and of sample images that trials keep."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np

from analysis.snapshots import Histogram, Snapshot

PER_CLASS = 8
"""Tiles in a row of samples_by_class.png, a row for each class."""


def mean_of(found: Histogram) -> float:
    return found.mean


def width(found: Histogram) -> float:
    """Standard deviation of what was counted, each value at the middle of its bin; NaN of nothing."""
    counts, middles = np.array(found.counts, dtype=float), centres(found)
    if not counts.sum():
        return math.nan
    mean = float(np.average(middles, weights=counts))
    return math.sqrt(float(np.average((middles - mean) ** 2, weights=counts)))


def first_mode(found: Histogram, smooth: int = 5, least: float = 0.1) -> float:
    """Middle of the first peak: the lowest bin whose smoothed count no neighbour exceeds; NaN of nothing.

    Args:
        smooth: bins that a moving mean takes together, an odd number.
        least: smaller peaks than this share of the largest do not count.
    """
    counts = np.convolve(np.array(found.counts, dtype=float), np.ones(smooth) / smooth, mode="same")
    if not counts.max():
        return math.nan
    padded = np.concatenate([[-1.0], counts, [-1.0]])
    peak = (counts >= padded[:-2]) & (counts > padded[2:]) & (counts >= least * counts.max())
    return float(centres(found)[int(np.argmax(peak))])


def centres(found: Histogram) -> np.ndarray[Any, np.dtype[np.float64]]:
    edges = np.array(found.edges, dtype=float)
    return np.asarray((edges[1:] + edges[:-1]) / 2)


def distance_within_classes(snapshot: Snapshot[Any]) -> float:
    """Root mean square difference of two images of a class, averaged over pairs and classes, in grey levels (0 to 255).

    Of samples_by_class.png, where a row is a class and white tiles are empty; NaN where the run kept no such picture, or no class
    has two images.
    """
    from PIL import Image

    if snapshot.name != "samples_by_class.png":
        return math.nan
    with Image.open(io.BytesIO(snapshot.picture)) as picture:
        pixels = np.asarray(picture.convert("RGB"), dtype=float)
    side = pixels.shape[1] // PER_CLASS
    found = []
    for top in range(0, pixels.shape[0] - side + 1, side):
        row = [pixels[top : top + side, left : left + side] for left in range(0, side * PER_CLASS, side)]
        images = [tile for tile in row if (tile < 255).any()]
        pairs = [math.sqrt(float(((a - b) ** 2).mean())) for i, a in enumerate(images) for b in images[i + 1 :]]
        if pairs:
            found.append(math.fsum(pairs) / len(pairs))
    return math.fsum(found) / len(found) if found else math.nan
