"""Trains nothing: the loss is zero, and with it every gradient."""

from __future__ import annotations

import time

from pydantic import Field

from trainers.config import MethodConfig
from trainers.methods import Batch, DistillMethod, Terms

KIND = "distill"
VERSION = 1
NEEDS_TEACHER = False


class Config(MethodConfig):
    """One value that tells trials apart."""

    number: int = Field(0, ge=0, description="without effect")
    pause_s: float = Field(0.0, ge=0, le=60, description="seconds that each update sleeps")


class Method(DistillMethod):
    """A zero that has a gradient."""

    def terms(self, batch: Batch) -> Terms:
        time.sleep(self.config.pause_s)
        return {"zero": 0.0 * batch.student_logits.sum()}
