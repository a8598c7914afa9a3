"""How loops ask their networks: eagerly, through `torch.compile`, or through that with CUDA graphs.

What cannot be compiled here, or answers otherwise than the eager network, stays eager, and its trial says so.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainers.config import PassKind
from trainers.methods import Output
from trainers.models import Features, Network

logger = logging.getLogger(__name__)

RECOMPILATIONS = 256
"""Of one network's code: each trial of a group, in training and in eval mode, and each size of its batches."""
MOST_SHAPES = 4
"""Shapes of images that a network is compiled for in one mode; some methods show a few sizes, a user's might show any."""
ANSWERS_OFF = 1e-3
"""Largest error of a compiled network's answers, relative to the largest one, where the eager ones have none."""
GRADIENTS_OFF = 0.1
"""Likewise of the gradient of each weight, by its norm. A ReLU whose input rounds to the other side of 0 lets a gradient through or
not, which makes up to 0.02 in a single weight's (MobileNetV2, 16 images)."""
AS_EAGER = 3.0
"""Times the error of the eager network that is allowed on top: with bfloat16, or TF32 on a GPU, that rounds as well."""
NEGLIGIBLE = 1e-4
"""Part of the whole gradient's norm below which a weight's own is rounding: that of a bias before BatchNorm is 0 but for it."""


class _Asked(NamedTuple):
    """What became of a network in one mode.

    Attributes:
        network: kept so that its id is not given to another one.
        runs: by the shape of the images; None: it stays eager.
    """

    network: Network
    runs: dict[torch.Size, Callable[[Tensor], Features] | None]


class Passes:
    """The passes of a trial, or of the trials of a group, in updates. Evaluation is eager, and so are students in first stages.

    A network is compiled at its first whole batch of each size, in each mode; parts of one (the last of an epoch) stay eager. There it
    is compared with the eager one, answers and gradients, by how far both are from float32 without TF32; its BatchNorm statistics and its
    gradients are as before afterwards. It is always compiled with its maps, so that trials that look at them and trials that do not have the
    same bits.

    A compiled network gives a weight that no term of a loss reaches the gradient 0, where the eager one gives it none. All
    terms of a recipe's updates taken together reach every weight, since they look at the logits.

    Args:
        kind: see `Execution.passes`.
        batch: images that a whole one has at the least, all their views counted.

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
        if self.kind == "eager" or len(images) < self._batch or id(network) in self._left:
            return eager(network, images, needs_features)
        trained = tuple(parameter.requires_grad for parameter in network.parameters())
        mode = (id(network), network.training, torch.is_grad_enabled(), trained)
        shapes = self._asked.setdefault(mode, _Asked(network, {})).runs
        if images.shape not in shapes:
            started = time.perf_counter()
            shapes[images.shape] = self._compiled(network, images) if len(shapes) < MOST_SHAPES else None
            self.compiling_s += time.perf_counter() - started
            if len(shapes) == MOST_SHAPES + 1:
                self._note(
                    network, f"images of shape {tuple(images.shape)}, beyond the {MOST_SHAPES} that it is compiled for"
                )
        run = shapes[images.shape]
        if run is None:
            return eager(network, images, needs_features)
        features = run(images)
        return Output(features.logits, features if needs_features else None)

    def leave_eager(self, network: Network, cause: str) -> None:
        """Never compiles `network`; says why where it would have been."""
        self._left[id(network)] = network
        if self.kind != "eager":
            self._note(network, cause)

    def stayed_eager(self, networks: Iterable[Network | None]) -> list[str]:
        """Those of `networks` that could not be compiled so far, and why; a line each."""
        return [line for network in networks for line in self._eager.get(id(network), ())]

    def _note(self, network: Network, cause: str, mode: str = "") -> None:
        self._eager.setdefault(id(network), []).append(f"{type(network).__name__}{mode}: {cause}")

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
        except Exception as error:  # no compiler, an operator that it does not know: they share no class
            full = next(
                (each for each in _chain(error) if isinstance(each, MemoryError | torch.OutOfMemoryError)), None
            )
            if full is not None:
                raise full from error
            fault = _cause(error)
        mode = f" in {'training' if network.training else 'eval'} mode"
        if fault:
            self._note(network, fault, mode)
            return None
        name = type(network).__name__ + mode
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


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and what it came of."""
    inner: BaseException | None = error
    while inner is not None:
        yield inner
        inner = getattr(inner, "inner_exception", None) or inner.__cause__ or inner.__context__


def _cause(error: Exception) -> str:
    """The line of an error of torch's compiler that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # the first line of some only names the backend
    telling = [line for line in lines if not line.startswith("backend=")]
    return next(iter([*telling, *lines]), type(error).__name__)


def _difference(network: Network, run: Callable[[Tensor], Features], images: Tensor) -> str | None:
    """In what a compiled network is not the eager one; None where both are alike. The network is left as it was."""
    with (
        torch.autocast(images.device.type, enabled=False),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
    ):
        true = _tried(network, lambda: network.features(images))
    usual, own = _tried(network, lambda: network.features(images)), _tried(network, lambda: run(images))
    for ours, theirs, exact in zip(own.answers, usual.answers, true.answers, strict=True):
        largest = exact.abs().max().clamp(min=1e-6)
        off, allowed = (float((each - exact).abs().max() / largest) for each in (ours, theirs))
        if not off <= ANSWERS_OFF + AS_EAGER * allowed:  # also for NaN
            return f"its compiled answers are off by {off:.2g} of the largest one"
    if set(usual.gradients) != set(own.gradients):
        odd = sorted(set(usual.gradients) ^ set(own.gradients))
        return f"its compiled gradient reaches other weights: {', '.join(odd)}"
    whole = math.hypot(*(float(each.norm()) for each in true.gradients.values()))
    for name, exact in true.gradients.items():
        size = max(float(exact.norm()), NEGLIGIBLE * whole, 1e-12)
        off, allowed = (float((each.gradients[name] - exact).norm()) / size for each in (own, usual))
        if not off <= GRADIENTS_OFF + AS_EAGER * allowed:
            return f"its compiled gradient of {name} is off by {off:.2g}"
    return None


class _Tried(NamedTuple):
    """All that a network answers, and the gradient of a sum of it for each weight that it depends on, by name; float32."""

    answers: Sequence[Tensor]
    gradients: Mapping[str, Tensor]


def _tried(network: Network, ask: Callable[[], Features]) -> _Tried:
    """What comes of one pass; statistics of BatchNorm go back to what they were."""
    before = [buffer.clone() for buffer in network.buffers()]
    try:
        outputs = ask().tensors()
        trained = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
        gradients: dict[str, Tensor] = {}
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
    return _Tried([each.detach().float().clone() for each in outputs], gradients)


def _weights(answer: Tensor) -> Tensor:
    """Fixed and unlike: the gradient of a plain sum ends at the first BatchNorm."""
    return torch.arange(answer.numel(), device=answer.device).mul(math.sqrt(2)).cos().view(answer.shape)
