"""What a log says of a launch: real queues and trial directories, no terminal."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from sweeps import live
from sweeps.live import Watch
from sweeps.queue import Queue
from trainers import attempts
from trainers.attempts import State
from trainers.config import Execution


def grid(place: Any, **options: Any) -> Queue:
    place.write(**options)
    return Queue([place.plan("grid.toml", pair="A")], [], place.state)


def watch(place: Any, queue: Queue, at_once: int = 2) -> Watch:
    return Watch(queue, place.state, place.settings.data, at_once)


def run_next(place: Any, queue: Queue, **options: Any) -> str:
    digest = queue.next()
    assert digest is not None
    place.train(queue.trials[digest], **options)
    queue.release(digest, options.get("end", "done"))
    return digest


def test_a_log_says_what_started_and_ended(
    place: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "PERIOD_S", 0.02)
    queue = grid(place)
    with watch(place, queue) as seen:
        digest = queue.next()
        assert digest is not None
        with attempts.claim(queue.trials[digest], place.state, Execution(), lease_s=0.1):
            until = time.monotonic() + 20
            while seen.seen[digest].state is not State.PARTIAL:
                assert time.monotonic() < until
                time.sleep(0.01)
        place.train(queue.trials[digest], (40.0, 61.5))
        queue.release(digest, "done")
        run_next(place, queue, end="failed")
        run_next(place, queue)
    lines = capsys.readouterr().out.splitlines()
    told = [line.split(" (about")[0] for line in lines]
    assert told[0] == "[0/3] started: teacher resnet14 seed=0"
    assert "[1/3] done: teacher resnet14 seed=0 test Acc@1 61.00 %" in told
    assert any("FAILED: pair=A temperature=2 seed=0" in line for line in told)
    assert "[2/3] done: pair=A temperature=4 seed=0 test Acc@1 59.50 %" in told


def test_what_is_done_before_is_counted_and_not_told(place: Any, capsys: pytest.CaptureFixture[str]) -> None:
    place.write()
    place.train(next(iter(place.plan("grid.toml", pair="A").trials.values())))
    queue = grid(place)
    with watch(place, queue):
        run_next(place, queue)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("[2/3] done: pair=A temperature=2 seed=0")


def test_a_trial_that_another_launch_finishes_is_seen(place: Any) -> None:
    queue = grid(place)
    seen = watch(place, queue)
    seen.update()
    digest = queue.next()
    assert digest is not None
    queue.release(digest, "busy")
    place.train(queue.trials[digest])
    assert queue.next() is not None  # a student: the queue has noticed
    assert [entry.state for entry in seen.update() if entry.name.startswith("teacher")] == [State.DONE]


def test_waiting_trials_are_not_read_again_and_again(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    queue = grid(place)
    seen = watch(place, queue)
    seen.update()
    read: list[str] = []
    honest = attempts.read_status

    def counted(state_root: Any, digest: str) -> Any:
        read.append(digest)
        return honest(state_root, digest)

    monkeypatch.setattr(attempts, "read_status", counted)
    for _ in range(5):
        seen.update()
    assert read == []
    running = queue.next()
    for _ in range(3):
        seen.update()
    assert read == [running] * 3


def test_a_log_of_many_trials_is_short(
    place: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """500 trials must stay under 100 kB, so 40 under 8 kB, however long their names are and however slow they run."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
    monkeypatch.setattr(live, "STARTS_TOLD", 50)
    seeds = ", ".join(map(str, range(25)))
    long = "4, after a label that fills a line of a table, and then some more of it"
    place.write(swap={"seeds = [0]": f"seeds = [{seeds}]", 'label = "4"': f'label = "{long}"'})
    queue = Queue([place.plan("grid.toml", pair="A")], [], place.state)
    seen = watch(place, queue)
    seen.update()
    for _ in range(40):
        run_next(place, queue)
        seen._say(seen.update())  # one look a trial is the longest log there can be
    out = capsys.readouterr().out
    assert out.count(" done: ") == 40
    assert len(out.encode()) < 8_000
    for _ in range(11):
        run_next(place, queue)
    seen._say(seen.update())
    assert capsys.readouterr().out.startswith("[51/51] done: 11 trials, the last pair=A temperature=4, after")


def test_each_line_counts_what_is_done_by_then(place: Any, capsys: pytest.CaptureFixture[str]) -> None:
    queue = grid(place)
    seen = watch(place, queue)
    seen.update()
    for _ in range(3):
        run_next(place, queue)
    seen._say(seen.update())
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["[1/3]", "[2/3]", "[3/3]"]


def test_the_end_is_estimated_from_the_epochs_that_were_seen(place: Any) -> None:
    queue = grid(place)
    seen = watch(place, queue, at_once=1)
    seen.update()
    assert seen.eta_s() is None
    run_next(place, queue)
    seen.update()
    eta = seen.eta_s()
    assert eta is not None and eta > 0
    run_next(place, queue)
    run_next(place, queue)
    seen.update()
    assert seen.eta_s() == 0


class Part:
    """Stands for this sweep's part of a cluster."""

    def __init__(self) -> None:
        self.told, self.places = "", 2

    def note(self) -> str:
        return self.told

    def held(self) -> str:
        return "3 of 4 places"


def test_a_log_says_whom_the_cluster_is_shared_with_when_that_changes(
    place: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    part: Any = Part()
    seen = Watch(grid(place), place.state, place.settings.data, 2, part)
    for told in ("", "share 2:1 with 1 other sweep", "share 2:1 with 1 other sweep", ""):
        part.told = told
        seen._say(seen.update())
    assert capsys.readouterr().out.splitlines() == [
        "cluster: share 2:1 with 1 other sweep",
        "cluster: this sweep alone",
    ]
    assert len(seen._table().renderables) == 2
    part.told = "share 2:1 with 1 other sweep"
    assert str(seen._table().renderables[1]) == "3 of 4 places, share 2:1 with 1 other sweep"


def test_the_end_is_estimated_for_the_places_that_the_sweep_may_have(place: Any) -> None:
    part: Any = Part()
    queue = grid(place)
    seen = Watch(queue, place.state, place.settings.data, 2, part)
    seen.update()
    run_next(place, queue)
    seen.update()
    two = seen.eta_s()
    part.places = 1
    one = seen.eta_s()
    assert one is not None and two is not None and one > 1.5 * two


def test_a_trial_that_yielded_waits_again(place: Any) -> None:
    queue = grid(place)
    seen = watch(place, queue)
    digest = queue.next()
    assert digest is not None
    place.train(queue.trials[digest], (40.0, 50.0), end=None)
    seen.update()
    seen.update()  # the first look only met it
    assert seen.seen[digest].track.first_took_s == 1.5  # by its journal, not since its worker was asked for
    queue.release(digest, "yielded")
    seen.update()
    track = seen.seen[digest].track
    assert (track.before, track.epochs, track.began_s, track.ended_s) == (2, 0, None, None)
    assert seen.seen[digest].epochs == 2
    queue._not_before.clear()
    assert queue.next() == digest
    place.train(queue.trials[digest], (60.0,))
    seen.update()
    assert seen.seen[digest].track.first_took_s == 1.5  # of this launch, without what the earlier one took
    queue.release(digest, "done")
    seen.update()
    assert (seen.seen[digest].epochs, seen.seen[digest].state) == (3, State.DONE)
