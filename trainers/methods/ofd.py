"""Overhaul of feature distillation (Heo et al. 2019): pre-ReLU maps, with negatives of the teacher cut at a margin."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from trainers import models
from trainers.config import MethodConfig
from trainers.methods import Batch, Case, Context, DistillMethod, Terms
from trainers.methods._adapters import fresh, pair_of, pooled_alike, probes, stage_count_faults
from trainers.methods.ce import ce_loss
from trainers.models import Network

KIND = "distill"
VERSION = 1
NEEDS_TEACHER = True


class Config(MethodConfig):
    """Values of mdistiller's CIFAR-100 recipe."""

    ce_weight: float = Field(1.0, ge=0, description="weight of the cross-entropy (mdistiller)")
    ofd_weight: float = Field(0.001, ge=0, description="weight of the maps' distance (mdistiller)")


PRESETS: Mapping[str, Mapping[str, Any]] = {"imagenet": {"ofd_weight": 1e-4}}
"""imagenet: mdistiller's recipe for ResNet50 -> MobileNet."""


def faults(config: Config, case: Case) -> list[str]:
    """Stages are compared one by one, and each of the teacher's needs the BatchNorm that gives its margin."""
    found = stage_count_faults(case)
    if found:
        return found
    assert case.teacher is not None
    known = _has_norms(case.teacher, case.info.channels, case.info.size)
    without = [str(number) for number, has in enumerate(known, start=1) if not has]
    if not without:
        return []
    return [
        f"pair {pair_of(case)}: OFD takes margins from the BatchNorm2d before the last ReLU of each of the teacher's "
        f"stages, and stage {', '.join(without)} of {case.teacher!r} has none; choose a ResNet, WRN or VGG for it"
    ]


@lru_cache(maxsize=64)
def _has_norms(network: str, channels: int, size: int) -> tuple[bool, ...]:
    with torch.device("meta"):
        built = models.build(network, classes=2, channels=channels, size=size).eval()
        return tuple(norm is not None for norm in norms_before_relu(built, torch.zeros(2, channels, size, size)))


def norms_before_relu(network: Network, images: Tensor) -> list[nn.BatchNorm2d | None]:
    """The layer that ends each stage before its ReLU: its output is the map, or the main branch's term of it.

    Found in the graph of one forward pass, so that no network has to name its layers. Of a sum of two such outputs the
    main branch's is the one that depends on the other (an identity), or the first where none does (a projection). None
    where a stage ends otherwise: in a concatenation, or without BatchNorm.

    Args:
        network: in eval mode; its statistics and gradients stay as they are.
        images: (B, C, H, W), of any values.
    """
    layers: dict[Any, nn.BatchNorm2d] = {}

    def note(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, nn.BatchNorm2d)
        layers[output.grad_fn] = layer

    hooks = [each.register_forward_hook(note) for each in network.modules() if isinstance(each, nn.BatchNorm2d)]
    try:
        with torch.enable_grad():
            maps = network.features(images.requires_grad_()).pre_relu
    finally:
        for hook in hooks:
            hook.remove()
    found: list[nn.BatchNorm2d | None] = []
    for each in maps:
        node: Any = each.grad_fn
        terms = [node] if node in layers else [term for term, _ in node.next_functions if term in layers]
        if len(terms) == 2 and _depends(terms[1], terms[0]):
            terms.reverse()
        layer = layers[terms[0]] if terms and (node in layers or node.name() == "AddBackward0") else None
        found.append(layer if layer is not None and layer.num_features == each.shape[1] else None)
    return found


def _depends(node: Any, earlier: Any) -> bool:
    pending, seen = [node], set()
    while pending:
        each = pending.pop()
        if each is earlier:
            return True
        if each is not None and each not in seen:
            seen.add(each)
            pending += [source for source, _ in each.next_functions]
    return False


def margin(weight: Tensor, bias: Tensor) -> Tensor:
    """Mean of the negative part of a channel that BatchNorm makes N(beta, gamma^2) (Heo et al. 2019).

        m = beta - |gamma| phi(beta / |gamma|) / Phi(-beta / |gamma|);  -3 |gamma| where Phi(...) <= 0.001

    Args:
        weight: gamma, shape (C,).
        bias: beta, shape (C,).

    Returns:
        Shape (C,), below 0, without gradient; worked out in float64.
    """
    spread = weight.detach().double().abs().clamp_min(1e-12)  # a channel switched off has gamma 0
    beta = bias.detach().double()
    negative = torch.special.ndtr(-beta / spread)
    density = torch.exp(-(beta / spread).square() / 2) / math.sqrt(2 * math.pi)
    mean = beta - spread * density / negative.clamp_min(1e-300)
    return torch.where(negative > 0.001, mean, -3 * spread).float()


def ofd_loss(student_maps: Sequence[Tensor], teacher_maps: Sequence[Tensor], margins: Sequence[Tensor]) -> Tensor:
    """Partial squared distance to the teacher's pre-ReLU maps (Heo et al. 2019; mdistiller's `OFD.py`).

        t' = max(t, m);  d(s, t') = 0 where s <= t' <= 0, else (s - t')^2
        L = 1/B sum_k 2^(k - n) sum over all elements of stage k of d

    Args:
        student_maps: s, n connected maps, each (B, C, H_s, W_s).
        teacher_maps: t, each (B, C, H_t, W_t), without gradient; the larger map of a stage is average-pooled down.
        margins: m, each (C,).

    Returns:
        Scalar: summed over elements and stages, averaged over the batch.
    """
    total = torch.zeros((), device=student_maps[0].device)
    stages = zip(student_maps, teacher_maps, margins, strict=True)
    for number, (student, teacher, lowest) in enumerate(stages, start=1):
        s, t = pooled_alike(student, teacher.detach())
        t = torch.maximum(t, lowest[:, None, None])
        distance = (s - t).square() * ((s > t) | (t > 0))
        total = total + 2.0 ** (number - len(student_maps)) * distance.sum() / len(s)
    return total


def connector(channels: int, out: int) -> nn.Sequential:
    """1x1 convolution, initialised N(0, sqrt(2 / C_out)), and BN."""
    convolution = nn.Conv2d(channels, out, 1, bias=False)
    nn.init.normal_(convolution.weight, 0.0, math.sqrt(2 / out))
    return nn.Sequential(convolution, nn.BatchNorm2d(out))


class Method(DistillMethod):
    """L = ce_weight * CE + ofd_weight * OFD.

    Departs from mdistiller, whose teacher runs in train mode for this method alone: here it is in eval mode.
    mdistiller always pools the teacher's map to the student's size; the two agree unless the student's is the larger.
    """

    needs_features = True

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        student, teacher = probes(context)
        widths = [(s.shape[1], t.shape[1]) for s, t in zip(student.pre_relu, teacher.pre_relu, strict=True)]
        self.connectors = fresh(lambda: nn.ModuleList(connector(s, t) for s, t in widths), context, "ofd")
        self.modules["connectors"] = self.connectors
        info = context.info
        blank = torch.zeros(2, info.channels, info.size, info.size, device=context.device)
        norms = [norm for norm in norms_before_relu(context.frozen, blank) if norm is not None]
        self.margins = [margin(norm.weight, norm.bias) for norm in norms]

    def terms(self, batch: Batch) -> Terms:
        maps = zip(self.connectors, batch.student.maps.pre_relu, strict=True)
        connected = [part(own.float()) for part, own in maps]
        distance = ofd_loss(connected, batch.taught.maps.pre_relu, self.margins)
        return {
            "ce": self.config.ce_weight * ce_loss(batch.student_logits, batch.labels),
            "ofd": self.config.ofd_weight * distance,
        }
