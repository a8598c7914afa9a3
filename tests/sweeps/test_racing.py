"""Searches that cut suggestions short: racing over seeds, ASHA over epochs, kills anywhere, failures tried again."""

from __future__ import annotations

import math
from typing import Any

import pytest
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from sweeps import search
from sweeps.queue import Queue
from tests.sweeps.searching import SEEDS, Launch, changed, curve, noisy, quality, racing
from trainers import attempts
from trainers.attempts import State

FIRST_CUT = 4
"""Four seeds of one sign have p = 1/16, below the threshold of 0.1."""


def state(found: Launch, digest: str) -> State:
    return attempts.read_status(found.place.state, digest).state


def few_points(text: str) -> str:
    """The search over four points."""
    text = text.replace("low = 1.0, high = 20.0, log = true", "choices = [2.0, 4.0]")
    return text.replace("low = 0.0, high = 1.0", "choices = [0.5, 1.0]")


# --- racing ----------------------------------------------------------------------------------------------------------


def test_worse_suggestions_end_after_four_seeds_and_the_rest_is_never_trained(launch: Any, search_text: str) -> None:
    """Seeds add the same to every suggestion here, so one that is worse is worse on every seed: cut at p = 1/16."""
    found = launch(racing(search_text)).go()
    best = -math.inf
    expected = []
    for suggestion in found.studies[0].suggestions():
        worth = quality(suggestion.trials[0])
        expected.append("complete" if worth > best else "pruned")
        best = max(best, worth)
        trained = SEEDS if expected[-1] == "complete" else SEEDS[:FIRST_CUT]
        for seed, digest in suggestion.digests.items():
            assert state(found, digest) is (State.DONE if seed in trained else State.NEW)
        assert list(found.rows[suggestion.number]["trials"]) == [str(seed) for seed in trained]
    assert found.states == expected
    assert len(set(expected)) == 2
    assert len(found.trained) == 1 + 6 * expected.count("complete") + 4 * expected.count("pruned")
    assert found.queue.finished()
    assert found.queue.expected() == len(found.trained)


def test_a_close_race_goes_on_and_its_value_is_the_mean_of_all_seeds(launch: Any, search_text: str) -> None:
    found = launch(racing(search_text), 10).go(epochs=noisy)
    lengths = [len(row["trials"]) for row in found.rows]
    complete = [row for row in found.rows if row["state"] == "complete"]
    assert set(lengths) == {4, 5, 6}
    values = [row["value"] for row in complete]
    assert sorted(values) != values  # one was worse than the best before it, but not clearly
    for row in complete:
        each = [noisy(found.queue.trials[digest])[0] for digest in row["trials"].values()]
        assert len(each) == 6
        assert row["value"] == pytest.approx(sum(each) / 6)


def test_seeds_of_a_race_are_handed_out_in_order_the_last_ones_one_by_one(launch: Any, search_text: str) -> None:
    found = launch(racing(search_text), 2)
    queue = found.queue

    def finish(digest: str) -> None:
        queue.release(digest, found.run(digest, queue.trials[digest], [90.0]))

    teacher = queue.next()
    found.place.train(queue.trials[teacher])
    queue.release(teacher, "done")
    first = [queue.next() for _ in range(4)]
    assert [queue.trials[digest].seed for digest in first] == list(SEEDS[:4])
    assert queue.names[queue.next()].startswith(
        "#1 "
    )  # a free place goes to the next suggestion, not to a seed held back
    assert queue.expected() == 1 + 2 * 6
    for digest in first[1:]:
        finish(digest)
    assert all(queue.names[queue.next()].startswith("#1 ") for _ in range(3))
    assert queue.next() is None  # the first seed of #0 is still running
    assert not queue.finished()
    finish(first[0])
    fifth = queue.next()
    assert queue.trials[fifth].seed == 5
    assert queue.next() is None
    finish(fifth)
    assert queue.trials[queue.next()].seed == 4


@pytest.mark.parametrize("kind", ["journal file", "SQLite"])
def test_a_killed_race_goes_on_with_the_same_suggestions_and_cuts(kind: str, launch: Any, search_text: str) -> None:
    unbroken = launch(racing(search_text), 7, at="unbroken").go(epochs=noisy)
    assert set(unbroken.states) == {"complete", "pruned"}
    url = None

    def again() -> Launch:
        found: Launch = launch(racing(search_text), 7, at="killed", study_url=url)
        return found

    folder = again().place.folder
    url = None if kind == "journal file" else f"sqlite:///{folder / 'studies.db'}"
    trained = []
    for most in (1, 3, 1, 1, 2, 5, 1, 1, 4, 1):
        killed = again().go(most, epochs=noisy)
        trained += killed.trained
        killed.queue.next()  # handed out, never trained
    reopened = again().go(epochs=noisy)
    assert reopened.params == unbroken.params
    assert [row["value"] for row in reopened.rows] == [row["value"] for row in unbroken.rows]
    assert [list(row["trials"]) for row in reopened.rows] == [list(row["trials"]) for row in unbroken.rows]
    assert sorted(trained + reopened.trained) == sorted(unbroken.trained)
    cuts = [t.user_attrs.get(search.CUT) for t in reopened.studies[0].asked()]
    assert cuts == [t.user_attrs.get(search.CUT) for t in unbroken.studies[0].asked()]


def test_seeds_that_are_known_race_without_training(launch: Any, search_text: str) -> None:
    text = few_points(racing(search_text))
    launch(few_points(search_text), 10, seeds=SEEDS).go()  # a study of its own, which trains all
    found = launch(text, 10).go()
    assert found.trained == []
    assert set(found.states) == {"complete"}


def test_a_point_that_lost_its_race_is_not_raced_again(launch: Any, search_text: str) -> None:
    found = launch(few_points(racing(search_text)), 12).go(epochs=noisy)
    points = [tuple(row["params"].values()) for row in found.rows]
    lost = [point for point, word in zip(points, found.states, strict=True) if word == "pruned"]
    assert len(set(lost)) < len(lost)
    assert len(set(found.trained)) == len(found.trained)
    assert all(points.count(point) == lost.count(point) for point in lost)
    twins = [t for t in found.studies[0].asked() if t.state is TrialState.PRUNED]
    assert all(len(t.intermediate_values) in (4, 5) for t in twins)


def test_each_cell_of_a_grid_has_a_race_of_its_own(launch: Any, search_text: str) -> None:
    text = racing(search_text).replace("rows =", 'columns = "students"\nrows =') + (
        '\n[[axes]]\nname = "students"\nvalues = [{ label = "small", student = "resnet8" }, { label = "big", student = "resnet14" }]\n'
    )
    text = text.replace('student = "resnet8"\n\n[search]', "\n[search]")
    found = launch(text, 4).go()
    small, big = search.as_json(found.studies)["cells"]
    assert [row["params"] for row in small["suggestions"]] == [row["params"] for row in big["suggestions"]]
    assert [row["state"] for row in small["suggestions"]] == [row["state"] for row in big["suggestions"]]
    digests = [digest for cell in (small, big) for row in cell["suggestions"] for digest in row["trials"].values()]
    assert sorted(found.trained) == sorted({*digests, found.trained[0]})
    assert len(found.trained) == 1 + len(digests)


# --- epochs ----------------------------------------------------------------------------------------------------------


def test_the_other_seeds_wait_for_what_the_pruner_says_of_the_first(launch: Any, search_text: str) -> None:
    found = launch(changed(search_text, 'pruner = "asha"'), 10, seeds=(0, 10, 20)).go(epochs=curve)
    lengths = {"complete": 3, "pruned": 1}
    assert {row["state"]: len(row["trials"]) for row in found.rows} == lengths
    assert len(found.trained) == 1 + sum(lengths[row["state"]] for row in found.rows)


@pytest.mark.parametrize("pruner", ["asha", "median"])
@pytest.mark.parametrize(("epochs", "deaf"), [(1, True), (1, False), (3, True), (3, False), (8, False), (9, True)])
def test_a_trial_killed_at_any_epoch_is_cut_where_an_unbroken_one_is(
    pruner: str, epochs: int, deaf: bool, launch: Any, search_text: str
) -> None:
    """Deaf: the epoch is in the journal, and the driver died before it heard of it; else, before it could act on the answer."""
    text = changed(search_text, f'pruner = "{pruner}"')
    unbroken = launch(text, 8, at="unbroken").go(epochs=curve)
    assert set(unbroken.states) == {"complete", "pruned"}
    for number in range(8):
        killed = launch(text, 8, at="killed").go(1, epochs=curve)
        digest = killed.queue.next()
        if digest is not None:
            trial = killed.queue.trials[digest]
            killed.run(digest, trial, curve(trial), most=epochs, deaf=deaf)
        assert len(killed.rows) > number or digest is None
    reopened = launch(text, 8, at="killed").go(epochs=curve)
    assert reopened.params == unbroken.params
    assert reopened.states == unbroken.states
    assert [t.user_attrs.get(search.CUT) for t in reopened.studies[0].asked()] == [
        t.user_attrs.get(search.CUT) for t in unbroken.studies[0].asked()
    ]


def test_a_known_trial_is_told_without_training_and_its_epochs_compete(launch: Any, search_text: str) -> None:
    text = changed(search_text, 'pruner = "asha"')
    best = launch(search_text, 3, at="one").go(epochs=curve)  # without a pruner: all are finished
    found = launch(text, 3, at="one").go(epochs=curve)
    assert found.params == best.params
    assert found.trained == []
    assert found.states == ["complete"] * 3
    for frozen, row in zip(found.studies[0].asked(), found.rows, strict=True):
        assert row["value"] == best.rows[row["number"]]["value"]
        assert list(frozen.intermediate_values.values()) == curve(found.queue.trials[row["trials"]["0"]])


def test_a_point_that_was_cut_is_not_trained_again(launch: Any, search_text: str) -> None:
    found = launch(few_points(changed(search_text, 'pruner = "asha"')), 12).go(epochs=curve)
    points = [tuple(row["params"].values()) for row in found.rows]
    assert len(set(points)) == 4
    assert len(found.trained) == len(set(found.trained)) == 1 + 4
    assert found.states.count("pruned") > len({p for p, s in zip(points, found.states, strict=True) if s == "pruned"})


def test_a_trial_stopped_for_another_study_goes_on_for_one_that_wants_it_whole(launch: Any, search_text: str) -> None:
    cut = launch(changed(search_text, 'pruner = "asha"'), 3).go(epochs=curve)
    assert "pruned" in cut.states
    whole = launch(search_text, 3).go(epochs=curve)
    assert whole.params == cut.params
    assert whole.states == ["complete"] * 3
    assert len(whole.trained) == cut.states.count("pruned")
    for row in whole.rows:
        status = attempts.read_status(whole.place.state, row["trials"]["0"])
        assert len(attempts.rows(status)) == 9  # nothing lost, nothing doubled


@pytest.mark.parametrize("second", ["asha", "none"])
def test_a_trial_of_two_studies_is_cut_when_both_say_so(second: str, launch: Any, search_text: str) -> None:
    one = launch(changed(search_text, 'pruner = "asha"'), 3)
    text = changed(search_text, f'pruner = "{second}"').replace("startup_trials = 3", "startup_trials = 4")
    two = launch(text, 3)  # another study, whose first three points are the same
    studies = [*one.studies, *two.studies]
    one.queue = Queue([study.plan for study in studies], studies, one.place.state)
    one.go(0)
    teacher = one.queue.next()
    one.place.train(one.queue.trials[teacher])
    one.queue.release(teacher, "done")
    at_once = [one.queue.next() for _ in range(3)]
    assert one.queue.next() is None
    assert [len(study.open) for study in studies] == [3, 3]
    for digest in at_once:
        trial = one.queue.trials[digest]
        one.queue.release(digest, one.run(digest, trial, curve(trial)))
    assert one.go().queue.finished()
    assert one.trained == []
    cut = [state(one, row["trials"]["0"]) is State.STOPPED for row in one.rows]
    assert "pruned" in one.states
    assert two.states == (one.states if second == "asha" else ["complete"] * 3)
    assert any(cut) == (second == "asha")


# --- failures --------------------------------------------------------------------------------------------------------


def failing(found: Launch, number: int, *, most: int = 100) -> list[str]:
    """Runs a launch in which the first seed of one suggestion fails; names of what ran."""
    order = []
    while most > 0 and (digest := found.queue.next()) is not None:
        trial, name = found.queue.trials[digest], found.queue.names[digest]
        order.append(name.split()[0])
        failed = name.startswith(f"#{number} ") and trial.seed == 0
        found.place.train(
            trial, (quality(trial) if trial.method != "ce" else 50.0,), end="failed" if failed else "done"
        )
        found.queue.release(digest, "failed" if failed else "done", "broken")
        most -= 1
    return order


def test_the_other_seeds_of_a_suggestion_that_failed_are_not_trained(launch: Any, search_text: str) -> None:
    found = launch(search_text, 3, seeds=(0, 1, 2))
    assert failing(found, 1) == ["teacher", "#0", "#0", "#0", "#1", "#2", "#2", "#2"]
    assert found.states == ["complete", "failed", "complete"]
    assert list(found.rows[1]["trials"]) == ["0"]
    assert found.queue.finished()


@pytest.mark.parametrize("pruner", ["none", "wilcoxon"])
@pytest.mark.parametrize("kind", ["journal file", "SQLite"])
def test_a_failed_suggestion_is_tried_again_in_its_place(pruner: str, kind: str, launch: Any, search_text: str) -> None:
    text = changed(search_text, f'pruner = "{pruner}"').replace("seeds = [0]", "seeds = [0, 1, 2, 3, 4]")
    url = None if kind == "journal file" else f"sqlite:///{launch(text, 3).place.folder / 'studies.db'}"
    first = launch(text, 3, study_url=url)
    failing(first, 1)
    params = first.params
    assert first.states[1] == "failed"
    assert launch(text, 3, study_url=url).go().trained == []  # nobody asked for it
    second = launch(text, 3, study_url=url, retry_failed=True)
    assert failing(second, 1) == ["#1"]  # and it fails again
    assert second.states[1] == "failed"
    third = launch(text, 3, study_url=url, retry_failed=True)
    assert set(failing(third, 9)) == {"#1"}
    assert third.states[1] in ("complete", "pruned")
    assert [row["number"] for row in third.rows] == [0, 1, 2]
    assert third.params == params
    assert third.queue.failed == {}
    assert launch(text, 3, study_url=url, retry_failed=True).go().trained == []
    assert len(launch(text, 4, study_url=url).go().rows) == 4  # a total counts it once


def test_a_failed_suggestion_that_a_grid_has_trained_since_is_told(launch: Any, search_text: str) -> None:
    found = launch(search_text, 2)
    failing(found, 1)
    found.place.train(found.queue.trials[found.rows[1]["trials"]["0"]], (70.0,))
    again = launch(search_text, 2, retry_failed=True).go()
    assert (again.trained, again.states) == ([], ["complete", "complete"])


# --- two launches at once --------------------------------------------------------------------------------------------


def test_a_suggestion_that_another_launch_told_is_left_as_it_is(launch: Any, search_text: str) -> None:
    text = changed(search_text, 'pruner = "asha"')
    one = launch(text, 3)
    digest = one.queue.next()
    one.place.train(one.queue.trials[digest])
    one.queue.release(digest, "done")
    digest = one.queue.next()
    trial = one.queue.trials[digest]
    assert one.run(digest, trial, curve(trial)) == "done"
    other = launch(text, 3)  # as `sweep status` does
    assert other.states == ["complete"]
    assert one.queue.should_prune(digest, 3, {"val/acc1_pct": 1.0}) is False
    one.queue.release(digest, "done")
    assert one.go(epochs=curve).states[0] == "complete"
    assert len(one.rows) == 3


def test_a_suggestion_thrown_away_while_it_was_made_is_made_again(
    launch: Any, search_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = launch(search_text, 2, at="unbroken").go()
    found = launch(search_text, 2, at="two")
    sample = type(found.studies[0].study.sampler).sample_independent
    thrown: list[int] = []

    def meddle(self: Any, study: Any, trial: Any, *rest: Any) -> Any:
        if not thrown:
            thrown.append(trial.number)
            launch(search_text, 2, at="two")  # starts this moment, and finds a suggestion without parameters
        return sample(self, study, trial, *rest)

    monkeypatch.setattr(type(found.studies[0].study.sampler), "sample_independent", meddle)
    found.go()
    assert thrown
    assert found.params == unbroken.params


@pytest.mark.parametrize("asked", [True, False], ids=["after it was made", "before it had parameters"])
def test_a_suggestion_made_while_the_storage_went_away_is_taken_up(
    asked: bool, launch: Any, search_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = launch(search_text, 3, at="unbroken").go()
    found = launch(search_text, 3, at="away")
    (study,) = found.studies

    def away(distributions: Any) -> Any:
        type(study.study).ask(study.study, distributions if asked else None)
        monkeypatch.undo()
        raise StorageInternalError("gone") from OSError("connection refused")

    found.go(1)
    monkeypatch.setattr(study.study, "ask", away)
    assert found.queue.next() is None
    assert not found.queue.finished()
    assert found.go().queue.finished()
    assert found.rows == unbroken.rows if asked else found.params == unbroken.params
    assert len(found.trained) == 1 + 3
