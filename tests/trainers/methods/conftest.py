"""A method with as little around it as it needs, the pair it is asked to serve, and the memory of its loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trainers import distill, models
from trainers.config import DataSpec, Protocol, Trial, Upstream
from trainers.data import DataSet, Info, Split
from trainers.data.digits import INFO
from trainers.methods import Batch, Case, Context, Output, freeze, module
from trainers.train import Setup


@pytest.fixture
def build_method(tmp_path: Path) -> Callable[..., Any]:
    """Makes a small method between two different ResNet8 on 8x8 images, at its epoch 0, with the student as the loop leaves it."""

    def make(name: str, fields: dict[str, Any], **recipe: Any) -> Any:
        student, teacher = (
            models.build("resnet8", classes=10, channels=1, size=8, seed=0, role=role)
            for role in ("student", "teacher")
        )
        freeze(teacher)
        student.eval().requires_grad_(False)
        base = {"name": "p", "source": "test", "epochs": 4, "batch_size": 8, "lr": 0.1, "updates_per_epoch": 4}
        protocol = Protocol.model_validate({**base, **recipe})
        nobody = torch.empty(0, dtype=torch.int64)  # a data-free method never looks at labels
        context = Context(student, teacher, INFO, protocol, 0, torch.device("cpu"), nobody, tmp_path / "pool")
        file = module(name)
        small = {"latent_dim": 8, "generator_width": 4, "generator_depth": 1}
        method = file.Method(file.Config.model_validate({**fields, **small}), context)
        method.start_epoch(0)
        return method

    return make


class Distilling(NamedTuple):
    """A loop on 32 random 8x8 images, its method, and one batch of 16 as the method sees it."""

    loop: distill.DistillLoop
    method: Any
    batch: Batch


@pytest.fixture
def distilling(tmp_path: Path) -> Callable[..., Distilling]:
    """Makes the loop of a method with data, from a four times wider teacher."""

    def make(name: str, fields: dict[str, Any], student: str = "resnet8", teacher: str = "resnet8x4") -> Distilling:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (32, 1, 8, 8), dtype=torch.uint8, generator=generator)
        split = Split(images, torch.randint(0, 10, (32,), generator=generator))
        trial = Trial(
            kind="distill",
            method=name,
            hparams=fields,
            versions={"method": 1, "loop": 1},
            data=DataSpec(name="digits"),
            student=student,
            teacher=Upstream(weights="/t", sha256="0" * 8, network=teacher),
            protocol=Protocol(name="p", source="test", epochs=2, batch_size=16, lr=0.05),
            seed=0,
        )
        networks = [
            models.build(each, classes=10, channels=1, size=8, seed=0, role=role)
            for each, role in ((student, "student"), (teacher, "teacher"))
        ]
        freeze(networks[1])
        setup = Setup(trial, DataSet(INFO, split, split), *networks, torch.device("cpu"), tmp_path / "pool")
        loop = distill.DistillLoop(setup)
        answers = [each.features(images[:16].float() / 255) for each in networks]
        outputs = [Output(each.logits, each) for each in answers]
        return Distilling(loop, loop.method, Batch(torch.arange(16), split.labels[:16], *outputs))

    return make


@pytest.fixture
def case_of() -> Callable[..., Case]:
    """Makes the case of a pair on 32x32 colour images."""

    def make(teacher: str, student: str, batch_size: int = 64) -> Case:
        protocol = Protocol(name="p", source="test", epochs=1, batch_size=batch_size, lr=0.1)
        return Case(protocol, Info(100, 3, 32, (0.5,) * 3, (0.25,) * 3, 4, True), student, teacher)

    return make


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that was made while it was on, in elements of float32."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else (made,):
            if isinstance(each, Tensor):
                self.elements = max(self.elements, each.untyped_storage().nbytes() // 4)
        return made


@pytest.fixture
def largest() -> Callable[[Callable[[], Tensor]], int]:
    """Elements of the largest tensor made by a loss and its backward pass."""

    def measure(loss: Callable[[], Tensor]) -> int:
        with Largest() as mode:
            loss().backward()
        return mode.elements

    return measure
