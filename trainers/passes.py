"""How loops ask their networks: eagerly, through `torch.compile`, or through that with CUDA graphs.

What cannot be compiled here, or answers otherwise than the eager network, stays eager, and its trial says so.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainers.config import PassKind
from trainers.methods import Output
from trainers.models import Features, Network

logger = logging.getLogger(__name__)

RECOMPILATIONS = 256
"""Of one network's code: each trial of a group, in training and in eval mode; beyond the limit torch is silently eager."""
ANSWERS_OFF = {torch.float32: 1e-3, torch.bfloat16: 5e-2}
"""Largest error of a compiled network's answers, relative to the largest one."""
GRADIENTS_OFF = {torch.float32: 0.1, torch.bfloat16: 0.5}
"""Likewise of the gradient of each weight, by its norm. A ReLU whose input rounds to the other side of 0 lets a gradient through or
not, which makes up to 0.02 in a single weight's (MobileNetV2, 16 images)."""
NEGLIGIBLE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
"""Part of the whole gradient's norm below which a weight's own is rounding: that of a bias before BatchNorm is 0 but for it."""

Gradients = dict[str, Tensor]
"""Of the weights that the answers depend on, by name."""


class _Asked(NamedTuple):
    """What became of a network in one mode.

    Attributes:
        network: kept so that its id is not given to another one.
        run: None: it stays eager.
    """

    network: Network
    run: Callable[[Tensor], Features] | None


class Passes:
    """The passes of a trial, or of the trials of a group, in the updates of its recipe. Evaluation and first stages are eager.

    A network is compiled at its first whole batch in each mode; parts of one (the last of an epoch) stay eager. There it is
    compared with the eager one, answers and gradients; its BatchNorm statistics and its gradients are as before afterwards. It is always
    compiled with its maps, so that trials that look at them and trials that do not have the same bits.

    A compiled network gives a weight that no term of a loss reaches the gradient 0, where the eager one gives it none. All
    terms of a recipe's updates taken together reach every weight, since they look at the logits.

    Args:
        kind: see `Execution.passes`.
        batch: images of a whole one, all their views counted.

    Attributes:
        compiling_s: seconds that compiling and comparing have taken.
    """

    def __init__(self, kind: PassKind = "eager", batch: int = 0) -> None:
        self.kind = kind
        self.compiling_s = 0.0
        self._batch = batch
        self._asked: dict[tuple[Any, ...], _Asked] = {}
        self._eager: dict[int, list[str]] = {}
        self._left: dict[int, Network] = {}
        if kind != "eager":
            _forget_compiled()

    def answer(self, network: Network, images: Tensor, needs_features: bool) -> Output:
        """What `network` says to `images`, with its maps where they are looked at.

        Eager logits have the same bits with maps and without.

        Raises:
            MemoryError, torch.OutOfMemoryError: as the network itself may.
        """
        if self.kind == "eager" or len(images) != self._batch or id(network) in self._left:
            return eager(network, images, needs_features)
        trained = tuple(parameter.requires_grad for parameter in network.parameters())
        key = (id(network), network.training, torch.is_grad_enabled(), trained)
        if key not in self._asked:
            started = time.perf_counter()
            self._asked[key] = _Asked(network, self._compiled(network, images))
            self.compiling_s += time.perf_counter() - started
        run = self._asked[key].run
        if run is None:
            return eager(network, images, needs_features)
        features = run(images)
        return Output(features.logits, features if needs_features else None)

    def leave_eager(self, network: Network, cause: str) -> None:
        """Never compiles `network`; says why where it would have been."""
        self._left[id(network)] = network
        if self.kind != "eager":
            self._eager.setdefault(id(network), []).append(f"{type(network).__name__}: {cause}")

    def stayed_eager(self, networks: Iterable[Network | None]) -> list[str]:
        """Those of `networks` that could not be compiled so far, and why; a line each."""
        return [line for network in networks for line in self._eager.get(id(network), ())]

    def _compiled(self, network: Network, images: Tensor) -> Callable[[Tensor], Features] | None:
        graphs = self.kind == "cuda_graphs"
        try:
            compiled = torch.compile(
                network.features, dynamic=False, fullgraph=True, mode="reduce-overhead" if graphs else None
            )
            run = _replayed(compiled) if graphs else compiled
            fault = None
            for _ in range(3 if graphs else 1):  # CUDA graphs warm up, are recorded, and are replayed
                fault = fault or _difference(network, run, images)
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # no compiler, an operator that it does not know: they share no class
            fault = _cause(error)
        name = f"{type(network).__name__} in {'training' if network.training else 'eval'} mode"
        if fault:
            self._eager.setdefault(id(network), []).append(f"{name}: {fault}")
            return None
        logger.info("passes=%s: %s is compiled for images of shape %s", self.kind, name, tuple(images.shape))
        return run


def eager(network: Network, images: Tensor, needs_features: bool) -> Output:
    """`Passes.answer` as Python runs it."""
    if not needs_features:
        return Output(network(images))
    features = network.features(images)
    return Output(features.logits, features)


def _forget_compiled() -> None:
    """What earlier trials of this process had compiled, which no later one may count as its own."""
    import torch._dynamo

    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = RECOMPILATIONS
    torch._dynamo.config.accumulated_recompile_limit = RECOMPILATIONS


def _replayed(compiled: Callable[[Tensor], Features]) -> Callable[[Tensor], Features]:
    """Copies of what CUDA graphs answer, which no later replay writes over; so their memory is free again at each call."""

    def run(images: Tensor) -> Features:
        torch.compiler.cudagraph_mark_step_begin()
        seen = compiled(images)
        return Features(
            seen.logits.clone(),
            seen.pooled.clone(),
            tuple(each.clone() for each in seen.stages),
            tuple(each.clone() for each in seen.pre_relu),
            seen.stem.clone(),
        )

    return run


def _cause(error: Exception) -> str:
    """The line of an error of torch's compiler that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [
        line for line in lines if not line.startswith("backend=")
    ]  # the first line of some only names the backend
    return next(iter([*telling, *lines]), type(error).__name__)


def _difference(network: Network, run: Callable[[Tensor], Features], images: Tensor) -> str | None:
    """In what a compiled network is not the eager one; None where both are alike. The network is left as it was."""
    precision = torch.bfloat16 if torch.is_autocast_enabled(images.device.type) else torch.float32
    answers, gradients = _tried(network, lambda: network.features(images))
    own_answers, own_gradients = _tried(network, lambda: run(images))
    for ours, theirs in zip(own_answers, answers, strict=True):
        off = float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-6))
        if not off <= ANSWERS_OFF[precision]:  # also for NaN
            return f"its compiled answers are off by {off:.2g} of the largest one"
    norms = {name: float(each.norm()) for name, each in gradients.items()}
    whole = math.hypot(*norms.values())
    if set(gradients) != set(own_gradients):
        return f"its compiled gradient reaches other weights: {', '.join(sorted(set(gradients) ^ set(own_gradients)))}"
    for name, expected in gradients.items():
        off = float((own_gradients[name] - expected).norm()) / max(norms[name], NEGLIGIBLE[precision] * whole, 1e-12)
        if not off <= GRADIENTS_OFF[precision]:
            return f"its compiled gradient of {name} is off by {off:.2g}"
    return None


def _tried(network: Network, ask: Callable[[], Features]) -> tuple[Sequence[Tensor], Gradients]:
    """All that a network answers, and the gradient of a sum of it; statistics of BatchNorm go back to what they were."""
    before = [buffer.clone() for buffer in network.buffers()]
    try:
        outputs = ask().tensors()
        trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        gradients: Gradients = {}
        if torch.is_grad_enabled() and trained:
            total = torch.stack([(each.float() * _weights(each)).mean() for each in outputs]).sum()
            found = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
            gradients = {
                name: each.float().clone() for name, each in zip(trained, found, strict=True) if each is not None
            }
    finally:
        with torch.no_grad():
            for buffer, old in zip(network.buffers(), before, strict=True):
                buffer.copy_(old)
    return [each.detach().float().clone() for each in outputs], gradients


def _weights(answer: Tensor) -> Tensor:
    """Fixed and unlike: the gradient of a plain sum ends at the first BatchNorm."""
    return torch.arange(answer.numel(), device=answer.device).mul(math.sqrt(2)).cos().view(answer.shape)
