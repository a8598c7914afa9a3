"""A frozen network with its BatchNorm layers folded into the convolutions before them: the same answers in fewer passes over memory."""

from __future__ import annotations

import copy
import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from trainers.models import Network

logger = logging.getLogger(__name__)

OFF = 1e-6
"""Largest error of a folded network's answers in double precision, relative to the largest one; rounding makes a millionth of it."""
Pair = tuple[nn.Conv2d, nn.BatchNorm2d]


def folded_alike(network: Network, channels: int, size: int) -> Network | None:
    """`folded`, where that answers like `network`; None, and a line in the log, where it does not.

    A network of the user's may do what the graph of its passes does not show, such as reading a layer's weights itself. Both are
    made and compared in double precision, in which a GPU does not round on its own account (TF32).
    """
    first = next(network.parameters())
    images = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0)).to(first.device).double()
    try:
        exact = copy.deepcopy(network).double()
        own = folded(exact, images[:1])
        off = _error(own, exact, images)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, AttributeError, TypeError, ValueError) as error:
        logger.warning("the teacher keeps its BatchNorm layers: %s", error)
        return None
    if not off <= OFF:  # also for NaN
        logger.warning("the teacher keeps its BatchNorm layers: without them its answers are off by %.2g", off)
        return None
    return own.to(first.dtype)


@torch.no_grad()
def _error(own: Network, network: Network, images: Tensor) -> float:
    answers = zip(own.features(images).tensors(), network.features(images).tensors(), strict=True)
    return max(float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-6)) for ours, theirs in answers)


def folded(network: Network, images: Tensor) -> Network:
    """A copy that answers like `network` in eval mode, up to rounding, all of `Features` included.

        W' = W gamma / sqrt(var + eps), b' = beta + (b - mean) gamma / sqrt(var + eps)

    Folded is each BatchNorm whose input is what a convolution gives and nothing else looks at: neither a shortcut nor
    `Features`. Others, such as those after a sum (WRN) or with hooks on them, stay. The copy has no running statistics of
    folded layers, so what matches those needs the original.

    Args:
        network: frozen, in eval mode; stays as it is.
        images: (B, C, H, W), one is enough, of any values, on the network's device.
    """
    own = copy.deepcopy(network)
    owners: dict[nn.Module, list[tuple[nn.Module, str]]] = defaultdict(list)
    for parent in own.modules():
        for name, module in parent._modules.items():
            if module is not None:
                owners[module].append((parent, name))
    for convolution, norm in pairs(own, images):
        changes = {convolution: fuse_conv_bn_eval(convolution, norm), norm: nn.Identity()}
        for module, instead in changes.items():
            for parent, name in owners[module]:
                setattr(parent, name, instead)
    return own


def pairs(network: Network, images: Tensor) -> list[Pair]:
    """Each convolution with the BatchNorm that alone looks at its output, found in the graph of one forward pass."""
    calls: list[tuple[nn.Module, Any]] = []
    layers = [each for each in network.modules() if _plain(each)]
    hooks = [each.register_forward_hook(lambda layer, _, out: calls.append((layer, out.grad_fn))) for each in layers]
    try:
        with torch.enable_grad():
            seen = network.features(images.detach().requires_grad_())
    finally:
        for hook in hooks:
            hook.remove()
    times = Counter(layer for layer, _ in calls)
    made_by = {node: layer for layer, node in calls if times[layer] == 1 and node is not None}
    uses = _uses(seen.tensors())
    found = []
    for node, norm in made_by.items():
        source = node.next_functions[0][0]
        convolution = made_by.get(source)
        if isinstance(norm, nn.BatchNorm2d) and isinstance(convolution, nn.Conv2d) and uses[source] == 1:
            found.append((convolution, norm))
    return found


def _plain(layer: nn.Module) -> bool:
    """Whether it is a layer of torch's own that does what its weights say: no subclass, no hooks, statistics of its own."""
    if layer._forward_hooks or layer._forward_pre_hooks:
        return False
    return type(layer) is nn.Conv2d or (type(layer) is nn.BatchNorm2d and layer.running_mean is not None)


def _uses(outputs: Sequence[Tensor]) -> Counter[Any]:
    """How often the output of each node is looked at: by another node, or as one of the outputs."""
    found = Counter(each.grad_fn for each in outputs)
    pending, known = list(found), set[Any]()
    while pending:
        node = pending.pop()
        if node is None or node in known:
            continue
        known.add(node)
        sources = [source for source, _ in cast(Any, node).next_functions]
        found.update(sources)
        pending += sources
    return found
