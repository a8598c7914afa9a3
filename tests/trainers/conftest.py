"""Trials so small that one takes a fraction of a second, and a state root that already holds their teacher."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from trainers import datafree, distill, evaluate, probe
from trainers.config import DataSpec, Protocol, Trial, Upstream
from trainers.methods import config_type, module
from trainers.run import run_trial
from trainers.train import trial_folder

LOOPS = {
    "distill": distill.VERSION,
    "datafree": datafree.VERSION,
    "evaluate": evaluate.VERSION,
    "probe": probe.VERSION,
}
SMALL_GENERATOR = {"latent_dim": 8, "generator_width": 4, "generator_depth": 1, "student_steps": 2}


class Tiny:
    """Small trials on handwritten digits; keyword arguments change the protocol, `trial` changes the rest."""

    data = DataSpec(name="digits", train_per_class=8)

    def _trial(
        self,
        method: str,
        hparams: Mapping[str, Any],
        recipe: Mapping[str, Any],
        changes: Mapping[str, Any] | None,
        *,
        with_teacher: bool,
    ) -> Trial:
        kind = module(method).KIND
        base = {"name": "tiny", "source": "test", "epochs": 3, "batch_size": 16, "lr": 0.05}
        fields: dict[str, Any] = {
            "kind": kind,
            "method": method,
            "hparams": config_type(method).model_validate(dict(hparams)).active(),
            "versions": {"method": module(method).VERSION, "loop": LOOPS[kind]},
            "data": self.data,
            "student": "resnet8",
            "teacher": Upstream(trial=self.teacher(), network="resnet8") if with_teacher else None,
            "protocol": Protocol.model_validate({**base, **recipe}),
            "seed": 0,
        }
        return Trial.model_validate({**fields, **(changes or {})})

    def teacher(self) -> Trial:
        """The teacher of all tiny trials."""
        return self.ce(epochs=2, seed_of_trial=7)

    def ce(self, *, seed_of_trial: int = 0, trial: Mapping[str, Any] | None = None, **recipe: Any) -> Trial:
        return self._trial("ce", {}, recipe, {"seed": seed_of_trial, **(trial or {})}, with_teacher=False)

    def kd(
        self, hparams: Mapping[str, Any] | None = None, *, trial: Mapping[str, Any] | None = None, **recipe: Any
    ) -> Trial:
        return self._trial("kd", hparams or {}, recipe, trial, with_teacher=True)

    def cudfkd(
        self, hparams: Mapping[str, Any] | None = None, *, trial: Mapping[str, Any] | None = None, **recipe: Any
    ) -> Trial:
        recipe = {"augment": False, "updates_per_epoch": 4, **recipe}
        return self._trial("cudfkd", {**SMALL_GENERATOR, **(hparams or {})}, recipe, trial, with_teacher=True)

    def evaluate(
        self, subject: Trial, method: str = "evaluate", hparams: Mapping[str, Any] | None = None, **recipe: Any
    ) -> Trial:
        changes = {"subject": Upstream(trial=subject, network=subject.student), "student": subject.student}
        return self._trial(method, hparams or {}, recipe, changes, with_teacher=module(method).NEEDS_TEACHER)

    def probe(self, subject: Trial, *, trial: Mapping[str, Any] | None = None, **recipe: Any) -> Trial:
        changes = {"subject": Upstream(trial=subject, network=subject.student), "student": subject.student}
        changes |= {"data": DataSpec(name="digits_turned", train_per_class=8), **(trial or {})}
        return self._trial("linear_probe", {}, {"augment": False, **recipe}, changes, with_teacher=False)


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture(scope="session")
def _teacher_folder(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("teacher")
    list(run_trial(tiny.teacher(), root, root))
    return trial_folder(root, tiny.teacher().digest())


@pytest.fixture
def new_root(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory, _teacher_folder: Path) -> Callable[[], Path]:
    """Makes state roots in which the teacher is done and nothing else exists."""

    def make() -> Path:
        root = tmp_path_factory.mktemp("state")
        shutil.copytree(_teacher_folder, trial_folder(root, tiny.teacher().digest()))
        return root

    return make


@pytest.fixture
def root(new_root: Callable[[], Path]) -> Path:
    """One such state root."""
    return new_root()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
