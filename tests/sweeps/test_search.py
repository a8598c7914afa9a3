"""Optuna searches over real storages and trial directories; values are computed from the parameters, nothing is trained."""

from __future__ import annotations

from typing import Any

import pytest

from sweeps import cost, search, spec
from sweeps.errors import SetupError, SpecError
from tests.sweeps.searching import PEAK_MEMORY, changed, curve, quality
from trainers import attempts
from trainers.attempts import State
from trainers.config import Trial

ACCURACY, FLOPS = ("best/val/acc1_pct", "maximize"), ("cost/flops", "minimize")


def several(text: str, *objectives: tuple[str, str], equal_cost: bool = False) -> str:
    """The search with these objectives, over the number of epochs too, to which operations are in proportion."""
    listed = ", ".join(f'{{ metric = "{metric}", direction = "{direction}" }}' for metric, direction in objectives)
    text = changed(text, f"objectives = [{listed}]")
    return (
        text
        if equal_cost
        else text.replace(
            "space = [", 'space = [\n    { path = "protocol.epochs", low = 2, high = 20, integer = true },'
        )
    )


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
    importances = content["importances"]["all"]["best/val/acc1_pct"]
    assert importances["hparams.ce_weight"] > importances["hparams.temperature"]
    assert (content["schema"], content["metric"], content["direction"]) == (2, "best/val/acc1_pct", "maximize")
    assert content["objectives"] == [{"metric": "best/val/acc1_pct", "direction": "maximize"}]
    assert all(row["values"] == [row["value"]] for row in found.rows)
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


def test_studies_of_one_objective_keep_the_name_they_always_had(place: Any) -> None:
    """The mark is what the first version of this code gave: another one would start finished searches over."""
    plan = place.plan("cudfkd/search")
    assert search.study_name(plan, plan.experiment.cells[0]) == "cudfkd/search [paper] all d0eb1b09b5"
    assert plan.experiment.file.search is not None
    assert set(plan.experiment.file.search.meaning) & {"metric", "direction", "objectives"} == {"metric", "direction"}


# --- several objectives ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_a_killed_study_of_two_objectives_suggests_what_an_unbroken_one_does(
    sampler: str, launch: Any, search_text: str
) -> None:
    text = several(search_text, ACCURACY, FLOPS).replace(
        "startup_trials = 3", f'startup_trials = 3\nsampler = "{sampler}"'
    )
    unbroken = launch(text, 5, at="unbroken").go()
    assert len({tuple(params.values()) for params in unbroken.params}) == 5
    killed = launch(text, 5, at="killed").go(3)
    left = killed.queue.next()  # suggested, never trained
    killed.studies[0].study.ask()  # the process dies before this one has any parameter
    reopened = launch(text, 5, at="killed").go()
    assert reopened.trained[0] == left
    assert reopened.params == unbroken.params
    assert [row["values"] for row in reopened.rows] == [row["values"] for row in unbroken.rows]
    assert launch(text, 5, at="killed").go().trained == []


def test_values_of_two_objectives_are_told_and_logged_in_their_order(launch: Any, search_text: str) -> None:
    found = launch(several(search_text, FLOPS, ACCURACY), 5).go()
    content = search.as_json(found.studies)
    assert content["objectives"] == [
        {"metric": "cost/flops", "direction": "minimize"},
        {"metric": "best/val/acc1_pct", "direction": "maximize"},
    ]
    assert content["schema"] == 2
    assert not {"metric", "direction"} & set(content)
    (study,) = found.studies
    assert [direction.name for direction in study.study.directions] == ["MINIMIZE", "MAXIMIZE"]
    assert [list(trial.values) for trial in study.study.get_trials()] == [row["values"] for row in found.rows]
    for row in found.rows:
        trial = found.queue.trials[row["trials"]["0"]]
        assert "value" not in row
        assert row["values"][1] == quality(trial)
        assert row["values"][0] / row["params"]["protocol.epochs"] == pytest.approx(
            cost.flops(trial, found.place.settings.data) / trial.protocol.epochs
        )
    assert len({row["values"][0] for row in found.rows}) > 1


def test_one_objective_turned_round_changes_what_the_model_suggests(launch: Any, search_text: str) -> None:
    cheap = launch(several(search_text, ACCURACY, FLOPS), 5, at="cheap").go()
    dear = launch(several(search_text, ACCURACY, ("cost/flops", "maximize")), 5, at="dear").go()
    assert cheap.params[:3] == dear.params[:3]
    assert cheap.params[3:] != dear.params[3:]
    assert cheap.studies[0].study.study_name != dear.studies[0].study.study_name


def test_at_equal_cost_the_other_objective_leads_the_model(launch: Any, search_text: str) -> None:
    good = launch(several(search_text, ACCURACY, FLOPS, equal_cost=True), 5, at="good").go()
    bad = launch(several(search_text, ("best/val/acc1_pct", "minimize"), FLOPS, equal_cost=True), 5, at="bad").go()
    assert good.params[:3] == bad.params[:3]
    assert good.params[3:] != bad.params[3:]
    assert len({row["values"][1] for row in good.rows + bad.rows}) == 1


def test_measured_costs_are_folded_to_the_mean_of_the_seeds_and_memory_is_its_peak(
    launch: Any, search_text: str
) -> None:
    text = several(search_text, ACCURACY, ("time/train_s", "minimize"), (PEAK_MEMORY, "minimize"))
    found = launch(text, 2, seeds=(0, 10, 20)).go(epochs=curve)
    assert [row["values"][1:] for row in found.rows] == [[20.0, 110.0]] * 2  # of 10 20 30 s, of 100 110 120 MiB
    assert found.rows[0]["values"][0] == pytest.approx(quality(found.queue.trials[found.rows[0]["trials"]["10"]]))


def test_a_suggestion_that_fails_has_no_values(launch: Any, search_text: str) -> None:
    found = launch(several(search_text, ACCURACY, FLOPS), 2)
    while (digest := found.queue.next()) is not None:
        trial = found.queue.trials[digest]
        failed = trial.method != "ce" and len(found.rows) == 1
        found.place.train(trial, end="failed" if failed else "done")
        found.queue.release(digest, "failed" if failed else "done", "broken")
    assert [row["state"] for row in found.rows] == ["failed", "complete"]
    assert found.rows[0]["values"] == [None, None]
    assert found.rows[1]["values"][0] == 60.0


def test_importances_are_told_for_each_objective(launch: Any, search_text: str) -> None:
    objectives = (ACCURACY, FLOPS, ("time/train_s", "minimize"))
    found = launch(several(search_text, *objectives), 12).go(epochs=lambda trial: [float(trial.hparams["ce_weight"])])
    (importances,) = search.as_json(found.studies)["importances"].values()
    assert set(importances) == {"best/val/acc1_pct", "cost/flops"}  # every trial took equally long
    first = {metric: max(shares, key=shares.__getitem__) for metric, shares in importances.items()}
    assert first == {"best/val/acc1_pct": "hparams.ce_weight", "cost/flops": "protocol.epochs"}


def test_a_plan_names_every_objective(place: Any, run_sweep: Any, search_text: str) -> None:
    name = place.write(several(search_text, ACCURACY, FLOPS), "search.toml")
    code, out, _ = run_sweep("plan", name, "--profile", "paper")
    assert code == 0
    assert "search: 8 suggestions in all by tpe, maximize best/val/acc1_pct and minimize cost/flops\n" in out


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (
            'metric = "best/val/acc1_pct"\nobjectives = [ ONE, TWO ]',
            ["search.metric: 'best/val/acc1_pct' is given beside objectives"],
        ),
        (
            'direction = "minimize"\npruner = "asha"\nobjectives = [ ONE ]',
            ["search.direction: 'minimize' is given beside", "search.objectives: needs two or more (got ['best/val/acc1_pct'])"],
        ),
        ("objectives = []", ["search.objectives: needs two or more (got [])"]),
        ("objectives = [ ONE, TWO, ONE ]", ["search.objectives: 'best/val/acc1_pct' occurs 2 times"]),
        ('pruner = "asha"\nobjectives = [ ONE, TWO ]', ["search.pruner: 'asha'", "no pruner for several objectives"]),
        ("objectives = [ ONE, { metric = \"cost/flop\", direction = \"minimize\" } ]", ["search.objectives.1.metric", "'cost/flop'"]),
        ("objectives = [ ONE, { metric = \"cost/flops\" } ]", ["search.objectives.1.direction: is missing"]),
        ("objectives = [ ONE, { metrc = \"cost/flops\", direction = \"minimize\" } ]", ["unknown key 'metrc'; did you mean 'metric'"]),
        ('metric = "cost/flops"', ["search.metric", "'cost/flops'"]),
    ],
    ids=["both forms", "one in a list", "none", "repeated", "pruner", "unknown", "no direction", "unknown key", "cost alone"],
)  # fmt: skip
def test_faulty_objectives_are_refused(lines: str, says: list[str], place: Any, search_text: str) -> None:
    lines = lines.replace("ONE", '{ metric = "best/val/acc1_pct", direction = "maximize" }')
    text = changed(search_text, lines.replace("TWO", '{ metric = "cost/flops", direction = "minimize" }'))
    with pytest.raises(SpecError) as caught:
        spec.load(place.write(text, "search.toml"))
    for part in says:
        assert any(fault.startswith("search.toml: ") and part in fault for fault in caught.value.faults), part


def test_every_objective_on_images_that_are_not_held_out_is_refused(place: Any, search_text: str) -> None:
    objectives = (
        ("best/test/acc1_pct", "maximize"),
        ("last/val/acc1_pct", "maximize"),
        ("best/val/acc5_pct", "maximize"),
    )
    text = several(search_text, *objectives).replace('data = "digits"', 'data = "cifar10"')
    with pytest.raises(SpecError) as caught:
        place.plan(place.write(text, "search.toml"))
    assert [fault.split(" needs held-out images, and cifar10 has none")[0] for fault in caught.value.faults] == [
        "search.toml: search.objectives: 'last/val/acc1_pct'",
        "search.toml: search.objectives: 'best/val/acc5_pct'",
    ]


def test_the_shipped_search_meets_a_cheap_point_within_its_shortest_random_start(launch: Any) -> None:
    found = launch(spec.load("pckd/search").text, 3, profile="demo").go(epochs=lambda trial: [50.0])
    costs = [row["values"][1] for row in found.rows]
    assert costs == [4 * costs[2], 4 * costs[2], costs[2]]
    assert [found.params[2][f"hparams.{name}"] for name in ("beta_cc", "beta_fa")] == [0.0, 0.0]
