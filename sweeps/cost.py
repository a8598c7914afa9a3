"""What a trial costs before anything like it was run: floating-point operations, at the speed that a published log implies."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from trainers import data, methods, models
from trainers.config import DataSpec, Trial
from trainers.data._views import VIEWS
from trainers.errors import DataError
from trainers.models._outline import Outline
from trainers.synthesis.generator import Generator

TRAIN_IMAGES = {
    "cifar10": 50_000,
    "cifar100": 50_000,
    "tiny_imagenet": 100_000,
    "imagenet": 1_281_167,
    "stl10": 5_000,
    "digits": 1_078,
    "digits_turned": 1_078,
}
"""Sizes of the official training splits, for sets whose images need not be here when a plan is made."""
FLOPS_PER_S = 10e12
"""Sustained on an RTX 3090: CuDFKD's published log of ResNet34 -> ResNet18 (batch 768, 400 updates an epoch, 208 s an epoch)."""
CPU_FLOPS_PER_S = 75e9
CPU_LAYER_S = 0.09e-3
"""Speed of one thread, and what one layer's pass takes whatever its size, which is most of what a small network takes. Fitted to
61 trials of five experiments of the demo on two idle cores of an AMD EPYC: relative error 0.20 (std of logs). The same trials on
busy cores took three to four times as long."""
BACKWARD = 2
"""A backward pass that also gives the gradient of the weights costs twice a forward pass; to the images alone, once."""


def seconds(trial: Trial, data_root: Path, *, threads: int | None = None) -> float | None:
    """Training time of one trial on one GPU of `FLOPS_PER_S`, or on a CPU; evaluation and start-up are left out.

    Args:
        threads: on a CPU, each of `CPU_FLOPS_PER_S`, with `CPU_LAYER_S` for every layer of every update; None for a GPU.

    Returns:
        Seconds; None where the number of training images is not known here.
    """
    speed = FLOPS_PER_S if threads is None else CPU_FLOPS_PER_S * threads
    try:
        info = data.info(trial.data.model_copy(update={"content": None}), data_root)
    except DataError:
        return None
    images = train_images(trial.data, info)
    if images is None and trial.kind == "distill":
        return None
    layers = 0.0 if threads is None else CPU_LAYER_S * _layer_passes(trial, info, images or 0)
    return _operations(trial, info, images or 0) / speed + layers


def teacher_share(trial: Trial, data_root: Path, *, threads: int | None = None) -> float:
    """Part of a trial's training time that the teacher's passes over its images take, as `seconds` counts it.

    Returns:
        0 where there are none, or where the images' shape is not known here.
    """
    if trial.kind != "distill" or trial.teacher is None:
        return 0.0
    try:
        info = data.info(trial.data.model_copy(update={"content": None}), data_root)
    except DataError:
        return 0.0
    shape = (info.classes, info.channels, info.size)
    config = methods.config_type(trial.method).model_validate(dict(trial.hparams))
    images = trial.protocol.batch_size * VIEWS[methods.views(trial.method, config)].count

    def pass_s(network: str) -> float:
        if threads is None:
            return images * forward_flops(network, *shape) / FLOPS_PER_S
        return images * forward_flops(network, *shape) / (CPU_FLOPS_PER_S * threads) + CPU_LAYER_S * _layers(
            network, *shape
        )

    teacher, student = pass_s(trial.teacher.network), (1 + BACKWARD) * pass_s(trial.student)
    return teacher / (teacher + student)


def flops(trial: Trial, data_root: Path) -> float:
    """Operations of one trial's training: the same number on every machine, whatever it trains on and how fast.

    Passes of student, teacher and generator count, of every view that the method shows them; adapters, losses, a first stage
    and evaluation do not. Trials that it starts from, such as its teacher, are not part of it.

    Raises:
        TrainerError: the training images cannot be counted.
    """
    info = data.info(trial.data, data_root)
    images = train_images(trial.data, info)
    if images is None and trial.kind == "distill":
        images = _counted(trial.data, data_root)
    return _operations(trial, info, images or 0)


def train_images(spec: DataSpec, info: data.Info) -> int | None:
    """Images of an epoch, held-out ones left out; None for sets of unknown size."""
    if spec.train_per_class is not None:
        return spec.train_per_class * info.classes
    images = TRAIN_IMAGES.get(spec.name)
    return None if images is None else images - spec.holdout_images


@lru_cache(maxsize=16)
def _counted(spec: DataSpec, data_root: Path) -> int:
    return len(data.load(spec, data_root).train)


def _operations(trial: Trial, info: data.Info, images: int) -> float:
    """Of every pass through student, teacher and generator; `images` are those of an epoch with data."""
    if trial.kind not in ("distill", "datafree"):
        return 0.0
    shape = (info.classes, info.channels, info.size)
    student = forward_flops(trial.student, *shape)
    teacher = 0.0 if trial.teacher is None else forward_flops(trial.teacher.network, *shape)
    update = (1 + BACKWARD) * student + teacher
    config = methods.config_type(trial.method).model_validate(dict(trial.hparams))
    if trial.kind == "distill":
        views = VIEWS[methods.views(trial.method, config)].count
        return trial.protocol.epochs * images * views * update
    batch, updates = trial.protocol.batch_size, trial.protocol.updates_per_epoch or 0
    synthesis = methods.synthesis_images(trial.method, config, trial.protocol)
    generator = generator_flops(config, info.channels, info.size)
    to_images = 2 * (student + teacher)
    epoch = updates * batch * (update + generator) + synthesis * (to_images + (1 + BACKWARD) * generator)
    return trial.protocol.epochs * epoch


def _layer_passes(trial: Trial, info: data.Info, images: int) -> int:
    """Passes through single layers of student and teacher; those of a generator are left out."""
    if trial.kind not in ("distill", "datafree"):
        return 0
    shape = (info.classes, info.channels, info.size)
    each = (1 + BACKWARD) * _layers(trial.student, *shape)
    each += 0 if trial.teacher is None else _layers(trial.teacher.network, *shape)
    updates = trial.protocol.updates_per_epoch or 0
    if trial.kind == "distill":
        updates = math.ceil(images / trial.protocol.batch_size)
    return trial.protocol.epochs * updates * each


@lru_cache(maxsize=256)
def sketch(network: str, classes: int, channels: int, size: int) -> models.Network:
    """A network in eval mode whose weights have a shape but are not allocated; callers leave it as it is."""
    with torch.device("meta"):
        return models.build(network, classes=classes, channels=channels, size=size).eval()


@lru_cache(maxsize=256)
def _layers(network: str, classes: int, channels: int, size: int) -> int:
    built = sketch(network, classes, channels, size)
    return sum(1 for module in built.modules() if next(module.children(), None) is None)


@lru_cache(maxsize=256)
def forward_flops(network: str, classes: int, channels: int, size: int) -> float:
    """Operations (a multiplication and an addition are two) of one image's forward pass; no weight is allocated."""
    with torch.device("meta"):
        return _count(sketch(network, classes, channels, size), torch.empty(1, channels, size, size))


def generator_flops(config: object, channels: int, size: int) -> float:
    """Operations of one generated image; 0 for methods that optimise pixels."""
    width = getattr(config, "generator_width", None)
    if width is None:
        return 0.0
    depth = getattr(config, "generator_depth", 2)
    latent = getattr(config, "latent_dim", 1)
    return _generator_flops(latent, channels, size, depth, width)


@lru_cache(maxsize=64)
def _generator_flops(latent: int, channels: int, size: int, depth: int, width: int) -> float:
    with torch.device("meta"):
        return _count(Generator(latent, channels, size, depth, width).eval(), torch.empty(1, latent))


def _count(network: nn.Module, inputs: torch.Tensor) -> float:
    with torch.no_grad(), Operations() as counter:
        network(inputs)
    return float(counter.total)


_CONVOLUTIONS = frozenset({F.conv1d, F.conv2d, F.conv3d})
_TRANSPOSED = frozenset({F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d})
_PRODUCTS = frozenset(
    {
        F.linear,
        torch.matmul,
        torch.mm,
        torch.bmm,
        *(getattr(torch.Tensor, n) for n in ("matmul", "__matmul__", "mm", "bmm")),
    }
)


class Operations(Outline):
    """Counts the operations of convolutions, linear layers and matrix products, on networks without weights.

    The same numbers as `torch.utils.flop_counter`, which imports PyTorch's compiler for half a second and takes five times as
    long a network.
    """

    total = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given, found = args, super().__torch_function__(func, types, args, kwargs)
        if func in _CONVOLUTIONS:
            self.total += 2 * found.numel() * _weight(given, kwargs)[0].numel()
        elif func in _TRANSPOSED:
            self.total += 2 * given[0].numel() * _weight(given, kwargs)[0].numel()
        elif func in _PRODUCTS:
            self.total += 2 * found.numel() * given[0].shape[-1]
        elif func is F.scaled_dot_product_attention:
            self.total += 2 * (given[0].numel() + found.numel()) * given[1].shape[-2]
        return found


def _weight(args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> torch.Tensor:
    found: torch.Tensor = args[1] if len(args) > 1 else (kwargs or {})["weight"]
    return found
