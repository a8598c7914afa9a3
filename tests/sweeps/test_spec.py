"""Experiment and profile files: what they mean, and that every shipped one is sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from sweeps import spec
from sweeps.errors import SpecError
from sweeps.resolve import check
from trainers import config

CELLS = {
    "cudfkd/fig2": 8,
    "cudfkd/fig3": 8,
    "cudfkd/fig4": 8,
    "cudfkd/fig5": 1,
    "cudfkd/fig6": 5,
    "cudfkd/fig7": 8,
    "cudfkd/fig8": 16,
    "cudfkd/fig9": 27,
    "cudfkd/fig10": 8,
    "cudfkd/search": 1,
    "cudfkd/table1": 9,
    "cudfkd/table2": 36,
    "cudfkd/table3": 36,
    "cudfkd/table4": 12,
    "cudfkd/table5": 14,
}
SHIPPED = list(CELLS)
"""CuDFKD's; those of PCKD are in test_pckd.py."""


def test_shipped_experiments_are_these_in_the_order_of_the_paper() -> None:
    names = spec.experiment_names()
    assert names[: len(SHIPPED)] == SHIPPED
    assert all(name.startswith("pckd/") for name in names[len(SHIPPED) :])


def test_shipped_profiles_are_these() -> None:
    assert spec.profile_names() == ["cpu", "demo", "gpu", "paper"]


@pytest.mark.parametrize("profile", ["demo", "paper"])
def test_every_shipped_experiment_loads_without_a_fault(profile: str, tmp_path: Path) -> None:
    loaded = [spec.load(name, spec.load_profile(profile)) for name in spec.experiment_names()]
    assert len(loaded) > len(CELLS)
    assert check(SHIPPED, profile, tmp_path) == []


def test_grids_have_the_papers_sizes_and_demo_keeps_one_pair_of_fig9() -> None:
    paper, demo = (spec.load_profile(name) for name in ("paper", "demo"))
    assert {name: len(spec.load(name, paper).cells) for name in SHIPPED} == CELLS
    assert {name: len(spec.load(name, demo).cells) for name in SHIPPED} == {**CELLS, "cudfkd/fig9": 9}


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "cudfkd/search"])
def test_every_cell_is_trained_but_those_the_papers_leave_out_and_named_once(name: str) -> None:
    cells = spec.load(name).cells
    left_out = {"cudfkd/table1": (9, "declared"), "cudfkd/table2": (3, "absent"), "cudfkd/table3": (3, "absent")}
    left_out["cudfkd/table4"] = (1, "absent")
    count, status = left_out.get(name, (0, ""))
    assert [cell.status for cell in cells if cell.status != "run"] == [status] * count
    assert len({cell.name for cell in cells}) == len(cells) == CELLS[name]


def test_cells_vary_like_digits_with_the_last_axis_fastest(place: Any) -> None:
    cells = spec.load(place.write()).cells
    assert [cell.name for cell in cells] == [
        "pair=A temperature=2",
        "pair=A temperature=4",
        "pair=B temperature=2",
        "pair=B temperature=4",
    ]


def test_settings_of_a_cell_are_base_then_axes(place: Any) -> None:
    cell = spec.load(place.write()).cells[2]
    assert cell.labels == {"pair": "B", "temperature": "2"}
    assert cell.settings == {
        "protocol.name": "demo-scratch",
        "teacher_protocol.name": "demo-scratch",
        "data.name": "digits",
        "method": "kd",
        "hparams.ce_weight": 0.25,
        "teacher": "resnet20",
        "student": "resnet8",
        "hparams.temperature": 2.0,
    }


def test_a_swept_module_is_read_as_one_in_base(place: Any) -> None:
    own = '[[axes]]\nname = "own"\npath = "method"\nvalues = [{ label = "a", value = { module = "my_pkg.a" } }, { label = "kd", value = "kd" }]\n'
    text = place_text(place).replace('columns = "temperature"', 'columns = "temperature"\npanels = "own"') + own
    assert [cell.settings["method"] for cell in spec.load(place.write(text)).cells[:2]] == ["my_pkg.a", "kd"]


def test_an_experiment_without_axes_has_one_cell(place: Any) -> None:
    head, axes = place_text(place).split("[[axes]]", 1)
    text = head.replace('rows = "pair"\ncolumns = "temperature"', 'rows = "x"') + "[search]\ntrials = 1\n"
    text += 'space = [{ path = "hparams.temperature", low = 1.0, high = 2.0 }]\n'
    assert "temperature" in axes
    assert [cell.name for cell in spec.load(place.write(text)).cells] == ["all"]


def place_text(place: Any) -> str:
    return Path(place.folder / place.write()).read_text()


@pytest.mark.parametrize(
    ("match", "changed"),
    [
        ('{ pair = "B" }', {"pair=B temperature=2", "pair=B temperature=4"}),
        ('{ pair = "B", temperature = "4" }', {"pair=B temperature=4"}),
        ('{ temperature = ["2", "4"], pair = ["A"] }', {"pair=A temperature=2", "pair=A temperature=4"}),
        ('{ teacher = "resnet14" }', {"pair=A temperature=2", "pair=A temperature=4"}),
        ('{ "hparams.temperature" = 4.0 }', {"pair=A temperature=4", "pair=B temperature=4"}),
        ('{ data = "digits", student = "resnet14" }', set()),
    ],
)
def test_when_sets_only_the_cells_that_match(place: Any, match: str, changed: set[str]) -> None:
    text = place_text(place) + f'[[when]]\nmatch = {match}\nset = {{ "hparams.ce_weight" = 0.75 }}\n'
    cells = spec.load(place.write(text)).cells
    assert {cell.name for cell in cells if cell.settings["hparams.ce_weight"] == 0.75} == changed


def test_when_rules_apply_in_the_order_of_the_file_and_see_each_other(place: Any) -> None:
    text = place_text(place)
    text += '[[when]]\nmatch = { pair = "A" }\nset = { student = "resnet20", "hparams.ce_weight" = 0.5 }\n'
    text += '[[when]]\nmatch = { student = "resnet20" }\nset = { hparams = { kd_weight = 2.0 } }\n'
    cells = spec.load(place.write(text)).cells
    assert [cell.settings.get("hparams.kd_weight") for cell in cells] == [2.0, 2.0, None, None]
    assert cells[0].settings["hparams.ce_weight"] == 0.5


def test_absent_and_reported_cells_stay_in_the_grid_with_their_reason(place: Any) -> None:
    text = place_text(place)
    text += '[[absent]]\nmatch = { pair = "A", temperature = "2" }\nreason = "needs equal widths"\n'
    text += '[[reported]]\nmatch = { temperature = "2" }\nreason = "code not public"\n'
    cells = spec.load(place.write(text)).cells
    assert [(cell.status, cell.reason) for cell in cells] == [
        ("absent", "needs equal widths"),
        ("run", ""),
        ("reported", "code not public"),
        ("run", ""),
    ]


def profile_file(place: Any, text: str) -> spec.Profile:
    return spec.load_profile(place.write(f'title = "own"\n{text}', "own.toml"))


def test_keep_leaves_only_the_labels_a_profile_names(place: Any) -> None:
    kept = profile_file(place, '[keep."cudfkd/fig9"]\npair = ["VGG11 / ResNet18", "WRN-40-2 / WRN-40-1"]\n')
    cells = spec.load("cudfkd/fig9", kept).cells
    assert len(cells) == 18
    assert {cell.labels["pair"] for cell in cells} == {"VGG11 / ResNet18", "WRN-40-2 / WRN-40-1"}


def test_keep_names_ones_own_experiment_by_paper_and_file(place: Any) -> None:
    kept = profile_file(place, '[keep."tiny/grid"]\npair = ["B"]\n')
    assert [cell.labels["pair"] for cell in spec.load(place.write(), kept).cells] == ["B", "B"]


def test_select_takes_the_union_within_an_axis_and_the_intersection_between_axes(place: Any) -> None:
    experiment = spec.load(place.write())
    assert [c.name for c in experiment.select({"temperature": ["2", "4"], "pair": ["A"]})] == [
        "pair=A temperature=2",
        "pair=A temperature=4",
    ]
    assert experiment.select({}) == experiment.cells


def test_select_refuses_unknown_names_all_at_once(place: Any) -> None:
    with pytest.raises(SpecError) as caught:
        spec.load(place.write()).select({"pare": ["A"], "temperature": ["3"]})
    assert len(caught.value.faults) == 2
    assert "did you mean 'pair'" in caught.value.faults[0]
    assert "known: 2, 4" in caught.value.faults[1]


def test_select_refuses_a_label_that_the_profile_does_not_keep() -> None:
    with pytest.raises(SpecError, match=r"VGG11 / ResNet18.*ResNet34 / ResNet18"):
        spec.load("cudfkd/fig9", spec.load_profile("demo")).select({"pair": ["VGG11 / ResNet18"]})


def test_globs_and_all_leave_searches_out_but_a_name_does_not() -> None:
    grids = [name for name in SHIPPED if name != "cudfkd/search"]
    every = [name for name in spec.experiment_names() if not name.endswith("/search")]
    assert spec.find(["all"]) == every
    assert every[: len(grids)] == grids
    assert spec.find(["cudfkd/*"]) == grids
    assert spec.find(["cudfkd/fig[67]"]) == ["cudfkd/fig6", "cudfkd/fig7"]
    assert spec.find(["cudfkd/search", "all"]) == ["cudfkd/search", *every]
    assert spec.find(["cudfkd/fig9", "cudfkd/fig9", "my/own.toml"]) == ["cudfkd/fig9", "my/own.toml"]


def test_find_refuses_what_matches_nothing() -> None:
    with pytest.raises(SpecError) as caught:
        spec.find(["cudfkd/fgi9", "dckd/*", "cudfkd/fig6"])
    assert len(caught.value.faults) == 2
    assert "did you mean 'cudfkd/fig9'" in caught.value.faults[0]


def test_natural_order_puts_fig9_before_fig10() -> None:
    names = ["p/fig10", "p/fig9b", "p/fig9", "a/fig11", "p/fig1"]
    assert sorted(names, key=spec.natural_key) == ["a/fig11", "p/fig1", "p/fig9", "p/fig9b", "p/fig10"]


def test_a_profile_shortens_searches_and_leaves_the_rest() -> None:
    demo = spec.load("cudfkd/search", spec.load_profile("demo")).file.search
    paper = spec.load("cudfkd/search", spec.load_profile("paper")).file.search
    assert demo is not None
    assert paper is not None
    assert (paper.trials, paper.startup_trials) == (40, 10)
    assert (demo.trials, demo.startup_trials) == (8, 3)
    assert demo.space == paper.space


def test_ones_own_file_is_named_by_paper_and_stem(place: Any) -> None:
    experiment = spec.load(str(place.folder / place.write()))
    assert experiment.name == "tiny/grid"
    assert experiment.path == str(place.folder / "grid.toml")


def test_a_profile_may_be_a_file_of_ones_own(place: Any) -> None:
    own = profile_file(place, '[networks]\nresnet18 = "resnet8"\n')
    assert (own.name, own.networks) == ("own", {"resnet18": "resnet8"})


def test_hash_of_the_file_follows_its_text(place: Any) -> None:
    first = spec.load(place.write())
    second = spec.load(place.write(first.text + "# a remark\n"))
    assert first.sha256 != second.sha256
    assert first.cells == second.cells


@pytest.mark.parametrize(
    ("nested", "flat"),
    [
        ({"hparams": {"alpha": 1.0}}, {"hparams.alpha": 1.0}),
        ({"data": "digits"}, {"data.name": "digits"}),
        (
            {"data": {"name": "cifar100", "holdout_images": 5000}},
            {"data.name": "cifar100", "data.holdout_images": 5000},
        ),
        ({"data": {"module": "my_pkg.my_data"}}, {"data.name": "my_pkg.my_data"}),
        ({"method": {"module": "my_pkg.my_method"}}, {"method": "my_pkg.my_method"}),
        ({"student": {"module": "my_pkg.net"}, "teacher": "vgg11"}, {"student": "my_pkg.net", "teacher": "vgg11"}),
        ({"protocol": {"lr": 0.1}}, {"protocol.lr": 0.1}),
        ({"protocol.lr": 0.1}, {"protocol.lr": 0.1}),
        ({"evaluate": {"teacher_protocol": "scratch-200"}}, {"evaluate.teacher_protocol.name": "scratch-200"}),
    ],
)
def test_nested_settings_become_dotted_paths(nested: dict[str, Any], flat: dict[str, Any]) -> None:
    assert spec.flatten(nested) == flat


def test_numbers_stay_numbers(place: Any) -> None:
    cells = spec.load(place.write(swap={"value = 2.0": "value = 1e-3"})).cells
    assert cells[0].settings["hparams.temperature"] == 0.001


# --- cells with seeds of their own, repeated on purpose, or only declared -------------------------------------------------


def test_a_cell_may_have_seeds_of_its_own(place: Any) -> None:
    name = place.write(swap={'label = "A", ': 'label = "A", seeds = [3, 5], '})
    cells = spec.load(name).cells
    assert {cell.seeds for cell in cells if cell.labels["pair"] == "A"} == {(3, 5)}
    assert {cell.seeds for cell in cells if cell.labels["pair"] == "B"} == {None}
    assert all("seeds" not in cell.settings for cell in cells)


@pytest.mark.parametrize("seeds", ["[]", "[-1]", "[1, 1]", '["a"]', "3", "[true]"])
def test_seeds_of_a_cell_that_are_none_are_refused(place: Any, seeds: str) -> None:
    with pytest.raises(SpecError, match="seeds: must be a list of different whole numbers"):
        spec.load(place.write(swap={'label = "A", ': f'label = "A", seeds = {seeds}, '}))


def test_a_repeated_cell_is_refused_unless_the_file_says_that_it_is_meant(place: Any) -> None:
    rule = '\n[[when]]\nmatch = { pair = "B" }\nset = { teacher = "resnet14" }\n'
    text = (place.folder / place.write()).read_text()
    with pytest.raises(SpecError, match="repeated cell"):
        spec.load(place.write(text + rule))
    meant = '\n[[repeated]]\nmatch = { pair = ["A", "B"] }\nreason = "one teacher"\n'
    assert len(spec.load(place.write(text + rule + meant)).cells) == 4


def test_a_table_of_declarations_trains_nothing_and_shows_what_method_files_say(place: Any) -> None:
    plan = place.plan("cudfkd/table1", "demo")
    assert plan.trials == {}
    cells = {cell["labels"]["method"]: cell for cell in plan.as_json()["cells"]}
    assert {cell["status"] for cell in cells.values()} == {"declared"}
    assert cells["DAFL"]["declared"] == {"Target": "Data Prior", "Student": "No", "Dynamic": "No"}
    assert cells["CuDFKD"]["declared"] == {"Target": "Difficulty", "Student": "Yes", "Dynamic": "Yes"}


def test_a_method_that_declares_nothing_is_named(place: Any) -> None:
    text = (spec.package_folder("experiments") / "cudfkd" / "table1.toml").read_text()
    name = place.write(text.replace('{ label = "DAFL", method = "dafl" }', '{ label = "KD", method = "kd" }'), "t.toml")
    (fault,) = check([name], "paper", place.settings.data)
    assert "method 'kd' says nothing of Target, Student, Dynamic; add it to TRAITS" in fault


def test_plans_take_the_seeds_of_a_cell_unless_others_are_asked_for(place: Any) -> None:
    name = place.write(swap={'label = "A", ': 'label = "A", seeds = [3, 5], '})
    entries = {(entry.cell.labels["pair"], entry.seed) for entry in place.plan(name).entries}
    assert entries == {("A", 3), ("A", 5), ("B", 0)}
    assert {entry.seed for entry in place.plan(name, seeds=(7,)).entries} == {7}


def test_passes_are_those_of_the_trainers() -> None:
    assert get_args(spec.PassKind) == get_args(config.PassKind)
