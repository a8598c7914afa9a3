"""Not a training: measures a finished student against a teacher it may never have seen (Agree@1, loyalty)."""

from __future__ import annotations

from trainers.config import MethodConfig
from trainers.methods import Measurement

KIND = "evaluate"
VERSION = 1
NEEDS_TEACHER = True


class Config(MethodConfig):
    """A measurement has no hyper-parameters."""


class Method(Measurement):
    """Agreement with the teacher is what every trial with a teacher records."""
