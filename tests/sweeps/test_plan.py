"""What a run would do: counts, what is new, what several experiments share, and what it would cost."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sweeps import plan as planning
from trainers.attempts import State


def test_counts_cells_times_seeds_and_teachers(place: Any) -> None:
    plan = place.plan(place.write(), seeds=(0, 10, 20))
    assert len(plan.entries) == 4 * 3
    assert len(plan.trials) == 4 * 3 + 2
    assert planning.counts([plan]) == Counter({State.NEW: 14})
    assert planning.summary([plan]) == "14 trials: 14 new"


def test_upstream_comes_before_what_needs_it(place: Any) -> None:
    plan = place.plan("cudfkd/fig8", "demo")
    order = list(plan.trials)
    for digest, trial in plan.trials.items():
        assert all(order.index(up.digest()) < order.index(digest) for up in trial.upstreams())
    assert len(order) == 8 + 8 + 2  # students, their evaluations, noisy and clean teacher


def test_names_are_readable_and_unique(place: Any) -> None:
    plan = place.plan("cudfkd/fig9", "demo")
    assert len(set(plan.names.values())) == len(plan.names) == 10
    assert "teacher resnet14 seed=0" in plan.names.values()
    assert "k_begin=1/5 k_end=3/4 seed=0" in plan.names.values()  # the pair, of which demo keeps one, is left out
    noisy = place.plan("cudfkd/fig8", "demo").names.values()
    assert len(set(noisy)) == len(noisy)


def test_every_state_is_counted_and_what_is_done_is_not_new(place: Any) -> None:
    plan = place.plan(place.write())
    done, failed, partial, stopped = list(plan.trials.values())[:4]
    place.train(done)
    place.train(failed, end="failed")
    place.train(partial, end=None)
    place.train(stopped, end="stopped")
    again = place.plan("grid.toml")
    assert planning.summary([again]) == "6 trials: 1 done, 1 partial, 1 stopped, 1 failed, 2 new"
    assert again.states[done.digest()] is State.DONE


@pytest.mark.parametrize(
    ("old", "new", "fresh"),
    [
        (
            '{ label = "4", value = 4.0 }',
            '{ label = "4", value = 4.0 }, { label = "8", value = 8.0 }',
            {"pair=A temperature=8 seed=0", "pair=B temperature=8 seed=0"},
        ),
        ("seeds = [0]", "seeds = [0, 10]", {f"pair={p} temperature={t} seed=10" for p in "AB" for t in "24"}),
        (
            '{ label = "B"',
            '{ label = "C", teacher = "resnet32", student = "resnet8" },\n    { label = "B"',
            {"pair=C temperature=2 seed=0", "pair=C temperature=4 seed=0", "teacher resnet32 seed=0"},
        ),
        ('title = "Small grid"', 'title = "Another title"', set()),
        ('label = "2"', 'label = "two"', set()),
    ],
    ids=["value", "seed", "pair", "title", "label"],
)
def test_an_extended_file_starts_only_what_is_new(old: str, new: str, fresh: set[str], place: Any) -> None:
    place.train_all(place.plan(place.write()))
    plan = place.plan(place.write(swap={old: new}))
    assert {plan.names[digest] for digest, state in plan.states.items() if state is not State.DONE} == fresh


def test_only_and_seeds_narrow_what_runs_but_not_what_the_plan_knows(place: Any) -> None:
    plan = place.plan(place.write(), pair="A", temperature="4")
    assert list(plan.names.values()) == ["teacher resnet14 seed=0", "pair=A temperature=4 seed=0"]
    assert all(cell["trials"] for cell in plan.as_json()["cells"])
    assert [cell.name for cell in plan.selected] == ["pair=A temperature=4"]


def test_a_trial_that_two_experiments_need_counts_once(place: Any) -> None:
    ninth, tenth = place.plan("cudfkd/fig9", "demo"), place.plan("cudfkd/fig10", "demo")
    assert (len(ninth.trials), len(tenth.trials)) == (10, 9)
    assert planning.counts([ninth, tenth]).total() == 17  # one teacher and the cell alpha = 0.1 are shared
    assert set(ninth.trials) & set(tenth.trials) == {
        digest for digest, name in tenth.names.items() if name in ("alpha=0.1 seed=0", "teacher resnet14 seed=0")
    }


def test_plan_json_joins_every_cell_to_its_digests(place: Any, grid_text: str) -> None:
    text = grid_text + '[[absent]]\nmatch = { pair = "B", temperature = "2" }\nreason = "not needed"\n'
    plan = place.plan(place.write(text), seeds=(0, 10))
    content = json.loads(json.dumps(plan.as_json()))
    assert set(content) == {"schema", "experiment", "profile", "sha256", "scale", "cells"}
    assert (content["schema"], content["experiment"], content["profile"]) == (1, "tiny/grid", "paper")
    assert content["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert content["scale"] == {"comparable": True, "note": ""}
    assert [(cell["status"], cell["reason"], sorted(cell["trials"])) for cell in content["cells"]] == [
        ("run", "", ["0", "10"]),
        ("run", "", ["0", "10"]),
        ("absent", "not needed", []),
        ("run", "", ["0", "10"]),
    ]
    assert content["cells"][0]["labels"] == {"pair": "A", "temperature": "2"}
    digests = {entry.digest for entry in plan.entries}
    assert {digest for cell in content["cells"] for digest in cell["trials"].values()} == digests
    assert len(digests) == 6


def test_plan_json_says_when_the_scale_is_not_the_papers(place: Any) -> None:
    scale = place.plan("cudfkd/fig9", "demo").as_json()["scale"]
    assert scale["comparable"] is False
    assert "data cifar100 -> digits" in scale["note"]
    assert "alpha 0.1 -> 1.5" in scale["note"]
    assert place.plan("cudfkd/fig9").as_json()["scale"] == {"comparable": True, "note": ""}


def test_a_search_has_no_trials_before_it_suggests_any(place: Any, search_text: str) -> None:
    plan = place.plan(place.write(search_text))
    assert (plan.trials, plan.entries) == ({}, [])
    assert [cell["trials"] for cell in plan.as_json()["cells"]] == [{}]


def test_planning_writes_nothing(place: Any, snapshot: Any) -> None:
    place.write()
    before = snapshot(Path(place.folder))
    place.plan("grid.toml")
    place.plan("cudfkd/fig9", "demo")
    assert snapshot(Path(place.folder)) == before
