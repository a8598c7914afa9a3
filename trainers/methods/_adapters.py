"""What joins a student's features to a teacher's: shapes of both, regressors between maps, and pooling to a common size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers import models, seeding
from trainers.data import Info
from trainers.methods import Case, Context
from trainers.models import Features, Network

M = TypeVar("M", bound=nn.Module)
MapShape = Sequence[int]
"""(C, H, W), or with the batch before it: the last three count."""


def hint_regressor(student_shape: MapShape, teacher_shape: MapShape, relu: bool = True) -> nn.Sequential:
    """Convolution from a student's map to the size of a teacher's, then BN, then ReLU (FitNet's regressor in RepDistiller).

    H_s = 2 H_t: 3x3, stride 2; 2 H_s = H_t: transposed 4x4, stride 2; H_s >= H_t: kernel 1 + H_s - H_t without padding.

    Args:
        student_shape: of the map that goes in.
        teacher_shape: of the map to be met.
        relu: False leaves the ReLU out (AB's connectors).

    Raises:
        ValueError: the student's map is smaller than the teacher's, and not by a factor of two.
    """
    into, size = student_shape[-3], student_shape[-1]
    out, wanted = teacher_shape[-3], teacher_shape[-1]
    if not has_regressor(student_shape, teacher_shape):
        raise ValueError(f"no regressor from a map of {size} to one of {wanted} pixels; see has_regressor")
    convolution: nn.Conv2d | nn.ConvTranspose2d
    if size == 2 * wanted:
        convolution = nn.Conv2d(into, out, 3, stride=2, padding=1)
    elif 2 * size == wanted:
        convolution = nn.ConvTranspose2d(into, out, 4, stride=2, padding=1)
    else:
        convolution = nn.Conv2d(into, out, 1 + size - wanted)
    return nn.Sequential(convolution, nn.BatchNorm2d(out), *([nn.ReLU()] if relu else []))


def has_regressor(student_shape: MapShape, teacher_shape: MapShape) -> bool:
    """Whether `hint_regressor` reaches the teacher's size: it shrinks by any amount and grows by a factor of two."""
    size, wanted = student_shape[-1], teacher_shape[-1]
    return size >= wanted or 2 * size == wanted


def probe(network: Network, info: Info, device: torch.device) -> Features:
    """All features of two blank images, for their shapes; the network's mode, statistics and gradients stay as they were."""
    training = network.training
    images = torch.zeros(2, info.channels, info.size, info.size, device=device)
    with torch.no_grad():
        features = network.eval().features(images)
    network.train(training)
    return features


def shapes_of(case: Case) -> tuple[Features, Features]:
    """Features that student and teacher of a case give for two images: shapes without values (`trainers.models.shapes`)."""
    assert case.teacher is not None
    student, teacher = (_blank(name, case.info) for name in (case.student, case.teacher))
    return student, teacher


def _blank(name: str, info: Info) -> Features:
    found = models.shapes(name, classes=info.classes, channels=info.channels, size=info.size)
    with torch.device("meta"):
        stages = tuple(torch.empty(2, *each) for each in found.stages)
        stem, pooled = torch.empty(2, *found.stem), torch.empty(2, found.pooled)
        return Features(torch.empty(2, info.classes), pooled, stages, stages, stem)


def probes(context: Context) -> tuple[Features, Features]:
    """Features of student and teacher for two blank images, for adapters that need their shapes."""
    student, teacher = (probe(n, context.info, context.device) for n in (context.student, context.frozen))
    return student, teacher


def pair_of(case: Case) -> str:
    """How messages name student and teacher."""
    return f"{case.teacher} -> {case.student}"


def stage_count_faults(case: Case) -> list[str]:
    """Methods that compare stage by stage need as many stages on both sides."""
    student, teacher = shapes_of(case)
    if len(student.stages) == len(teacher.stages):
        return []
    return [
        f"pair {pair_of(case)}: the teacher has {len(teacher.stages)} stages and the student {len(student.stages)}, but this "
        "method compares stage by stage; choose networks with equally many"
    ]


def batch_faults(case: Case, least: int) -> list[str]:
    """Methods on relations between samples need `least` of them in a batch."""
    if case.protocol.batch_size >= least:
        return []
    return [
        f"pair {pair_of(case)}: batch_size {case.protocol.batch_size} leaves no relation between samples to compare; "
        f"set it to {least} or more"
    ]


def fresh(make: Callable[[], M], context: Context, name: str) -> M:
    """An adapter whose weights come from the trial's stream `weights/<name>`, on the context's device."""
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(seeding.stream_seed(context.seed, "weights", name))
        return make().to(context.device)


def pooled_alike(student_map: Tensor, teacher_map: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps at the smaller one's size, by adaptive average pooling of the larger one (RepDistiller).

    Args:
        student_map: shape (B, C_s, H_s, H_s).
        teacher_map: shape (B, C_t, H_t, H_t).

    Returns:
        Both in float32, of shape (B, C_s, H, H) and (B, C_t, H, H).
    """
    student_map, teacher_map = student_map.float(), teacher_map.float()
    size, wanted = student_map.shape[-1], teacher_map.shape[-1]
    if size > wanted:
        student_map = F.adaptive_avg_pool2d(student_map, wanted)
    elif size < wanted:
        teacher_map = F.adaptive_avg_pool2d(teacher_map, size)
    return student_map, teacher_map
