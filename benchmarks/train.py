"""Steps per second of our training loop against the loop that everyone copies (`benchmarks/plain.py`).

    python benchmarks/train.py [--steps 12] [--repeats 3] [--threads 2] [--workers 2] [--device cpu] [--only kd-wrn kd-resnet]
    python benchmarks/train.py --passes compiled    (or cuda_graphs: whether they pay on this device)
    python benchmarks/train.py --groups 1 2 4 8 [--only kd-resnet]
    python benchmarks/train.py --trace traces

Same networks, batch, steps and seed on all sides, in one run, each side in a process of its own, taking turns; the best of
`--repeats` counts, on the wall and, for a machine that others use as well, in CPU seconds of the process and of its loader's
workers. "eager" is the plain step on tensors that already lie on the device, so that the gain is not only the data loader's.
With `--groups`, N trials (KD, DKD, logit standardisation and SP in turn) train in lockstep with one teacher pass, against the
bound that this run's own lone trials and teacher passes allow: sum (t + s_i) / (t + sum s_i). Images are random: their content
has no part in the time.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, get_args

import plain
import torch

from trainers import models
from trainers.config import DataSpec, Execution, PassKind, Protocol, Trial, Upstream
from trainers.data import DataSet, Info, Split
from trainers.feed import Common
from trainers.methods import Context, config_type, freeze, module
from trainers.models import Network
from trainers.protocols import PROTOCOLS
from trainers.train import Loop, Setup, Step, make_loop, make_ready, prepare_process

INFO = Info(100, 3, 32, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), crop_padding=4, flip=True)
MIB = 2**20


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        batch: on a CPU, and on a GPU the paper's.
        images: at the least, where the steps alone would not need so many.
    """

    method: str
    teacher: str
    student: str
    batch: tuple[int, int]
    hparams: dict[str, Any]
    images: int = 0


CASES = {
    "kd-wrn": Case("kd", "wrn_40_2", "wrn_16_2", (64, 64), {}),
    "kd-resnet": Case("kd", "resnet32x4", "resnet8x4", (64, 64), {}),
    "crd": Case("crd", "wrn_40_2", "wrn_16_2", (64, 64), {}, images=20_000),  # 16,384 negatives for each
    "pckd": Case("pckd", "wrn_40_2", "wrn_16_2", (16, 64), {}),
    "cudfkd": Case("cudfkd", "wrn_40_2", "wrn_16_2", (64, 256), {"latent_dim": 256, "student_steps": 5}),
    "cmi": Case("cmi", "wrn_40_2", "wrn_16_2", (64, 256), {"iterations": 2, "synthesis_batch": 64}),
}


@dataclass
class Side:
    """One way of training: `steps()` makes all steps of the run, evaluation left out."""

    name: str
    steps: Callable[[], object]
    best_s: float = float("inf")
    cpu_s: float = float("inf")

    def measure(self, device: torch.device) -> None:
        """One turn; the best counts."""
        started, spent = time.perf_counter(), spent_s()
        self.steps()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self.best_s = min(self.best_s, time.perf_counter() - started)
        self.cpu_s = min(self.cpu_s, spent_s() - spent)


@dataclass(frozen=True)
class Measured:
    """What a side came to: its best turn on the wall and in CPU seconds, and its process's peak."""

    best_s: float
    cpu_s: float
    peak_mib: float


class Apart:
    """A side in a process of its own, which trains when it is its turn and sleeps otherwise.

    What a process is told once (threads, `malloc`, denormals, cuDNN) then serves one side, and each has its own peak of memory.
    """

    def __init__(self, name: str, side: str, arguments: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = side
        self.here, there = context.Pipe()
        self.process = context.Process(target=serve, args=(there, name, side, arguments))
        self.process.start()
        there.close()  # so that an end of the process ends our waiting, too

    def turn(self) -> Measured:
        """Trains once; what it came to so far.

        Raises:
            EOFError: the process has ended; it has said why.
        """
        self.here.send(True)
        found: Measured = self.here.recv()
        return found

    def end(self) -> None:
        self.here.close()
        self.process.join()


def serve(there: Connection, name: str, side: str, arguments: argparse.Namespace) -> None:
    """The life of a side's process."""
    device = torch.device(arguments.device)
    with tempfile.TemporaryDirectory() as scratch:
        made = SIDES[side](CASES[name], arguments, Path(scratch))
        made.steps()  # warms up
        while True:
            try:
                there.recv()
            except EOFError:
                return
            made.measure(device)
            there.send(Measured(made.best_s, made.cpu_s, peak_mib(device)))


def spent_s() -> float:
    """CPU seconds of this process and of those that it has waited for, such as a DataLoader's workers."""
    found = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in found)


def trial_of(case: Case, steps: int, device: torch.device, precision: str, **hparams: Any) -> Trial:
    """A trial of one epoch of `steps` steps."""
    kind = module(case.method).KIND
    recipe = PROTOCOLS["cifar100-240" if kind == "distill" else "cudfkd-cifar100"]
    batch = case.batch[device.type == "cuda"]
    changes = {"batch_size": batch} | ({"updates_per_epoch": steps} if kind == "datafree" else {})
    return Trial.model_validate(
        {
            "kind": kind,
            "method": case.method,
            "hparams": config_type(case.method).model_validate({**case.hparams, **hparams}).active(),
            "versions": {"method": module(case.method).VERSION, "loop": 1},
            "data": DataSpec(name="cifar100"),
            "student": case.student,
            "teacher": Upstream(network=case.teacher, weights="random", sha256="0" * 64),
            "protocol": Protocol.model_validate(recipe.model_dump() | changes),
            "precision": precision,
            "seed": 0,
        }
    )


def networks(case: Case, device: torch.device) -> tuple[Network, Network]:
    """Student and frozen teacher, the same weights whenever they are made."""
    shape = {"classes": INFO.classes, "channels": INFO.channels, "size": INFO.size}
    student = models.build(case.student, **shape, seed=0, role="student").to(device)
    teacher = models.build(case.teacher, **shape, seed=0, role="teacher").to(device)
    freeze(teacher)
    return student, teacher


def images_of(count: int, device: torch.device) -> DataSet:
    """Random images with the shape of CIFAR-100."""
    source = torch.Generator().manual_seed(0)
    split = Split(
        torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=source),
        torch.randint(0, 100, (count,), generator=source),
    ).to(device)
    return DataSet(INFO, split, split.take(torch.arange(min(256, count), device=device)))


def setup_of(case: Case, trial: Trial, images: DataSet, device: torch.device, scratch: Path, **shared: Any) -> Setup:
    """A fresh student before its first step."""
    student, teacher = networks(case, device)
    return Setup(trial, images, student, shared.pop("teacher", teacher), device, scratch, **shared)


def ours(case: Case, arguments: argparse.Namespace, scratch: Path) -> Side:
    """The loop of `trainers`, in a process set up as a trial's."""
    return _ours("ours", case, arguments, scratch, "eager")


def compiled(case: Case, arguments: argparse.Namespace, scratch: Path) -> Side:
    """Our loop with the passes that `--passes` asks for."""
    return _ours("compiled", case, arguments, scratch, arguments.passes)


def _ours(name: str, case: Case, arguments: argparse.Namespace, scratch: Path, passes: PassKind) -> Side:
    device, execution = torch.device(arguments.device), Execution.of_new(arguments.threads, passes)
    prepare_process(device, execution)
    trial = trial_of(case, arguments.steps, device, arguments.precision)
    images = images_of(max(case.images, arguments.steps * trial.protocol.batch_size), device)
    setup = setup_of(case, trial, images, device, scratch)
    setup = make_ready(setup, execution)
    loop = make_loop(setup)
    if trial.kind == "datafree":
        return Side(name, lambda: loop.run_epoch(0))

    def steps() -> None:
        for _ in itertools.islice(loop.steps(loop.first_epochs), arguments.steps + 1):  # it stops before each step
            pass

    return Side(name, steps)


def copied(case: Case, arguments: argparse.Namespace, scratch: Path) -> Side:
    """The plain loop, in a process set up as its scripts do."""
    return _copied("plain", case, arguments, scratch)


def eager(case: Case, arguments: argparse.Namespace, scratch: Path) -> Side:
    """The plain step on batches that were transformed beforehand and lie on the device."""
    return _copied("eager", case, arguments, scratch)


def _copied(name: str, case: Case, arguments: argparse.Namespace, scratch: Path) -> Side:
    device = torch.device(arguments.device)
    torch.set_num_threads(arguments.threads)
    torch.backends.cudnn.benchmark = True
    trial = trial_of(case, arguments.steps, device, "fp32")
    batch = trial.protocol.batch_size
    images = images_of(max(case.images, arguments.steps * batch), torch.device("cpu"))
    setup = setup_of(case, trial, images.to(device), device, scratch)
    method, student, teacher = method_of(setup), setup.student, setup.teacher
    assert teacher is not None
    adapters = getattr(method, "modules", torch.nn.Module())
    optimizer = torch.optim.SGD(
        [*student.parameters(), *adapters.parameters()],
        lr=0.05,
        momentum=trial.protocol.momentum,
        weight_decay=trial.protocol.weight_decay,
    )
    if trial.kind == "datafree":
        teacher.requires_grad_(True)  # the scripts call eval() and no more
        return Side(name, lambda: plain.datafree_epoch(arguments.steps, student, teacher, optimizer, method))
    given = None if case.method == "kd" else method
    batches: Any = plain.loader(images.train, INFO, batch, arguments.workers)
    if name == "eager":
        few = itertools.islice(batches, arguments.steps)
        batches = [(shown.to(device), labels.to(device), rows.to(device)) for shown, labels, rows in few]
    return Side(
        name,
        lambda: plain.distill_epoch(
            itertools.islice(batches, arguments.steps), student, teacher, optimizer, given, device
        ),
    )


SIDES = {"ours": ours, "plain": copied, "eager": eager, "compiled": compiled}


def method_of(setup: Setup) -> Any:
    """The method of the trial, as its loop makes it."""
    trial, file = setup.trial, module(setup.trial.method)
    context = Context(
        setup.student,
        setup.teacher,
        setup.images.info,
        trial.protocol,
        trial.seed,
        setup.device,
        setup.images.train.labels,
        setup.pool_folder,
    )
    return file.Method(file.Config.model_validate(dict(trial.hparams)), context)


def peak_mib(device: torch.device) -> float:
    """Of the device, or of this process since it began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def compare(names: Sequence[str], arguments: argparse.Namespace) -> list[str]:
    """The table of single trials."""
    device = torch.device(arguments.device)
    lines = [
        "| case | networks | batch | ours, steps/s | images/s | plain, steps/s | ours / plain | in CPU time | ours / eager "
        "| in CPU time | peak MiB, ours and plain |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    with_passes = arguments.passes != "eager"
    if with_passes:
        lines = [f"{lines[0]} {arguments.passes} / ours |", f"{lines[1]}---|"]
    for name in names:
        case = CASES[name]
        chosen = [side for side in SIDES if side not in ("eager", "compiled")]
        chosen += ["eager"] if module(case.method).KIND == "distill" else []
        chosen += ["compiled"] if with_passes else []
        apart = [Apart(name, side, arguments) for side in chosen]
        try:
            for _ in range(arguments.repeats):
                found = {side.name: side.turn() for side in apart}
        finally:
            for side in apart:
                side.end()
        batch = case.batch[device.type == "cuda"]
        own, theirs = found["ours"], found["plain"]
        speed = arguments.steps / own.best_s
        still, spared = "–", "–"
        if "eager" in found:
            still, spared = (
                f"{found['eager'].best_s / own.best_s:.2f}",
                f"{found['eager'].cpu_s / own.cpu_s:.2f}",
            )
        lines.append(
            f"| {name} | {case.teacher} → {case.student} | {batch} | {speed:.2f} | {speed * batch:.0f} "
            f"| {arguments.steps / theirs.best_s:.2f} | **{theirs.best_s / own.best_s:.2f}** | {theirs.cpu_s / own.cpu_s:.2f} "
            f"| {still} | {spared} | {own.peak_mib:.0f}, {theirs.peak_mib:.0f} |"
            + (f" **{own.best_s / found['compiled'].best_s:.2f}** |" if with_passes else "")
        )
        sys.stderr.write(lines[-1] + "\n")
    return lines


VARIED = {"kd": "temperature", "dkd": "temperature", "logit_std": "temperature", "sp": "sp_weight"}
"""Methods of grouped trials, and the hyper-parameter that no two of them share."""


def variants(case: Case, count: int, steps: int, device: torch.device, precision: str) -> list[Trial]:
    """Methods of `VARIED` in turn, no two trials alike."""
    found = []
    for number, (method, field) in zip(range(count), itertools.cycle(VARIED.items())):
        changed = Case(method, case.teacher, case.student, case.batch, {})
        found.append(trial_of(changed, steps, device, precision, **{field: 2.0 + number}))
    return found


def lockstep(loops: Sequence[Loop]) -> None:
    """One epoch of all loops, update by update."""
    epochs = [loop.steps(0) for loop in loops]
    while epochs:
        for steps in list(epochs):
            if not isinstance(next(steps, None), Step):
                epochs.remove(steps)


def grouped(name: str, arguments: argparse.Namespace) -> list[str]:
    """The table of trials that share a teacher pass."""
    device, case = torch.device(arguments.device), CASES[name]
    execution = Execution.of_new(arguments.threads, arguments.passes)
    prepare_process(device, execution)
    images = images_of(arguments.steps * case.batch[device.type == "cuda"], device)

    def loops(trials: Sequence[Trial], scratch: Path) -> list[Loop]:
        common, teacher, made = Common(), networks(case, device)[1], []
        for number, trial in enumerate(trials):
            setup = setup_of(case, trial, images, device, scratch / str(number), common=common, teacher=teacher)
            made.append(make_loop(make_ready(setup, execution)))
        return made

    trials = variants(case, max(arguments.groups), arguments.steps, device, arguments.precision)
    teacher = make_ready(setup_of(case, trials[0], images, device, Path()), execution).answering
    assert teacher is not None
    shown = torch.randn(case.batch[device.type == "cuda"], 3, 32, 32, device=device)

    def teacher_only() -> None:
        with torch.no_grad():
            for _ in range(arguments.steps):
                teacher(shown)

    alone = trials[: len(VARIED)]
    with tempfile.TemporaryDirectory() as scratch:
        runs = [(trial.method, [trial]) for trial in alone]
        runs += [(str(count), trials[:count]) for count in arguments.groups]
        sides = [Side("teacher", teacher_only)]
        for name, members in runs:
            made = loops(members, Path(scratch) / name)
            sides.append(Side(name, lambda made=made: lockstep(made)))  # type: ignore[misc]
        for _ in range(arguments.repeats + 1):
            for side in sides:
                side.measure(device)
    took = {side.name: side.best_s for side in sides}
    passed, spent = took["teacher"], [took[trial.method] for trial in trials]
    lines = [
        "| trials | seconds | trial-steps/s | trials/hour of 1,000 steps | gain | bound | share of the bound |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for count in arguments.groups:
        apart, seconds = sum(spent[:count]), took[str(count)]
        gain, bound = apart / seconds, apart / (passed + apart - count * passed)
        speed = count * arguments.steps / seconds
        lines.append(
            f"| {count} | {seconds:.2f} | {speed:.2f} | {3.6 * speed:.1f} | {gain:.2f} | {bound:.2f} | {gain / bound:.0%} |"
        )
    each = ", ".join(f"{trial.method} {took[trial.method]:.2f}" for trial in alone)
    said = (
        f"{case.teacher} → {case.student}, {arguments.steps} steps: teacher pass {passed:.2f} s, lone trials {each} s"
    )
    return [said, "", *lines]


def trace(names: Sequence[str], arguments: argparse.Namespace) -> None:
    """Writes where the time goes, for chrome://tracing or Perfetto."""
    arguments.trace.mkdir(parents=True, exist_ok=True)
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            side = ours(CASES[name], arguments, Path(scratch))
            side.steps()
            with torch.profiler.profile() as profile:
                side.steps()
        profile.export_chrome_trace(str(arguments.trace / f"{name}.json"))
        sys.stdout.write(f"{name}\n{profile.key_averages().table(sort_by='self_cpu_time_total', row_limit=15)}\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Prints Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help="of each run (default 12)")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each side; the best counts (default 3)")
    parser.add_argument("--threads", type=int, default=2, help="of torch, on both sides (default 2)")
    parser.add_argument("--workers", type=int, default=2, help="of the plain loop's DataLoader (default 2)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of ours")
    parser.add_argument(
        "--passes",
        choices=get_args(PassKind),
        default="eager",
        help="also ours with such passes; of --groups all (default eager)",
    )
    parser.add_argument("--only", nargs="+", choices=sorted(CASES), help="cases (default: all)")
    parser.add_argument("--groups", nargs="+", type=int, help="trials that share a teacher pass, 1 among them")
    parser.add_argument("--trace", type=Path, help="folder for traces of ours")
    arguments = parser.parse_args(argv)
    names = arguments.only or list(CASES)
    if arguments.trace is not None:
        trace(names, arguments)
        return 0
    if arguments.groups:
        lines = [line for name in arguments.only or ["kd-resnet"] for line in grouped(name, arguments)]
    else:
        lines = compare(names, arguments)
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
