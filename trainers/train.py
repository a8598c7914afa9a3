"""The only place that turns a trial into epochs: `for epoch in train(trial, state_root)`."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from pydantic import ValidationError
from torch import Tensor

from trainers import artifacts, checkpoint, data, faults, methods, metrics, models, provenance, weights
from trainers._allocator import keep_freed_memory
from trainers._eager import spare_the_compiler
from trainers.answers import Answers
from trainers.config import Execution, Trial, Upstream
from trainers.data import DataSet, Info, Split
from trainers.data._views import VIEWS
from trainers.errors import ConfigError, TrialError
from trainers.feed import Common
from trainers.methods import freeze, module
from trainers.models import Network
from trainers.models._folded import folded_alike
from trainers.passes import Passes

logger = logging.getLogger(__name__)

Row = metrics.Row
LOGITS = {"what": "logits", "version": 1}
"""As `metrics.predict` gives them; a change of its bits raises the version."""
MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
LARGE_PIXELS = 16
"""Smaller images (digits) stay contiguous whatever the format: on maps of 8x8 to 2x2 nothing is gained."""


@dataclass(frozen=True)
class Epoch:
    """One finished epoch whose checkpoint is on disk.

    Attributes:
        number: from 0.
        row: every metric of this epoch.
        last: whether the trial is finished with it.
    """

    number: int
    row: Row
    last: bool


class Step(NamedTuple):
    """An update that is about to be made; between two of them a trial may wait for others.

    Attributes:
        epoch, number: both from 0; `number` counts the updates of the epoch.
    """

    epoch: int
    number: int


Steps = Generator[Step, None, Row]
"""The updates of one epoch, which gives its training metrics at its end."""


@dataclass
class Progress:
    """What a checkpoint holds beside the loop's own state."""

    rows: list[Row] = field(default_factory=list)
    best: float = -math.inf
    kept: dict[str, Tensor] | None = None


class Loop(Protocol):
    """A kind of trial: `distill`, `datafree`, `evaluate`, `probe`.

    Attributes:
        student: what is trained or measured.
        total_epochs: of the recipe and of what comes before it.
        first_epochs: those before the recipe's.
    """

    student: Network
    total_epochs: int
    first_epochs: int

    def steps(self, epoch: int) -> Steps:
        """Trains one epoch; returns its training metrics. Raises TrialError when a loss is not finite."""

    def run_epoch(self, epoch: int) -> Row:
        """`steps` to its end."""

    def predict(self, split: Split) -> Tensor:
        """The student's logits (N, K) on a whole split, in eval mode."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def write_artifacts(self, folder: Path, epoch: int) -> None: ...


@dataclass(frozen=True)
class Setup:
    """What every loop is built from.

    Attributes:
        trial: what to train.
        images: the data set, on `device`.
        student: freshly initialised, or the subject's weights; on `device`.
        teacher: frozen, on `device`; None where the trial has none.
        pool_folder: for files that are written once and that checkpoints refer to.
        source: of the data set that a probe's trunk was trained on; None for other kinds.
        common: what the trial shares with others of its group.
        clock: seconds that this trial has had, from any start.
        answers: of finished networks to whole splits.
        execution: how it is computed.
        folded: the teacher with BatchNorm folded into its convolutions; None where nobody folded it.
        passes: how networks are asked in updates.
    """

    trial: Trial
    images: DataSet
    student: Network
    teacher: Network | None
    device: torch.device
    pool_folder: Path
    source: Info | None = None
    common: Common = field(default_factory=Common)
    clock: Callable[[], float] = time.perf_counter
    answers: Answers = field(default_factory=Answers)
    execution: Execution = field(default_factory=Execution)
    folded: Network | None = None
    passes: Passes = field(default_factory=Passes)

    @property
    def answering(self) -> Network | None:
        """Who answers batches; methods themselves look at `teacher`, which has all its layers."""
        return self.teacher if self.folded is None else self.folded


class StudentLoop:
    """What loops share: a student that is evaluated on images. A loop has either `steps` or, where nothing waits, `run_epoch`."""

    first_epochs = 0

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.student = setup.student

    def steps(self, epoch: int) -> Steps:
        return self.run_epoch(epoch)
        yield  # a generator without a stop

    def run_epoch(self, epoch: int) -> Row:
        return drain(self.steps(epoch))

    def predict(self, split: Split) -> Tensor:
        return metrics.predict(self.student, split, self.setup.images.info)


def drain(steps: Steps) -> Row:
    """Makes every update without a stop."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            row: Row = end.value
            return row


def trial_folder(state_root: Path, digest: str) -> Path:
    """The directory of the trial named `digest`."""
    return state_root / digest[:2] / digest


def train(
    trial: Trial,
    state_root: Path,
    attempt: Path,
    *,
    data_root: Path,
    device: str = "cpu",
    execution: Execution | None = None,
) -> Iterator[Epoch]:
    """Trains `trial` from the newest checkpoint in `attempt`, or from the start, and yields each epoch once it is safe on disk.

    Args:
        trial: what to train; the weights of its upstreams must lie in their directories under `state_root`.
        attempt: folder of this attempt; `checkpoint.pt` there is replaced after every epoch, `weights.pt` written at the end,
            `artifacts/` at some epochs.
        data_root: where data sets are.
        device: a torch device.
        execution: what changes bits but not meaning.

    Yields:
        The epochs that were not in the checkpoint, in order. A trial of 0 epochs yields nothing.

    Raises:
        ConfigError: the trial cannot be run as written (see `require_runnable`).
        TrialError: a loss is not finite, a checkpoint or upstream weights are corrupt, or the asked accuracy was never reached.
        DataError: images are missing or unreadable.
    """
    with closing(
        train_steps(trial, state_root, attempt, data_root=data_root, device=device, execution=execution)
    ) as events:
        for event in events:
            if isinstance(event, Epoch):
                yield event


def train_steps(
    trial: Trial,
    state_root: Path,
    attempt: Path,
    *,
    data_root: Path,
    device: str = "cpu",
    execution: Execution | None = None,
    common: Common | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Generator[Step | Epoch, None, None]:
    """`train`, with a stop before every update of a trial that may share its teacher's answers.

    Args:
        common: of the group, whose trials have equal `trainers.feed.key`.
        clock: see `Setup`.
    """
    require_runnable(trial)
    place = torch.device(device)
    execution = execution or Execution()
    prepare_process(place, execution)
    common = common or Common()
    setup = _setup(trial, state_root, data_root, place, attempt / "pool", common)
    setup = replace(setup, clock=clock)
    setup = make_ready(setup, execution)
    content = provenance.record(state_root, attempt, place, setup.images, together=common.size)
    setup = replace(setup, answers=Answers.of(state_root, execution, place, content))
    loop = make_loop(setup)
    file = attempt / "checkpoint.pt"
    progress = _restore(file, loop, place) if file.exists() else Progress()
    test_teacher = common.once("test_teacher", lambda: _test_teacher(setup))
    recorded = {loop.first_epochs + epoch for epoch in trial.protocol.artifact_epochs}
    artifact_epochs = {*recorded, loop.total_epochs - 1}
    finished = bool(progress.rows) and _reached(trial, progress.rows[-1])
    noted: list[str] = []
    for number in range(len(progress.rows), loop.total_epochs):
        if finished:
            break
        started = clock()
        row = yield from loop.steps(number)
        trained = clock()
        evaluated, loyalty = _evaluate(setup.images, loop, test_teacher, number)
        before = progress.rows[-1] if progress.rows else {"time/train_s": 0.0, "time/total_s": 0.0}
        row |= evaluated
        row["time/train_s"] = before["time/train_s"] + trained - started
        row["time/total_s"] = before["time/total_s"] + clock() - started
        row["train/peak_memory_mib"] = peak_memory_mib(place)
        finished = _reached(trial, row)
        if number in artifact_epochs or finished:
            folder = attempt / "artifacts" / f"epoch_{number:04d}"
            loop.write_artifacts(folder, number)
            if "loyalty_code" in loyalty:
                artifacts.write_histogram(
                    folder / "loyalty.json", loyalty["loyalty_code"], "loyalty_code per test image", low=0.0, high=1.0
                )
        progress.rows.append(row)
        _keep_best(trial, setup, progress)
        checkpoint.save(
            file, {"loop": loop.state_dict(), "rows": progress.rows, "best": progress.best, "kept": progress.kept}
        )
        faults.point("checkpoint-written")
        noted = _note_eager(setup, attempt, noted)
        yield Epoch(number, row, last=finished or number == loop.total_epochs - 1)
    if trial.protocol.stop_at_acc1_pct is not None and not finished:
        reached = max((row["test/acc1_pct"] for row in progress.rows), default=0.0)
        raise TrialError(
            f"test Acc@1 never reached {trial.protocol.stop_at_acc1_pct:g} % in {loop.total_epochs} epochs (best {reached:.2f} %); "
            f"lower stop_at_acc1_pct or train longer"
        )
    kept = progress.kept if progress.kept is not None else setup.student.state_dict()
    checkpoint.save(attempt / "weights.pt", {"network": trial.student, "state": kept})
    faults.point("weights-written")


def _note_eager(setup: Setup, attempt: Path, noted: list[str]) -> list[str]:
    """Tells of the trial's networks that could not be compiled so far; returns them all."""
    left = setup.passes.stayed_eager((setup.answering, setup.student))
    for line in (line for line in left if line not in noted):
        logger.warning("passes=%s: stays eager: %s", setup.execution.passes, line)
    if left != noted:
        provenance.note_eager(attempt, left)
    return left


def result_of(trial: Trial, rows: list[Row]) -> Row:
    """The numbers of a finished trial: last, best, mean and variance, time."""
    protocol = trial.protocol
    return metrics.summarise(rows, metrics.windows(len(rows), protocol.stats_from_epoch, protocol.stats_drop_last))


def require_runnable(trial: Trial) -> None:
    """Ends a trial that means nothing, or that was resolved for another version of the code, before it costs anything.

    Raises:
        ConfigError: every fault that can be seen without data or weights.
    """
    file = module(trial.method)
    if trial.kind != file.KIND:
        raise ConfigError(f"method {trial.method!r} is of kind {file.KIND!r}, the trial says {trial.kind!r}")
    faults = []
    try:
        file.Config.model_validate(dict(trial.hparams))
    except ValidationError as error:
        for fault in error.errors():
            name = ".".join(("hparams", *map(str, fault["loc"])))
            faults.append(
                f"{name}: {fault['msg']} (got {fault['input']!r}); known: {', '.join(sorted(file.Config.model_fields)) or 'none'}"
            )
    current = {"method": file.VERSION, "loop": _loops()[trial.kind][1]}
    if dict(trial.versions) != current:
        faults.append(
            f"the trial was resolved for versions {dict(trial.versions)}, this code has {current}; resolve it again"
        )
    if file.NEEDS_TEACHER and trial.teacher is None:
        faults.append(f"method {trial.method!r} needs a teacher")
    if (trial.subject is not None) != (trial.kind in ("evaluate", "probe")):
        faults.append(
            "a subject is what an evaluate or probe trial looks at: it needs one, and no other kind takes one"
        )
    if trial.kind == "probe" and trial.subject is not None and trial.subject.trial is None:
        faults.append("a probe needs a finished trial as its subject, which says what the trunk was trained on")
    if trial.kind == "datafree" and trial.protocol.optimizer == "dot":
        faults.append("optimizer 'dot' needs a loss on labels beside the distillation, which no data-free method has")
    if faults:
        raise ConfigError(*faults)


def rows_in(checkpoint_file: Path) -> list[Row]:
    """The rows a checkpoint holds.

    Raises:
        TrialError: corrupt.
    """
    rows: list[Row] = checkpoint.load(checkpoint_file)["rows"]
    return rows


def make_ready(setup: Setup, execution: Execution) -> Setup:
    """Makes ready what the trial is computed with.

    The networks go into their memory format; the maps take theirs from the weights of the layers they pass. What trials of
    a group use together is made once.
    """
    teacher, common, info = setup.teacher, setup.common, setup.images.info
    for network in (setup.student, teacher):
        if network is not None and info.size >= LARGE_PIXELS:
            network.to(memory_format=MEMORY_FORMATS[execution.memory_format])  # type: ignore[call-overload]
    if setup.trial.kind not in ("distill", "datafree"):
        return replace(setup, execution=execution)
    without_norms = None
    if teacher is not None and execution.folded_teacher:
        without_norms = common.once("folded", lambda: folded_alike(teacher, info.channels, info.size))
    passes = common.once("passes", lambda: Passes(execution.passes, images_of_a_batch(setup)))
    return replace(setup, execution=execution, folded=without_norms, passes=passes)


def images_of_a_batch(setup: Setup) -> int:
    """What a whole batch has at the least, with all views."""
    trial, size = setup.trial, setup.trial.protocol.batch_size
    if trial.kind == "datafree":
        return size
    config = module(trial.method).Config.model_validate(dict(trial.hparams))
    return min(size, len(setup.images.train)) * VIEWS[methods.views(trial.method, config)].count


def prepare_process(device: torch.device, execution: Execution) -> None:
    """Threads of the trial, and no denormals: they make small networks many times slower late in training."""
    keep_freed_memory()
    if device.type == "cpu":
        torch.set_num_threads(execution.threads)
        torch.set_flush_denormal(True)
    else:
        torch.cuda.reset_peak_memory_stats(device)
    spare_the_compiler()
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def peak_memory_mib(device: torch.device) -> float:
    """Peak memory in MiB: allocated on the device, or resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _test_teacher(setup: Setup) -> Tensor | None:
    if setup.teacher is None:
        return None
    teacher, images, upstream = setup.teacher, setup.images, setup.trial.teacher
    assert upstream is not None
    return setup.answers.once(
        LOGITS, upstream, images, images.test, lambda: metrics.predict(teacher, images.test, images.info)
    )


def _setup(
    trial: Trial, state_root: Path, data_root: Path, device: torch.device, pool_folder: Path, common: Common
) -> Setup:
    images = common.once("images", lambda: data.load(trial.data, data_root).to(device))
    info = images.info
    source = None
    if trial.kind == "probe":
        from trainers import probe

        source = _source_info(trial, data_root)
        probed = probe.build(trial.student, source, info.classes, trial.seed)
        assert trial.subject is not None
        load_weights(probed.trunk, trial.subject, state_root, data_root)
        student: Network = probed
    else:
        student = models.build(
            trial.student, classes=info.classes, channels=info.channels, size=info.size, seed=trial.seed, role="student"
        )
        if trial.subject is not None:
            load_weights(student, trial.subject, state_root, data_root)
    teacher = common.once("teacher", lambda: _teacher(trial, info, state_root, data_root, device))
    config = module(trial.method).Config.model_validate(dict(trial.hparams))
    network = None if trial.teacher is None else trial.teacher.network
    found = methods.faults(trial.method, config, methods.Case(trial.protocol, info, trial.student, network))
    if found:
        raise ConfigError(*found)
    return Setup(trial, images, student.to(device), teacher, device, pool_folder, source, common)


def _teacher(trial: Trial, info: Info, state_root: Path, data_root: Path, device: torch.device) -> Network | None:
    if trial.teacher is None:
        return None
    shape = {"classes": info.classes, "channels": info.channels, "size": info.size}
    teacher = models.build(trial.teacher.network, **shape, seed=trial.seed, role="teacher")
    load_weights(teacher, trial.teacher, state_root, data_root)
    freeze(teacher.to(device))
    return teacher


def _source_info(trial: Trial, data_root: Path) -> Info:
    """What a probe's trunk was trained on."""
    assert trial.subject is not None and trial.subject.trial is not None  # as the trial's own rules say
    return data.info(trial.subject.trial.data, data_root)


def _loops() -> dict[str, tuple[type[Loop], int]]:
    """Loop and arithmetic version of each kind of trial."""
    from trainers import datafree, distill, evaluate, probe

    return {
        "distill": (distill.DistillLoop, distill.VERSION),
        "datafree": (datafree.DataFreeLoop, datafree.VERSION),
        "evaluate": (evaluate.EvaluateLoop, evaluate.VERSION),
        "probe": (probe.ProbeLoop, probe.VERSION),
    }


def make_loop(setup: Setup) -> Loop:
    """The loop of the trial's kind, before its first epoch."""
    return _loops()[setup.trial.kind][0](setup)  # type: ignore[call-arg]


def load_weights(network: Network, upstream: Upstream, state_root: Path, data_root: Path) -> None:
    """Fills `network` with the weights of a finished trial or of an imported file, which is fetched where it has an address.

    Raises:
        TrialError: missing, changed, corrupt, or of another network.
    """
    if upstream.trial is not None:
        file = trial_folder(state_root, upstream.name) / "weights.pt"
    else:
        file = weights.find(upstream, data_root)
    if not file.exists():
        raise TrialError(f"weights of {upstream.network} are missing: {file}; run the trial {upstream.name[:12]} first")
    content = checkpoint.load(file)
    try:
        network.load_state_dict(content["state"] if upstream.trial is not None else content)
    except (RuntimeError, KeyError) as error:
        raise TrialError(
            f"{file} does not hold weights of {upstream.network}: {' '.join(str(error).split())[:300]}"
        ) from error


def _restore(file: Path, loop: Loop, device: torch.device) -> Progress:
    state = checkpoint.load(file, device)
    try:
        loop.load_state_dict(state["loop"])
        return Progress(rows=state["rows"], best=state["best"], kept=state["kept"])
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise TrialError(f"{file} does not fit this trial: {' '.join(str(error).split())[:300]}") from error


def _evaluate(images: DataSet, loop: Loop, test_teacher: Tensor | None, epoch: int) -> tuple[Row, dict[str, Tensor]]:
    logits = loop.predict(images.test)
    if not logits.isfinite().all():  # the last update can break weights whose own loss was still finite
        raise TrialError(
            f"epoch {epoch}: the student's logits on test are not finite after training; lower the learning rate"
        )
    row, per_sample = metrics.evaluate("test", logits, images.test.labels, test_teacher)
    if images.val is not None:
        val_row, _ = metrics.evaluate("val", loop.predict(images.val), images.val.labels, None)
        row |= val_row
    return row, per_sample


def _reached(trial: Trial, row: Row) -> bool:
    target = trial.protocol.stop_at_acc1_pct
    return target is not None and row["test/acc1_pct"] >= target


def _keep_best(trial: Trial, setup: Setup, progress: Progress) -> None:
    if trial.protocol.keep != "best":
        return
    row = progress.rows[-1]
    value = row.get("val/acc1_pct", row["test/acc1_pct"])
    if value > progress.best:
        progress.best = value
        progress.kept = {name: tensor.detach().clone() for name, tensor in setup.student.state_dict().items()}
