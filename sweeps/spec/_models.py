"""What the files may say: experiment and profile files as typed models, each key with its bounds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

Scalar = str | int | float | bool
PassKind = Literal["eager", "compiled", "cuda_graphs"]
"""As `trainers.config` has it, which is not needed for reading files."""
Match = dict[str, Scalar | list[Scalar]]
NAMED = ("protocol", "teacher_protocol", "data")
"""Settings that are a name with fields of its own: `protocol = "x"` is `protocol.name`, `"protocol.lr"` one field."""
PLAIN = ("method", "preset", "student", "teacher", "teacher_seed", "precision", "seeds", "train")
OPEN = ("hparams", "evaluate", "transfer", "teacher_weights", "student_weights", *NAMED)
SETTABLE = (*PLAIN, *(f"{name}.<field>" for name in OPEN))

HISTOGRAM_METRICS = ("test/loyalty_code",)
"""What a trial keeps a histogram of over the test images, in loyalty.json."""
DENSITY_METRICS = ("train/difficulty",)
"""What a trial keeps a histogram of over generated images, in difficulty.json, beside sample images."""
IMAGES_METRICS = ("train/easiest", "train/hardest", "train/spread")
"""Training images of each class by their difficulty, which a trial keeps in <name>.png with their g in extremes.json."""
SCATTER_METRICS = ("test/embedding",)
"""Features of test images as points in the plane, in embedding.json."""
MATRIX_METRICS = ("classifier/centres",)
"""Weights of the classifier for ten classes, in centres.json."""
KEPT_METRICS = {
    "histogram": HISTOGRAM_METRICS,
    "density": DENSITY_METRICS,
    "images": IMAGES_METRICS,
    "scatter": SCATTER_METRICS,
    "matrix": MATRIX_METRICS,
}
"""Kind of report -> what it shows of single epochs."""
BY_ROW = ("images", "scatter", "matrix", "declared")
"""Kinds with neither columns nor panels."""


def is_setting(path: str) -> bool:
    """Whether a dotted path names something a cell may set."""
    head, _, rest = path.partition(".")
    return (head in PLAIN and not rest) or (head in OPEN and bool(rest))


class Strict(BaseModel):
    """Frozen model that rejects unknown keys and never turns text into numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class AxisValue(BaseModel):
    """One value of an axis: a label, and either `value` (for the axis's path) or settings of its own."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    label: str = Field(min_length=1)
    value: JsonValue = None
    reference: str | None = Field(None, description="how the printed values name this entry; default: the label")

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class Axis(Strict):
    """One dimension of the grid: swept values of one `path`, or named bundles of settings."""

    name: str = Field(min_length=1)
    path: str | None = None
    values: Annotated[tuple[AxisValue, ...], Field(strict=False)]

    def value(self, label: str) -> AxisValue:
        return next(value for value in self.values if value.label == label)


class Rule(Strict):
    """Settings for the cells that match: by axis label or by setting."""

    match: Match
    set: dict[str, Any]


class Absent(Strict):
    """Cells that are not trained, with the reason; with `metrics`, cells that are trained but not shown in these."""

    match: Match
    reason: str = Field(min_length=1)
    metrics: Annotated[tuple[str, ...], Field(min_length=1, strict=False)] | None = Field(
        None, description="absent only: metrics of the report that the paper leaves out; the cell is trained"
    )


class Reference(Strict):
    """Where the printed values are, and how an entry's labels are made from the file's columns."""

    file: str
    origin: Literal["printed", "authors' notebook"]
    axes: dict[str, str] = Field(description='axis -> template over the columns, e.g. "{teacher} / {student}"')
    note: str = ""


class Report(Strict):
    """How the cells become the paper's table or figure.

    `metrics` are metrics of runs, but for some kinds: `histogram`, `density`, `images`, `scatter` and `matrix` show what
    trials keep of single epochs (KEPT_METRICS), and `declared` shows words, which its metrics are the columns of.
    """

    kind: Literal[
        "table",
        "heatmap",
        "curve",
        "bars",
        "histogram",
        "epochs",
        "density",
        "declared",
        "images",
        "scatter",
        "matrix",
    ]
    metrics: Annotated[tuple[str, ...], Field(min_length=1, strict=False)]
    select: Literal["last", "best"] = "best"
    over_seeds: Literal["mean_std", "best", "mean_curve"] = "mean_std"
    rows: str
    columns: str | None = None
    panels: str | None = None
    reference: Reference | None = None
    epochs: Annotated[tuple[int | Literal["last"], ...], Field(strict=False)] = Field(
        (), description="density: two epochs, images: one, from 0 and counted in the paper's `total_epochs`"
    )
    margin: dict[str, Annotated[float, Field(gt=0, strict=False)]] = Field(
        {},
        description="metric -> largest difference from the printed value that counts as reproduced, in the metric's unit",
    )
    digits: dict[str, Annotated[int, Field(ge=0, le=10)]] = Field({}, description="metric -> decimals shown")
    compared: str | None = Field(
        None,
        description="axis, rows or columns, whose labels compete for best and second; a table's rows do by default",
    )
    unranked: Annotated[tuple[str, ...], Field(strict=False)] = Field(
        (), description="labels of the compared axis that take no part, such as the networks trained on the labels"
    )
    variants: Annotated[tuple[Annotated[tuple[str, ...], Field(strict=False)], ...], Field(strict=False)] = Field(
        (), description="groups of compared labels that are one method: second is the best of another method"
    )
    total_epochs: int | None = Field(
        None,
        gt=0,
        description="density, images: how long the paper trains; at another length the same shares are taken",
    )


class Resources(Strict):
    """What Ray reserves for one trial, and how its networks are run there."""

    cpu: float = Field(1, gt=0, strict=False)
    gpu: float = Field(0, ge=0, strict=False)
    passes: PassKind = "eager"

    @field_validator("gpu")
    @classmethod
    def _whole_or_part(cls, gpu: float) -> float:
        if gpu > 1 and gpu != int(gpu):
            raise ValueError("a part of one GPU, or a whole number of them")
        return gpu

    @model_validator(mode="after")
    def _graphs_are_of_a_gpu(self) -> Resources:
        if self.passes == "cuda_graphs" and not self.gpu:
            raise ValueError(
                "passes 'cuda_graphs' needs a GPU, and these resources have none; give gpu = 1, or 'compiled'"
            )
        return self

    @property
    def device(self) -> str:
        """Where such a trial runs, as torch names it."""
        return "cuda" if self.gpu else "cpu"

    @property
    def threads(self) -> int:
        """Of torch on a CPU."""
        return max(1, int(self.cpu))


class Range(Strict):
    """Bounds of one searched hyper-parameter."""

    path: str
    low: float | None = Field(None, strict=False)
    high: float | None = Field(None, strict=False)
    log: bool = False
    integer: bool = False
    choices: Annotated[tuple[Scalar, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _bounded(self) -> Range:
        if self.choices:
            if self.low is not None or self.high is not None:
                raise ValueError("give either choices or low and high")
            return self
        if self.low is None or self.high is None:
            raise ValueError("needs low and high, or choices")
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"a log range needs low > 0, got {self.low:g}")
        return self


RACING = ("p_threshold", "startup_seeds")
"""Fields of a search that only racing over seeds reads."""
RACING_SEEDS = 5
"""Fewer seeds are too few for a test between them to mean much."""
_QUALITY = r"(last|best)/(val/acc[15]_pct|test/(acc1_pct|acc5_pct|agree1_pct|loyalty|loyalty_nat|loyalty_code))"
FLOPS = "cost/flops"
PEAK_MEMORY = "train/peak_memory_mib"


class Objective(Strict):
    """One of several things that a search optimises."""

    metric: str = Field(
        pattern=rf"^({_QUALITY}|cost/flops|time/train_s|train/peak_memory_mib)$",
        description="a result metric, or a cost: cost/flops is worked out from the trial and the same on every machine; time "
        "and memory are measured (memory on a CPU is that of the worker, whatever it trained before)",
    )
    direction: Literal["maximize", "minimize"]


class Search(Strict):
    """An Optuna search inside each cell; seeds are folded into one value of each objective.

    One objective is given by `metric` and `direction`, several by `objectives`.
    """

    metric: str = Field("best/val/acc1_pct", pattern=rf"^{_QUALITY}$", description="the result metric to optimise")
    direction: Literal["maximize", "minimize"] = "maximize"
    objectives: Annotated[tuple[Objective, ...], Field(strict=False)] = Field(
        (), description="two or more, none of which is worth more than another: the search looks for their Pareto front"
    )
    trials: int = Field(gt=0)
    startup_trials: int = Field(10, ge=1)
    sampler: Literal["tpe", "gp", "random"] = "tpe"
    pruner: Literal["none", "asha", "median", "wilcoxon"] = Field(
        "none",
        description="what ends a hopeless suggestion early: asha and median its first seed between epochs, wilcoxon its "
        "remaining seeds",
    )
    prune_metric: str = Field(
        "val/acc1_pct",
        pattern=r"^(val|test|train)/[a-z0-9_]+$",
        description="asha, median: what epochs are compared by",
    )
    prune_from_epoch: int = Field(1, ge=1, description="asha, median: epochs, from 1, before which nothing is cut")
    p_threshold: float = Field(
        0.1,
        gt=0,
        lt=1,
        description="wilcoxon: a suggestion is cut when a one-sided signed-rank test says with a p-value below this that its "
        "seeds are worse than those of the best one",
    )
    startup_seeds: int = Field(2, ge=2, description="wilcoxon: finished seeds before which nothing is cut")
    seed: int = Field(0, ge=0)
    space: Annotated[tuple[Range, ...], Field(min_length=1, strict=False)]

    @property
    def goals(self) -> tuple[Objective, ...]:
        """What is optimised, in either form."""
        return self.objectives or (Objective(metric=self.metric, direction=self.direction),)

    @property
    def meaning(self) -> dict[str, Any]:
        """All that gives a study's values their meaning, as JSON; only the form of the objectives that is in use."""
        form = {"metric", "direction"} if self.objectives else {"objectives"}
        unused = set() if self.pruner == "wilcoxon" else set(RACING)
        return self.model_dump(mode="json", exclude={"trials", *form, *unused})

    @property
    def first_cut(self) -> int:
        """Finished seeds after which a race can end at the earliest: of n values the test's smallest p-value is 2^-n."""
        seeds = self.startup_seeds
        while 2.0**-seeds >= self.p_threshold:
            seeds += 1
        return seeds


class ExperimentFile(Strict):
    """The content of one experiment file."""

    title: str = Field(min_length=1)
    paper: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    source: str = Field("", description="where the settings come from: rows and presets of the method's reference")
    protocol: str
    teacher_protocol: str | None = None
    seeds: Annotated[tuple[int, ...], Field(min_length=1, strict=False)]
    resources: Resources = Resources()
    report: Report
    base: dict[str, Any]
    axes: Annotated[tuple[Axis, ...], Field(strict=False)] = ()
    when: Annotated[tuple[Rule, ...], Field(strict=False)] = ()
    absent: Annotated[tuple[Absent, ...], Field(strict=False)] = ()
    reported: Annotated[tuple[Absent, ...], Field(strict=False)] = ()
    repeated: Annotated[tuple[Absent, ...], Field(strict=False)] = ()
    search: Search | None = None

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"repeated seed in {list(seeds)}")
        if min(seeds, default=0) < 0:
            raise ValueError(f"seeds must be 0 or more, got {list(seeds)}")
        return seeds


class SearchScale(Strict):
    """How long searches are at a profile; what is not given stays as the experiment has it."""

    trials: int | None = Field(None, gt=0)
    startup_trials: int | None = Field(None, ge=1)


class Names(Strict):
    """What names of the papers become at a scale."""

    data: dict[str, str | dict[str, Any]] = {}
    networks: dict[str, str] = {}
    protocols: dict[str, str] = {}


class Profile(Names):
    """A scale: what the papers' data sets, networks and protocols become; `papers` has what only one paper's become."""

    title: str
    resources: Resources | None = None
    papers: dict[str, Names] = {}
    when: Annotated[tuple[Rule, ...], Field(strict=False)] = ()
    keep: dict[str, dict[str, list[str]]] = {}
    search: SearchScale = SearchScale()

    name: str = Field("", exclude=True)
    given: str = Field("", exclude=True, description="as the user named it: a name, or the path of a file")

    @property
    def place(self) -> str:
        """How messages name the file."""
        return self.given if self.given.endswith(".toml") else f"profiles/{self.given}.toml"

    def of(self, paper: str) -> Profile:
        """The profile as it is for one paper, whose own names come first."""
        own = self.papers.get(paper, Names())
        merged = {kind: {**getattr(self, kind), **getattr(own, kind)} for kind in Names.model_fields}
        return self.model_copy(update=merged)
