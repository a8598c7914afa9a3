"""Verbs that only look: what there is, what a run would do, how far it is, and why trials failed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sweeps import spec
from sweeps.errors import SpecError
from sweeps.settings import Settings
from sweeps.verbs._common import AUTO, adopt_suggestions, groups_of, make_plans, price_of, say
from sweeps.verbs.remote import is_job, submitted_status

if TYPE_CHECKING:
    from sweeps.plan import Plan


def verb_list(arguments: argparse.Namespace, settings: Settings) -> int:
    """List experiments with their cells."""
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
        say(json.dumps(rows, indent=1))
    else:
        for row in rows:
            say(f"{row['experiment']:<16} {row['cells']:>3} cells  {row['kind']:<9} {row['title']}")
    return 0


def verb_check(arguments: argparse.Namespace, settings: Settings) -> int:
    """Check experiment files; every fault at once."""
    from sweeps import resolve

    names = spec.find(arguments.experiments) if arguments.experiments else spec.experiment_names()
    faults = resolve.check(names, arguments.profile, settings.data)
    if arguments.json:
        say(json.dumps({"experiments": names, "faults": faults}, indent=1))
        return 2 if faults else 0
    if faults:
        raise SpecError(*faults)
    say(f"{len(names)} experiments, no fault")
    return 0


def verb_plan(arguments: argparse.Namespace, settings: Settings) -> int:
    """Show what a run would do and what it would cost."""
    from sweeps import plan as planning

    plans = make_plans(arguments, settings)
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
            "groups": (together := groups_of(plans, settings, arguments)),
            "price": price_of(plans, settings, probe=arguments.probe, groups=together).as_json(),
            "faults": preflight.faults(plans, settings),
        }
        say(json.dumps(content, indent=1))
        return 0
    print_plans(plans, settings, arguments)
    return 0


def print_plans(plans: Sequence[Plan], settings: Settings, arguments: argparse.Namespace) -> None:
    from sweeps import groups, preflight
    from sweeps import plan as planning
    from trainers.attempts import State

    for plan in plans:
        say(f"{plan.title}: {plan.experiment.file.title}")
        if plan.mapped:
            say("  scale: " + "; ".join(plan.mapped))
        if plan.notes:
            say("  scaled constants: " + "; ".join(plan.notes))
        search = plan.experiment.file.search
        if search is not None:
            wanted = getattr(arguments, "trials", None) or search.trials
            goals = " and ".join(f"{goal.direction} {goal.metric}" for goal in search.goals)
            cut = "" if search.pruner == "none" else f", cut by {search.pruner}"
            say(f"  search: {wanted} suggestions in all by {search.sampler}, {goals}{cut}")
            continue
        fresh = [name for digest, name in plan.names.items() if plan.states[digest] is not State.DONE]
        say("  " + planning.summary([plan]))
        for name in fresh[:12]:
            say(f"    {name}")
        if len(fresh) > 12:
            say(f"    ... and {len(fresh) - 12} more")
    if len(plans) > 1:
        each = sum(len(plan.trials) for plan in plans)
        distinct = len({digest for plan in plans for digest in plan.trials})
        say(f"together: {planning.summary(plans)} ({each - distinct} shared between experiments)")
    together = groups_of(plans, settings, arguments)
    if getattr(arguments, "gpu", None) == AUTO:
        say("gpu: shares are measured when the run starts; until then each trial is counted with a whole GPU")
    if together:
        say(f"groups: {groups.summary(together)}")
    if any(plan.trials or plan.probes for plan in plans):
        probe, to_come = getattr(arguments, "probe", False), _to_come(plans, arguments)
        say(f"price: {price_of(plans, settings, probe=probe, to_come=to_come, groups=together)}")
    for fault in preflight.faults(plans, settings, retry_failed=getattr(arguments, "retry_failed", False)):
        say(f"not ready here: {fault}")


def _to_come(plans: Sequence[Plan], arguments: argparse.Namespace) -> dict[str, int]:
    """Suggestions wanted of each search, where the command line says so."""
    wanted = getattr(arguments, "trials", None)
    return {} if wanted is None else {plan.title: wanted for plan in plans if plan.experiment.file.search is not None}


def verb_status(arguments: argparse.Namespace, settings: Settings) -> int:
    """Show how far each experiment is, or a submitted sweep."""
    if arguments.jobs or any(map(is_job, arguments.experiments)):
        return submitted_status(arguments)
    from sweeps import plan as planning

    plans = make_plans(arguments, settings)
    for plan in plans:
        adopt_suggestions(plan, settings)
    if arguments.json:
        say(
            json.dumps(
                {plan.title: {state.value: n for state, n in planning.counts([plan]).items()} for plan in plans},
                indent=1,
            )
        )
        return 0
    for plan in plans:
        say(f"{plan.title:<28} {planning.summary([plan])}")
    return 0


def verb_why(arguments: argparse.Namespace, settings: Settings) -> int:
    """Group failures by cause."""
    from sweeps import why

    plans = make_plans(arguments, settings)
    for plan in plans:
        adopt_suggestions(plan, settings)
    causes = why.causes(plans, settings.state)
    if arguments.json:
        say(json.dumps([cause.as_json() for cause in causes], indent=1))
    else:
        say("\n".join(map(str, causes)) or "no failed trial")
    return 1 if causes else 0
