"""The `sweep` command. Results go to stdout, logs to stderr; exit 0 done, 1 trials failed or cells missing, 2 bad usage."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from sweeps import settings as settings_module
from sweeps import spec
from sweeps.errors import SetupError, SpecError, SweepError
from sweeps.settings import Settings

if TYPE_CHECKING:
    from sweeps.plan import Plan
    from sweeps.prices import Price
    from sweeps.search import CellStudy

logger = logging.getLogger(__name__)

Verb = Callable[[argparse.Namespace, Settings], int]

AUTO = "auto"
FAILURES_SHOWN = 20
"""Of a launch, at its end; `sweep why` knows them all."""
JOB_START = "sweep-"
"""Of the ids of submitted sweeps; no experiment's name begins so."""
JOB_EXAMPLE = f"{JOB_START}20260131-120000-3f9a1c07"
WITH_JSON = ("list", "check", "plan", "status", "why")


def main(argv: list[str] | None = None) -> int:
    """Runs one verb; every fault is one line on stderr."""
    arguments = parser().parse_args(argv)
    for package in (
        "trainers",
        "analysis",
    ):  # found before the user's folder can be looked into, also where ours are editable
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

    def add(
        name: str, run: Verb, text: str, example: str, experiments: str | None = "+", profile: str | None = "paper"
    ) -> argparse.ArgumentParser:
        verb = verbs.add_parser(
            name,
            help=text,
            description=text,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.set_defaults(run_verb=run)
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

    def add_selection(verb: argparse.ArgumentParser) -> None:
        verb.add_argument("--seeds", type=_seeds, help="comma-separated seeds instead of the file's, e.g. 0,10,20")
        verb.add_argument(
            "--only",
            action="append",
            default=[],
            metavar="AXIS=LABEL",
            help="only cells with this label; repeat to widen or narrow",
        )

    def add_placing(verb: argparse.ArgumentParser) -> None:
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

    add("list", verb_list, "List experiments with their cells.", "sweep list", "*")
    add("check", verb_check, "Check experiment files; every fault at once.", "sweep check all --profile demo", "*")
    plan = add(
        "plan", verb_plan, "Show what a run would do and what it would cost.", "sweep plan cudfkd/fig9 --profile demo"
    )
    add_selection(plan)
    add_placing(plan)
    plan.add_argument(
        "--probe", action="store_true", help="time a few updates of trials that none of like cost is on record of"
    )
    run = add(
        "run",
        verb_run,
        "Train what is missing, then print the tables.",
        "sweep run cudfkd/fig9 --profile demo --dry-run",
        profile=None,
    )
    add_selection(run)
    add_placing(run)
    run.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    run.add_argument(
        "--trials", type=_positive, help="searches: total number of suggestions wanted, those of earlier runs included"
    )
    run.add_argument("--concurrency", type=_positive, help="trials at once (default: what fits the cluster)")
    run.add_argument(
        "--weight",
        type=_weight,
        default=1.0,
        help="this sweep's part of a cluster that several share, relative to theirs (default 1)",
    )
    run.add_argument(
        "--priority",
        type=int,
        default=0,
        help="sweeps of lower priority yield to it on a shared cluster (default 0)",
    )
    run.add_argument("--retry-failed", action="store_true", help="run trials again that failed by their own fault")
    submit = add(
        "submit",
        verb_submit,
        "Run a sweep on the Ray cluster of RAY_ADDRESS, with this machine's code, and detach.",
        "sweep submit cudfkd/fig8 --profile demo",
        profile=None,
    )
    for action in run._actions:
        if action.option_strings and action.dest not in ("help", "profile", "dry_run"):
            submit._add_action(action)
    submit.add_argument("--wait", action="store_true", help="follow it to its end, and exit as it does")
    submit.set_defaults(run_parser=run)
    status = add(
        "status",
        verb_status,
        "Show how far each experiment is, or a submitted sweep.",
        "sweep status --profile demo",
        "*",
    )
    status.add_argument("--jobs", action="store_true", help="list the sweeps that were submitted to the cluster")
    logs = add("logs", verb_logs, "Show what a submitted sweep prints.", f"sweep logs {JOB_EXAMPLE} --follow", None)
    logs.add_argument("--follow", action="store_true", help="until it ends")
    cancel = add(
        "cancel",
        verb_cancel,
        "End a submitted sweep; every trial can be continued.",
        f"sweep cancel {JOB_EXAMPLE}",
        None,
    )
    for verb in (logs, cancel):
        verb.add_argument("job", metavar="JOB", help="id that `sweep submit` printed")
    for verb in (submit, status, logs, cancel):
        verb.add_argument(
            "--no-auth", action="store_true", help="use a cluster that asks for no token, where anybody may run code"
        )
    add("why", verb_why, "Group failures by cause.", "sweep why cudfkd/fig9 --profile demo", "*")
    add(
        "sync",
        verb_sync,
        "Bring MLflow in step with the trial directories.",
        "sweep sync cudfkd/fig9 --profile demo",
        "*",
    )
    ui = add("ui", verb_ui, "Serve the MLflow page of the store.", "sweep ui --port 5000", None)
    ui.add_argument("--port", type=_positive, default=5000, help="port on 127.0.0.1 (default 5000)")
    add(
        "data", verb_data, "Fetch and check the data sets of experiments.", "sweep data cudfkd/fig9 --profile demo", "*"
    )
    replay = add(
        "replay", verb_replay, "Run a finished trial again and compare every bit.", "sweep replay 3f9a1c07", None
    )
    replay.add_argument("digest", metavar="DIGEST", help="of the trial, or its first 4 digits or more")
    replay.add_argument("--device", choices=("cpu", "cuda"), help="where (default: as recorded)")
    gc = add("gc", verb_gc, "Free what finished and dead trials left behind.", "sweep gc", None)
    gc.add_argument("--yes", action="store_true", help="delete; without it only list")
    return top


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


def _asked(arguments: argparse.Namespace) -> dict[str, float | str]:
    """Resources of a trial that the command line gives; with `--gpu auto` a whole GPU, until its memory is known."""
    given = {name: getattr(arguments, name, None) for name in ("cpu", "gpu", "passes")}
    return {name: 1.0 if value == AUTO else value for name, value in given.items() if value is not None}


def _require_resources(plan: Plan) -> None:
    """Raises SpecError where a trial cannot have what the command line gives, alone or together with the plan's own resources."""
    try:
        _ = plan.resources
    except ValidationError as error:
        raise SpecError(*(_placing_fault(plan, fault) for fault in error.errors())) from None


def _placing_fault(plan: Plan, fault: Mapping[str, Any]) -> str:
    says = str(fault["msg"]).removeprefix("Value error, ")
    return f"--{fault['loc'][0]} {fault['input']:g}: {says}" if fault["loc"] else f"{plan.title}: {says}"


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0.01 <= weight <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0.01 to 100")
    return weight


def _only(pairs: Sequence[str]) -> dict[str, list[str]]:
    only: dict[str, list[str]] = {}
    for pair in pairs:
        axis, equals, label = pair.partition("=")
        if not equals or not axis or not label:
            raise SpecError(f"--only {pair}: must be AXIS=LABEL")
        only.setdefault(axis, []).append(label)
    return only


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _found(arguments: argparse.Namespace) -> list[str]:
    return spec.find(arguments.experiments or ["all"])


def _plans(arguments: argparse.Namespace, settings: Settings, names: Sequence[str] | None = None) -> list[Plan]:
    """Plans of all experiments asked for; the faults of all of them at once."""
    from sweeps import plan as planning

    profile = spec.load_profile(arguments.profile)
    only, asked = _only(getattr(arguments, "only", [])), _asked(arguments)
    plans: list[Plan] = []
    faults: list[str] = []
    for name in names or _found(arguments):
        try:
            plan = planning.make(
                name, profile, settings.state, settings.data, seeds=getattr(arguments, "seeds", None), only=only
            )
            plan.asked = asked
            _require_resources(plan)
            plans.append(plan)
        except SpecError as error:
            faults += error.faults
    if faults:
        raise SpecError(*dict.fromkeys(faults))
    return plans


def _adopt_suggestions(plan: Plan, settings: Settings) -> list[CellStudy]:
    """Adds what a search has suggested so far to its plan; makes no storage where there is none."""
    from sweeps import plan as planning
    from sweeps import search
    from sweeps.queue import Queue

    if plan.experiment.file.search is None or not search.exists(settings):
        return []
    studies = search.studies_of(plan, settings, None)
    Queue([plan], studies, settings.state)
    plan.states = planning.states(settings.state, plan.trials)
    return studies


# --- verbs -----------------------------------------------------------------------------------------------------------


def verb_list(arguments: argparse.Namespace, settings: Settings) -> int:
    profile = spec.load_profile(arguments.profile)
    names = spec.find(arguments.experiments) if arguments.experiments else spec.experiment_names()
    rows = []
    for name in names:
        experiment = spec.load(name, profile)
        rows.append(
            {
                "experiment": experiment.name,
                "title": experiment.file.title,
                "kind": "search" if experiment.file.search else experiment.file.report.kind,
                "cells": sum(cell.status == "run" for cell in experiment.cells),
                "seeds": list(experiment.file.seeds),
            }
        )
    if arguments.json:
        _say(json.dumps(rows, indent=1))
    else:
        for row in rows:
            _say(f"{row['experiment']:<16} {row['cells']:>3} cells  {row['kind']:<9} {row['title']}")
    return 0


def verb_check(arguments: argparse.Namespace, settings: Settings) -> int:
    from sweeps import resolve

    names = spec.find(arguments.experiments) if arguments.experiments else spec.experiment_names()
    faults = resolve.check(names, arguments.profile, settings.data)
    if arguments.json:
        _say(json.dumps({"experiments": names, "faults": faults}, indent=1))
        return 2 if faults else 0
    if faults:
        raise SpecError(*faults)
    _say(f"{len(names)} experiments, no fault")
    return 0


def verb_plan(arguments: argparse.Namespace, settings: Settings) -> int:
    from sweeps import plan as planning

    plans = _plans(arguments, settings)
    if arguments.json:
        from sweeps import preflight

        content = {
            "plans": [
                {
                    **plan.as_json(),
                    "states": {digest: state.value for digest, state in plan.states.items()},
                    "names": plan.names,
                }
                for plan in plans
            ],
            "counts": {state.value: count for state, count in planning.counts(plans).items()},
            "groups": (together := _groups(plans, settings, arguments)),
            "price": _price(plans, settings, probe=arguments.probe, groups=together).as_json(),
            "faults": preflight.faults(plans, settings),
        }
        _say(json.dumps(content, indent=1))
        return 0
    _print_plans(plans, settings, arguments)
    return 0


def _groups(plans: Sequence[Plan], settings: Settings, arguments: argparse.Namespace) -> list[list[str]]:
    """Digests of trials that would share a teacher's passes; none where only a cluster knows how many places there are."""
    from sweeps import groups

    places = getattr(arguments, "concurrency", None) or (
        groups.places_here(plans) if settings.ray_address is None else 0
    )
    if not places or not any(plan.trials for plan in plans):
        return []
    grouping = groups.Grouping(places, groups.Room.here(), settings.data, asked=getattr(arguments, "group", None))
    return groups.planned(plans, grouping)


def _price(
    plans: Sequence[Plan],
    settings: Settings,
    *,
    probe: bool = False,
    to_come: Mapping[str, int] | None = None,
    groups: Sequence[Sequence[str]] = (),
) -> Price:
    """Price of what is left; with `probe` a few updates are timed here first."""
    from sweeps import prices

    probed: dict[str, float] = {}
    if probe:
        probed, problems = prices.probe(plans, settings.state, settings.data)
        for problem in problems:
            logger.warning("not probed: %s", problem)
    members = {digest: len(group) for group in groups for digest in group}
    return prices.price(
        plans,
        settings.state,
        settings.data,
        probed=probed,
        to_come=to_come,
        members=members,
        local=settings.ray_address is None,
    )


def _print_plans(plans: Sequence[Plan], settings: Settings, arguments: argparse.Namespace) -> None:
    from sweeps import groups, preflight
    from sweeps import plan as planning
    from trainers.attempts import State

    for plan in plans:
        _say(f"{plan.title}: {plan.experiment.file.title}")
        if plan.mapped:
            _say("  scale: " + "; ".join(plan.mapped))
        if plan.notes:
            _say("  scaled constants: " + "; ".join(plan.notes))
        search = plan.experiment.file.search
        if search is not None:
            wanted = getattr(arguments, "trials", None) or search.trials
            goals = " and ".join(f"{goal.direction} {goal.metric}" for goal in search.goals)
            cut = "" if search.pruner == "none" else f", cut by {search.pruner}"
            _say(f"  search: {wanted} suggestions in all by {search.sampler}, {goals}{cut}")
            continue
        fresh = [name for digest, name in plan.names.items() if plan.states[digest] is not State.DONE]
        _say("  " + planning.summary([plan]))
        for name in fresh[:12]:
            _say(f"    {name}")
        if len(fresh) > 12:
            _say(f"    ... and {len(fresh) - 12} more")
    if len(plans) > 1:
        each = sum(len(plan.trials) for plan in plans)
        distinct = len({digest for plan in plans for digest in plan.trials})
        _say(f"together: {planning.summary(plans)} ({each - distinct} shared between experiments)")
    together = _groups(plans, settings, arguments)
    if getattr(arguments, "gpu", None) == AUTO:
        _say("gpu: shares are measured when the run starts; until then each trial is counted with a whole GPU")
    if together:
        _say(f"groups: {groups.summary(together)}")
    if any(plan.trials or plan.probes for plan in plans):
        probe, to_come = getattr(arguments, "probe", False), _to_come(plans, arguments)
        _say(f"price: {_price(plans, settings, probe=probe, to_come=to_come, groups=together)}")
    for fault in preflight.faults(plans, settings, retry_failed=getattr(arguments, "retry_failed", False)):
        _say(f"not ready here: {fault}")


def _to_come(plans: Sequence[Plan], arguments: argparse.Namespace) -> dict[str, int]:
    """Suggestions wanted of each search, where the command line says so."""
    wanted = getattr(arguments, "trials", None)
    return {} if wanted is None else {plan.title: wanted for plan in plans if plan.experiment.file.search is not None}


def verb_run(arguments: argparse.Namespace, settings: Settings) -> int:
    names = _found(arguments)
    if arguments.profile is None:
        return _offer_profiles(arguments, settings, names)
    plans = _plans(arguments, settings, names)
    if arguments.trials is not None and all(plan.experiment.file.search is None for plan in plans):
        raise SpecError("--trials: none of these experiments is a search")
    _print_plans(plans, settings, arguments)
    if arguments.dry_run:
        return 0
    return _launch(arguments, settings, plans)


def verb_submit(arguments: argparse.Namespace, settings: Settings) -> int:
    from sweeps import jobs

    names = _found(arguments)
    if arguments.profile is None:
        raise SpecError(f"--profile is missing; nothing was sent. Known: {', '.join(spec.profile_names())}")
    profile = spec.load_profile(arguments.profile)
    only = _only(arguments.only)
    sent = jobs.submit(
        names,
        arguments.profile,
        jobs.words_of(arguments.run_parser, arguments),
        settings,
        only=only,
        no_auth=arguments.no_auth,
    )
    address = settings_module.shown(jobs.address())
    _say(
        f"submitted {sent.job}: {' '.join(names)} [{profile.name}], code {sent.commit or 'of no commit'}, to {address}"
    )
    if arguments.wait:
        return _follow(sent.job, no_auth=arguments.no_auth)
    _say(f"what it prints: sweep logs {sent.job} --follow")
    _say(f"how far it is:  sweep status {sent.job}")
    _say(f"end it:         sweep cancel {sent.job}")
    return 0


def _follow(job: str, *, no_auth: bool) -> int:
    """Shows what a submitted sweep prints until it ends; its exit code."""
    from sweeps import jobs

    client = jobs.connect(no_auth=no_auth)
    try:
        jobs.show_log(client, job, follow=True)
    except KeyboardInterrupt:
        sys.stderr.write(f"the sweep goes on; end it with `sweep cancel {job}`\n")
        return 130
    row = jobs.wait(client, job)
    _say(jobs.line(row))
    return 1 if row["exit_code"] is None else int(row["exit_code"])


def verb_logs(arguments: argparse.Namespace, settings: Settings) -> int:
    from sweeps import jobs

    jobs.known(arguments.job)
    if arguments.follow:
        return _follow(arguments.job, no_auth=arguments.no_auth)
    jobs.show_log(jobs.connect(no_auth=arguments.no_auth), arguments.job, follow=False)
    return 0


def verb_cancel(arguments: argparse.Namespace, settings: Settings) -> int:
    from sweeps import jobs

    jobs.known(arguments.job)
    row = jobs.cancel(jobs.connect(no_auth=arguments.no_auth), arguments.job)
    _say(jobs.line(row))
    if row["state"] not in jobs.ENDED:
        _say("it has not ended yet; ask again")
        return 1
    if row["state"] == "STOPPED":
        _say("the same `sweep submit` goes on from the last checkpoints")
    return 0


def _is_job(word: str) -> bool:
    return word.startswith(JOB_START) and not word.endswith(".toml")


def _submitted_status(arguments: argparse.Namespace) -> int:
    """Of the submitted sweeps that are named, or of all."""
    from sweeps import jobs

    for job in arguments.experiments:
        jobs.known(job)
    client = jobs.connect(no_auth=arguments.no_auth)
    rows = [jobs.status(client, job) for job in arguments.experiments] or jobs.listing(client)
    if arguments.json:
        _say(json.dumps(rows, indent=1))
        return 0
    for row in rows:
        _say("\n  ".join([jobs.line(row), *filter(None, [row.get("progress", "")])]))
    if not rows:
        _say("no sweep was submitted to this cluster since it was started")
    return 0


def _offer_profiles(arguments: argparse.Namespace, settings: Settings, names: list[str]) -> int:
    """`run` without a profile starts nothing: a paper's grid can cost thousands of GPU-hours."""
    from sweeps import plan as planning

    sys.stderr.write("error: --profile is missing; nothing was started. Choose a scale:\n")
    for profile in spec.profile_names():
        arguments.profile = profile
        title = spec.load_profile(profile).title
        try:
            plans = _plans(arguments, settings, names)
            told = f"{planning.summary(plans)}; {_price(plans, settings)}"
        except SpecError as error:  # such as a profile whose images are not here
            told = f"cannot be used here: {error.faults[0]}"
        sys.stderr.write(f"  --profile {profile:<8} {title}\n    {told}\n")
    return 2


def _launch(arguments: argparse.Namespace, settings: Settings, plans: list[Plan]) -> int:
    from sweeps import preflight, prices, search
    from sweeps.queue import Queue
    from sweeps.store import client, reachable, will_be_new
    from sweeps.tracking import Tracked, Tracker

    preflight.require(plans, settings, retry_failed=arguments.retry_failed)
    if not will_be_new(settings):  # the tracker makes that one; its tables take as long as Ray takes to start
        client(settings)  # a store that cannot be used must start nothing
    again = bool(arguments.retry_failed)
    studies = [
        study for plan in plans for study in search.studies_of(plan, settings, arguments.trials, retry_failed=again)
    ]
    queue = Queue(plans, studies, settings.state, retry_failed=arguments.retry_failed)
    to_come: dict[str, int] = {}
    for study in studies:
        to_come[study.plan.title] = max(to_come.get(study.plan.title, 0), study.total - len(study.asked()))
    together = _groups(plans, settings, arguments)
    bill = prices.Bill(_price(plans, settings, to_come=to_come, groups=together), queue, settings.state)
    needed = bool(queue.waiting) or not queue.finished()

    def tracked() -> list[Tracked]:
        return [
            Tracked(queue.owner[digest], digest, trial, queue.names[digest], fresh=digest in queue.fresh)
            for digest, trial in list(queue.trials.items())
        ]

    tracker = Tracker(settings, plans, tracked)
    if needed:
        _fit(arguments, settings, queue, tracker)
    else:
        _say("nothing to run")
    mirror = tracker.finish() if needed else _mirror_once(settings, tracked)
    missing = [digest for digest in queue.trials if _state(settings, digest) not in ("done", "stopped")]
    complete = not missing and not queue.failed
    if mirror is None:
        _say(
            f"MLflow could not be reached ({settings_module.shown(settings.tracking_uri)}); nothing is lost: run `sweep sync` when it is back"
        )
    else:
        searched = {
            plan.title: search.as_json(own) for plan in plans if (own := [s for s in studies if s.plan is plan])
        }
        try:
            with reachable(settings):
                for plan in plans:
                    mirror.describe_parent(plan, searched.get(plan.title))
                _report(settings, plans, mirror, complete)
        except SetupError as error:
            _say(error.faults[0])
    if needed:
        _say(str(bill))
    return _summary(settings, queue, complete)


def _fit(arguments: argparse.Namespace, settings: Settings, queue: Any, tracker: Any) -> None:
    from sweeps import cluster as clusters

    cluster = clusters.start(settings, meanwhile=lambda: importlib.import_module("sweeps.launch"))
    from sweeps import launch
    from sweeps.groups import Grouping
    from sweeps.live import Watch

    try:
        launch.require_resources(queue, cluster)
        if arguments.gpu == AUTO:
            launch.pack(queue, settings)
        at_once = arguments.concurrency or launch.concurrency(queue, cluster)
        tracker.start()
        if settings.ray_address is None and (arguments.weight != 1 or arguments.priority != 0):
            _say("--weight and --priority are of no effect: Ray is started here, for this sweep alone (RAY_ADDRESS)")
        grouping = Grouping(at_once, launch.room(settings), settings.data, asked=arguments.group)
        grows = arguments.concurrency is None
        with (
            launch.joined(settings, queue, at_once, arguments.weight, arguments.priority, grows=grows) as share,
            Watch(queue, settings.state, settings.data, at_once, share),
        ):
            launch.fit(queue, settings, grouping, share)
    finally:
        clusters.stop()


def _mirror_once(settings: Settings, tracked: Callable[[], list[Any]]) -> Any:
    """What an earlier launch could not mirror."""
    from sweeps.store import HeldError, reachable
    from sweeps.tracking import Mirror

    mirror = Mirror(settings)
    try:
        with reachable(settings):
            for each in tracked():
                mirror.trial(each, final=True)
    except HeldError:
        raise
    except SetupError as error:  # the trial directories keep everything
        logger.warning("%s", error.faults[0])
        return None
    return mirror


def _report(settings: Settings, plans: list[Plan], mirror: Any, complete: bool) -> None:
    """Prints each experiment's table, writes its files, and hangs them on the parent run."""
    from analysis.cli import outputs
    from analysis.errors import AnalysisError

    for plan in plans:
        try:
            made = outputs(plan.experiment.given, plan.profile.given, settings, settings.home.parent / "paper")
        except AnalysisError as error:
            _say(f"{plan.title}: no table: {error}")
            mirror.close_parent(plan, False)
            continue
        _say("")
        _say(made.table_text.rstrip())
        mirror.attach(plan, list(made.files))
        mirror.close_parent(plan, complete)
        for file in made.files:
            _say(f"wrote {_relative(file)}")


def _relative(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _state(settings: Settings, digest: str) -> str:
    from trainers.attempts import read_status

    return read_status(settings.state, digest).state.value


def _summary(settings: Settings, queue: Any, complete: bool) -> int:
    from collections import Counter

    by_state = Counter(_state(settings, digest) for digest in queue.trials)
    _say("")
    _say(f"{len(queue.trials)} trials: " + ", ".join(f"{count} {state}" for state, count in by_state.most_common()))
    for digest, cause in list(queue.failed.items())[:FAILURES_SHOWN]:
        _say(f"FAILED {queue.names[digest]}: {cause}")
    if len(queue.failed) > FAILURES_SHOWN:
        _say(f"FAILED ... and {len(queue.failed) - FAILURES_SHOWN} more")
    if not complete:
        _say("some cells are missing; `sweep why` groups the causes")
    for line in _stayed_eager(settings, queue):
        _say(line)
    where = settings.tracking_uri if settings.tracking_uri.startswith("http") else "`sweep ui`"
    _say(f"browse the runs: {settings_module.shown(where)}")
    return 0 if complete else 1


def _stayed_eager(settings: Settings, queue: Any) -> list[str]:
    """Of trials whose passes were to be compiled: how many were not, for each cause."""
    from collections import Counter

    from sweeps.provenance import stayed_eager
    from trainers.attempts import read_status

    wanted = [digest for digest in queue.trials if queue.resources(digest).passes != "eager"]
    causes = Counter(
        cause for digest in wanted for cause in set(stayed_eager(read_status(settings.state, digest).folder))
    )
    return [f"eager in {count} of {len(wanted)} trials: {cause}" for cause, count in causes.most_common()]


def verb_status(arguments: argparse.Namespace, settings: Settings) -> int:
    if arguments.jobs or any(map(_is_job, arguments.experiments)):
        return _submitted_status(arguments)
    from sweeps import plan as planning

    plans = _plans(arguments, settings)
    for plan in plans:
        _adopt_suggestions(plan, settings)
    if arguments.json:
        _say(
            json.dumps(
                {plan.title: {state.value: n for state, n in planning.counts([plan]).items()} for plan in plans},
                indent=1,
            )
        )
        return 0
    for plan in plans:
        _say(f"{plan.title:<28} {planning.summary([plan])}")
    return 0


def verb_why(arguments: argparse.Namespace, settings: Settings) -> int:
    from sweeps import why

    plans = _plans(arguments, settings)
    for plan in plans:
        _adopt_suggestions(plan, settings)
    causes = why.causes(plans, settings.state)
    if arguments.json:
        _say(json.dumps([cause.as_json() for cause in causes], indent=1))
    else:
        _say("\n".join(map(str, causes)) or "no failed trial")
    return 1 if causes else 0


def verb_replay(arguments: argparse.Namespace, settings: Settings) -> int:
    from sweeps.replay import replay

    report = replay(arguments.digest, settings.state, settings.data, device=arguments.device)
    _say(str(report))
    return 1 if report.difference else 0


def verb_sync(arguments: argparse.Namespace, settings: Settings) -> int:
    from sweeps import search
    from sweeps.store import reachable
    from sweeps.tracking import Mirror, Tracked
    from trainers.attempts import State

    mirror = Mirror(settings)
    for plan in _plans(arguments, settings):
        studies = _adopt_suggestions(plan, settings)
        touched = [digest for digest, state in plan.states.items() if state is not State.NEW]
        if not touched:
            continue
        searched = search.as_json(studies) if studies else None
        ended = (State.DONE, State.STOPPED) if studies else (State.DONE,)
        with reachable(settings):
            for digest in touched:
                mirror.trial(Tracked(plan, digest, plan.trials[digest], plan.names[digest]), final=False)
            mirror.describe_parent(plan, searched)
            mirror.close_parent(plan, all(state in ended for state in plan.states.values()))
        _say(f"{plan.title}: {len(touched)} trials in step")
    return 0


def verb_ui(arguments: argparse.Namespace, settings: Settings) -> int:
    if settings.tracking_uri.startswith("http"):
        _say(f"the store is a server; open {settings_module.shown(settings.tracking_uri)}")
        return 0
    from sweeps.store import QUIET, client, links

    address = f"http://127.0.0.1:{arguments.port}"
    pages = links(client(settings), address)
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        settings.tracking_uri,
        "--host",
        "127.0.0.1",
    ]
    command += [
        "--port",
        str(arguments.port),
        "--workers",
        "1",
        "--default-artifact-root",
        settings.artifacts.absolute().as_uri(),
    ]
    command += ["--uvicorn-opts", "--log-level warning"]
    _say("\n".join([f"MLflow: {address} (Ctrl-C ends it)", *pages]))
    os.execve(
        sys.executable, command, {**os.environ, **QUIET, "MLFLOW_LOGGING_LEVEL": "ERROR", "PYTHONWARNINGS": "ignore"}
    )


def verb_data(arguments: argparse.Namespace, settings: Settings) -> int:
    from trainers import data
    from trainers.errors import TrainerError

    faults: list[str] = []
    plans = _plans(arguments, settings)
    specs: Mapping[Any, None] = dict.fromkeys(
        images.model_copy(update={"train_per_class": None}) for plan in plans for images in plan.data
    )
    for images in specs:
        try:
            loaded = data.load(images, settings.data)
        except TrainerError as error:
            faults += [f"data {images.name}: {line}" for line in str(error).splitlines()]
            continue
        val = "" if loaded.val is None else f", {len(loaded.val)} val"
        _say(
            f"{images.name}: {len(loaded.train)} train{val}, {len(loaded.test)} test, {loaded.info.classes} classes, {loaded.info.size} px"
        )
    if faults:
        raise SetupError(*faults)
    return 0


def verb_gc(arguments: argparse.Namespace, settings: Settings) -> int:
    """Checkpoints of failed trials and of attempts that were taken over, kept answers, and half-written files of dead processes."""
    from trainers.answers import FOLDER
    from trainers.attempts import State, newest, read_status

    doomed: list[Path] = []
    for attempts_folder in sorted(settings.state.glob("*/*/attempts")):
        status = read_status(settings.state, attempts_folder.parent.name)
        dead = status.state in (State.DONE, State.FAILED)
        doomed += [path for path in attempts_folder.glob(".new-*") if dead]
        doomed += [path for path in attempts_folder.glob("*/.*.tmp") if dead]
        last = newest(attempts_folder)
        keep = {str(last), str(status.folder.name) if status.folder else ""}
        doomed += [path for path in attempts_folder.glob("*/checkpoint.pt") if dead or path.parent.name not in keep]
    doomed += sorted((settings.state / FOLDER).glob("*.pt"))  # what was computed can be computed again
    doomed += sorted((settings.state / FOLDER).glob(".*.tmp"))
    size = sum(path.stat().st_size for path in doomed if path.is_file())
    for path in doomed:
        if arguments.yes:
            if path.is_dir():
                import shutil

                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        else:
            _say(str(path))
    verb = "freed" if arguments.yes else "could be freed with --yes"
    _say(f"{len(doomed)} files, {size / 2**20:.1f} MiB {verb}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
