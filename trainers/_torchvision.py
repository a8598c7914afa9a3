"""The one place torchvision is imported through.

The package registry's torchvision wheels are built against CUDA torch. Beside a CPU-only torch their compiled
operators cannot load, and `import torchvision` then fails with "operator torchvision::nms does not exist", because it
registers shape rules for operators that nobody declared. Declaring the two schemas first lets the import pass. Data
sets, transforms and networks need neither operator. Where the compiled operators load (a CUDA build, or a torchvision
built for the CPU) nothing is declared.
"""

from __future__ import annotations

import importlib.util
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_libraries: list[torch.library.Library] = []  # a Library that is collected takes its schemas with it


def _compiled_operators_load() -> bool:
    spec = importlib.util.find_spec("torchvision")
    folders = (spec.submodule_search_locations if spec is not None else None) or []
    for path in (Path(folder) / f"_C{suffix}" for folder in folders for suffix in EXTENSION_SUFFIXES):
        if path.is_file():
            try:
                torch.ops.load_library(path)
            except OSError:
                return False
            return True
    return False


def _declare_operators() -> None:
    if torch.version.cuda is not None or _compiled_operators_load() or hasattr(torch.ops.torchvision, "nms"):
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(name + _SCHEMA)
    _libraries.append(library)


_declare_operators()

from torchvision import datasets  # noqa: E402

__all__ = ["datasets"]
