"""What Ray is asked for; Ray itself is not started."""

from __future__ import annotations

from typing import Any

import pytest

from sweeps import launch
from sweeps.errors import SetupError
from sweeps.launch import Cluster, QueueSearcher
from sweeps.queue import Queue
from trainers import attempts
from trainers.config import Execution


@pytest.mark.parametrize(("asked", "alone"), [(0.25, 1.0), (1, 1.0), (2, 2.0), (0, 0)])
def test_a_trial_that_ran_out_of_device_memory_gets_a_device_for_itself(place: Any, asked: float, alone: float) -> None:
    text = f"seeds = [0]\nresources = {{ cpu = 1, gpu = {asked} }}"
    queue = Queue([place.plan(place.write(swap={"seeds = [0]": text}), pair="A")], [], place.state)
    searcher = QueueSearcher(queue, place.settings)
    first = searcher.suggest("one")
    assert first["gpu"] == asked
    with attempts.claim(queue.trials[first["digest"]], place.state, Execution(), lease_s=0.1) as attempt:
        attempt.note_machine_fault("CUDA out of memory", "device_memory")
    searcher.on_trial_complete("one", error=True)
    again = searcher.suggest("two")
    assert (again["digest"], again["gpu"]) == (first["digest"], alone)


def test_demands_that_no_node_of_the_cluster_meets_are_refused(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "seeds = [0]\nresources = { cpu = 8, gpu = 2 }"
    queue = Queue([place.plan(place.write(swap={"seeds = [0]": text}))], [], place.state)
    nodes = [
        {"Alive": True, "Resources": {"CPU": 4.0, "GPU": 1.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    monkeypatch.setattr(launch.ray, "nodes", lambda: nodes)
    with pytest.raises(SetupError) as refused:
        launch.require_resources(queue, Cluster(4.0, 1.0))
    cpu, gpu = refused.value.faults
    assert "tiny/grid [paper]: a trial needs 8 CPU, but no node has more than 4" in cpu
    assert "needs 2 GPU, but no node has more than 1" in gpu
