"""When pruners cut, against values worked out by hand and against Optuna's own."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from sweeps import pruners, spec
from sweeps.errors import SpecError


def searching(**fields: object) -> spec.Search:
    return spec.Search.model_validate(
        {"trials": 5, "space": [{"path": "hparams.temperature", "low": 1, "high": 2}], **fields}
    )


def study(pruner: optuna.pruners.BasePruner, direction: str = "maximize") -> optuna.study.Study:
    return optuna.create_study(direction=direction, pruner=pruner)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("first", [1, 2])
def test_asha_decides_like_optunas_where_every_epoch_is_reported(direction: str, first: int) -> None:
    rng = random.Random(first)
    ours = study(pruners.Asha(first), direction)
    theirs = study(optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=3), direction)
    ends = []
    for _ in range(30):
        pair = ours.ask(), theirs.ask()
        level, decided = rng.random(), [False, False]
        for epoch in range(1, 20):
            value = level + rng.gauss(0, 0.2) + epoch / 10
            for trial in pair:
                trial.report(value, epoch)
            decided = [trial.should_prune() for trial in pair]
            assert decided[0] == decided[1]
            if decided[0]:
                break
        ends.append(epoch if decided[0] else 0)
        for each, trial in zip((ours, theirs), pair, strict=True):
            each.tell(trial, **({"state": TrialState.PRUNED} if decided[0] else {"values": value}))
    assert len(set(ends)) >= 3  # some at the first rung, some later, some never


def test_asha_by_hand() -> None:
    found = study(pruners.Asha(1))
    answers = []
    for value in (5.0, 4.0, 6.0, 6.5, 5.5, 6.2):
        trial = found.ask()
        trial.report(value, 1)
        answers.append(trial.should_prune())
        assert trial.should_prune() == answers[-1]  # asking changes nothing
    # best of 1, 2, 3, 4, 5; of six the best two stay, which are 6.5 and 6.2
    assert answers == [False, True, False, False, True, False]
    trial.report(0.0, 2)
    assert not trial.should_prune()  # rungs are after 1, 3, 9 epochs
    trial.report(float("nan"), 3)
    assert trial.should_prune()


def test_what_failed_does_not_compete() -> None:
    found = study(pruners.Asha(1))
    failed = found.ask()
    failed.report(9.0, 1)
    found.tell(failed, state=TrialState.FAIL)
    trial = found.ask()
    trial.report(1.0, 1)
    assert not trial.should_prune()


@pytest.mark.parametrize(
    ("p_threshold", "startup_seeds", "first_cut"), [(0.1, 2, 4), (0.05, 2, 5), (0.25, 2, 3), (0.3, 2, 2), (0.1, 6, 6)]
)
def test_a_race_ends_no_sooner_than_its_test_can_tell(p_threshold: float, startup_seeds: int, first_cut: int) -> None:
    """Of n differences of one sign the smallest p-value is 1/2^n: 1/4, 1/8, 1/16, 1/32."""
    search = searching(pruner="wilcoxon", p_threshold=p_threshold, startup_seeds=startup_seeds)
    assert search.first_cut == first_cut
    found = study(pruners.pruner(search))
    best = found.ask()
    for seed in range(1, 9):
        best.report(50.0 + seed, seed)
    found.tell(best, 54.5)
    worse = found.ask()
    cuts = []
    for seed in range(1, 9):
        worse.report(49.0 + seed - 0.1 * seed, seed)
        cuts.append(worse.should_prune())
    assert cuts.index(True) + 1 == first_cut
    assert all(cuts[first_cut - 1 :])


def test_seeds_are_held_back_while_the_pruner_may_still_save_them() -> None:
    def ready(pruner: str) -> list[int]:
        return [pruners.ready(searching(pruner=pruner), 6, done) for done in range(7)]

    assert ready("none") == [6] * 7
    assert ready("asha") == ready("median") == [1, 6, 6, 6, 6, 6, 6]
    assert ready("wilcoxon") == [4, 4, 4, 4, 5, 6, 6]


# --- experiment files ------------------------------------------------------------------------------------------------


def racing(text: str, seeds: str = "[0, 1, 2, 3, 4]", *lines: str) -> str:
    text = text.replace("startup_trials = 3", "\n".join(('pruner = "wilcoxon"', *lines)))
    return text.replace("seeds = [0]", f"seeds = {seeds}")


def faults(place: Any, text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        spec.load(place.write(text, "search.toml"))
    return list(caught.value.faults)


def test_five_seeds_may_race(place: Any, search_text: str) -> None:
    assert spec.load(place.write(racing(search_text), "search.toml")).file.search is not None


def test_fewer_than_five_seeds_cannot_race(place: Any, search_text: str) -> None:
    (fault,) = faults(place, racing(search_text, "[0, 1, 2, 3]"))
    assert fault == (
        "search.toml: seeds: pruner 'wilcoxon' compares a suggestion with the best one seed by seed and needs 5 seeds or more "
        "(got [0, 1, 2, 3]); list that many, or use asha or median, which compare epochs"
    )


def test_seeds_of_the_command_line_and_of_one_cell_are_counted_too(place: Any, search_text: str) -> None:
    name = place.write(racing(search_text), "search.toml")
    with pytest.raises(SpecError, match=r"--seeds: pruner 'wilcoxon' .* \(got \[0, 1\]\)"):
        place.plan(name, seeds=(0, 1))
    text = racing(search_text) + '[[when]]\nmatch = { student = "resnet8" }\nset = { seeds = [7, 8] }\n'
    (fault,) = faults(place, text)
    assert fault.startswith("search.toml: seeds of a cell: pruner 'wilcoxon'")
    assert "(got [7, 8])" in fault


@pytest.mark.parametrize("line", ["p_threshold = 0.05", "p_threshold = 0.01", "startup_seeds = 5"])
def test_a_race_that_could_save_nothing_is_refused(line: str, place: Any, search_text: str) -> None:
    (fault,) = faults(place, racing(search_text, "[0, 1, 2, 3, 4]", line))
    first = {"p_threshold = 0.05": 5, "p_threshold = 0.01": 7, "startup_seeds = 5": 5}[line]
    assert f"ends after {first} seeds at the earliest, which saves none of [0, 1, 2, 3, 4]; give {first + 1}" in fault


def test_settings_that_the_pruner_does_not_read_are_refused(place: Any, search_text: str) -> None:
    found = faults(place, racing(search_text, "[0]", 'prune_metric = "val/acc1_pct"', "prune_from_epoch = 2"))
    assert [fault.split(": ")[1] for fault in found] == ["search.prune_metric", "search.prune_from_epoch", "seeds"]
    text = search_text.replace("startup_trials = 3", 'pruner = "asha"\np_threshold = 0.2\nstartup_seeds = 3')
    assert [fault.split(": ", 1)[1] for fault in faults(place, text)] == [
        "search.p_threshold: 0.2 means nothing to pruner 'asha': only wilcoxon compares seeds; leave it out",
        "search.startup_seeds: 3 means nothing to pruner 'asha': only wilcoxon compares seeds; leave it out",
    ]


def test_several_objectives_cannot_race(place: Any, search_text: str) -> None:
    objectives = ", ".join(
        f'{{ metric = "{metric}", direction = "{way}" }}'
        for metric, way in (("best/val/acc1_pct", "maximize"), ("cost/flops", "minimize"))
    )
    (fault,) = faults(place, racing(search_text, "[0, 1, 2, 3, 4]", f"objectives = [{objectives}]"))
    assert "search.pruner: 'wilcoxon' compares trials by one metric" in fault


@pytest.mark.parametrize("value", ["0.0", "1.0", "-1", '"0.1"'])
def test_a_p_threshold_out_of_bounds_is_refused(value: str, place: Any, search_text: str) -> None:
    (fault,) = faults(place, racing(search_text, "[0, 1, 2, 3, 4]", f"p_threshold = {value}"))
    assert fault.startswith("search.toml: search.p_threshold: ")


def test_only_a_race_has_its_threshold_in_its_meaning() -> None:
    assert not set(searching(pruner="asha").meaning) & set(spec.RACING)
    assert searching(pruner="wilcoxon").meaning["p_threshold"] == 0.1


def test_a_plan_names_the_pruner_and_refuses_too_few_seeds(place: Any, run_sweep: Any, search_text: str) -> None:
    name = place.write(racing(search_text), "search.toml")
    code, out, _ = run_sweep("plan", name)
    assert code == 0
    assert "  search: 8 suggestions in all by tpe, maximize best/val/acc1_pct, cut by wilcoxon\n" in out
    code, _, error = run_sweep("plan", name, "--seeds", "0,1")
    assert code == 2
    assert "--seeds: pruner 'wilcoxon'" in error


def test_the_documented_example_is_a_valid_race_in_two_cells(place: Any) -> None:
    text = (Path(__file__).parents[2] / "docs" / "search.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```toml\n(.*?)```", text, flags=re.DOTALL)
    plan = place.plan(place.write(example, "race.toml"))
    search = plan.experiment.file.search
    assert (len(plan.selected), search.trials, len(plan.seeds)) == (2, 8, 5)
    assert "2 cells x 8 suggestions x 5 seeds = 80 students" in text
    assert (search.pruner, search.first_cut) == ("wilcoxon", 4)
    rows = re.findall(r"^\| (`.*?) \|", text, flags=re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert documented == set(spec.Search.model_fields)
