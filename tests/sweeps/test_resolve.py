"""From a cell to a trial: presets, names mapped by a profile, constants scaled to its length, one teacher for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweeps import spec
from sweeps.errors import SpecError
from sweeps.resolve import resolve
from sweeps.spec import Cell, Experiment, Profile
from trainers.config import Trial
from trainers.methods.cudfkd import Config, adversarial_weight, threshold

FIGURES = ("cudfkd/fig6", "cudfkd/fig7", "cudfkd/fig8", "cudfkd/fig9", "cudfkd/fig10")


def loaded(name: str, profile: str) -> tuple[Experiment, Profile]:
    scale = spec.load_profile(profile)
    return spec.load(name, scale), scale


def trial_of(name: str, profile: str, **labels: str) -> Trial:
    experiment, scale = loaded(name, profile)
    (cell,) = experiment.select({axis: [label] for axis, label in labels.items()})
    return resolve(experiment, scale, cell, 0, Path("nowhere"))[0]


def trials_of(name: str, profile: str) -> dict[str, Trial]:
    experiment, scale = loaded(name, profile)
    return {cell.name: resolve(experiment, scale, cell, 0, Path("nowhere"))[0] for cell in experiment.cells}


def data_free(trial: Trial) -> Trial:
    """The trial that trains: of an evaluation, the one that is measured."""
    found = trial.subject.trial if trial.subject is not None else trial
    assert found is not None
    return found


def ramp(trial: Trial) -> list[float]:
    trial = data_free(trial)
    config = Config.model_validate(dict(trial.hparams))
    return [adversarial_weight(epoch, trial.protocol.epochs, config) for epoch in range(trial.protocol.epochs)]


# --- equal cells, one trial ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["paper", "demo"])
def test_fig10_at_alpha_one_tenth_is_the_trial_of_fig9(profile: str) -> None:
    ninth = trial_of("cudfkd/fig9", profile, pair="ResNet34 / ResNet18", k_begin="1/5", k_end="4/5")
    assert trial_of("cudfkd/fig10", profile, alpha="0.1").digest() == ninth.digest()
    assert trial_of("cudfkd/fig10", profile, alpha="0.15").digest() != ninth.digest()


def test_cells_of_a_figure_differ_in_every_digest() -> None:
    sizes = {name: len({trial.digest() for trial in trials_of(name, "demo").values()}) for name in FIGURES}
    assert sizes == dict(zip(FIGURES, (5, 8, 16, 9, 8), strict=True))


def test_the_nine_cells_of_fig9_in_demo_have_nine_adversarial_schedules() -> None:
    trials = trials_of("cudfkd/fig9", "demo").values()
    assert len({tuple(ramp(trial)) for trial in trials}) == len({trial.digest() for trial in trials}) == 9


def test_preset_gives_what_the_cell_does_not_set(place: Any) -> None:
    trials = trials_of("cudfkd/fig6", "paper")
    shown = {name: (t.hparams["curriculum"], t.hparams["ramp"], t.hparams.get("weight")) for name, t in trials.items()}
    assert shown == {
        "curriculum=none": ("none", "off", None),
        "curriculum=none, with ramp": ("none", "code", None),
        "curriculum=hard": ("hard", "code", "sample"),
        "curriculum=soft": ("soft", "code", "sample"),
        "curriculum=log": ("log", "code", "sample"),
    }
    assert trial_of("cudfkd/fig7", "paper", T="4").hparams["weight"] == "batch"


def test_a_preset_and_the_same_values_written_out_are_one_trial(place: Any, grid_text: str) -> None:
    swap = {'method = "kd"': 'method = "cudfkd"\npreset = "plain-dfkd"', "hparams = { ce_weight = 0.25 }": ""}
    swap['\nprotocol = "demo-scratch"'] = '\nprotocol = "demo-cudfkd"'
    name = place.write(swap=swap)
    preset = {entry.cell.name: entry.digest for entry in place.plan(name).entries}
    written = place.write(swap={**swap, 'method = "kd"': 'method = "cudfkd"\n"hparams.curriculum" = "none"'})
    assert {entry.cell.name: entry.digest for entry in place.plan(written).entries} == preset


def test_values_without_effect_do_not_make_another_trial(place: Any) -> None:
    swap = {"ce_weight = 0.25": "kd_weight = 0.0"}
    digests = [entry.digest for entry in place.plan(place.write(swap=swap)).entries]
    assert len(set(digests)) == 2  # kd_weight = 0: the temperature does nothing, the two teachers still count
    swap = {"ce_weight = 0.25": "ce_weight = 1.0", "value = 2.0": "value = 2"}
    whole = [entry.digest for entry in place.plan(place.write(swap=swap)).entries]
    swap = {"ce_weight = 0.25": "ce_weight = 1"}
    assert [entry.digest for entry in place.plan(place.write(swap=swap)).entries] == whole


# --- scale -----------------------------------------------------------------------------------------------------------


def test_demo_keeps_the_adversarial_plateau_near_the_papers() -> None:
    # paper: 0.1 * (int(0.8 * 300) - int(0.2 * 300) - 1) = 17.9;  demo: 0.1 * 300 / 20 * (16 - 4 - 1) = 16.5
    labels = {"pair": "ResNet34 / ResNet18", "k_begin": "1/5", "k_end": "4/5"}
    assert max(ramp(trial_of("cudfkd/fig9", "paper", **labels))) == pytest.approx(17.9)
    assert max(ramp(trial_of("cudfkd/fig9", "demo", **labels))) == pytest.approx(16.5)


@pytest.mark.parametrize("name", FIGURES)
def test_plateaus_of_every_figure_stay_within_a_fifth(name: str) -> None:
    paper, demo = trials_of(name, "paper"), trials_of(name, "demo")
    for cell, trial in demo.items():
        assert max(ramp(trial)) == pytest.approx(max(ramp(paper[cell])), rel=0.2), cell


@pytest.mark.parametrize("name", FIGURES)
def test_lambda_ends_where_the_papers_ends(name: str) -> None:
    def end(trial: Trial) -> float:
        trial = data_free(trial)
        config = Config.model_validate(dict(trial.hparams))
        assert trial.protocol.updates_per_epoch is not None
        updates = trial.protocol.epochs * trial.protocol.updates_per_epoch
        return threshold(config.lambda_0, config.lambda_slope, updates)

    paper = trials_of(name, "paper")
    for cell, trial in trials_of(name, "demo").items():
        if trial.hparams.get("curriculum") != "none":
            assert end(trial) == pytest.approx(end(paper[cell])), cell


def test_plan_tells_what_was_scaled_and_mapped() -> None:
    experiment, demo = loaded("cudfkd/fig9", "demo")
    scaling = resolve(experiment, demo, experiment.cells[0], 0, Path("nowhere"))[1]
    assert any(note.startswith("alpha 0.1 -> 1.5") and "300 -> 20 epochs" in note for note in scaling.notes)
    assert any(
        note.startswith("lambda_slope 2e-05 -> 0.0025") and "120000 -> 960 updates" in note for note in scaling.notes
    )
    assert "data cifar100 -> digits" in scaling.mapped
    assert "resnet34 -> resnet14" in scaling.mapped
    experiment, paper = loaded("cudfkd/fig9", "paper")
    assert resolve(experiment, paper, experiment.cells[0], 0, Path("nowhere"))[1].notes == ()


@pytest.mark.parametrize(
    ("name", "hparam"),
    [
        ("cudfkd/fig7", "temperature"),
        ("cudfkd/fig8", "lambda_0"),
        ("cudfkd/fig9", "k_begin"),
        ("cudfkd/fig9", "k_end"),
    ],
)
def test_swept_values_are_the_papers_in_every_profile(name: str, hparam: str) -> None:
    paper, demo = trials_of(name, "paper"), trials_of(name, "demo")
    assert len({data_free(trial).hparams[hparam] for trial in demo.values()}) > 1
    for cell, trial in demo.items():
        assert data_free(trial).hparams[hparam] == data_free(paper[cell]).hparams[hparam]


def test_recorded_epochs_are_scaled_and_stay_inside_the_run() -> None:
    protocol = data_free(trial_of("cudfkd/fig9", "demo", k_begin="1/5", k_end="4/5")).protocol
    # of 300 epochs: mean from 80 on, without the last 5, artifacts at 0, 10, 80, 150; N = 20
    assert (protocol.epochs, protocol.stats_from_epoch, protocol.stats_drop_last) == (20, 5, 1)
    assert protocol.artifact_epochs == (0, 1, 5, 10)


def test_fields_of_a_protocol_set_by_the_cell_survive_the_profile(place: Any, grid_text: str) -> None:
    text = grid_text.replace('"demo-scratch"', '"scratch-200"').replace('data = "digits"', 'data = "cifar10"')
    text = text.replace("[base]", "[base]\nprotocol = { lr = 0.05, warmup_epochs = 40, milestones = [100, 150] }")
    paper, demo = (place.plan(place.write(text), profile).entries[0].trial.protocol for profile in ("paper", "demo"))
    assert (paper.epochs, paper.lr, paper.warmup_epochs, paper.milestones) == (200, 0.05, 40, (100, 150))
    assert (demo.epochs, demo.lr, demo.warmup_epochs, demo.milestones) == (20, 0.05, 4, (10, 15))


def test_rules_of_a_profile_apply_only_where_they_match(place: Any) -> None:
    own = 'title = "own"\n[[when]]\nmatch = { pair = "B" }\nset = { hparams = { kd_weight = 3.0 } }\n'
    plan = place.plan(place.write(), place.write(own, "own.toml"))
    assert [entry.trial.hparams["kd_weight"] for entry in plan.entries] == [0.9, 0.9, 3.0, 3.0]


# --- upstream --------------------------------------------------------------------------------------------------------


def test_one_teacher_serves_every_seed(place: Any) -> None:
    plan = place.plan(place.write(), seeds=(0, 10, 20), pair="A")
    teachers = {
        entry.trial.teacher.name: entry.trial.teacher.trial
        for entry in plan.entries
        if entry.cell.labels["pair"] == "A"
    }
    (teacher,) = teachers.values()
    assert teacher.seed == 0
    assert teacher.method == "ce"
    assert {entry.trial.seed for entry in plan.entries} == {0, 10, 20}
    assert len(plan.trials) == 1 + 2 * 3


def test_teacher_seed_is_a_field_of_its_own(place: Any) -> None:
    name = place.write(swap={'method = "kd"': 'method = "kd"\nteacher_seed = 3'})
    trial = place.plan(name, seeds=(10,)).entries[0].trial
    assert (trial.seed, trial.teacher.trial.seed) == (10, 3)


def test_teacher_trains_on_all_images_though_the_student_sees_few(place: Any) -> None:
    name = place.write(swap={'data = "digits"': 'data = { name = "digits", train_per_class = 8 }'})
    trial = place.plan(name).entries[0].trial
    assert trial.data.train_per_class == 8
    assert trial.teacher.trial.data.train_per_class is None


def test_evaluate_measures_the_same_student_against_another_teacher() -> None:
    noisy = trial_of("cudfkd/fig8", "demo", **{"measured against": "noisy teacher", "lambda_0": "2"})
    clean = trial_of("cudfkd/fig8", "demo", **{"measured against": "clean teacher", "lambda_0": "2"})
    assert (noisy.kind, clean.kind) == ("datafree", "evaluate")
    assert clean.subject is not None
    assert clean.subject.name == noisy.digest()
    assert clean.teacher is not None
    assert noisy.teacher is not None
    assert noisy.teacher.trial is not None
    assert noisy.teacher.trial.protocol.stop_at_acc1_pct == 93.0
    assert clean.teacher.trial == trial_of("cudfkd/fig7", "demo", T="20").teacher.trial  # type: ignore[union-attr]


def test_held_out_images_stay_with_the_papers_data_and_go_with_digits() -> None:
    point = {
        "hparams.lambda_0": 1.0, "hparams.alpha": 0.1, "hparams.k_begin": 0.2, "hparams.k_end": 0.8, "hparams.temperature": 4.0,
    }  # fmt: skip
    for profile, data, images in (("paper", "cifar100", 5000), ("demo", "digits", 0)):
        experiment, scale = loaded("cudfkd/search", profile)
        trial = resolve(experiment, scale, experiment.cells[0], 0, Path("nowhere"), point)[0]
        assert (trial.data.name, trial.data.holdout_images) == (data, images)
        assert trial.teacher is not None
        assert trial.teacher.trial is not None
        assert trial.teacher.trial.data == trial.data  # the teacher never sees what the search validates on


def test_a_suggestion_changes_what_is_searched_and_nothing_else(place: Any, search_text: str) -> None:
    experiment, scale = spec.load(place.write(search_text)), spec.load_profile("paper")
    first, second = (
        resolve(
            experiment,
            scale,
            experiment.cells[0],
            0,
            Path("nowhere"),
            {"hparams.temperature": t, "hparams.ce_weight": 0.5},
        )[0]
        for t in (2.0, 3.0)
    )
    assert first.model_copy(update={"hparams": second.hparams}) == second
    assert {k for k in first.hparams if first.hparams[k] != second.hparams[k]} == {"temperature"}


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ("low = 0.7, high = 0.9 }, { path = \"hparams.k_begin\", low = 0.1, high = 0.8", "k_begin"),
        ("low = 0.3, high = 0.9 }, { path = \"hparams.k_begin\", low = 0.1, high = 0.5", "k_begin"),
        ("choices = [0.5, 1.5, 0.9] }, { path = \"hparams.k_begin\", low = 0.1, high = 0.2", "1.5"),
    ],
    ids=["overlap at one end", "overlap in the middle", "a choice between the others"],
)  # fmt: skip
def test_a_search_space_that_holds_an_impossible_point_is_refused(
    space: str, says: str, place: Any, search_text: str
) -> None:
    text = search_text.replace('method = "kd"', 'method = "cudfkd"').replace(
        '\nprotocol = "demo-scratch"', '\nprotocol = "demo-cudfkd"'
    )
    text = text.replace(
        '{ path = "hparams.ce_weight", low = 0.0, high = 1.0 }', f'{{ path = "hparams.k_end", {space} }}'
    )
    with pytest.raises(SpecError, match=says):
        place.plan(place.write(text))


def test_a_search_on_images_that_are_not_held_out_is_refused(place: Any, search_text: str) -> None:
    name = place.write(search_text, swap={'data = "digits"': 'data = "cifar10"'})
    with pytest.raises(SpecError) as caught:
        place.plan(name)
    (fault,) = caught.value.faults
    for part in ("search.metric", "best/val/acc1_pct", "cifar10", "holdout_images"):
        assert part in fault


# --- modules of the user's -------------------------------------------------------------------------------------------


def test_own_method_network_and_data_set(place: Any, user_modules: Path) -> None:
    swap = {
        'method = "kd"\nhparams = { ce_weight = 0.25 }': 'method = { module = "my_pkg.my_method" }',
        'data = "digits"': 'data = { module = "my_pkg.my_data" }',
        '{ label = "B", teacher = "resnet20", student = "resnet8" }': '{ label = "B", teacher = "resnet20", student = { module = "my_pkg.my_network" } }',
        'path = "hparams.temperature"': 'path = "hparams.gain"',
    }  # fmt: skip
    trial = place.plan(place.write(swap=swap)).entries[-1].trial
    assert (trial.method, trial.student, trial.data.name) == ("my_pkg.my_method", "my_pkg.my_network", "my_pkg.my_data")
    assert trial.data.content == "f" * 64
    assert trial.versions["method"] == 3
    assert trial.hparams == {"gain": 4.0}


@pytest.mark.parametrize(
    ("module", "says"),
    [
        ("my_pkg.no_method", "lacks VERSION, NEEDS_TEACHER, Config"),
        ("my_pkg.broken", "a_module_that_is_not_there"),
        ("my_pkg.absent", "my_pkg.absent"),
    ],
)
def test_a_module_that_is_no_method_is_told(module: str, says: str, place: Any, user_modules: Path) -> None:
    with pytest.raises(SpecError, match=says):
        place.plan(place.write(swap={'method = "kd"': f'method = {{ module = "{module}" }}'}))


def test_bounds_of_an_own_method_are_checked(place: Any, user_modules: Path) -> None:
    swap = {
        'method = "kd"\nhparams = { ce_weight = 0.25 }': 'method = { module = "my_pkg.my_method" }\nhparams = { gain = 9.0 }'
    }
    swap['path = "hparams.temperature"'] = 'path = "precision"'
    swap['{ label = "2", value = 2.0 }, { label = "4", value = 4.0 }'] = (
        '{ label = "2", value = "fp32" }, { label = "4", value = "bf16" }'
    )
    with pytest.raises(SpecError, match=r"hparams\.gain: Input should be less than or equal to 8"):
        place.plan(place.write(swap=swap))


def test_messages_name_the_first_cell_and_how_many_share_the_fault(place: Any) -> None:
    with pytest.raises(SpecError) as caught:
        place.plan(place.write(swap={'teacher = "resnet20"': 'teacher = "resnet21"'}))
    (fault,) = caught.value.faults
    assert fault.endswith("[cell pair=B temperature=2 and 1 more]")


def test_a_cell_that_is_not_trained_may_name_what_is_not_there(place: Any, grid_text: str) -> None:
    text = grid_text.replace('teacher = "resnet20"', 'teacher = "vit_huge"')
    name = place.write(text + '[[reported]]\nmatch = { pair = "B" }\nreason = "printed only"\n')
    assert {entry.cell.labels["pair"] for entry in place.plan(name).entries} == {"A"}


def test_cells_are_plain_data() -> None:
    assert Cell({}, {}).name == "all"
