"""PCKD's tables and ablation figures: which cells they train, which trials they share, and what each rule sets."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sweeps import spec
from sweeps.resolve import resolve
from trainers.config import Trial

CELLS = {
    "pckd/table1": 24 * 7,
    "pckd/table2": 24 * 6,
    "pckd/table5": 6 * 3,
    "pckd/table6": 8 * 2,
    "pckd/table7": 2 * 7,
    "pckd/table8": 9 * 3,
    "pckd/table9": 9 * 2,
    "pckd/fig5a": 6,
    "pckd/fig5b": 5,
    "pckd/fig5c": 5,
    "pckd/fig5d": 6,
    "pckd/fig6": 3,
}
OURS = ("SSKD w/o KD", "ReviewKD (weight 30)")
"""Rows that the paper does not print."""
LIGHT = ("mobilenetv2", "shufflev1", "shufflev2")
Grid = dict[str, dict[tuple[str, ...], Trial]]


@pytest.fixture(scope="module")
def grid() -> Grid:
    """Every trained cell's trial with seed 0 at the paper's scale, by experiment and labels; no data set is there."""
    scale = spec.load_profile("paper")
    found: Grid = {}
    for name in CELLS:
        experiment = spec.load(name, scale)
        found[name] = {
            tuple(cell.labels.values()): resolve(experiment, scale, cell, 0, Path("nowhere"))[0]
            for cell in experiment.cells
            if cell.status == "run"
        }
    return found


def digests(grid: Grid, *names: str) -> set[str]:
    return {trial.digest() for name in names for trial in grid[f"pckd/{name}"].values()}


def at(grid: Grid, place: tuple[str, ...]) -> Trial:
    """The trial of (experiment, labels ...)."""
    return grid[f"pckd/{place[0]}"][place[1:]]


# --- cells -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(CELLS))
def test_every_cell_is_trained_but_those_the_paper_leaves_out_or_only_reports(name: str) -> None:
    cells = spec.load(name).cells
    left_out = {
        "pckd/table1": {"absent": 1 + 2 + 2, "reported": 5},  # FSP, LSKD, ReviewKD and MLD; LSKD
        "pckd/table2": {"absent": 4 + 3 + 4, "reported": 2},  # LSKD, three methods for one pair, the row of ours; LSKD
    }
    assert len({cell.name for cell in cells}) == len(cells) == CELLS[name]
    assert Counter(cell.status for cell in cells if cell.status != "run") == left_out.get(name, {})
    assert all(cell.reason for cell in cells if cell.status != "run")


def test_reports_show_the_last_epoch_of_seed_0_and_means_over_seeds() -> None:
    for name in CELLS:
        file = spec.load(name).file
        assert (file.report.select, file.report.over_seeds, file.seeds) == ("last", "mean_std", (0,)), name
        kind = "curve" if "fig5" in name else "epochs" if name == "pckd/fig6" else "table"
        assert file.report.kind == kind, name


# --- shared trials ---------------------------------------------------------------------------------------------------


def test_tables_1_and_2_have_248_trials_of_the_paper_and_15_from_labels_alone(grid: Grid) -> None:
    rows: dict[str, set[str]] = {}
    for name in ("pckd/table1", "pckd/table2"):
        for labels, trial in grid[name].items():
            rows.setdefault(labels[0], set()).add(trial.digest())
    assert (len(rows.pop("Teacher")), len(rows.pop("Student"))) == (6, 9)
    ours = {label: len(rows.pop(label)) for label in OURS}
    assert ours == {"SSKD w/o KD": 13, "ReviewKD (weight 30)": 2}
    assert sum(map(len, rows.values())) == len(set().union(*rows.values())) == 248


def test_later_tables_and_figures_add_only_what_no_earlier_one_has(grid: Grid) -> None:
    known = digests(grid, "table1", "table2")
    assert len(known) == 248 + 15 + 13 + 2
    new = {}
    for names in (("table5",), ("table6",), ("table7",), ("table8",), ("table9",), ("fig5a", "fig5b", "fig5c", "fig5d"), ("fig6",)):  # fmt: skip
        fresh = digests(grid, *names) - known
        new[names[0]] = len(fresh)
        known |= fresh
    # Table IX: eight curricula, and that of ResNet32x4 / ResNet8x4 both with and without KD.
    assert new == {"table5": 12, "table6": 12, "table7": 7, "table8": 9, "table9": 8 + 1, "fig5a": 18, "fig6": 2}
    assert len(known) == 347


def test_every_teacher_is_a_cell_of_the_row_teacher(grid: Grid) -> None:
    rows = {
        trial.digest()
        for name in ("pckd/table1", "pckd/table2")
        for labels, trial in grid[name].items()
        if labels[0] == "Teacher"
    }
    used = {
        upstream.digest() for trials in grid.values() for trial in trials.values() for upstream in trial.upstreams()
    }
    assert used == rows
    assert len(rows) == 6


WRN, SHUFFLE, SMALL = "WRN-40-2 / WRN-16-2", "WRN-40-2 / ShuffleNetV1", "ResNet110 / ResNet20"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("table5", "L_PCKD", WRN), ("table1", "PCKD", WRN)),
        (("table5", "L_PCKD (w/o L_KD)", SMALL), ("table1", "PCKD (w/o L_KD)", SMALL)),
        (("table5", "L_PCKD", SHUFFLE), ("table2", "PCKD", SHUFFLE)),
        (("table6", "none", SMALL), ("table1", "Student", SMALL)),
        (("table1", "Student", "ResNet56 / ResNet20"), ("table1", "Student", SMALL)),
        (("table6", "FA+CA+CC", SMALL), ("table5", "L_CKD", SMALL)),
        (("table7", "L_CE", "WRN-16-2"), ("table1", "Student", WRN)),
        (("table7", "L_CE", "ShuffleNetV2"), ("table2", "Student", "ResNet32x4 / ShuffleNetV2")),
        (("table8", "L_KD†", SHUFFLE), ("table5", "L_KD + Preview", SHUFFLE)),
        (("table8", "L_CKD†", WRN), ("table1", "PCKD (w/o L_KD)", WRN)),
        (("table8", "L_KD† + L_CKD†", SMALL), ("table1", "PCKD", SMALL)),
        (("table9", "ResNet32x4 / ResNet8x4", "PCKD"), ("table1", "PCKD (w/o L_KD)", "ResNet32x4 / ResNet8x4")),
        (("table9", "ResNet32x4 / ResNet8x4, with KD", "PCKD"), ("table1", "PCKD", "ResNet32x4 / ResNet8x4")),
        (("table9", "ResNet50 / VGG8", "PCKD"), ("table2", "PCKD", "ResNet50 / VGG8")),
        (("table2", "Student", "ResNet50 / VGG8"), ("table1", "Student", "VGG13 / VGG8")),
        (("fig5a", "0.05"), ("table1", "PCKD", WRN)),
        (("fig5b", "20"), ("table1", "PCKD", WRN)),
        (("fig5c", "1"), ("table1", "PCKD", WRN)),
        (("fig5d", "1.005"), ("table1", "PCKD", WRN)),
        (("fig6", "preview, 1 + eps = 1.005"), ("table7", "L_CE + Preview", "WRN-16-2")),
    ],
)
def test_equal_cells_of_different_tables_are_one_trial(
    grid: Grid, one: tuple[str, ...], other: tuple[str, ...]
) -> None:
    assert at(grid, one).digest() == at(grid, other).digest()


# --- settings, one case for each rule ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "hparams", "recipe"),
    [
        (("table1", "KD", SMALL), {"ce_weight": 0.1, "kd_weight": 0.9, "temperature": 4}, (0.05, 240)),
        (("table1", "FT", WRN), {"first_stage_lr": 0.01}, (0.05, 240)),
        (("table1", "FT", "VGG13 / VGG8"), {"first_stage_lr": None}, (0.05, 240)),
        (("table2", "FT", SHUFFLE), {"first_stage_lr": None}, (0.01, 240)),
        (("table1", "SSKD", SMALL), {"ce_weight": 0.1, "kd_weight": 0.9, "tf_weight": 2.7, "ss_weight": 10}, (0.05, 240)),
        (("table1", "SSKD w/o KD", SMALL), {"ce_weight": 0.1, "kd_weight": 0, "tf_weight": 2.7}, (0.05, 240)),
        (("table1", "ICKD", WRN), {"ickd_weight": 2.5, "kd_weight": 0}, (0.05, 240)),
        (("table1", "CRD", WRN), {"crd_weight": 0.8, "kd_weight": 0}, (0.05, 240)),
        (("table1", "ReviewKD", WRN), {"review_weight": 5}, (0.05, 240)),
        (("table1", "ReviewKD", "VGG13 / VGG8"), {"review_weight": 5}, (0.05, 240)),
        (("table1", "ReviewKD", "ResNet56 / ResNet20"), {"review_weight": 0.6}, (0.05, 240)),
        (("table1", "ReviewKD", "ResNet110 / ResNet32"), {"review_weight": 1}, (0.05, 240)),
        (("table2", "ReviewKD", "ResNet32x4 / ShuffleNetV1"), {"review_weight": 5}, (0.01, 240)),
        (("table2", "ReviewKD", "ResNet32x4 / ShuffleNetV2"), {"review_weight": 8}, (0.01, 240)),
        (("table2", "ReviewKD", "VGG13 / MobileNetV2"), {"review_weight": 8}, (0.01, 240)),
        (("table2", "ReviewKD", "ResNet50 / MobileNetV2"), {"review_weight": 8}, (0.01, 240)),
        (("table2", "ReviewKD (weight 30)", "VGG13 / MobileNetV2"), {"review_weight": 30}, (0.01, 240)),
        (("table2", "ReviewKD (weight 30)", "ResNet50 / MobileNetV2"), {"review_weight": 30}, (0.01, 240)),
        (("table1", "DKD", "ResNet56 / ResNet20"), {"alpha": 1, "beta": 2}, (0.05, 240)),
        (("table1", "DKD", SMALL), {"beta": 2}, (0.05, 240)),
        (("table1", "DKD", "WRN-40-2 / WRN-40-1"), {"beta": 6}, (0.05, 240)),
        (("table1", "DKD", "ResNet32x4 / ResNet8x4"), {"beta": 8}, (0.05, 240)),
        (("table2", "DKD", "VGG13 / MobileNetV2"), {"beta": 6}, (0.01, 240)),
        (("table2", "DKD", "ResNet50 / MobileNetV2"), {"beta": 8}, (0.01, 240)),
        (("table1", "MLD", WRN), {"form": "released"}, (0.025, 240)),
        (("table2", "MLD", "VGG13 / MobileNetV2"), {}, (0.01, 480)),
        (("table2", "MLD", SHUFFLE), {}, (0.01, 480)),
        (("table2", "MLD", "ResNet32x4 / ShuffleNetV1"), {}, (0.01, 960)),
        (("table2", "MLD", "ResNet32x4 / ShuffleNetV2"), {}, (0.01, 960)),
        (("table1", "PCKD", WRN), {"form": "release", "alpha": 1, "beta_fa": 20, "beta_ca": 1, "beta_cc": 0.05, "eps": 0.005}, (0.05, 240)),
        (("table1", "PCKD", "WRN-40-2 / WRN-40-1"), {"beta_ca": 0, "beta_cc": 0.05}, (0.05, 240)),
        (("table1", "PCKD (w/o L_KD)", SMALL), {"alpha": 0, "beta_ca": 1, "beta_cc": 0.02}, (0.05, 240)),
        (("table1", "PCKD", "ResNet110 / ResNet32"), {"beta_ca": 1, "beta_cc": 0.05}, (0.05, 240)),
        (("table2", "PCKD (w/o L_KD)", "ResNet50 / VGG8"), {"alpha": 0, "beta_ca": 0}, (0.05, 240)),
        (("table2", "PCKD", "ResNet50 / MobileNetV2"), {"alpha": 1, "beta_ca": 0}, (0.01, 240)),
        (("table5", "L_KD", SMALL), {"ce_weight": 1, "alpha": 1, "beta_fa": 0, "beta_ca": 0, "beta_cc": 0, "weighting": "none"}, (0.05, 240)),
        (("table5", "L_KD + Preview", SMALL), {"beta_fa": 0, "beta_ca": 0, "beta_cc": 0, "weighting": "preview"}, (0.05, 240)),
        (("table5", "L_KD + L_CKD", SMALL), {"alpha": 1, "beta_cc": 0.02, "weighting": "none"}, (0.05, 240)),
        (("table5", "L_CKD", SHUFFLE), {"alpha": 0, "beta_ca": 0, "beta_cc": 0.05, "weighting": "none"}, (0.01, 240)),
        (("table6", "FA", SMALL), {"alpha": 0, "beta_fa": 20, "beta_ca": 0, "beta_cc": 0}, (0.05, 240)),
        (("table6", "CA", SMALL), {"alpha": 0, "beta_fa": 0, "beta_ca": 1, "beta_cc": 0}, (0.05, 240)),
        (("table6", "CC", SMALL), {"beta_fa": 0, "beta_ca": 0, "beta_cc": 0.02, "weighting": "none"}, (0.05, 240)),
        (("table6", "CA+CC", WRN), {"beta_fa": 0, "beta_ca": 1, "beta_cc": 0.05}, (0.05, 240)),
        (("table6", "FA+CA", SMALL), {"beta_fa": 20, "beta_ca": 1, "beta_cc": 0}, (0.05, 240)),
        (("table6", "FA+CC", SMALL), {"beta_fa": 20, "beta_ca": 0, "beta_cc": 0.02}, (0.05, 240)),
        (("table7", "L_CE + Preview", "ShuffleNetV1"), {"eps": 0.005}, (0.01, 240)),
        (("table7", "L_CE + Preview", "VGG8"), {"eps": 0.005}, (0.05, 240)),
        (("table8", "L_KD*", SMALL), {"alpha": 1, "beta_fa": 0, "beta_cc": 0, "weighting": "focal", "gamma": 2}, (0.05, 240)),
        (("table8", "L_CKD*", SMALL), {"alpha": 0, "beta_cc": 0.02, "weighting": "focal", "gamma": 2}, (0.05, 240)),
        (("table8", "L_KD* + L_CKD*", SHUFFLE), {"alpha": 1, "beta_ca": 0, "weighting": "focal"}, (0.01, 240)),
        (("table9", SMALL, "Curriculum-CKD"), {"alpha": 1, "beta_cc": 0.02, "weighting": "curriculum"}, (0.05, 240)),
        (("table9", "ResNet32x4 / ResNet8x4", "Curriculum-CKD"), {"alpha": 0, "beta_ca": 1}, (0.05, 240)),
        (("table9", "ResNet32x4 / ResNet8x4, with KD", "Curriculum-CKD"), {"alpha": 1}, (0.05, 240)),
        (("table9", "ResNet50 / VGG8", "Curriculum-CKD"), {"alpha": 1, "beta_ca": 0}, (0.05, 240)),
        (("table9", "ResNet32x4 / ShuffleNetV1", "PCKD"), {"beta_ca": 0}, (0.01, 240)),
        (("fig6", "focal"), {"weighting": "focal", "gamma": 2}, (0.05, 240)),
        (("fig6", "preview, 1 + eps = 1.01"), {"eps": 0.01}, (0.05, 240)),
    ],
)  # fmt: skip
def test_cell_has_the_settings_of_its_method_and_pair(
    grid: Grid, place: tuple[str, ...], hparams: dict[str, Any], recipe: tuple[float, int]
) -> None:
    trial = at(grid, place)
    assert {key: trial.hparams[key] for key in hparams} == hparams
    assert (trial.protocol.lr, trial.protocol.epochs) == recipe


def test_recipe_is_one_but_for_light_students_and_mld(grid: Grid) -> None:
    for name, trials in grid.items():
        for labels, trial in trials.items():
            usual = 0.01 if trial.student in LIGHT else 0.025 if trial.method == "mld" else 0.05
            recipe = trial.protocol
            assert recipe.lr == usual, (name, labels)
            assert (recipe.batch_size, recipe.momentum, recipe.weight_decay) == (64, 0.9, 5e-4)
            assert (recipe.schedule, recipe.milestones, recipe.keep) == ("step", (150, 180, 210), "last")
            assert recipe.epochs == 240 or trial.method == "mld"
            for teacher in trial.upstreams():
                assert (teacher.method, teacher.protocol.lr, teacher.protocol.epochs) == ("ce", 0.05, 240)


def test_centres_are_aligned_where_the_paper_aligns_them(grid: Grid) -> None:
    wide = {
        "wrn_40_2": 128,
        "wrn_16_2": 128,
        "wrn_40_1": 64,
        "resnet56": 64,
        "resnet110": 64,
        "resnet20": 64,
        "resnet32": 64,
    }
    wide |= {"resnet32x4": 256, "resnet8x4": 256, "vgg13": 512, "vgg8": 512, "resnet50": 2048}
    wide |= {"mobilenetv2": 1280, "shufflev1": 960, "shufflev2": 1024}  # fmt: skip
    seen = set()
    for name in ("pckd/table1", "pckd/table2", "pckd/table9"):
        for trial in grid[name].values():
            if trial.method == "pckd":
                assert trial.teacher is not None
                same = wide[trial.teacher.network] == wide[trial.student]
                assert trial.hparams["beta_ca"] == float(same)
                assert trial.hparams["beta_cc"] == (0.02 if trial.student == "resnet20" else 0.05)
                seen.add((trial.teacher.network, trial.student))
    assert len(seen) == 13


def test_rows_without_a_preset_of_pckd_have_none_of_its_hyper_parameters(grid: Grid) -> None:
    others = [trial for trials in grid.values() for trial in trials.values() if trial.method != "pckd"]
    assert not any(key.startswith("beta_") for trial in others for key in trial.hparams)
    assert len({trial.method for trial in others}) == 20  # ce, ce_preview and 18 methods of Table I


@pytest.mark.parametrize(
    ("name", "field", "values"),
    [
        ("fig5a", "beta_cc", [0.01, 0.03, 0.05, 0.07, 0.09, 0.1]),
        ("fig5b", "beta_fa", [10, 20, 30, 40, 50]),
        ("fig5c", "beta_ca", [0.1, 0.5, 1, 5, 10]),
        ("fig5d", "eps", [0.003, 0.005, 0.01, 0.015, 0.03, 0.05]),
    ],
)
def test_figure_5_sweeps_one_value_and_keeps_the_others(grid: Grid, name: str, field: str, values: list[float]) -> None:
    trials = grid[f"pckd/{name}"]
    assert [trial.hparams[field] for trial in trials.values()] == values
    shift = 1 if field == "eps" else 0  # the paper prints 1 + eps
    assert [float(label) for (label,) in trials] == pytest.approx([shift + value for value in values])
    usual = {"beta_cc": 0.05, "beta_fa": 20, "beta_ca": 1, "eps": 0.005, "alpha": 1}
    del usual[field]
    for trial in trials.values():
        assert {key: trial.hparams[key] for key in usual} == usual
