"""Optuna searches over real storages and trial directories; values are computed from the parameters, nothing is trained."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sweeps import search, spec
from sweeps.errors import SetupError
from sweeps.queue import Queue
from trainers import attempts, checkpoint
from trainers.attempts import State
from trainers.config import Execution, Trial

Epochs = Callable[[Trial], list[float]]


def quality(trial: Trial) -> float:
    """Best at temperature 4 and weight 0.3; a student's seed adds half a percent each."""
    temperature, weight = float(trial.hparams["temperature"]), float(trial.hparams["ce_weight"])  # type: ignore[arg-type]
    return 90 - 5 * (math.log(temperature) - math.log(4)) ** 2 - 20 * (weight - 0.3) ** 2 + 0.5 * trial.seed


def one_value(trial: Trial) -> list[float]:
    return [quality(trial)]


class Launch:
    """One launch of a search on a place's state root; `go` runs trials one after the other, as at concurrency 1."""

    def __init__(
        self,
        place: Any,
        text: str,
        total: int,
        *,
        profile: str = "paper",
        seeds: Any = None,
        study_url: str | None = None,
        grids: Any = (),
    ) -> None:
        self.place = place
        place.write(text, "search.toml")
        plan = place.plan(str(place.folder / "search.toml"), profile, seeds=seeds)
        self.studies = search.studies_of(plan, replace(place.settings, study_url=study_url), total)
        self.queue = Queue([plan, *grids], self.studies, place.state)
        self.trained: list[str] = []

    def go(self, most: int = 1000, epochs: Epochs = one_value) -> Launch:
        """Runs at most so many suggested trials; the rest is left as a killed driver leaves it."""
        while most > 0 and (digest := self.queue.next()) is not None:
            self.trained.append(digest)
            trial = self.queue.trials[digest]
            if trial.method == "ce":
                self.place.train(trial)
                self.queue.release(digest, "done")
                continue
            self.queue.release(digest, self.run(digest, trial, epochs(trial)))
            most -= 1
        return self

    def run(self, digest: str, trial: Trial, values: list[float]) -> str:
        with attempts.claim(trial, self.place.state, Execution(), lease_s=0.1) as attempt:
            rows: list[dict[str, float]] = []
            for epoch, value in enumerate(values):
                rows.append({"val/acc1_pct": value, "test/acc1_pct": value, "time/total_s": 1.0})
                checkpoint.save(attempt.folder / "checkpoint.pt", {"rows": rows})
                attempt.append(epoch, rows[-1])
                if epoch + 1 < len(values) and self.queue.should_prune(digest, epoch, rows[-1]):
                    assert attempts.stop(self.place.state, digest, "cut")
                    return "stopped"
            attempt.finish({"best/val/acc1_pct": max(values), "time/total_s": 1.0}, len(values))
        return "done"

    @property
    def rows(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = search.as_json(self.studies)["cells"][0]["suggestions"]
        return found

    @property
    def params(self) -> list[dict[str, float]]:
        return [row["params"] for row in self.rows]


@pytest.fixture
def launch(place: Any) -> Callable[..., Launch]:
    """Opens a launch; `at` names the state root, so that one test can compare several."""

    def make(text: str, total: int = 8, *, at: str = "one", **options: Any) -> Launch:
        folder = place.folder / at
        (folder / ".sweeps").mkdir(parents=True, exist_ok=True)
        return Launch(type(place)(folder), text, total, **options)

    return make


def changed(text: str, *lines: str) -> str:
    assert text.count("startup_trials = 3") == 1
    return text.replace("startup_trials = 3", "\n".join(("startup_trials = 3", *lines)))


def test_a_study_killed_after_four_suggests_what_an_unbroken_one_does(launch: Any, search_text: str) -> None:
    unbroken = launch(search_text, at="unbroken").go()
    assert len(unbroken.params) == 8
    launch(search_text, at="killed").go(4)
    reopened = launch(search_text, at="killed").go()
    assert reopened.params == unbroken.params
    assert [row["value"] for row in reopened.rows] == [row["value"] for row in unbroken.rows]
    assert len(reopened.trained) == 4


def test_a_suggestion_left_running_is_taken_up_and_nothing_else_changes(launch: Any, search_text: str) -> None:
    unbroken = launch(search_text, at="unbroken").go()
    killed = launch(search_text, at="killed").go(4)
    left = killed.queue.next()  # suggested, never trained
    assert [row["state"] for row in killed.rows] == ["complete"] * 4 + ["running"]
    reopened = launch(search_text, at="killed").go()
    assert reopened.trained[0] == left
    assert reopened.params == unbroken.params


def test_a_suggestion_cut_in_the_middle_of_being_made_is_thrown_away(launch: Any, search_text: str) -> None:
    unbroken = launch(search_text, at="unbroken").go()
    killed = launch(search_text, at="killed").go(4)
    (study,) = killed.studies
    study.study.ask()  # the process dies before it has any parameter
    reopened = launch(search_text, at="killed").go()
    assert reopened.params == unbroken.params


def test_more_trials_later_go_on_with_the_same_study(launch: Any, search_text: str) -> None:
    whole = launch(search_text, 6, at="whole").go()
    launch(search_text, 4, at="grown").go()
    assert launch(search_text, 6, at="grown").go().params == whole.params
    assert launch(search_text, 6, at="grown").go().trained == []
    assert launch(search_text, 2, at="grown").go().trained == []


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_no_suggestion_repeats_and_all_lie_in_the_space(sampler: str, launch: Any, search_text: str) -> None:
    found = launch(changed(search_text, f'sampler = "{sampler}"'), 6).go()
    points = [(p["hparams.temperature"], p["hparams.ce_weight"]) for p in found.params]
    assert len(set(points)) == len(points) == 6
    assert all(1 <= temperature <= 20 and 0 <= weight <= 1 for temperature, weight in points)
    assert len(found.trained) == 7  # and the teacher


def test_samplers_differ_once_the_random_start_is_over(launch: Any, search_text: str) -> None:
    tpe, gp, random = (
        launch(changed(search_text, f'sampler = "{name}"'), 5, at=name).go().params for name in ("tpe", "gp", "random")
    )
    assert tpe[:3] == random[:3]
    assert tpe[4] != random[4]
    assert gp[4] not in (tpe[4], random[4])


def test_flipping_the_objective_of_the_shipped_search_changes_the_fifth_suggestion(launch: Any) -> None:
    def worth(trial: Trial) -> list[float]:
        values = {name: float(trial.hparams[name]) for name in ("temperature", "lambda_0", "k_begin", "k_end")}  # type: ignore[arg-type]
        return [
            90 - values["temperature"] - 3 * abs(values["lambda_0"] - 2) + 20 * (values["k_end"] - values["k_begin"])
        ]

    text = spec.load("cudfkd/search").text
    flipped = text.replace('direction = "maximize"', 'direction = "minimize"')
    assert flipped != text
    most = launch(text, 5, at="max", profile="demo").go(epochs=worth)
    least = launch(flipped, 5, at="min", profile="demo").go(epochs=worth)
    assert most.params[:3] == least.params[:3]  # demo has three random ones at the start
    assert most.params[4] != least.params[4]
    assert most.studies[0].study.best_value == max(row["value"] for row in most.rows)
    assert least.studies[0].study.best_value == min(row["value"] for row in least.rows)


def test_another_seed_of_the_search_gives_other_points(launch: Any, search_text: str) -> None:
    first = launch(search_text, 2, at="first").go()
    assert launch(changed(search_text, "seed = 1"), 2, at="second").go().params[0] != first.params[0]


def test_the_model_follows_the_values(launch: Any, search_text: str) -> None:
    """What is suggested after the random start depends on what that was worth, so a told value really reaches the sampler."""
    best = launch(search_text, 5, at="a").go()
    other = launch(search_text, 5, at="b").go(epochs=lambda trial: [-quality(trial)])
    assert best.params[:3] == other.params[:3]
    assert best.params[3:] != other.params[3:]


def test_seeds_are_folded_to_their_mean(launch: Any, search_text: str) -> None:
    found = launch(search_text, 2, seeds=(0, 10, 20)).go()
    for row in found.rows:
        assert sorted(row["trials"], key=int) == ["0", "10", "20"]
        values = [quality(found.queue.trials[digest]) for digest in row["trials"].values()]
        assert row["value"] == pytest.approx(sum(values) / 3)
        assert max(values) - min(values) == pytest.approx(10.0)
    assert len(found.trained) == 1 + 2 * 3


def test_other_seeds_are_another_study(launch: Any, search_text: str) -> None:
    one = launch(search_text, 2).go()
    two = launch(search_text, 2, seeds=(0, 10)).go()
    assert one.studies[0].study.study_name != two.studies[0].study.study_name
    assert len(two.trained) == 2  # only seed 10: the points are the same, and seed 0 was done


def test_a_point_that_is_done_is_not_trained_again(launch: Any, search_text: str) -> None:
    text = search_text.replace("low = 1.0, high = 20.0, log = true", "choices = [2.0, 4.0]")
    text = text.replace("low = 0.0, high = 1.0", "choices = [0.5, 1.0]")
    found = launch(text, 12).go()
    assert len(found.rows) == 12
    assert len(set(found.trained)) == len(found.trained) <= 1 + 4
    assert all(row["state"] == "complete" for row in found.rows)
    by_digest: dict[str, set[float]] = {}
    for row in found.rows:
        by_digest.setdefault(row["trials"]["0"], set()).add(row["value"])
    assert all(len(values) == 1 for values in by_digest.values())


def curve(trial: Trial) -> list[float]:
    """Nine epochs that rise to the trial's quality."""
    return [quality(trial) * (epoch + 1) / 9 for epoch in range(9)]


@pytest.mark.parametrize("pruner", ["asha", "median"])
def test_pruners_cut_searched_trials_and_the_study_hears_of_it(pruner: str, launch: Any, search_text: str) -> None:
    found = launch(changed(search_text, f'pruner = "{pruner}"'), 12).go(epochs=curve)
    states = {row["number"]: row["state"] for row in found.rows}
    assert set(states.values()) == {"complete", "pruned"}
    for row in found.rows:
        status = attempts.read_status(found.place.state, row["trials"]["0"])
        assert status.state is {"complete": State.DONE, "pruned": State.STOPPED}[row["state"]]
        assert (row["value"] is None) == (row["state"] == "pruned")
        assert row["state"] == "complete" or len(attempts.rows(status)) < 9
    best = max((row for row in found.rows if row["state"] == "complete"), key=lambda row: row["value"])
    assert quality(found.queue.trials[best["trials"]["0"]]) == max(
        quality(found.queue.trials[row["trials"]["0"]]) for row in found.rows
    )
    again = launch(changed(search_text, f'pruner = "{pruner}"'), 12).go(epochs=curve)
    assert again.trained == []
    assert {row["number"]: row["state"] for row in again.rows} == states


def test_without_a_pruner_nothing_is_cut(launch: Any, search_text: str) -> None:
    found = launch(search_text, 6).go(epochs=curve)
    assert {row["state"] for row in found.rows} == {"complete"}


def test_a_teacher_is_never_cut(launch: Any, search_text: str) -> None:
    found = launch(changed(search_text, 'pruner = "asha"'), 6)
    teacher = found.queue.next()
    assert not any(found.queue.should_prune(teacher, epoch, {"val/acc1_pct": 0.0}) for epoch in range(9))


def test_a_trial_that_a_grid_wants_too_is_never_cut(launch: Any, place: Any, search_text: str, grid_text: str) -> None:
    text = changed(search_text, 'pruner = "asha"').replace(
        "low = 1.0, high = 20.0, log = true", "choices = [2.0, 4.0, 20.0]"
    )
    text = text.replace("low = 0.0, high = 1.0", "choices = [0.25]")
    shared = place.plan(place.write(grid_text), pair="A", temperature="2")
    found = launch(text, 10, grids=[shared])
    (entry,) = [e for e in shared.entries if e.cell.name == "pair=A temperature=2"]
    (study,) = found.studies
    while (suggestion := study.ask()) is not None and entry.digest not in suggestion.digests.values():
        pass
    assert suggestion is not None, "the search never suggested the grid's point"
    for other in study.open.values():
        for epoch in range(9):
            if entry.digest not in other.digests.values():
                study.should_prune(next(iter(other.digests.values())), epoch, 90.0)
    assert any(study.should_prune(entry.digest, epoch, 0.0) for epoch in range(9))  # the pruner would
    assert not any(found.queue.should_prune(entry.digest, epoch, {"val/acc1_pct": 0.0}) for epoch in range(9))


def test_study_in_a_database_goes_on_like_one_in_a_journal(launch: Any, place: Any, search_text: str) -> None:
    url = f"sqlite:///{place.folder / 'studies.db'}"
    unbroken = launch(search_text, 6, at="journal").go()
    launch(search_text, 6, at="database", study_url=url).go(4)
    reopened = launch(search_text, 6, at="database", study_url=url).go()
    assert reopened.params == unbroken.params
    assert not (place.folder / "database" / ".sweeps" / "state" / "studies").exists()


def test_a_metric_that_the_trials_do_not_have_is_named(launch: Any, search_text: str) -> None:
    found = launch(changed(search_text, 'metric = "best/test/loyalty"'), 2)
    with pytest.raises(SetupError, match="no 'best/test/loyalty'; they have best/"):
        found.go()


def test_importances_rank_what_matters(launch: Any, search_text: str) -> None:
    found = launch(search_text).go(epochs=lambda trial: [float(trial.hparams["ce_weight"])])
    content = search.as_json(found.studies)
    (importances,) = content["importances"].values()
    assert importances["hparams.ce_weight"] > importances["hparams.temperature"]
    assert (content["schema"], content["metric"], content["direction"]) == (1, "best/val/acc1_pct", "maximize")
    assert launch(search_text, at="short").go(2).studies[0].importances() == {}


def test_integer_and_chosen_dimensions_reach_the_trial_with_their_type(launch: Any, search_text: str) -> None:
    text = search_text.replace('method = "kd"', 'method = "cudfkd"').replace(
        '\nprotocol = "demo-scratch"', '\nprotocol = "demo-cudfkd"'
    )
    text = text.replace(
        '"hparams.ce_weight", low = 0.0, high = 1.0', '"hparams.student_steps", low = 1, high = 4, integer = true'
    )
    text = text.replace(
        '"hparams.temperature", low = 1.0, high = 20.0, log = true', '"hparams.curriculum", choices = ["hard", "soft"]'
    )
    found = launch(text, 3).go(epochs=lambda trial: [50.0])
    for row in found.rows:
        trial = found.queue.trials[row["trials"]["0"]]
        assert isinstance(trial.hparams["student_steps"], int)
        assert trial.hparams["curriculum"] in ("hard", "soft")
