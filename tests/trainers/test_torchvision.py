"""torchvision imports beside every build of torch, and nothing imports it unasked."""

import subprocess
import sys

import torch

from trainers import _torchvision

LIGHT = """
import sys
from trainers import registry, data, models
for package in ("data", "models"):
    for name in registry.names(package):
        registry.load(package, name)
from pathlib import Path
from trainers.config import DataSpec
data.load(DataSpec(name="digits"), Path("."))
assert "torchvision" not in sys.modules
"""


def test_import_passes_and_the_operators_are_declared_once() -> None:
    assert _torchvision.datasets.CIFAR10.base_folder == "cifar-10-batches-py"
    assert hasattr(torch.ops.torchvision, "nms")
    before = list(_torchvision._libraries)
    _torchvision._declare_operators()
    assert _torchvision._libraries == before


def test_neither_data_sets_nor_networks_import_torchvision_before_it_is_needed() -> None:
    subprocess.run([sys.executable, "-c", LIGHT], check=True, timeout=120)
