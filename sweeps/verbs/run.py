"""`sweep run`: plan, train what is missing, mirror it, and print the tables."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeps import settings as settings_module
from sweeps import spec
from sweeps.errors import SetupError, SpecError
from sweeps.settings import Settings
from sweeps.verbs._common import AUTO, groups_of, make_plans, names_of, price_of, say
from sweeps.verbs.look import print_plans

if TYPE_CHECKING:
    from sweeps.plan import Plan

logger = logging.getLogger(__name__)

FAILURES_SHOWN = 20
"""Of a launch, at its end; `sweep why` knows them all."""


def verb_run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Train what is missing, then print the tables."""
    names = names_of(arguments)
    if arguments.profile is None:
        return _offer_profiles(arguments, settings, names)
    plans = make_plans(arguments, settings, names)
    if arguments.trials is not None and all(plan.experiment.file.search is None for plan in plans):
        raise SpecError("--trials: none of these experiments is a search")
    print_plans(plans, settings, arguments)
    if arguments.dry_run:
        return 0
    return _launch(arguments, settings, plans)


def _offer_profiles(arguments: argparse.Namespace, settings: Settings, names: list[str]) -> int:
    """`run` without a profile starts nothing: a paper's grid can cost thousands of GPU-hours."""
    from sweeps import plan as planning

    sys.stderr.write("error: --profile is missing; nothing was started. Choose a scale:\n")
    for profile in spec.profile_names():
        arguments.profile = profile
        title = spec.load_profile(profile).title
        try:
            plans = make_plans(arguments, settings, names)
            told = f"{planning.summary(plans)}; {price_of(plans, settings)}"
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
    together = groups_of(plans, settings, arguments)
    bill = prices.Bill(price_of(plans, settings, to_come=to_come, groups=together), queue, settings.state)
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
        say("nothing to run")
    mirror = tracker.finish() if needed else _mirror_once(settings, tracked)
    missing = [digest for digest in queue.trials if _state(settings, digest) not in ("done", "stopped")]
    complete = not missing and not queue.failed
    if mirror is None:
        say(
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
            say(error.faults[0])
    if needed:
        say(str(bill))
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
            say("--weight and --priority are of no effect: Ray is started here, for this sweep alone (RAY_ADDRESS)")
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
            say(f"{plan.title}: no table: {error}")
            mirror.close_parent(plan, False)
            continue
        say("")
        say(made.table_text.rstrip())
        mirror.attach(plan, list(made.files))
        mirror.close_parent(plan, complete)
        for file in made.files:
            say(f"wrote {_relative(file)}")


def _relative(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _state(settings: Settings, digest: str) -> str:
    from trainers.attempts import read_status

    return read_status(settings.state, digest).state.value


def _summary(settings: Settings, queue: Any, complete: bool) -> int:
    from collections import Counter

    by_state = Counter(_state(settings, digest) for digest in queue.trials)
    say("")
    say(f"{len(queue.trials)} trials: " + ", ".join(f"{count} {state}" for state, count in by_state.most_common()))
    for digest, cause in list(queue.failed.items())[:FAILURES_SHOWN]:
        say(f"FAILED {queue.names[digest]}: {cause}")
    if len(queue.failed) > FAILURES_SHOWN:
        say(f"FAILED ... and {len(queue.failed) - FAILURES_SHOWN} more")
    if not complete:
        say("some cells are missing; `sweep why` groups the causes")
    for line in _stayed_eager(settings, queue):
        say(line)
    where = settings.tracking_uri if settings.tracking_uri.startswith("http") else "`sweep ui`"
    say(f"browse the runs: {settings_module.shown(where)}")
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
