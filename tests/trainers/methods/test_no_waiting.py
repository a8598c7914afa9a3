"""No update waits for the device: nothing computed there is read until the epoch ends."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import trainers
from tests.trainers.methods.test_contract import TRAINED, bases, loop_of
from trainers.config import Execution

PACKAGE = Path(trainers.__path__[0])
READS = {
    getattr(Tensor, name)
    for name in ("item", "tolist", "numpy", "cpu", "__float__", "__int__", "__bool__", "__index__", "nonzero", "unique")
} | {torch.nonzero, torch.unique, torch.masked_select}
OF_THE_HOST = {
    "_views.py:_offspring numpy": "a generator's state",
    "adi.py:jitters tolist": "rolls and flips, drawn on the CPU",
    "replay.py:sample __int__": "which batch comes again, drawn on the CPU",
    "pool.py:append cpu": "a pool's file, once for each synthesis of many passes",
    "memory_bank.py:append cpu": "the bank, likewise",
}
"""What more updates may read more often: it never was on the device, or it is a file."""


class Reads(TorchFunctionMode):
    """Counts where the host reads a tensor, as `file:line`."""

    def __init__(self) -> None:
        super().__init__()
        self.places: Counter[str] = Counter()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        masked = func is Tensor.__getitem__ and isinstance(args[1], Tensor) and args[1].dtype is torch.bool
        if func in READS or masked:
            stack = traceback.extract_stack()
            ours = [each for each in stack if each.filename.startswith(str(PACKAGE))]
            if not any("/torch/optim/" in each.filename for each in stack):  # Adam counts its steps on the host
                self.places[f"{ours[-1].filename.rpartition('/')[2]}:{ours[-1].name} {func.__name__}"] += 1
        return func(*args, **(kwargs or {}))


def reads(name: str, updates: int) -> Counter[str]:
    """Of the first epoch, of as many updates."""
    loop = loop_of(name, bases(name)[0].active(), Execution.of_new(1))
    recipe = loop.setup.trial.protocol.model_copy(update={"updates_per_epoch": updates, "batch_size": 32 // updates})
    trial = loop.setup.trial.model_copy(update={"protocol": recipe})
    object.__setattr__(loop.setup, "trial", trial)
    if hasattr(loop, "updates_per_epoch"):
        loop.updates_per_epoch = updates
    else:
        loop.feed._trial = trial
    with Reads() as found:
        loop.run_epoch(0)
    return found.places


@pytest.mark.parametrize("name", TRAINED)
def test_more_updates_read_no_more_from_the_device(name: str) -> None:
    few, many = reads(name, 2), reads(name, 4)
    assert {place for place in many if many[place] > few[place]} <= set(OF_THE_HOST)


def test_a_read_is_seen() -> None:
    loop = loop_of("kd", bases("kd")[0].active())
    terms = loop.method.terms
    loop.method.terms = lambda batch: {name: value * float(value > 0) for name, value in terms(batch).items()}
    with Reads() as found:
        loop.run_epoch(0)
    assert found.places["distill.py:_updates __float__"] == 2 * 2  # two terms of two updates
