"""The short form of the chaos run: `python -m tests.system.chaos` is the long one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.system.chaos import Chaos, Size
from tests.system.exactly_once import Work, tracking_faults, trial_faults, trials_in
from tests.system.servers import descendants

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]


def test_a_sweep_under_six_kills_loses_and_doubles_nothing(tmp_path):
    with Chaos(tmp_path, Size(trials=10, kills=6, epochs=4, updates=24), seed=5) as chaos:
        assert chaos.run() == [], str(chaos.tally)
        assert chaos.tally.total >= 6
        assert sum(chaos.tally.points.values()) >= 3
        assert chaos.tally.work["trials"] == 10
        assert chaos.tally.work["epochs_trained"] == chaos.tally.work["epochs_needed"] == 40
        assert chaos.tally.work["epochs_again"] == 0
        assert chaos.tally.work["claims"] > 10, "no kill hit a trial in its middle"


@pytest.mark.parametrize("service", ["raylet", "gcs_server"])
def test_a_launch_outlives_the_ray_that_it_started(home, service):
    experiment = home.mini([0.1], epochs=4, updates=24)
    driver = home.start("run", experiment, "--profile", "paper")
    home.wait_for(lambda: any(home.state.glob("??/*/attempts/1/journal.jsonl")), driver)
    (victim,) = [pid for pid in descendants(driver.pid) if program(pid) == service]
    os.kill(victim, signal.SIGKILL)
    out, err = driver.communicate(timeout=900)
    assert driver.returncode == 0, out + err
    assert f"Ray's {service} died on this machine; Ray is started again" in err
    work = Work()
    assert [fault for digest in trials_in(home) for fault in trial_faults(home.state, digest, 4, work)] == []
    assert work.trials == 3
    assert work.claims > 3, "the kill hit no trial"
    assert tracking_faults(home, 4, work) == []


def program(pid: int) -> str:
    """Name of the program that a process runs; empty where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode().rsplit("/", 1)[-1]
    except OSError:
        return ""
