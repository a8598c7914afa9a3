"""How loops ask their networks: eagerly, through `torch.compile`, or through that with CUDA graphs.

What cannot be compiled here, or answers otherwise than the eager network, stays eager, and the trial's log says so.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainers.config import Passes as Kind
from trainers.methods import Output
from trainers.models import Features, Network

logger = logging.getLogger(__name__)

RECOMPILATIONS = 256
"""Of one network's code: each trial of a group, in training and in eval mode; beyond the limit torch is silently eager."""
ANSWERS_OFF = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Largest error of a compiled network's answers, relative to the largest answer."""
GRADIENTS_OFF = {torch.float32: 5e-2, torch.bfloat16: 0.25}
"""Likewise of its gradient, by its norm. A ReLU whose input rounds to the other side of 0 lets a gradient through or not."""


class _Asked(NamedTuple):
    """A network as it was compiled, for images of one shape; others are few (an epoch's last batch) and stay eager.

    Attributes:
        network: kept so that its id is not given to another one.
        run: None: it stays eager.
    """

    network: Network
    shape: torch.Size
    run: Callable[[Tensor], Output] | None


class Passes:
    """The passes of a trial, or of the trials of a group, in updates. Evaluation is eager.

    A network is compiled at its first batch in each mode. There it is compared once with the eager one, answers and gradients
    (`ANSWERS_OFF`, `GRADIENTS_OFF`); its BatchNorm statistics and its gradients are as before afterwards.

    Args:
        kind: see `Execution.passes`.

    Attributes:
        stayed_eager: networks that could not be compiled, and why; one line each.
    """

    def __init__(self, kind: Kind = "eager") -> None:
        self._kind = kind
        self.stayed_eager: list[str] = []
        self._asked: dict[tuple[Any, ...], _Asked] = {}
        if kind != "eager":
            _make_room_for_trials()

    def next_batch(self) -> None:
        """Called before the first answer to a batch: memory of CUDA graphs may be used again."""
        if self._kind == "cuda_graphs":
            torch.compiler.cudagraph_mark_step_begin()

    def answer(self, network: Network, images: Tensor, needs_features: bool) -> Output:
        """What `network` says to `images`, with its maps where they are looked at.

        Eager logits have the same bits with maps and without.
        """
        if self._kind == "eager":
            return eager(network, images, needs_features)
        trained = tuple(parameter.requires_grad for parameter in network.parameters())
        key = (id(network), needs_features, network.training, torch.is_grad_enabled(), trained)
        if key not in self._asked:
            self._asked[key] = _Asked(network, images.shape, self._compiled(network, images, needs_features))
        known = self._asked[key]
        if known.run is None or known.shape != images.shape:
            return eager(network, images, needs_features)
        return known.run(images)

    def _compiled(self, network: Network, images: Tensor, needs_features: bool) -> Callable[[Tensor], Output] | None:
        graphs = self._kind == "cuda_graphs"
        inner: Callable[[Tensor], Any] = network.features if needs_features else network.forward
        name = f"{type(network).__name__} in {'training' if network.training else 'eval'} mode"

        def run(images: Tensor) -> Output:
            found = compiled(images)
            output = Output(found.logits, found) if needs_features else Output(found)
            return _kept(output) if graphs else output

        try:
            compiled = torch.compile(inner, dynamic=False, mode="reduce-overhead" if graphs else None)
            for _ in range(3 if graphs else 1):  # CUDA graphs warm up, are recorded, and are replayed
                self.next_batch()
                fault = _difference(network, run, images, needs_features)
                if fault:
                    break
        except Exception as error:  # no compiler, an operator that it does not know: they share no class
            fault = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if fault:
            logger.warning("passes=%s: %s stays eager: %s", self._kind, name, fault)
            self.stayed_eager.append(f"{name}: {fault}")
            return None
        logger.info("passes=%s: %s is compiled for images of shape %s", self._kind, name, tuple(images.shape))
        return run


def eager(network: Network, images: Tensor, needs_features: bool) -> Output:
    """`Passes.answer` as Python runs it."""
    if not needs_features:
        return Output(network(images))
    features = network.features(images)
    return Output(features.logits, features)


def _make_room_for_trials() -> None:
    """Forgets what earlier trials of this process had compiled."""
    import torch._dynamo

    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = RECOMPILATIONS
    torch._dynamo.config.accumulated_recompile_limit = RECOMPILATIONS


def _tensors(output: Output) -> list[Tensor]:
    if output.features is None:
        return [output.logits]
    seen = output.features
    return [seen.logits, seen.pooled, *seen.stages, *seen.pre_relu, seen.stem]


def _kept(output: Output) -> Output:
    """Copies, which the next replay of a CUDA graph does not write over."""
    if output.features is None:
        return Output(output.logits.clone())
    seen = output.features
    copied = Features(
        seen.logits.clone(),
        seen.pooled.clone(),
        tuple(each.clone() for each in seen.stages),
        tuple(each.clone() for each in seen.pre_relu),
        seen.stem.clone(),
    )
    return Output(copied.logits, copied)


def _difference(network: Network, run: Callable[[Tensor], Output], images: Tensor, needs_features: bool) -> str | None:
    """In what a compiled network is not the eager one; None where both are alike. The network is left as it was."""
    precision = torch.bfloat16 if torch.is_autocast_enabled(images.device.type) else torch.float32
    answers, gradient = _tried(network, lambda: eager(network, images, needs_features))
    own_answers, own_gradient = _tried(network, lambda: run(images))
    for ours, theirs in zip(own_answers, answers, strict=True):
        off = float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-6))
        if not off <= ANSWERS_OFF[precision]:  # also for NaN
            return f"its compiled answers are off by {off:.2g} of the largest one"
    off = float((own_gradient - gradient).norm() / gradient.norm().clamp(min=1e-12))
    if not off <= GRADIENTS_OFF[precision]:
        return f"its compiled gradient is off by {off:.2g}"
    return None


def _tried(network: Network, ask: Callable[[], Output]) -> tuple[Sequence[Tensor], Tensor]:
    """All that a network answers, and the gradient of a sum of it; statistics of BatchNorm go back to what they were."""
    before = [buffer.clone() for buffer in network.buffers()]
    try:
        outputs = _tensors(ask())
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        gradients: Sequence[Tensor | None] = []
        if torch.is_grad_enabled() and trained:
            total = sum((each.float() * _weights(each)).mean() for each in outputs)
            gradients = torch.autograd.grad(total, trained, allow_unused=True)  # type: ignore[arg-type]
    finally:
        with torch.no_grad():
            for buffer, old in zip(network.buffers(), before, strict=True):
                buffer.copy_(old)
    flat = [each.detach().float().flatten() for each in gradients if each is not None]
    kept = [each.detach().float().clone() for each in outputs]
    return kept, torch.cat(flat) if flat else torch.zeros(1, device=outputs[0].device)


def _weights(answer: Tensor) -> Tensor:
    """Fixed and unlike: the gradient of a plain sum ends at the first BatchNorm."""
    return torch.arange(answer.numel(), device=answer.device).mul(math.sqrt(2)).cos().view(answer.shape)
