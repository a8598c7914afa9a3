"""Does every method teach? Each method's own terms, trained, beside the same terms only logged while the student learns from
labels alone.

    python benchmarks/teaches.py [--experiment pckd/table1] [--profile demo] [--only "pair=WRN-40-2 / WRN-16-2"] [--state .sweeps/teaches]
    python benchmarks/teaches.py --untrained-adapters --methods FitNet CC VID FT

For each method two trainings with the same seed, images, batches and start: one as the method is, and one whose student gets
the gradient of plain cross-entropy while the method's adapters still learn from its terms (an adapter that stayed at its
random start would make every comparison easy; `--untrained-adapters` leaves them there, so that nothing of the term is
trained). A term's ratio is its mean over the last epoch, trained over logged. Terms of
a first stage are compared at that stage's last epoch, where the logged student is untrained. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from sweeps import resolve, spec
from trainers import data, models
from trainers.attempts import State, read_status
from trainers.config import Execution, Trial
from trainers.distill import DistillLoop
from trainers.methods import Batch, Terms, config_type, freeze, module
from trainers.methods.ce import ce_loss
from trainers.metrics import acc_pct
from trainers.run import run_trial
from trainers.train import Row, Setup, load_weights, prepare_process

BEYOND = ("logit_std", "kdsvd", "ofd")
"""Methods that no table of the paper compares, with their defaults."""


@dataclass(frozen=True)
class Training:
    """What one training came to.

    Attributes:
        terms: by name, mean over the last epoch that has it.
        curve: test accuracy in percent of each epoch of the recipe.
    """

    terms: dict[str, float]
    curve: list[float]


def setup(trial: Trial, state: Path, data_root: Path) -> Setup:
    """Data set, fresh student and finished teacher of a trial."""
    images = data.load(trial.data, data_root)
    info = images.info
    sizes = {"classes": info.classes, "channels": info.channels, "size": info.size}
    student = models.build(trial.student, seed=trial.seed, role="student", **sizes)
    teacher = None
    if trial.teacher is not None:
        teacher = models.build(trial.teacher.network, **sizes)
        load_weights(teacher, trial.teacher, state, data_root)
        freeze(teacher)
    return Setup(trial, images, student, teacher, torch.device("cpu"), state / "pools" / trial.digest())


def logged_beside(
    loop: DistillLoop, terms_of: Callable[[Batch], Terms], sums: dict[str, list[float]], *, labels: bool, adapt: bool
) -> Callable[[Batch], Terms]:
    """The method's terms as a surrogate whose gradient reaches adapters alone, beside plain cross-entropy for the student.

    Args:
        sums: gets every term's value of every batch.
        labels: whether the student learns from labels; not in a first stage, which has none.
        adapt: whether the adapters learn from the terms.
    """
    student = {id(parameter) for parameter in loop.student.parameters()}
    adapters = [p for p in loop.trained.parameters() if p.requires_grad and id(p) not in student] if adapt else []
    if loop.stage is not None and adapt:
        known = {id(p) for p in adapters} | student
        adapters += [p for p in loop.stage.parameters if id(p) not in known]

    def terms(batch: Batch) -> Terms:
        found = terms_of(batch)
        for name, value in found.items():
            sums.setdefault(name, []).append(float(value.detach()))
        surrogate = ce_loss(batch.student_logits, batch.labels) if labels else 0.0 * batch.student_logits.sum()
        total = torch.stack(list(found.values())).sum()
        live = [p for p in adapters if p.requires_grad]
        if live and total.requires_grad:
            grads = torch.autograd.grad(total, live, retain_graph=True, allow_unused=True)
            for parameter, grad in zip(live, grads, strict=True):
                if grad is not None:
                    surrogate = surrogate + (grad.detach() * parameter).sum()
        return {"ce": surrogate}

    return terms


def trained(made: Setup, *, beside_ce: bool, adapt: bool = True) -> Training:
    """Trains once, as the method is or beside cross-entropy, there with adapters that learn or not."""
    loop = DistillLoop(made)
    sums: dict[str, list[float]] = {}
    if beside_ce:
        loop.method.terms = logged_beside(loop, loop.method.terms, sums, labels=True, adapt=adapt)  # type: ignore[method-assign]
        if loop.stage is not None:
            loop.stage = replace(
                loop.stage, terms=logged_beside(loop, loop.stage.terms, sums, labels=False, adapt=adapt)
            )
    found: dict[str, float] = {}
    curve = []
    for epoch in range(loop.total_epochs):
        sums.clear()
        row = loop.run_epoch(epoch)
        if beside_ce:
            stage = "first_" if epoch < loop.first_epochs else ""
            found |= {f"{stage}{name}": sum(values) / len(values) for name, values in sums.items()}
        else:
            found |= named(row)
        if epoch >= loop.first_epochs:
            curve.append(float(acc_pct(loop.predict(made.images.test), made.images.test.labels)))
    return Training(found, curve)


def named(row: Row) -> dict[str, float]:
    """Terms of an epoch's row: `train/loss_kd` as kd, `train/loss_first_ab` as first_ab."""
    return {key.removeprefix("train/loss_"): value for key, value in row.items() if key.startswith("train/loss_")}


def cells(arguments: argparse.Namespace) -> dict[str, Trial]:
    """Label -> trial: the experiment's methods for one pair, and those beyond it."""
    profile = spec.load_profile(arguments.profile)
    experiment = spec.load(arguments.experiment, profile)
    axis, _, label = arguments.only.partition("=")
    found = {}
    for cell in experiment.select({axis: [label]}):
        if cell.status == "run" and cell.settings.get("train") != "teacher":
            trial, _ = resolve.resolve(experiment, profile, cell, arguments.seed, arguments.data)
            found[cell.labels[experiment.file.report.rows]] = trial
    plain = found["KD"]
    for method in BEYOND:
        config = config_type(method).model_validate({})
        changes = {
            "method": method,
            "hparams": config.active(),
            "versions": {**plain.versions, "method": module(method).VERSION},
        }
        found[method] = plain.model_copy(update=changes)
    return found


def say(line: str) -> None:
    """One line of the table, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--experiment", default="pckd/table1")
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--only", default="pair=WRN-40-2 / WRN-16-2", metavar="AXIS=LABEL")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--state", type=Path, default=Path(".sweeps/teaches"))
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--methods", nargs="*", default=[], help="labels; all without any")
    parser.add_argument(
        "--untrained-adapters", action="store_true", help="beside labels, adapters stay at their random start too"
    )
    arguments = parser.parse_args()
    prepare_process(torch.device("cpu"), Execution())
    wanted = {
        label: trial for label, trial in cells(arguments).items() if label in (arguments.methods or (label, "KD"))
    }
    say(
        "| method | term | logged beside CE | trained | ratio | Acc@1 (%) | to KD | curve: Acc@1 at each fifth of the epochs |"
    )
    say("|---|---|---:|---:|---:|---:|---:|---|")
    plain = None
    for label, trial in sorted(wanted.items(), key=lambda item: item[0] != "KD"):
        for upstream in trial.upstreams():
            if read_status(arguments.state, upstream.digest()).state is not State.DONE:
                list(run_trial(upstream, arguments.state, arguments.data))
        ours = trained(setup(trial, arguments.state, arguments.data), beside_ce=False)
        logged = trained(
            setup(trial, arguments.state, arguments.data), beside_ce=True, adapt=not arguments.untrained_adapters
        )
        plain = ours.curve[-1] if plain is None else plain
        steps = range(len(ours.curve) // 5 - 1, len(ours.curve), max(1, len(ours.curve) // 5))
        shown = " ".join(f"{ours.curve[step]:.1f}" for step in steps)
        end = f"{ours.curve[-1]:.2f} | {ours.curve[-1] - plain:+.2f} | {shown} |"
        for name in [name for name in logged.terms if name not in ("ce", "first")] or ["-"]:
            one, two = logged.terms.get(name), ours.terms.get(name)
            if one is None or two is None:
                say(f"| {label} | - | - | - | - | {end}")
                continue
            ratio = f"{two / one:.2f}" if one > 0 else f"{two - one:+.3g} (difference)"
            say(f"| {label} | {name} | {one:.4g} | {two:.4g} | {ratio} | {end}")


if __name__ == "__main__":
    main()
