"""The `sweep` command. Results go to stdout, logs to stderr; exit 0 done, 1 trials failed or cells missing, 2 bad usage."""

from __future__ import annotations

import argparse
import importlib
import logging
import math
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, get_args

from sweeps import settings as settings_module
from sweeps import spec
from sweeps.errors import SweepError
from sweeps.settings import Settings
from sweeps.verbs import keep, look, remote, run
from sweeps.verbs._common import AUTO

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]
Verb = Callable[[argparse.Namespace, Settings], int]
WITH_JSON = ("list", "check", "plan", "status", "why")


def main(argv: list[str] | None = None) -> int:
    """Runs one verb; every fault is one line on stderr."""
    arguments = parser().parse_args(argv)
    for package in (
        "trainers",
        "analysis",
    ):  # before the user's folder can be looked into, also where ours are editable
        importlib.import_module(package)
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # the user's own methods and networks; at the end, so that they hide nothing
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(message)s")
    try:
        verb: Verb = arguments.run_verb
        return verb(arguments, settings_module.load())
    except SweepError as error:
        for fault in error.faults:
            sys.stderr.write(f"error: {fault}\n")
        return 2
    except BrokenPipeError:  # `sweep list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: nothing is lost, the same command goes on from the last checkpoints\n")
        return 130


def parser() -> argparse.ArgumentParser:
    """The command line, one parser a verb, each with an example that works."""
    top = argparse.ArgumentParser(
        prog="sweep",
        description="Launch and follow experiment sweeps: an experiment is one table or figure of a paper.",
        epilog="example:\n  sweep run cudfkd/fig9 --profile demo",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add(verbs, "list", look.verb_list, "sweep list", "*")
    _add(verbs, "check", look.verb_check, "sweep check all --profile demo", "*")
    _add_plan(verbs)
    _add_submit(verbs, _add_run(verbs))
    _add_following(verbs)
    _add(verbs, "why", look.verb_why, "sweep why cudfkd/fig9 --profile demo", "*")
    _add_keeping(verbs)
    return top


def _add(
    verbs: Verbs,
    name: str,
    act: Verb,
    example: str,
    experiments: str | None = "+",
    profile: str | None = "paper",
) -> argparse.ArgumentParser:
    """A verb, which says what it does by the first line of its docstring.

    Args:
        experiments: how many it takes; None where it takes none, and no profile either.
    """
    text = (act.__doc__ or "").partition("\n")[0]
    verb = verbs.add_parser(
        name,
        help=text,
        description=text,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verb.set_defaults(run_verb=act)
    if experiments is not None:
        help_ = "experiment, glob, `all`, or the path of an experiment file" + (
            " (default all)" if experiments == "*" else ""
        )
        verb.add_argument("experiments", nargs=experiments, metavar="EXPERIMENT", help=help_)
        default = "" if profile is None else f" (default {profile})"
        verb.add_argument(
            "--profile", default=profile, help=f"scale: a profile's name, or the path of a profile file{default}"
        )
    if name in WITH_JSON:
        verb.add_argument("--json", action="store_true", help="machine-readable output")
    return verb


def _add_plan(verbs: Verbs) -> None:
    plan = _add(verbs, "plan", look.verb_plan, "sweep plan cudfkd/fig9 --profile demo")
    _add_selection(plan)
    _add_placing(plan)
    plan.add_argument(
        "--probe", action="store_true", help="time a few updates of trials that none of like cost is on record of"
    )


def _add_run(verbs: Verbs) -> argparse.ArgumentParser:
    verb = _add(verbs, "run", run.verb_run, "sweep run cudfkd/fig9 --profile demo --dry-run", profile=None)
    _add_selection(verb)
    _add_placing(verb)
    verb.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    verb.add_argument(
        "--trials", type=_positive, help="searches: total number of suggestions wanted, those of earlier runs included"
    )
    verb.add_argument("--concurrency", type=_positive, help="trials at once (default: what fits the cluster)")
    verb.add_argument(
        "--weight",
        type=_weight,
        default=1.0,
        help="this sweep's part of a cluster that several share, relative to theirs (default 1)",
    )
    verb.add_argument(
        "--priority",
        type=int,
        default=0,
        help="sweeps of lower priority yield to it on a shared cluster (default 0)",
    )
    verb.add_argument("--retry-failed", action="store_true", help="run trials again that failed by their own fault")
    return verb


def _add_submit(verbs: Verbs, run_parser: argparse.ArgumentParser) -> None:
    """It takes what `run` takes, and hands it on."""
    submit = _add(verbs, "submit", remote.verb_submit, "sweep submit cudfkd/fig8 --profile demo", profile=None)
    for action in run_parser._actions:
        if action.option_strings and action.dest not in ("help", "profile", "dry_run"):
            submit._add_action(action)
    submit.add_argument("--wait", action="store_true", help="follow it to its end, and exit as it does")
    submit.set_defaults(run_parser=run_parser)
    _add_no_auth(submit)


def _add_following(verbs: Verbs) -> None:
    """Verbs that ask how far a sweep is, here or on a cluster, or end it there."""
    status = _add(verbs, "status", look.verb_status, "sweep status --profile demo", "*")
    status.add_argument("--jobs", action="store_true", help="list the sweeps that were submitted to the cluster")
    logs = _add(verbs, "logs", remote.verb_logs, f"sweep logs {remote.JOB_EXAMPLE} --follow", None)
    logs.add_argument("--follow", action="store_true", help="until it ends")
    cancel = _add(verbs, "cancel", remote.verb_cancel, f"sweep cancel {remote.JOB_EXAMPLE}", None)
    for verb in (logs, cancel):
        verb.add_argument("job", metavar="JOB", help="id that `sweep submit` printed")
    for verb in (status, logs, cancel):
        _add_no_auth(verb)


def _add_keeping(verbs: Verbs) -> None:
    """Verbs that look after data sets, the store, finished trials and what they left behind."""
    _add(verbs, "sync", keep.verb_sync, "sweep sync cudfkd/fig9 --profile demo", "*")
    ui = _add(verbs, "ui", keep.verb_ui, "sweep ui --port 5000", None)
    ui.add_argument("--port", type=_positive, default=5000, help="port on 127.0.0.1 (default 5000)")
    _add(verbs, "data", keep.verb_data, "sweep data cudfkd/fig9 --profile demo", "*")
    replay = _add(verbs, "replay", keep.verb_replay, "sweep replay 3f9a1c07", None)
    replay.add_argument("digest", metavar="DIGEST", help="of the trial, or its first 4 digits or more")
    replay.add_argument("--device", choices=("cpu", "cuda"), help="where (default: as recorded)")
    gc = _add(verbs, "gc", keep.verb_gc, "sweep gc", None)
    gc.add_argument("--yes", action="store_true", help="delete; without it only list")


def _add_selection(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--seeds", type=_seeds, help="comma-separated seeds instead of the file's, e.g. 0,10,20")
    verb.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="AXIS=LABEL",
        help="only cells with this label; repeat to widen or narrow",
    )


def _add_placing(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--cpu", type=float, metavar="C", help="CPUs of a trial (default: the profile's or file's)")
    verb.add_argument(
        "--gpu",
        type=_gpu,
        metavar="G|auto",
        help="GPUs of a trial: 1, a share such as 0.25, 0 for none, or auto: as much of one as its memory takes",
    )
    verb.add_argument(
        "--passes",
        choices=get_args(spec.PassKind),
        help="how networks are run in updates (default: the profile's or file's, else eager)",
    )
    size = verb.add_mutually_exclusive_group()
    size.add_argument(
        "--group",
        type=_positive,
        metavar="N",
        help="at most N trials share a teacher's passes in one worker (default: as many as pay and fit into memory)",
    )
    size.add_argument(
        "--no-group", dest="group", action="store_const", const=1, help="each trial has a worker to itself"
    )


def _add_no_auth(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--no-auth", action="store_true", help="use a cluster that asks for no token, where anybody may run code"
    )


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a comma-separated list of whole numbers") from None
    if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise argparse.ArgumentTypeError(f"{text!r}: seeds must differ and be 0 or more")
    return seeds


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _gpu(text: str) -> float | str:
    try:
        return text if text == AUTO else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number of GPUs nor {AUTO!r}") from None


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0.01 <= weight <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0.01 to 100")
    return weight


if __name__ == "__main__":
    sys.exit(main())
