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

BATCH = 4


def fresh() -> Network:
    return models.build("resnet8", classes=10, channels=1, size=8, seed=0).train()


@pytest.fixture
def network() -> Network:
    return fresh()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(BATCH, 1, 8, 8, generator=torch.Generator().manual_seed(0))


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


def raising(error: Exception) -> Callable[[Any], Any]:
    def make(inner: Any) -> Any:
        def run(images: Tensor) -> Any:
            raise error

        return run

    return make


def changed(change: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    """Networks whose logits are others than they were before they were compiled."""

    def make(inner: Any) -> Any:
        def run(images: Tensor) -> Features:
            found: Features = inner(images)
            return found._replace(logits=change(found.logits))

        return run

    return make


def test_eager_passes_never_compile(network: Network, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = instead_of_compiling(monkeypatch, lambda inner: inner)
    asked = Passes(batch=BATCH)
    for needs_features in (False, True):
        output = asked.answer(network, images, needs_features)
        assert (output.features is not None) is needs_features
    assert calls == []


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (RuntimeError("no working compiler\nand a long story"), "no working compiler"),
        (RuntimeError("backend='inductor' raised:\nNo compiler at all"), "No compiler at all"),
        (KeyError(), "KeyError"),
    ],
)
def test_a_network_that_cannot_be_compiled_stays_eager_and_says_why(
    error: Exception, says: str, network: Network, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead_of_compiling(monkeypatch, raising(error))
    asked, other = Passes("compiled", BATCH), fresh()
    for _ in range(3):
        assert torch.equal(asked.answer(network, images, False).logits, eager(other, images, False).logits)
    assert asked.stayed_eager([network]) == [f"ResNetCifar in training mode: {says}"]
    assert asked.stayed_eager([None, other]) == []
    for ours, theirs in zip(network.buffers(), other.buffers(), strict=True):
        assert torch.equal(ours, theirs)


class Wrapped(RuntimeError):
    """As torch's compiler hands on what a backend raised."""

    def __init__(self, inner: Exception) -> None:
        super().__init__("backend='inductor' raised:")
        self.inner_exception = inner


@pytest.mark.parametrize("wrap", [lambda error: error, Wrapped], ids=["bare", "wrapped"])
@pytest.mark.parametrize("error", [MemoryError("host"), torch.OutOfMemoryError("device")])
def test_a_full_memory_is_no_fault_of_the_compiler(
    error: Exception, wrap: Any, network: Network, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    instead_of_compiling(monkeypatch, raising(wrap(error)))
    before = [buffer.clone() for buffer in network.buffers()]
    with pytest.raises(type(error)):
        Passes("compiled", BATCH).answer(network, images, False)
    assert all(torch.equal(*pair) for pair in zip(before, network.buffers(), strict=True))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda logits: logits * 1.01, "its compiled answers are off by 0.01 of the largest one"),
        (lambda logits: logits * float("nan"), "its compiled answers are off by nan"),
        (lambda logits: logits + (logits - logits.detach()), "its compiled gradient of "),
        (
            lambda logits: logits.detach(),
            "its compiled gradient reaches other weights: classifier.bias, classifier.weight",
        ),
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
    instead_of_compiling(monkeypatch, changed(change))
    before = [buffer.clone() for buffer in network.buffers()]
    asked = Passes("compiled", BATCH)
    logits = asked.answer(network, images, False).logits
    (line,) = asked.stayed_eager([network])
    assert says in line
    assert "is compiled" not in caplog.text
    for buffer, old in zip(network.buffers(), before, strict=True):
        buffer.copy_(old)
    assert torch.equal(logits, eager(network, images, False).logits)


def test_the_gradient_of_one_bias_is_looked_at(
    network: Network, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(inner: Any) -> Any:
        def run(images: Tensor) -> Features:
            found: Features = inner(images)
            bias = network.classifier.bias
            return found._replace(logits=found.logits + (bias - bias.detach()))

        return run

    instead_of_compiling(monkeypatch, make)
    asked = Passes("compiled", BATCH)
    asked.answer(network, images, False)
    assert asked.stayed_eager([network]) == [
        "ResNetCifar in training mode: its compiled gradient of classifier.bias is off by 1"
    ]


def test_looking_at_a_compiled_network_leaves_no_trace(
    network: Network, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One answer moves running statistics once, though the network was asked twice before; no gradient is left behind."""
    instead_of_compiling(monkeypatch, lambda inner: inner)
    other, asked = fresh(), Passes("compiled", BATCH)
    asked.answer(network, images, True)
    eager(other, images, True)
    for ours, theirs in zip(network.buffers(), other.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert asked.stayed_eager([network]) == []
    assert asked.compiling_s > 0


def test_each_mode_is_compiled_once_with_maps_and_parts_of_a_batch_stay_eager(
    network: Network, images: Tensor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[int] = []

    def counted(inner: Any) -> Any:
        return lambda images: runs.append(len(images)) or inner(images)

    calls = instead_of_compiling(monkeypatch, counted)
    asked = Passes("compiled", BATCH)
    for batch, needs_features in ((images[:3], False), (images, False), (images, True), (images[:3], True)):
        output = asked.answer(network, batch, needs_features)
        assert (output.features is not None) is needs_features
    with torch.no_grad():
        asked.answer(network.eval(), images, False)
    assert calls == [{"dynamic": False, "fullgraph": True, "mode": None}] * 2
    assert runs == [BATCH] * 5  # of each mode one to compare, then those that were asked for; none of three images
    assert caplog.text.count("is compiled for images of shape (4, 1, 8, 8)") == 2


def test_whole_batches_of_a_few_sizes_are_compiled(
    network: Network, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As where new images are shown together with some of those before."""
    calls = instead_of_compiling(monkeypatch, lambda inner: inner)
    asked = Passes("compiled", BATCH)
    for more in (0, 2, 0, 2, 1, 3, 4, 5):
        asked.answer(network, torch.randn(BATCH + more, 1, 8, 8), False)
    assert len(calls) == passes.MOST_SHAPES
    assert caplog.text.count("is compiled for images of shape") == passes.MOST_SHAPES
    assert asked.stayed_eager([network]) == [
        "ResNetCifar: images of shape (8, 1, 8, 8), beyond the 4 that it is compiled for"
    ]


def test_a_compiled_network_may_round_like_the_eager_one(
    network: Network, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With bfloat16 both are far from float32; an answer that is farther by much is refused all the same."""

    def found(change: float) -> list[str]:
        instead_of_compiling(monkeypatch, changed(lambda logits: logits * change))
        asked, own = Passes("compiled", BATCH), fresh()
        with torch.autocast("cpu", torch.bfloat16):
            asked.answer(own, images, False)
        return asked.stayed_eager([own])

    assert found(1.0) == []
    assert found(1.004) == []  # more than ANSWERS_OFF
    assert "its compiled answers are off by" in found(1.3)[0]


def test_answers_of_cuda_graphs_are_copies_that_no_replay_writes_over(
    network: Network, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[Features] = []
    marks: list[int] = []

    def static(inner: Any) -> Any:
        """Answers in the same memory each time, as a replayed graph does."""

        def run(images: Tensor) -> Features:
            held.append(inner(images))
            assert len(marks) == len(held)  # each call may use memory of the one before
            return held[-1]

        return run

    calls = instead_of_compiling(monkeypatch, static)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marks.append(1))
    with torch.no_grad():
        output = Passes("cuda_graphs", BATCH).answer(network.eval(), images, True)
    assert calls == [{"dynamic": False, "fullgraph": True, "mode": "reduce-overhead"}]
    assert len(held) == 3 + 1
    values = [each.clone() for each in output.maps.tensors()]
    for each in held[-1].tensors():
        each.zero_()
    assert all(torch.equal(*pair) for pair in zip(values, output.maps.tensors(), strict=True))
    assert output.maps.logits is output.logits


def test_a_network_that_is_left_eager_says_why_where_it_would_have_been_compiled(
    network: Network, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = instead_of_compiling(monkeypatch, lambda inner: inner)
    compiled, plain = Passes("compiled", BATCH), Passes("eager", BATCH)
    for each in (compiled, plain):
        each.leave_eager(network, "somebody looks at it twice")
        each.answer(network, images, False)
    assert calls == []
    assert compiled.stayed_eager([network]) == ["ResNetCifar: somebody looks at it twice"]
    assert plain.stayed_eager([network]) == []


def test_what_earlier_trials_compiled_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._dynamo

    resets: list[int] = []
    monkeypatch.setattr(torch._dynamo, "reset", lambda: resets.append(1))
    Passes("compiled")
    assert len(resets) == 1
    assert torch._dynamo.config.recompile_limit == passes.RECOMPILATIONS
