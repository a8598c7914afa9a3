"""Sweeps that share a real Ray cluster: two by their weights, a third that goes before them, and a ledger that dies."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(1500)]

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "shares.py"
PLACES = 6
LEDGER = """
import ray
from sweeps.broker import ACTOR, NAMESPACE, RayBroker
from sweeps.shares import Claim

ray.init(log_to_driver=False)
free = ray.available_resources()["CPU"]
one, two = Claim("one", 2.0, 0, (), ((1.0, 0.0),) * 9), Claim("two", 1.0, 0, (), ((1.0, 0.0),) * 9)
first, second = RayBroker(), RayBroker()
print("alone", first.beat(one, False).start, first.beat(one, False).places)
print("second", second.beat(two, False).others)
print("shared", first.beat(one, True).start, second.beat(two, True).start)
print("free", ray.available_resources()["CPU"] == free)
ray.kill(ray.get_actor(ACTOR, namespace=NAMESPACE))
for broker, claim in ((first, one), (second, two)):
    for attempt in range(20):
        try:
            broker.beat(claim, True)
            break
        except ray.exceptions.RayActorError:
            print("away")
print("again", sorted(claim.name for claim in first.claims()))
second.leave("two")
print("left", [claim.name for claim in first.claims()])
first.leave("one")
try:
    ray.get_actor(ACTOR, namespace=NAMESPACE)
except ValueError:
    print("gone")
"""


@pytest.fixture(scope="module")
def shares() -> Iterator[object]:
    """`benchmarks/shares.py`, which is a script."""
    found = importlib.util.spec_from_file_location("shares_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(found)
    sys.modules["shares_benchmark"] = module
    found.loader.exec_module(module)
    yield module
    del sys.modules["shares_benchmark"]


def test_two_sweeps_share_by_weight_and_yield_to_a_third(shares, tmp_path):
    """Each trial that yielded is continued and finished once, no epoch lost or doubled, and none counts as a failure."""
    found = shares.measure(tmp_path, PLACES, [2.0, 1.0], 25.0)
    assert found.faults == []
    heavy, light, urgent = found.users
    story = shares.timeline(found.users)
    ratio = heavy.mean_held(*found.window) / light.mean_held(*found.window)
    assert 1.6 <= ratio <= 2.5, story
    assert heavy.mean_held(*found.window) + light.mean_held(*found.window) > PLACES - 1, story
    assert 1.4 <= heavy.rate(*found.window) / light.rate(*found.window) <= 2.9, story
    for at, held in urgent.held.items():
        assert held + heavy.held[at] + light.held[at] <= PLACES + 1, story  # they are not looked at in one moment
    assert max(urgent.held.values()) >= PLACES - 1, story
    assert found.all_s < 90, story
    assert len(heavy.continued()) + len(light.continued()) >= 2, story  # the others may have ended by themselves
    assert urgent.continued() == {}
    assert len(urgent.over) == urgent.trials
    for user in found.users:
        log = user.log()
        assert "WARNING" not in log and "completed" not in log, log
    assert "cluster: share 2:1 with 1 other sweep" in heavy.log()
    assert "cluster: after 1 of higher priority, 2 other sweeps in all" in light.log()
    assert "cluster: before 2 other sweeps" in urgent.log()


def test_a_ledger_that_dies_is_made_again_and_the_last_to_leave_ends_it(shares, tmp_path):
    with shares.ray_head(2) as environment:
        known = {**environment, "PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            [sys.executable, "-c", LEDGER], env=known, cwd=tmp_path, capture_output=True, text=True, timeout=600
        )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line != "away"]
    assert lines == [
        "alone None 2",
        "second 1",
        "shared 1 1",
        "free True",
        "again ['one', 'two']",
        "left ['one']",
        "gone",
    ]
