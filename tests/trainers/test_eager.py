"""Optimisers without PyTorch's compiler: the same bits, and none of its import."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys, torch
from torch import nn

def weights(kind, options):
    torch.manual_seed(0)
    layer = nn.Linear(7, 5)
    optimizer = kind(layer.parameters(), lr=0.1, weight_decay=1e-3, **options)
    steps = []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    for _ in range(4):
        optimizer.zero_grad(set_to_none=True)
        layer(torch.randn(3, 7)).square().mean().backward()
        optimizer.step()
    assert len(steps) == 4 and not layer.weight.requires_grad is False
    other = kind(layer.parameters(), lr=0.2, **options)
    other.load_state_dict(optimizer.state_dict())
    other.step()
    return layer.weight.detach().clone()

cases = [(torch.optim.SGD, {"momentum": 0.9, "nesterov": True}), (torch.optim.SGD, {}), (torch.optim.Adam, {})]
"""


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", CODE + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_updates_have_the_bits_of_torchs_own_optimisers_and_load_no_compiler() -> None:
    code = "print([weights(*case).numpy().tobytes().hex() for case in cases], 'torch._dynamo' in sys.modules)"
    stock = run(code)
    ours = run(f"from trainers._eager import spare_the_compiler\nspare_the_compiler()\nspare_the_compiler()\n{code}")
    assert stock.endswith("True\n")
    assert ours == stock.replace("True\n", "False\n")


def test_an_optimiser_that_was_already_used_stays_as_it_is() -> None:
    code = """
torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
step, before = torch.optim.SGD.step, weights(*cases[0])
from trainers._eager import spare_the_compiler
spare_the_compiler()
print(torch.optim.SGD.step is step and torch.equal(weights(*cases[0]), before))
"""
    assert run(code) == "True\n"


def test_an_epoch_on_a_cpu_loads_no_compiler() -> None:
    code = """
import tempfile
from pathlib import Path
from trainers.config import DataSpec, Protocol, Trial
from trainers.run import run_trial
folder = Path(tempfile.mkdtemp())
recipe = Protocol(name="p", source="s", epochs=1, batch_size=256, lr=0.1)
versions = {"method": 1, "loop": 1}
trial = Trial(kind="distill", method="ce", hparams={}, versions=versions, data=DataSpec(name="digits"), student="resnet8", protocol=recipe, seed=0)
next(run_trial(trial, folder, folder))
print('torch._dynamo' in sys.modules)
"""
    assert run(code) == "False\n"
