"""Verbs about sweeps that were handed to a cluster: they go through its dashboard alone."""

from __future__ import annotations

import argparse
import json
import sys

from sweeps import settings as settings_module
from sweeps import spec
from sweeps.errors import SpecError
from sweeps.settings import Settings
from sweeps.verbs._common import names_of, only_of, say

JOB_START = "sweep-"
"""Of the ids of submitted sweeps; no experiment's name begins so."""
JOB_EXAMPLE = f"{JOB_START}20260131-120000-3f9a1c07"


def verb_submit(arguments: argparse.Namespace, settings: Settings) -> int:
    """Run a sweep on the Ray cluster of RAY_ADDRESS, with this machine's code, and detach."""
    from sweeps import jobs

    names = names_of(arguments)
    if arguments.profile is None:
        raise SpecError(f"--profile is missing; nothing was sent. Known: {', '.join(spec.profile_names())}")
    profile = spec.load_profile(arguments.profile)
    only = only_of(arguments.only)
    sent = jobs.submit(
        names,
        arguments.profile,
        jobs.words_of(arguments.run_parser, arguments),
        settings,
        only=only,
        no_auth=arguments.no_auth,
    )
    address = settings_module.shown(jobs.address())
    say(f"submitted {sent.job}: {' '.join(names)} [{profile.name}], code {sent.commit or 'of no commit'}, to {address}")
    if arguments.wait:
        return _follow(sent.job, no_auth=arguments.no_auth)
    say(f"what it prints: sweep logs {sent.job} --follow")
    say(f"how far it is:  sweep status {sent.job}")
    say(f"end it:         sweep cancel {sent.job}")
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
    say(jobs.line(row))
    return 1 if row["exit_code"] is None else int(row["exit_code"])


def verb_logs(arguments: argparse.Namespace, settings: Settings) -> int:
    """Show what a submitted sweep prints."""
    from sweeps import jobs

    jobs.known(arguments.job)
    if arguments.follow:
        return _follow(arguments.job, no_auth=arguments.no_auth)
    jobs.show_log(jobs.connect(no_auth=arguments.no_auth), arguments.job, follow=False)
    return 0


def verb_cancel(arguments: argparse.Namespace, settings: Settings) -> int:
    """End a submitted sweep; every trial can be continued."""
    from sweeps import jobs

    jobs.known(arguments.job)
    row = jobs.cancel(jobs.connect(no_auth=arguments.no_auth), arguments.job)
    say(jobs.line(row))
    if row["state"] not in jobs.ENDED:
        say("it has not ended yet; ask again")
        return 1
    if row["state"] == "STOPPED":
        say("the same `sweep submit` goes on from the last checkpoints")
    return 0


def is_job(word: str) -> bool:
    return word.startswith(JOB_START) and not word.endswith(".toml")


def submitted_status(arguments: argparse.Namespace) -> int:
    """Of the submitted sweeps that are named, or of all."""
    from sweeps import jobs

    for job in arguments.experiments:
        jobs.known(job)
    client = jobs.connect(no_auth=arguments.no_auth)
    rows = [jobs.status(client, job) for job in arguments.experiments] or jobs.listing(client)
    if arguments.json:
        say(json.dumps(rows, indent=1))
        return 0
    for row in rows:
        say("\n  ".join([jobs.line(row), *filter(None, [row.get("progress", "")])]))
    if not rows:
        say("no sweep was submitted to this cluster since it was started")
    return 0
