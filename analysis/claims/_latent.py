"""The latent objective behind CuDFKD's weights (Sec. IV-C), in numbers: what Proposition 1 says of it, checked on grids.

Analysis may not import the trainers; that both compute the same weights is tested.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Weighting = Literal["hard", "soft", "log"]
WEIGHTS: tuple[Weighting, ...] = ("hard", "soft", "log")
Array = NDArray[np.float64]
ROUNDING = 1e-9
THRESHOLDS = (0.5, 1.0, 2.0, 3.5)


def weight(loss: Array, threshold: float, kind: Weighting) -> Array:
    """v*(lambda, L) of Sec. IV-B.

    hard: 1[L < lambda];  soft: max(0, 1 - L / lambda);  log: (1 + e^-lambda) / (1 + e^(L - lambda))

    Args:
        loss: L >= 0, any shape.
        threshold: lambda > 0.
    """
    if kind == "hard":
        return np.where(loss < threshold, 1.0, 0.0)
    if kind == "soft":
        return np.clip(1 - loss / threshold, 0.0, None)
    return np.asarray((1 + np.exp(-threshold)) / (1 + np.exp(loss - threshold)))


def objective(loss: Array, threshold: float, kind: Weighting) -> Array:
    """F_lambda(L) = integral of v*(lambda, l) over l from 0 to L, in closed form."""
    if kind == "hard":
        return np.minimum(loss, threshold)
    if kind == "soft":
        inside = np.minimum(loss, threshold)
        return np.asarray(inside - inside**2 / (2 * threshold))
    rest = np.logaddexp(0.0, loss - threshold) - np.logaddexp(0.0, -threshold)
    return np.asarray((1 + np.exp(-threshold)) * (loss - rest))


def largest_excess(kind: Weighting) -> float:
    """Largest F(L) - [F(L*) + v*(L*) (L - L*)] over a grid of losses and thresholds; the bound of Eq. 8 says <= 0.

    Departs from the paper: Eq. 8 evaluates v* at the new point; the bound needs it at the point of expansion, as here.
    """
    losses = np.linspace(0.0, 8.0, 161)
    new, old = losses[:, None], losses[None, :]
    excess = [
        objective(new, t, kind) - objective(old, t, kind) - weight(old, t, kind) * (new - old) for t in THRESHOLDS
    ]
    return float(np.max(excess))


def largest_rise(kind: Weighting, steps: int = 30) -> float:
    """Largest rise of sum_i F(L_i(w)) under exact alternating steps on L_i(w) = (w - x_i)^2; Proposition 1 says <= 0.

    A step takes v_i = v*(L_i(w)), then w = sum_i v_i x_i / sum_i v_i, which minimises sum_i v_i L_i(w); it ends where all v_i are 0.
    """
    points = np.array([-2.0, -1.5, -0.2, 0.0, 0.1, 0.3, 1.2, 4.0])
    rise = -np.inf
    for threshold in THRESHOLDS:
        for start in np.linspace(-3.0, 5.0, 17):
            w, before = start, float(objective((start - points) ** 2, threshold, kind).sum())
            for _ in range(steps):
                v = weight((w - points) ** 2, threshold, kind)
                if v.sum() == 0:
                    break
                w = float((v * points).sum() / v.sum())
                after = float(objective((w - points) ** 2, threshold, kind).sum())
                rise, before = max(rise, after - before), after
    return float(rise)
