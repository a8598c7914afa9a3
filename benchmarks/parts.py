"""What single parts of an update gain: a teacher with BatchNorm folded into its convolutions, and fused optimiser steps.

    python benchmarks/parts.py [--threads 2] [--device cpu] [--repeats 15]

Plain and changed take turns in one process; the best of each counts.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch.optim import SGD, Adam

from trainers import models
from trainers.config import Execution
from trainers.methods import freeze
from trainers.models import Network
from trainers.models._folded import folded
from trainers.train import LARGE_PIXELS, prepare_process

TEACHERS = (
    ("resnet14", 8, 32),
    ("vgg13", 8, 32),
    ("wrn_40_2", 32, 64),
    ("resnet32x4", 32, 64),
    ("resnet110", 32, 64),
    ("resnet50", 32, 64),
    ("mobilenetv2", 32, 64),
)
"""Name, pixels, batch."""
STUDENTS = ("resnet14", "wrn_16_2", "resnet8x4", "mobilenetv2", "resnet18")


def network(name: str, size: int, device: torch.device) -> Network:
    made = models.build(name, classes=100, channels=3, size=size, seed=0).to(device)
    return made.to(memory_format=torch.channels_last) if size >= LARGE_PIXELS else made  # type: ignore[call-overload]


def best_ms(sides: Sequence[Callable[[], object]], device: torch.device, repeats: int) -> list[float]:
    """Best time of each side in milliseconds; the first turn warms up."""
    best = [float("inf")] * len(sides)
    for turn in range(repeats + 1):
        for index, side in enumerate(sides):
            started = time.perf_counter()
            side()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                best[index] = min(best[index], 1000 * (time.perf_counter() - started))
    return best


def teachers(device: torch.device, repeats: int) -> list[str]:
    """The table of forward passes."""
    lines = ["| teacher | pixels | batch | pass, ms | folded, ms | ratio |", "|---|---:|---:|---:|---:|---:|"]
    for name, size, batch in TEACHERS:
        plain = network(name, size, device)
        freeze(plain)
        images = torch.randn(batch, 3, size, size, device=device)
        other = folded(plain, images[:1])
        with torch.no_grad():
            usual, quick = best_ms([lambda: plain(images), lambda: other(images)], device, repeats)  # noqa: B023
        lines.append(f"| {name} | {size} | {batch} | {usual:.2f} | {quick:.2f} | {usual / quick:.2f} |")
    return lines


def optimisers(device: torch.device, repeats: int) -> list[str]:
    """The table of optimiser steps."""
    lines = ["| student | optimiser | step, ms | fused, ms | ratio |", "|---|---|---:|---:|---:|"]
    for name in STUDENTS:
        for kind, how in ((SGD, {"momentum": 0.9, "weight_decay": 5e-4}), (Adam, {})):
            steps = []
            for fused in (None, True):
                weights = list(network(name, 32, device).parameters())
                for weight in weights:
                    weight.grad = torch.randn_like(weight)
                steps.append(kind(weights, lr=1e-3, fused=fused, **how).step)  # type: ignore[arg-type]
            usual, quick = best_ms(steps, device, 10 * repeats)
            lines.append(f"| {name} | {kind.__name__} | {usual:.2f} | {quick:.2f} | {usual / quick:.1f} |")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Prints Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2, help="of torch (default 2)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=15, help="turns of each side; the best counts (default 15)")
    arguments = parser.parse_args(argv)
    device = torch.device(arguments.device)
    prepare_process(device, Execution(threads=arguments.threads))
    lines = [*teachers(device, arguments.repeats), "", *optimisers(device, arguments.repeats)]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
