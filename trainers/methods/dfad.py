"""DFAD: data-free adversarial distillation on the mean absolute difference of logits (Fang et al. 2019, arXiv 1912.11006)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field
from torch import Tensor

from trainers.methods import Context, Output, Terms
from trainers.methods._gan import GeneratorConfig, GeneratorMethod, original_generator
from trainers.methods._losses import l1_per_sample
from trainers.synthesis.dafl_generator import DaflGenerator
from trainers.synthesis.generator import Generator

KIND = "datafree"
VERSION = 1
NEEDS_TEACHER = True
# As printed for DFQ, of which this is the adversarial term alone.
TRAITS = {"Target": "Adversarial", "Student": "Yes", "Dynamic": "No"}


class Config(GeneratorConfig):
    """Defaults: the CMI authors' benchmark."""

    first: Literal["generator", "student"] = Field(
        "generator", description="who is updated first in the first cycle: generator (benchmark), student (original)"
    )
    normalisation: Literal["running", "batch"] = Field(
        "running",
        description="of the network that does not learn: running statistics (benchmark), or those of the batch (original)",
    )
    generator: Literal["large", "dafl"] = Field(
        "large", description="topology: large (benchmark); dafl: tanh, then BatchNorm (original)"
    )
    generator_schedule: Literal["constant", "student"] = Field(
        "constant",
        description="its learning rate: constant (benchmark), or in a constant ratio to the student's (original)",
    )

    def inactive(self) -> frozenset[str]:
        return frozenset({"generator_depth"} if self.generator == "dafl" else ())


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "original": {
        "first": "student", "normalisation": "batch", "generator": "dafl", "generator_schedule": "student", "generator_beta1": 0.9,
    }
}  # fmt: skip
"""original: the authors' code (VainF), the same for CIFAR-10 and CIFAR-100."""


def dfad_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """What the student minimises and the generator maximises: 1/(B K) sum_ij |t_ij - s_ij|, over raw logits.

    Args:
        student_logits: s, shape (B, K).
        teacher_logits: t, shape (B, K).

    Returns:
        Scalar in the unit of logits.
    """
    return l1_per_sample(student_logits, teacher_logits).mean()


class Method(GeneratorMethod):
    """The generator looks for images on which the logits differ; the student makes them equal there."""

    config: Config

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(config, context)
        self.batch_statistics = config.normalisation == "batch"
        self.follows_schedule = config.generator_schedule == "student"
        self.waits = config.first == "student"

    def new_generator(self) -> Generator | DaflGenerator:
        if self.config.generator == "large":
            return super().new_generator()
        return original_generator(self.config, self.context, output="tanh_bn")

    def synthesise(self) -> Terms:
        if not self.waits:
            return super().synthesise()
        self.waits = False  # the student's first updates are on images of the untrained generator
        self.generator.train(self.batch_statistics)
        return {}

    def generator_terms(self, images: Tensor) -> Terms:
        return {"adversarial": -dfad_loss(self.context.student(images), self.context.frozen(images))}

    def student_terms(self, student: Output, teacher: Output) -> tuple[Terms, Terms]:
        return {"kd": dfad_loss(student.logits, teacher.logits)}, {}

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"waits": self.waits}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.waits = bool(state["waits"])
