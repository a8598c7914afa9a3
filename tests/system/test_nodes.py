"""A sweep over several machines: real `ray start` nodes on addresses of their own, one of which is lost and others added."""

from __future__ import annotations

from typing import Any

import pytest

from tests.system.exactly_once import Work, tracking_faults, trial_faults, trials_in
from tests.system.servers import RayNode
from trainers import attempts
from trainers.attempts import State

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]

EPOCHS = 4


def held_by(home: Any, node: RayNode) -> set[str]:
    """Digests of the trials that a process of this node holds now."""
    pids, held = set(node.pids()), set()
    for digest in trials_in(home):
        status = attempts.read_status(home.state, digest)
        if status.state is State.PARTIAL and int(status.entry["pid"]) in pids:
            held.add(digest)
    return held


def test_trials_of_a_lost_node_move_on_and_new_nodes_get_work(home, short_folder):
    """Head without a CPU of its own, two workers with one each; the second is killed with a trial in its middle, two others join."""
    experiment = home.mini([0.1, 0.2, 0.3, 0.4], epochs=EPOCHS, updates=256)  # a node takes its time to join
    logs = home.folder / "nodes"
    head = RayNode(logs, 0, temp=short_folder / "head")
    first, second, third, fourth = (RayNode(logs, 1, head=head, ip=f"127.0.0.{n}") for n in (2, 3, 4, 5))
    with head, first, second:
        home.environment |= head.environment
        driver = home.start("run", experiment, "--profile", "paper")

        def under_way() -> bool:
            rows = [len(attempts.rows(attempts.read_status(home.state, digest))) for digest in held_by(home, second)]
            return any(0 < count < EPOCHS - 1 for count in rows) and bool(held_by(home, first))

        home.wait_for(under_way, driver)
        (lost,) = held_by(home, second)
        second.kill9()
        with third, fourth:
            home.wait_for(lambda: all(held_by(home, node) for node in (first, third, fourth)), driver)
            out, err = driver.communicate(timeout=900)
            assert driver.returncode == 0, out + err
    assert "worker of" in err, "nobody was told of the lost trial"
    work = Work()
    digests = trials_in(home)
    assert [fault for digest in digests for fault in trial_faults(home.state, digest, EPOCHS, work)] == []
    assert (work.trials, work.epochs_trained, work.epochs_again) == (9, 9 * EPOCHS, 0)
    assert home.claims()[lost] == 2
    assert tracking_faults(home, EPOCHS, work) == []
