"""What several verbs do: plan what the command line asks for, group and price it, and say it."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from sweeps import spec
from sweeps.errors import SpecError
from sweeps.settings import Settings

if TYPE_CHECKING:
    from sweeps.plan import Plan
    from sweeps.prices import Price
    from sweeps.search import CellStudy

logger = logging.getLogger(__name__)

AUTO = "auto"


def _asked_resources(arguments: argparse.Namespace) -> dict[str, float | str]:
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


def only_of(pairs: Sequence[str]) -> dict[str, list[str]]:
    """Axis -> labels, from `axis=label` as often as given.

    Raises:
        SpecError: one is no such pair.
    """
    only: dict[str, list[str]] = {}
    for pair in pairs:
        axis, equals, label = pair.partition("=")
        if not equals or not axis or not label:
            raise SpecError(f"--only {pair}: must be AXIS=LABEL")
        only.setdefault(axis, []).append(label)
    return only


def say(text: str) -> None:
    """A result, on stdout; logs go to stderr."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def names_of(arguments: argparse.Namespace) -> list[str]:
    """Experiments that the command line asks for, in its order."""
    return spec.find(arguments.experiments or ["all"])


def make_plans(arguments: argparse.Namespace, settings: Settings, names: Sequence[str] | None = None) -> list[Plan]:
    """Plans of all experiments asked for; the faults of all of them at once."""
    from sweeps import plan as planning

    profile = spec.load_profile(arguments.profile)
    only, asked = only_of(getattr(arguments, "only", [])), _asked_resources(arguments)
    plans: list[Plan] = []
    faults: list[str] = []
    for name in names or names_of(arguments):
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


def adopt_suggestions(plan: Plan, settings: Settings) -> list[CellStudy]:
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


def groups_of(plans: Sequence[Plan], settings: Settings, arguments: argparse.Namespace) -> list[list[str]]:
    """Digests of trials that would share a teacher's passes; none where only a cluster knows how many places there are."""
    from sweeps import groups

    places = getattr(arguments, "concurrency", None) or (
        groups.places_here(plans) if settings.ray_address is None else 0
    )
    if not places or not any(plan.trials for plan in plans):
        return []
    grouping = groups.Grouping(places, groups.Room.here(), settings.data, asked=getattr(arguments, "group", None))
    return groups.planned(plans, grouping)


def price_of(
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
