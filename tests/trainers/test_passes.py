"""Networks that are compiled, and those that stay eager because they cannot be or answer otherwise; each says so."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from trainers import models, passes
from trainers.models import Features, Network
from trainers.passes import Passes, eager


@pytest.fixture
def network() -> Network:
    return models.build("resnet8", classes=10, channels=1, size=8, seed=0).train()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trainers")


def instead_of_compiling(monkeypatch: pytest.MonkeyPatch, make: Callable[[Any], Any]) -> list[Any]:
    """`make` in place of `torch.compile`; returns the keyword arguments of each call."""
    calls: list[Any] = []

    def compile_(inner: Any, **how: Any) -> Any:
        calls.append(how)
        return make(inner)

    monkeypatch.setattr(torch, "compile", compile_)
    return calls


def test_eager_passes_never_compile(network: Network, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = instead_of_compiling(monkeypatch, lambda inner: inner)
    asked = Passes()
    asked.next_batch()
    for needs_features in (False, True):
        output = asked.answer(network, images, needs_features)
        assert (output.features is not None) is needs_features
    assert calls == []


def test_a_network_that_cannot_be_compiled_stays_eager_and_says_why(
    network: Network, images: Tensor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(inner: Any) -> Any:
        def run(images: Tensor) -> Any:
            raise RuntimeError("no working compiler\nand a long story")

        return run

    instead_of_compiling(monkeypatch, broken)
    asked, other = Passes("compiled"), models.build("resnet8", classes=10, channels=1, size=8, seed=0).train()
    for _ in range(3):
        assert torch.equal(asked.answer(network, images, False).logits, eager(other, images, False).logits)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["passes=compiled: ResNetCifar in training mode stays eager: no working compiler"]
    for ours, theirs in zip(network.buffers(), other.buffers(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda logits: logits * 1.01, "its compiled answers are off by 0.01 of the largest one"),
        (lambda logits: logits * float("nan"), "its compiled answers are off by nan"),
        (lambda logits: logits + (logits - logits.detach()), "its compiled gradient is off by 1"),
        (lambda logits: logits.detach() + 0 * logits, "its compiled gradient is off by 1"),
    ],
    ids=["answers", "nan", "twice the gradient", "no gradient"],
)
def test_a_network_that_answers_otherwise_when_compiled_stays_eager(
    change: Any,
    says: str,
    network: Network,
    images: Tensor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    instead_of_compiling(monkeypatch, lambda inner: lambda images: change(inner(images)))
    before = [buffer.clone() for buffer in network.buffers()]
    asked = Passes("compiled")
    logits = asked.answer(network, images, False).logits
    assert says in caplog.text
    assert "is compiled" not in caplog.text
    for buffer, old in zip(network.buffers(), before, strict=True):
        buffer.copy_(old)
    assert torch.equal(logits, eager(network, images, False).logits)


def test_looking_at_a_compiled_network_leaves_no_trace(
    network: Network, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One answer moves running statistics once, though the network was asked twice before; no gradient is left behind."""
    instead_of_compiling(monkeypatch, lambda inner: inner)
    other = models.build("resnet8", classes=10, channels=1, size=8, seed=0).train()
    Passes("compiled").answer(network, images, True)
    eager(other, images, True)
    for ours, theirs in zip(network.buffers(), other.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_each_mode_is_compiled_once_and_other_shapes_stay_eager(
    network: Network, images: Tensor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[int] = []

    def counted(inner: Any) -> Any:
        return lambda images: runs.append(len(images)) or inner(images)

    calls = instead_of_compiling(monkeypatch, counted)
    asked = Passes("compiled")
    for batch in (images, images, images[:3]):
        asked.answer(network, batch, False)
    with torch.no_grad():
        asked.answer(network.eval(), images, False)
    assert calls == [{"dynamic": False, "mode": None}] * 2
    assert runs == [
        4,
        4,
        4,
        4,
        4,
    ]  # of each mode one to compare, then those that were asked for; none of the three images
    assert caplog.text.count("is compiled for images of shape (4, 1, 8, 8)") == 2


def test_answers_of_cuda_graphs_are_copies_that_no_replay_writes_over(
    network: Network, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[Tensor] = []

    def static(inner: Any) -> Any:
        """Answers in the same memory each time, as a replayed graph does."""

        def run(images: Tensor) -> Features:
            found: Features = inner(images)
            held.append(found.logits)
            return found

        return run

    marks: list[int] = []
    calls = instead_of_compiling(monkeypatch, static)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marks.append(1))
    asked = Passes("cuda_graphs")
    asked.next_batch()
    with torch.no_grad():
        output = asked.answer(network.eval(), images, True)
    assert calls == [{"dynamic": False, "mode": "reduce-overhead"}]
    assert len(marks) == 1 + 3
    value = output.logits.clone()
    held[-1].zero_()
    assert torch.equal(output.logits, value)
    assert output.maps.logits is output.logits


def test_what_earlier_trials_compiled_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._dynamo

    resets: list[int] = []
    monkeypatch.setattr(torch._dynamo, "reset", lambda: resets.append(1))
    Passes("compiled")
    assert len(resets) == 1
    assert torch._dynamo.config.recompile_limit == passes.RECOMPILATIONS
