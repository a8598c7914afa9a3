"""What a trial is: frozen, typed, and named by the digest of what changes its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

Precision = Literal["fp32", "bf16"]
PassKind = Literal["eager", "compiled", "cuda_graphs"]


class Frozen(BaseModel):
    """Base of all configuration: immutable, unknown names rejected, NaN and infinities rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Scaled:
    """Marks a constant that is counted in training time, so that a shorter profile can keep its share of the run.

    Args:
        power: +1 for a duration (epochs, updates): multiplied by N_profile / N_paper; -1 for a rate
            (per epoch, per update): multiplied by N_paper / N_profile.
        unit: what is counted.
    """

    def __init__(self, power: Literal[1, -1], unit: Literal["epochs", "updates"]) -> None:
        self.power = power
        self.unit = unit


Epochs = Annotated[int, Scaled(1, "epochs")]
PerEpoch = Annotated[float, Scaled(-1, "epochs")]
PerUpdate = Annotated[float, Scaled(-1, "updates")]


class MethodConfig(Frozen):
    """Base of every method's hyper-parameters."""

    def inactive(self) -> frozenset[str]:
        """Names of fields without effect under the values of the others; they are left out of the digest."""
        return frozenset()

    def active(self) -> dict[str, JsonValue]:
        """The hyper-parameters that have an effect, as JSON values."""
        values: dict[str, JsonValue] = self.model_dump(mode="json", exclude=set(self.inactive()))
        return values


class DataSpec(Frozen):
    """Which images a trial sees."""

    name: str = Field(description="data set: a file of trainers/data, or a dotted module of the user's")
    folder: str | None = Field(None, description="image_folder: name of the folder under the data root")
    content: str | None = Field(None, description="image_folder: SHA-256 of the folder's content")
    train_per_class: int | None = Field(None, gt=0, description="images a class kept for training; None keeps all")
    holdout_images: int = Field(0, ge=0, description="images held out of train as `val`, stratified (CIFAR: 5000)")


class Protocol(Frozen):
    """A training recipe. `name` and `source` are labels; everything else changes the result."""

    name: str
    source: str = Field(description="paper, section or code the recipe comes from")
    epochs: int = Field(ge=0)
    batch_size: int = Field(gt=0)
    lr: float = Field(gt=0)
    optimizer: Literal["sgd", "adam", "dot"] = "sgd"
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd and dot")
    dot_delta: float = Field(
        0.075,
        ge=0,
        lt=1,
        description="dot only: momentum of the distillation's buffer is above, of the task's below, by this",
    )
    weight_decay: float = Field(0.0, ge=0)
    nesterov: bool = Field(False, description="sgd only")
    clip_norm: float | None = Field(None, gt=0, description="largest norm of the student's gradient; None: no limit")
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    milestones: tuple[Epochs, ...] = Field((), description="epochs after which lr is multiplied by gamma (step)")
    gamma: float = Field(0.1, gt=0, lt=1)
    lr_min: float = Field(0.0, ge=0, description="cosine: learning rate at the last epoch")
    warmup_epochs: Epochs = Field(0, ge=0, description="linear warm-up of the learning rate")
    augment: bool = Field(True, description="the data set's own crop and flip on training images")
    updates_per_epoch: int | None = Field(None, gt=0, description="student updates an epoch; data-free methods only")
    keep: Literal["last", "best"] = Field(
        "last", description="whose weights are kept: the last epoch's, or those best on val (else test)"
    )
    stop_at_acc1_pct: float | None = Field(
        None, gt=0, le=100, description="stop at the first epoch whose test Acc@1 reaches this"
    )
    stats_from_epoch: Epochs = Field(0, ge=0, description="first epoch (from 0) of the mean and variance of Acc@1")
    stats_drop_last: Epochs = Field(
        5, ge=0, description="epochs at the end left out of the second window of mean and variance"
    )
    artifact_epochs: tuple[Epochs, ...] = Field(
        (), description="epochs (from 0) whose samples and histograms are kept, besides the last"
    )

    @model_validator(mode="after")
    def _dot_has_two_momenta(self) -> Protocol:
        if self.optimizer == "dot":
            low, high = self.momentum - self.dot_delta, self.momentum + self.dot_delta
            if low < 0 or high >= 1:
                raise ValueError(
                    f"momentum -/+ dot_delta must lie in [0, 1), got {low:g} and {high:g}; lower dot_delta"
                )
            if self.clip_norm is not None or self.nesterov:
                raise ValueError(
                    "optimizer 'dot', which never adds up its two gradients, takes no clip_norm and no nesterov"
                )
        return self

    @model_validator(mode="after")
    def _milestones_rise(self) -> Protocol:
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must rise strictly, got {list(self.milestones)}")
        return self

    def digest_fields(self) -> dict[str, JsonValue]:
        """The part of the recipe that changes weights or curves: labels and what is merely recorded are left out."""
        skip = {"name", "source", "stats_from_epoch", "stats_drop_last", "artifact_epochs"}
        if self.optimizer == "sgd":
            skip |= {"optimizer"}  # the default came later than the first results
        else:
            skip |= {"nesterov"}
        if self.optimizer == "adam":
            skip |= {"momentum"}
        if self.optimizer != "dot":
            skip |= {"dot_delta"}
        if self.clip_norm is None:
            skip |= {"clip_norm"}
        if self.schedule != "step":
            skip |= {"milestones", "gamma"}
        if self.schedule != "cosine":
            skip |= {"lr_min"}
        values: dict[str, JsonValue] = self.model_dump(mode="json", exclude=skip)
        return values


class Upstream(Frozen):
    """Weights that a trial starts from or looks at: a finished trial, or an imported file."""

    trial: Trial | None = None
    weights: str | None = Field(
        None, description="an imported file: a path, or a name in `weights/` under the data root"
    )
    sha256: str | None = Field(
        None, pattern=r"^[0-9a-f]{8,64}$", description="SHA-256 of the imported file, or its first 8 digits or more"
    )
    url: str | None = Field(None, description="where the imported file is fetched when it is not there")
    network: str = Field(description="the network these weights belong to")

    @model_validator(mode="after")
    def _one_source(self) -> Upstream:
        if (self.trial is None) == (self.weights is None):
            raise ValueError("an upstream is either a trial or an imported weights file")
        if self.weights is not None and self.sha256 is None:
            raise ValueError("imported weights need their sha256")
        if self.weights is not None and ".." in PurePath(self.weights).parts:
            raise ValueError("a weights file is an absolute path, or a name below `weights/`, without `..`")
        return self

    @property
    def name(self) -> str:
        """Identity of the weights: the digest of the trial, or of the file."""
        if self.trial is not None:
            return self.trial.digest()
        return f"sha256:{self.sha256}"


class Execution(Frozen):
    """What changes bits but not meaning: fixed at a trial's first claim and kept whenever it is continued."""

    threads: int = Field(1, gt=0, description="intra-operation threads on a CPU")
    memory_format: Literal["contiguous", "channels_last"] = Field(
        "contiguous", description="how the networks' weights, and with them all feature maps, lie in memory"
    )
    folded_teacher: bool = Field(
        False,
        description="the teacher answers batches with its BatchNorm layers folded into the convolutions before them",
    )
    fused_optimizer: bool = Field(False, description="one kernel for an update, not one for each operation and weight")
    passes: PassKind = Field(
        "eager", description="how networks are run in updates: eager, by torch.compile, or by that with CUDA graphs"
    )

    @classmethod
    def of_new(cls, threads: int, passes: PassKind = "eager") -> Execution:
        """What a trial that nobody has begun is trained with: whatever is fastest, and compiled passes where they were asked for."""
        return cls(
            threads=threads,
            memory_format="channels_last",
            folded_teacher=True,
            fused_optimizer=True,
            passes=passes,
        )


class Trial(Frozen):
    """One training or measurement, fully resolved; `digest()` names it."""

    kind: Literal["distill", "datafree", "evaluate", "probe"]
    method: str
    hparams: Mapping[str, JsonValue]
    versions: Mapping[str, int] = Field(description="arithmetic version of the method and of the loop")
    data: DataSpec
    student: str
    teacher: Upstream | None = None
    subject: Upstream | None = Field(None, description="finished weights that are measured or probed")
    protocol: Protocol
    seed: int = Field(ge=0)
    precision: Precision = "fp32"

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Trial:
        """As any model's, with a digest of its own."""
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("kept_digest", None)
        return copied

    def upstreams(self) -> tuple[Trial, ...]:
        """Trials whose weights this one needs, teacher first."""
        return tuple(up.trial for up in (self.teacher, self.subject) if up is not None and up.trial is not None)

    def identity(self) -> dict[str, JsonValue]:
        """What changes the result and nothing else, with every upstream named by digest."""
        data: dict[str, JsonValue] = self.data.model_dump(mode="json", exclude_none=True)
        if not data["holdout_images"]:
            del data["holdout_images"]
        recipe = self.protocol.digest_fields()
        if self.kind == "distill":
            del recipe["updates_per_epoch"]  # an epoch is one pass over the images
        elif self.kind == "probe":
            recipe = {name: value for name, value in recipe.items() if name not in ("updates_per_epoch", "augment")}
        else:
            data.pop("train_per_class", None)
            del recipe["augment"]
        identity: dict[str, JsonValue] = {
            "kind": self.kind,
            "method": self.method,
            "hparams": dict(self.hparams),
            "versions": dict(self.versions),
            "data": data,
            "student": self.student,
            "protocol": recipe,
            "seed": self.seed,
            "precision": self.precision,
        }
        if self.kind == "evaluate":  # measures finished weights: nothing is trained, so no recipe and no seed
            identity["protocol"] = {}
            del identity["seed"]
        for role, upstream in (("teacher", self.teacher), ("subject", self.subject)):
            if upstream is not None:
                identity[role] = {"name": upstream.name, "network": upstream.network}
        return identity

    def digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON of `identity()`."""
        return self.kept_digest

    @cached_property
    def kept_digest(self) -> str:
        """Worked out once: a plan asks for it a dozen times."""
        return hashlib.sha256(canonical_json(self.identity()).encode()).hexdigest()


Upstream.model_rebuild()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, in which 8 and 8.0 give the same text."""
    return json.dumps(_whole_as_int(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _whole_as_int(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _whole_as_int(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_whole_as_int(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
