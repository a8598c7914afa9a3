"""Which trial comes next, over real trial directories: dependencies, failures, retries, other launches."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import pytest

from sweeps import queue as queues
from sweeps import search
from sweeps.queue import MACHINE_RETRIES, Queue
from trainers import attempts
from trainers.attempts import State
from trainers.config import Execution


def names(queue: Queue, digests: Iterable[Any]) -> list[str]:
    return [queue.names[digest] for digest in digests]


def grid(place: Any, **options: Any) -> Queue:
    """Cells A/2 and A/4 and their teacher."""
    place.write()
    return Queue([place.plan("grid.toml", pair="A")], [], place.state, **options)


def drain(place: Any, queue: Queue, most: int = 50) -> list[str]:
    """Runs everything, one after the other; names in the order of running."""
    order = []
    for _ in range(most):
        digest = queue.next()
        if digest is None:
            break
        order.append(queue.names[digest])
        place.train(queue.trials[digest])
        queue.release(digest, "done")
    return order


def test_a_trial_starts_when_its_teacher_is_done(place: Any) -> None:
    queue = grid(place)
    teacher = queue.next()
    assert teacher is not None
    assert queue.names[teacher] == "teacher resnet14 seed=0"
    assert queue.next() is None
    assert not queue.finished()
    place.train(queue.trials[teacher])
    queue.release(teacher, "done")
    assert names(queue, [queue.next(), queue.next()]) == ["pair=A temperature=2 seed=0", "pair=A temperature=4 seed=0"]
    assert queue.next() is None
    assert not queue.finished()


def test_everything_runs_once_and_then_it_is_finished(place: Any) -> None:
    queue = grid(place)
    assert len(drain(place, queue)) == 3
    assert queue.finished()
    assert queue.failed == {}
    assert grid(place).finished()
    assert grid(place).next() is None


def test_a_trial_that_two_plans_need_runs_once(place: Any) -> None:
    place.write()
    queue = Queue([place.plan("grid.toml"), place.plan("grid.toml", pair="A")], [], place.state)
    order = drain(place, queue)
    assert len(order) == len(set(order)) == 6


def test_a_stopped_or_partial_trial_of_a_grid_goes_on(place: Any) -> None:
    place.write()
    plan = place.plan("grid.toml", pair="A")
    teacher, stopped, partial = plan.trials.values()
    place.train(teacher)
    place.train(stopped, (50.0,), end="stopped")
    place.train(partial, (50.0,), end=None)
    assert len(drain(place, Queue([place.plan("grid.toml", pair="A")], [], place.state))) == 2
    status = attempts.read_status(place.state, stopped.digest())
    assert status.state is State.DONE
    assert len(attempts.rows(status)) == 3  # one before, two after: nothing lost, nothing doubled


def test_a_failed_teacher_blocks_its_students_with_the_cause(place: Any) -> None:
    queue = grid(place)
    teacher = queue.next()
    assert teacher is not None
    place.train(queue.trials[teacher], end="failed", cause="loss is nan")
    queue.release(teacher, "failed", "loss is nan")
    assert queue.next() is None
    assert queue.finished()
    assert queue.failed[teacher] == "loss is nan"
    assert sorted(names(queue, queue.blocked)) == ["pair=A temperature=2 seed=0", "pair=A temperature=4 seed=0"]
    assert all("teacher resnet14 seed=0 failed" in cause for cause in queue.blocked.values())


def test_failure_goes_down_the_whole_chain(place: Any) -> None:
    queue = Queue(
        [place.plan("cudfkd/fig8", "demo", **{"measured against": "clean teacher", "lambda_0": "2"})], [], place.state
    )
    while (digest := queue.next()) is not None:
        noisy = queue.trials[digest].protocol.stop_at_acc1_pct is not None
        place.train(queue.trials[digest], end="failed" if noisy else "done")
        queue.release(digest, "failed" if noisy else "done")
    assert queue.finished()
    assert len(queue.blocked) == 2  # the student, and the evaluation that measures it


def test_one_failed_student_leaves_the_others_alone(place: Any) -> None:
    queue = grid(place)
    teacher = queue.next()
    assert teacher is not None
    place.train(queue.trials[teacher])
    queue.release(teacher, "done")
    first = queue.next()
    assert first is not None
    place.train(queue.trials[first], end="failed")
    queue.release(first, "failed", "broken")
    assert drain(place, queue) == ["pair=A temperature=4 seed=0"]
    assert queue.failed == {first: "broken"}


def test_a_crashed_trial_is_tried_again_three_times_and_first(place: Any) -> None:
    queue = grid(place)
    (teacher,) = [digest for digest, name in queue.names.items() if name.startswith("teacher")]
    for _ in range(1 + MACHINE_RETRIES):
        assert not queue.finished()
        digest = queue.next()
        assert digest == teacher
        queue.release(digest, "crashed", "killed by signal 9")
    assert queue.next() is None
    assert queue.finished()
    assert "died 4 times: killed by signal 9" in queue.failed[teacher]
    assert len(queue.blocked) == 2


def out_of_memory(place: Any, queue: Queue, digest: str) -> None:
    """As a worker leaves a trial whose device ran out of memory."""
    with attempts.claim(queue.trials[digest], place.state, Execution(), lease_s=0.1) as attempt:
        attempt.note_machine_fault("CUDA out of memory. Tried to allocate 2.00 GiB.", "device_memory")
    queue.release(digest, "crashed")


def test_out_of_device_memory_is_tried_again_once_and_alone(place: Any) -> None:
    queue = grid(place)
    teacher = queue.next()
    assert teacher is not None
    assert not queue.alone(teacher)
    out_of_memory(place, queue, teacher)
    assert queue.next() == teacher
    assert queue.alone(teacher)
    out_of_memory(place, queue, teacher)
    assert queue.next() is None
    assert queue.finished()
    assert queue.failed[teacher] == (
        "out of memory, though alone on the device: CUDA out of memory. Tried to allocate 2.00 GiB."
    )
    assert len(queue.blocked) == 2


def test_the_next_launch_knows_that_a_trial_must_be_alone(place: Any) -> None:
    queue = grid(place)
    teacher = queue.next()
    assert teacher is not None
    out_of_memory(place, queue, teacher)
    again = grid(place)
    assert [again.alone(digest) for digest in (teacher, again.waiting[-1])] == [True, False]


def test_a_worker_that_died_too_often_leaves_word_of_it(place: Any) -> None:
    queue = grid(place)
    for _ in range(1 + MACHINE_RETRIES):
        digest = queue.next()
        assert digest is not None
        with attempts.claim(queue.trials[digest], place.state, Execution(), lease_s=0.1):
            pass
        queue.release(digest, "crashed")
    fault = attempts.machine_fault(attempts.read_status(place.state, digest))
    assert fault is not None
    assert (fault["kind"], fault["cause"]) == ("worker", "its worker died 4 times: killed, or its node was lost")


def test_a_crash_after_the_seal_is_no_crash(place: Any) -> None:
    queue = grid(place)
    digest = queue.next()
    assert digest is not None
    place.train(queue.trials[digest])
    queue.release(digest, "crashed")
    assert queue.failed == {}
    assert len(drain(place, queue)) == 2


def test_a_busy_trial_comes_back_after_a_while(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "BUSY_WAIT_S", 0.2)
    queue = grid(place)
    digest = queue.next()
    assert digest is not None
    queue.release(digest, "busy")
    assert queue.next() is None
    assert not queue.finished()
    time.sleep(0.25)
    assert queue.next() == digest


def test_a_busy_trial_that_another_launch_finished_is_done(place: Any) -> None:
    queue = grid(place)
    digest = queue.next()
    assert digest is not None
    queue.release(digest, "busy")
    place.train(queue.trials[digest])
    assert drain(place, queue) == ["pair=A temperature=2 seed=0", "pair=A temperature=4 seed=0"]
    assert queue.finished()


def test_what_waits_for_a_trial_of_this_launch_is_not_read_from_disk(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = grid(place)
    read: list[str] = []
    honest = queues.read_status

    def counted(state_root: Any, digest: str) -> Any:
        read.append(digest)
        return honest(state_root, digest)

    monkeypatch.setattr(queues, "read_status", counted)
    teacher = queue.next()
    assert teacher is not None
    assert [queue.next() for _ in range(20)] == [None] * 20
    assert read == [teacher]
    place.train(queue.trials[teacher])
    queue.release(teacher, "done")
    first = queue.next()
    assert read.count(teacher) == 3  # when it started, when it came back, and once for all of its students
    queue.next()
    assert read.count(teacher) == 3
    assert queue.names[str(first)] == "pair=A temperature=2 seed=0"


def test_a_busy_trial_that_failed_elsewhere_is_not_tried_here(place: Any) -> None:
    queue = grid(place)
    digest = queue.next()
    assert digest is not None
    queue.release(digest, "fenced")
    place.train(queue.trials[digest], end="failed")
    assert [queue.next(), queue.next()] == [None, None]
    assert queue.finished()
    assert queue.failed[digest] == "failed in another launch"


def test_what_failed_earlier_runs_again_only_when_asked(place: Any) -> None:
    place.write()
    plan = place.plan("grid.toml", pair="A")
    place.train(next(iter(plan.trials.values())), end="failed")
    queue = grid(place)
    assert queue.next() is None
    assert queue.finished()
    assert "failed earlier" in queue.failed.values()
    assert len(queue.blocked) == 2
    again = grid(place, retry_failed=True)
    assert len(drain(place, again)) == 3
    assert again.failed == {}


def test_an_outcome_without_a_result_is_a_failure(place: Any) -> None:
    queue = grid(place)
    digest = queue.next()
    assert digest is not None
    queue.release(digest, "done")  # but nothing was sealed
    assert "without a result" in queue.failed[digest]


def test_a_held_trial_is_left_to_its_owner(place: Any) -> None:
    queue = grid(place)
    digest = queue.next()
    assert digest is not None
    with attempts.claim(queue.trials[digest], place.state, Execution()) as attempt:
        assert attempt.number == 1
        assert place.plan("grid.toml", pair="A").states[digest] is State.PARTIAL


def test_a_trial_that_yielded_goes_on_first_and_is_not_counted_as_crashed(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "YIELD_WAIT_S", 0.1)
    queue = grid(place)
    teacher = queue.next()
    assert teacher is not None
    for _ in range(3 * MACHINE_RETRIES):
        place.train(queue.trials[teacher], (50.0,), end=None)
        queue.release(teacher, "yielded")
        assert not queue.finished()
        assert queue.next() is None  # its worker lets go of it meanwhile
        time.sleep(0.12)
        assert queue.next() == teacher
    assert queue.failed == {}
    place.train(queue.trials[teacher])
    queue.release(teacher, "done")
    first, second = queue.next(), queue.next()
    assert first is not None
    queue.release(first, "yielded")  # it had not begun
    time.sleep(0.12)
    assert queue.next() == first
    rows = attempts.rows(attempts.read_status(place.state, teacher))
    assert [row["epoch"] for row in rows] == list(range(3 * MACHINE_RETRIES + 2))
    assert second is not None


def test_a_trial_that_yielded_and_that_another_launch_finished_is_done(place: Any) -> None:
    queue = grid(place)
    teacher = queue.next()
    assert teacher is not None
    place.train(queue.trials[teacher])
    queue.release(teacher, "yielded")
    assert len(drain(place, queue)) == 2
    assert queue.finished()


def test_what_could_start_is_told_without_starting_it(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "YIELD_WAIT_S", 60.0)
    text = "seeds = [0]\nresources = { cpu = 2, gpu = 0.5 }"
    queue = Queue([place.plan(place.write(swap={"seeds = [0]": text}), pair="A")], [], place.state)
    assert queue.startable(9) == [(2, 0.5)]
    teacher = queue.next()
    assert teacher is not None
    assert queue.startable(9) == []
    queue.release(teacher, "yielded")
    assert queue.startable(9) == []
    queue._not_before.clear()
    assert queue.startable(9) == [(2, 0.5)]
    assert queue.next() == teacher
    out_of_memory(place, queue, teacher)
    assert queue.startable(9) == [(2, 1.0)]  # a device for itself
    assert queue.next() == teacher
    place.train(queue.trials[teacher])
    queue.release(teacher, "done")
    assert queue.startable(9) == [(2, 0.5)] * 2
    assert queue.startable(1) == [(2, 0.5)]
    assert len(queue.waiting) == 2


# --- groups ----------------------------------------------------------------------------------------------------------

WIDE = {
    "values = [{ label": 'values = [{ label = "1", value = 1.0 }, { label = "3", value = 3.0 }, { label',
}


def taught(place: Any, *, swap: dict[str, str] | None = None, **only: str) -> Queue:
    """Students whose teachers are done: temperatures 1 to 4 for each pair of networks."""
    plan = place.plan(place.write(swap=WIDE if swap is None else swap), **only)
    for digest, trial in plan.trials.items():
        if plan.names[digest].startswith("teacher") and plan.states[digest] is State.NEW:
            place.train(trial)
    return Queue([place.plan("grid.toml", **only)], [], place.state)


def start(queue: Queue, places: int, most: int = 8) -> list[str]:
    """The next group, by the temperature of its members."""
    first = queue.next()
    assert first is not None
    found = [first, *queue.companions(first, most, places)]
    assert set(found) <= queue.running
    assert {queue.groups[digest] for digest in found} == {tuple(found)}
    return [temperature(queue, digest) for digest in found]


def temperature(queue: Queue, digest: str) -> str:
    """Of a student; "" of a teacher."""
    return queue.names[digest].partition("temperature=")[2][:1]


def test_students_of_one_teacher_start_together_and_are_shared_out(place: Any) -> None:
    assert start(taught(place, pair="A"), places=1) == ["1", "3", "2", "4"]
    queue = taught(place, pair="A")
    assert [start(queue, places=2), start(queue, places=2)] == [["1", "3"], ["2", "4"]]
    queue = taught(place, pair="A")
    assert [start(queue, places=3) for _ in range(3)] == [["1", "3"], ["2"], ["4"]]
    assert queue.next() is None


def test_a_group_is_no_larger_than_allowed_and_has_one_teacher(place: Any) -> None:
    queue = taught(place)
    assert start(queue, places=1, most=3) == ["1", "3", "2"]
    assert start(queue, places=1, most=3) == ["4"]  # the other pair has another teacher
    assert start(queue, places=1, most=1) == ["1"]
    assert start(queue, places=1) == ["3", "2", "4"]


def test_one_that_waits_for_its_teacher_or_is_done_elsewhere_is_no_companion(place: Any) -> None:
    queue = taught(place, pair="A")
    place.train(next(t for d, t in queue.trials.items() if temperature(queue, d) == "3"))  # by another launch
    assert start(queue, places=1) == ["1", "2", "4"]
    fresh = Queue([place.plan("grid.toml", pair="B")], [], place.state)
    teacher = fresh.next()
    assert teacher is not None
    assert fresh.companions(teacher, 8, 1) == []


def test_one_that_was_begun_with_other_threads_starts_apart(place: Any) -> None:
    queue = taught(place, pair="A")
    two, four = (t for d, t in queue.trials.items() if temperature(queue, d) in ("2", "4"))
    for trial, execution in ((two, Execution(threads=1)), (four, Execution.of_new(1))):
        with attempts.claim(trial, place.state, execution):
            pass
    assert start(queue, places=1) == ["1", "3", "4"]
    assert start(queue, places=1) == ["2"]


def test_trials_whose_time_is_reported_are_alone(place: Any) -> None:
    timed = {'metrics = ["test/acc1_pct"]': 'metrics = ["test/acc1_pct", "time/train_s"]'}
    assert start(taught(place, swap={**WIDE, **timed}, pair="A"), places=1) == ["1"]


def test_members_of_a_group_that_died_are_tried_again_alone_each_with_its_own_turns(place: Any) -> None:
    queue = taught(place, pair="A")
    start(queue, places=1, most=3)
    poison, *others = queue.groups[next(iter(queue.running))]
    for digest in (poison, *others):
        queue.release(digest, "crashed", "killed by signal 9")
    ended = []
    while (digest := queue.next()) is not None:
        assert queue.companions(digest, 8, 1) == []
        if digest == poison:
            queue.release(digest, "crashed", "killed by signal 9")
            continue
        place.train(queue.trials[digest])
        queue.release(digest, "done")
        ended.append(digest)
    assert "died 4 times" in queue.failed[poison]
    assert set(others) < set(ended) and len(ended) == 3
    assert queue.finished()


def test_a_member_that_ran_out_of_device_memory_is_alone_from_then_on(place: Any) -> None:
    queue = taught(place, pair="A")
    start(queue, places=1, most=2)
    first, second = queue.groups[next(iter(queue.running))]
    out_of_memory(place, queue, second)
    place.train(queue.trials[first])
    queue.release(first, "done")
    assert queue.next() == second
    assert queue.alone(second)
    assert queue.companions(second, 8, 1) == []
    assert queue.failed == {}


def test_what_was_taken_back_is_not_taken_back_again(place: Any) -> None:
    queue = taught(place, pair="A")
    start(queue, places=1, most=2)
    first, second = queue.groups[next(iter(queue.running))]
    place.train(queue.trials[first], (50.0,), end="stopped")
    queue.release(first, "stopped")
    queue.release(first, "fenced")  # what its worker makes of it
    assert first not in queue.waiting
    assert queue.running == {second}


# --- with a search ---------------------------------------------------------------------------------------------------


def searching(place: Any, text: str, total: int = 4, *more: Any) -> Queue:
    plan = place.plan(place.write(text, "search.toml"))
    return Queue([plan, *more], search.studies_of(plan, place.settings, total), place.state)


def test_a_search_makes_its_trials_one_after_the_other(place: Any, search_text: str) -> None:
    queue = searching(place, search_text)
    order = drain(place, queue)
    assert order[0] == "teacher resnet14 seed=0"
    assert [name.split()[0] for name in order[1:]] == ["#0", "#1", "#2", "#3"]
    assert "temperature=" in order[1]
    assert queue.finished()


def test_nothing_is_suggested_while_an_earlier_suggestion_waits_for_its_teacher(place: Any, search_text: str) -> None:
    queue = searching(place, search_text)
    teacher = queue.next()
    assert teacher is not None
    assert [queue.next() for _ in range(3)] == [None] * 3
    assert len(queue.studies[0].asked()) == 1
    place.train(queue.trials[teacher])
    queue.release(teacher, "done")
    assert len({queue.next() for _ in range(3)}) == 3  # now as many as there are places
    assert len(queue.studies[0].asked()) == 3


@pytest.mark.parametrize(
    ("pruner", "watched"), [("none", []), ("asha", ["val/acc1_pct"]), ("median", ["val/acc1_pct"])]
)
def test_epochs_are_watched_where_a_pruner_may_cut_between_them(
    place: Any, search_text: str, pruner: str, watched: list[str]
) -> None:
    queue = searching(place, search_text.replace("[search]", f'[search]\npruner = "{pruner}"'))
    teacher = queue.next()
    assert teacher is not None
    assert queue.watched(teacher) == watched
    place.write()
    both = Queue([*queue.plans, place.plan("grid.toml", pair="A")], queue.studies, place.state)
    shared = next(digest for digest, name in both.names.items() if name == "pair=A temperature=2 seed=0")
    assert both.watched(shared) == []  # a grid wants it whole


def test_grids_go_before_searches(place: Any, search_text: str) -> None:
    place.write()
    queue = searching(place, search_text, 2, place.plan("grid.toml", pair="A"))
    assert [name.split()[0] for name in drain(place, queue)] == ["teacher", "pair=A", "pair=A", "#0", "#1"]


def test_a_search_whose_teacher_fails_ends_and_keeps_its_suggestion(place: Any, search_text: str) -> None:
    queue = searching(place, search_text)
    teacher = queue.next()
    assert teacher is not None
    place.train(queue.trials[teacher], end="failed")
    queue.release(teacher, "failed", "broken")
    assert queue.next() is None
    assert queue.finished()
    assert len(queue.studies[0].asked()) == 1
    plan = place.plan("search.toml")
    again = Queue([plan], search.studies_of(plan, place.settings, 4), place.state, retry_failed=True)
    assert [name.split()[0] for name in drain(place, again)] == ["teacher", "#0", "#1", "#2", "#3"]


def test_a_suggestion_whose_worker_keeps_dying_does_not_hold_the_others_up(place: Any, search_text: str) -> None:
    queue = searching(place, search_text, 3)
    ended = []
    for _ in range(20):
        digest = queue.next()
        if digest is None:
            break
        name = queue.names[digest].split()[0]
        if name == "#1":
            queue.release(digest, "crashed", "out of memory")
            continue
        place.train(queue.trials[digest])
        queue.release(digest, "done")
        ended.append(name)
    assert ended == ["teacher", "#0", "#2"]
    assert queue.finished()
    assert len(queue.failed) == 1


def test_a_suggestion_that_fails_is_told_and_the_search_goes_on(place: Any, search_text: str) -> None:
    queue = searching(place, search_text, 3)
    while (digest := queue.next()) is not None:
        failed = queue.names[digest].startswith("#1")
        place.train(queue.trials[digest], end="failed" if failed else "done")
        queue.release(digest, "failed" if failed else "done", "broken")
    assert queue.finished()
    states = [row["state"] for row in search.as_json(queue.studies)["cells"][0]["suggestions"]]
    assert states == ["complete", "failed", "complete"]


def test_what_a_search_may_suggest_could_start_too(
    place: Any, search_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = searching(place, search_text, 3)
    assert len(queue.startable(9)) == 3 + 0  # the teacher, and more than will be: the search has not been asked yet
    teacher = queue.next()
    assert teacher is not None
    assert queue.next() is None  # now one suggestion waits for the teacher
    assert queue.startable(9) == []
    place.train(queue.trials[teacher])
    queue.release(teacher, "done")
    assert len(queue.startable(9)) == 1  # that one; the search is asked when it is on its way
    assert queue.next() is not None
    assert len(queue.startable(9)) == 2
    assert len(queue.studies[0].asked()) == 1
    monkeypatch.setattr(queue.studies[0], "ask", lambda: None)
    assert queue.next() is None
    assert queue.startable(9) == []  # it has nothing now, so no place is kept for it
    later = time.monotonic() + queues.VAIN_S
    monkeypatch.setattr(queues.time, "monotonic", lambda: later)
    assert len(queue.startable(9)) == 2
