"""Not a training: the test accuracy of finished weights, such as those of an imported file."""

from __future__ import annotations

from trainers.config import MethodConfig
from trainers.methods import Measurement

KIND = "evaluate"
VERSION = 1
NEEDS_TEACHER = False


class Config(MethodConfig):
    """A measurement has no hyper-parameters."""


class Method(Measurement):
    """Accuracy is what every trial records."""
