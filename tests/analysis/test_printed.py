"""Printed values found by labels, for every file of both papers."""

from __future__ import annotations

import csv
from collections import Counter
from typing import Any

import pytest

from analysis import printed
from analysis.errors import ReportError
from sweeps import spec

NOTEBOOK = 'origin = "authors\' notebook"'
ONE = '[report.reference]\nfile = "{file}"\n' + NOTEBOOK + '\naxes = {{ row = "{{x}}" }}\n'
METRICS = ("test/acc1_pct", "test/agree1_pct", "test/loyalty_code")


def load(bench: Any, axes: str, report: str) -> tuple[spec.Experiment, dict[printed.Key, list[float]]]:
    experiment = spec.load(bench.write(axes, report=report, metrics=METRICS))
    return experiment, printed.load(experiment)


def test_every_reference_file_is_tested_here() -> None:
    found = sorted(path.name for path in printed.folder().glob("cudfkd_*.csv"))
    figures = [f"cudfkd_fig{n}.csv" for n in (10, 4, 6, 7, 8, 9)]
    assert found == [*figures, *(f"cudfkd_table{n}.csv" for n in (1, 2, 3, 4, 5))]
    theirs = sorted(path.name for path in printed.folder().glob("pckd_*.csv"))
    assert theirs == [f"pckd_table{n}.csv" for n in range(1, 10)]


def test_fig9_maps_every_row_of_its_file() -> None:
    experiment = spec.load("cudfkd/fig9")
    values = printed.load(experiment)
    keys = [printed.key_of(experiment, cell.labels, metric) for cell in experiment.cells for metric in METRICS]
    assert len(values) == 81
    assert set(keys) == set(values)
    labels = {"pair": "ResNet34 / ResNet18", "k_begin": "1/5", "k_end": "4/5"}
    assert values[printed.key_of(experiment, labels, "test/agree1_pct")] == [86.11]


@pytest.mark.parametrize("name", [f"cudfkd/fig{n}" for n in (6, 7, 8, 9, 10)])
def test_shipped_experiment_shows_every_value_of_its_file(name: str) -> None:
    experiment = spec.load(name)
    keys = {printed.key_of(experiment, cell.labels, metric) for cell in experiment.cells for metric in METRICS}
    assert set(printed.load(experiment)) <= keys


@pytest.mark.parametrize(
    ("file", "labels", "cell", "value"),
    [
        ("cudfkd_fig6.csv", ["none", "hard", "soft", "log"], "hard", 97.71),
        ("cudfkd_fig7.csv", ["4", "5", "8", "10", "12", "15", "18", "20"], "12", 97.60),
        ("cudfkd_fig8.csv", ["2.0", "2.2", "2.5", "2.8"], "2.5", 93.92),
        ("cudfkd_fig10.csv", ["0.05", "0.1", "0.15", "0.2", "0.25", "0.3", "0.35", "0.4"], "0.35", 86.32),
    ],
)
def test_one_parameter_figures_map_every_row(bench: Any, file: str, labels: list[str], cell: str, value: float) -> None:
    experiment, values = load(bench, bench.axis("row", labels), ONE.format(file=file))
    with (printed.folder() / file).open() as handle:
        assert len(values) == len(list(csv.DictReader(handle))) == 3 * len(labels)
    assert values[printed.key_of(experiment, {"row": cell}, "test/agree1_pct")] == [value]


def test_fig4_keeps_its_repeated_runs(bench: Any) -> None:
    axes = bench.axis("row", ["CuDFKD", "CMI", "ADI", "DAFL"]) + bench.axis("col", ["clean", "noisy"])
    report = 'columns = "col"\n[report.reference]\nfile = "cudfkd_fig4.csv"\n'
    report += NOTEBOOK + '\naxes = { row = "{method}", col = "{x}" }\n'
    experiment, values = load(bench, axes, report)
    assert len(values) == 24
    assert all(len(runs) == 3 for runs in values.values())
    key = printed.key_of(experiment, {"row": "CuDFKD", "col": "noisy"}, "test/acc1_pct")
    assert values[key] == [93.24, 93.38, 93.30]


def test_reference_overrides_the_label_and_two_labels_may_share_a_value(bench: Any) -> None:
    axes = bench.axis(
        "row", ["none (all)", "none (no stage)", "log", "other"], {"none (all)": "none", "none (no stage)": "none"}
    )
    experiment, values = load(bench, axes, ONE.format(file="cudfkd_fig6.csv"))
    for label in ("none (all)", "none (no stage)"):
        assert values[printed.key_of(experiment, {"row": label}, "test/acc1_pct")] == [93.24]
    assert printed.key_of(experiment, {"row": "other"}, "test/acc1_pct") not in values


def test_missing_file_names_the_known_ones(bench: Any) -> None:
    with pytest.raises(ReportError, match=r"no file 'cudfkd_fig99.csv'; known: .*cudfkd_fig10.csv, "):
        load(bench, bench.axis("row", ["a"]), ONE.format(file="cudfkd_fig99.csv"))


def test_axis_without_any_printed_label_is_an_error(bench: Any) -> None:
    with pytest.raises(
        ReportError, match=r"axes.row: no label of the axis occurs in cudfkd_fig8.csv, which has 2.0, 2.2"
    ):
        load(bench, bench.axis("row", ["2", "3"]), ONE.format(file="cudfkd_fig8.csv"))


def test_unknown_column_in_a_template_is_an_error(bench: Any) -> None:
    report = ONE.format(file="cudfkd_fig8.csv").replace("{x}", "{wrong}")
    with pytest.raises(ReportError, match=r"bad template \('wrong'\); columns of cudfkd_fig8.csv: paper, figure"):
        load(bench, bench.axis("row", ["2.0"]), report)


def test_two_values_for_one_cell_are_an_error(bench: Any) -> None:
    with pytest.raises(ReportError, match=r"cudfkd_fig9.csv has two values for 1/5 test/acc1_pct: 71 and 71.22"):
        load(bench, bench.axis("row", ["1/5"]), ONE.format(file="cudfkd_fig9.csv"))


def paper_table(
    bench: Any, number: int, axes: str, mapped: str
) -> tuple[spec.Experiment, dict[printed.Key, list[float]]]:
    report = f'[report.reference]\nfile = "cudfkd_table{number}.csv"\norigin = "printed"\naxes = {{ {mapped} }}\n'
    return load(bench, axes, report)


PAIRS = ("ResNet34 / ResNet18", "VGG11 / ResNet18", "WRN-40-2 / WRN-40-1", "WRN-40-2 / WRN-16-2")
METHODS = ("T.Scratch", "S.Scratch", "DAFL", "ZSKT", "ADI", "DFQ", "CMI", "PRE-DFKD", "CuDFKD")


@pytest.mark.parametrize(("number", "value"), [(2, 95.27), (3, 71.85)])
def test_tables_2_and_3_map_every_value(bench: Any, number: int, value: float) -> None:
    axes = bench.axis("row", METHODS) + bench.axis("pair", PAIRS)
    report = 'columns = "pair"\n[report.reference]\norigin = "printed"\n'
    report += (
        f'file = "cudfkd_table{number}.csv"\naxes = {{ row = "{{method}}", pair = "{{teacher}} / {{student}}" }}\n'
    )
    experiment, values = load(bench, axes, report)
    assert len(values) == 97  # 9 x 4 x 3 less the 11 that PRE-DFKD has not
    keys = {printed.key_of(experiment, cell.labels, metric) for cell in experiment.cells for metric in METRICS}
    assert set(values) <= keys
    labels = {"row": "CuDFKD", "pair": "WRN-40-2 / WRN-40-1"}
    assert values[printed.key_of(experiment, labels, "test/agree1_pct")] == [value]


def test_table_4_maps_every_value(bench: Any) -> None:
    labels = ["Teacher", "Student", "CMI", "ADI", "DFQ", "CuDFKD"]
    experiment, values = paper_table(bench, 4, bench.axis("row", labels), 'row = "{method}"')
    assert len(values) == 18
    assert values[printed.key_of(experiment, {"row": "CMI"}, "test/loyalty_code")] == [0.1181]


def test_table_5_maps_every_value_to_our_units(bench: Any) -> None:
    axes = bench.axis("row", ["DAFL", "DFAD", "ADI", "CMI", "MB-DFKD", "PRE-DFKD", "CuDFKD"])
    axes += bench.axis("data", ["CIFAR10", "CIFAR100"])
    report = 'panels = "data"\n[report.reference]\nfile = "cudfkd_table5.csv"\norigin = "printed"\n'
    experiment, values = load(bench, axes, report + 'axes = { row = "{method}", data = "{dataset}" }\n')
    assert len(values) == 58
    names = ("stats/from/test/acc1_pct_mean", "stats/from/test/acc1_pct_var", "best/test/acc1_pct")
    names += ("train/peak_memory_mib", "time/train_s")
    cell = {"row": "CuDFKD", "data": "CIFAR10"}
    shown = [values[printed.key_of(experiment, cell, name)][0] for name in names]
    assert shown == pytest.approx([94.1, 2.88, 95.0, 6.84 * 1024, 5.48 * 3600], abs=1e-9)


def test_file_of_words_is_no_file_of_numbers(bench: Any) -> None:
    with pytest.raises(ReportError, match=r"cudfkd_table1.csv has no column 'metric' .*; words need kind = 'declared'"):
        paper_table(bench, 1, bench.axis("row", ["DAFL"]), 'row = "{method}"')


def test_table_1_maps_every_word(bench: Any) -> None:
    report = '[report.reference]\nfile = "cudfkd_table1.csv"\norigin = "printed"\naxes = { row = "{method}" }\n'
    experiment = spec.load(bench.write(bench.axis("row", ["DAFL", "DFQ", "CMI", "CuDFKD"]), report=report))
    words = printed.load_words(experiment)
    assert len(words) == 12
    assert words[printed.key_of(experiment, {"row": "DAFL"}, "Target")] == "Data Prior"


PCKD_VALUES = {1: 156, 2: 125, 5: 18, 6: 16, 7: 12, 8: 27, 9: 16}
"""Table -> printed numbers in its file."""
PCKD_OURS = {"SSKD w/o KD", "ReviewKD (weight 30)", "ResNet32x4 / ResNet8x4, with KD"}
"""Labels that the paper does not print."""


@pytest.mark.parametrize(("number", "count"), list(PCKD_VALUES.items()))
def test_every_number_that_pckd_prints_reaches_exactly_one_cell(number: int, count: int) -> None:
    experiment = spec.load(f"pckd/table{number}")
    values = printed.load(experiment)
    with (printed.folder() / f"pckd_table{number}.csv").open(encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    assert len(values) == sum(bool(row["value"]) for row in rows) == count
    assert sum(sum(runs) for runs in values.values()) == pytest.approx(
        sum(float(row["value"]) for row in rows if row["value"])
    )
    shown = [cell for cell in experiment.cells if cell.status != "absent"]
    reached = Counter(printed.key_of(experiment, cell.labels, "test/acc1_pct") for cell in shown)
    assert all(reached[key] == 1 for key in values)
    bare = [cell for cell in shown if printed.key_of(experiment, cell.labels, "test/acc1_pct") not in values]
    lost = {"L_CE", "L_CE + Preview"} if number == 7 else set()
    for cell in bare:  # trained, with nothing printed beside it
        assert set(cell.labels.values()) & PCKD_OURS or (
            cell.labels["method"] in lost and "WRN-16-2" in cell.labels.values()
        )
    not_printed = {row["note"] for row in rows if not row["value"]}
    assert not_printed == {1: {"NA"}, 2: {"NA"}, 7: {"LOST"}}.get(number, set())


@pytest.mark.parametrize("number", list(PCKD_VALUES))
def test_rows_and_columns_of_pckd_are_in_the_printed_order(number: int) -> None:
    experiment = spec.load(f"pckd/table{number}")
    reference = experiment.file.report.reference
    assert reference is not None
    rows = printed.labelled_rows(experiment, reference)
    for position, name in enumerate(reference.axes):
        theirs = list(dict.fromkeys(labels[position] for labels, _ in rows))
        axis = next(axis for axis in experiment.file.axes if axis.name == name)
        assert [value.reference or value.label for value in axis.values if value.label not in PCKD_OURS] == theirs


@pytest.mark.parametrize(
    ("name", "labels", "value"),
    [
        ("table1", {"method": "Teacher", "pair": "ResNet32x4 / ResNet8x4"}, 79.42),
        ("table1", {"method": "LSKD", "pair": "ResNet110 / ResNet20"}, 71.38),
        ("table1", {"method": "PCKD (w/o L_KD)", "pair": "ResNet32x4 / ResNet8x4"}, 76.89),
        ("table2", {"method": "PCKD", "pair": "ResNet32x4 / ShuffleNetV2"}, 79.61),
        ("table5", {"method": "L_PCKD", "pair": "ResNet110 / ResNet20"}, 72.55),
        ("table6", {"method": "none", "pair": "WRN-40-2 / WRN-16-2"}, 73.71),
        ("table7", {"method": "L_CE + Preview", "student": "ShuffleNetV2"}, 72.38),
        ("table8", {"method": "L_KD* + L_CKD*", "pair": "WRN-40-2 / ShuffleNetV1"}, 77.41),
        ("table9", {"pair": "ResNet32x4 / ResNet8x4", "method": "PCKD"}, 76.89),
    ],
)
def test_value_that_pckd_prints_for_a_cell(name: str, labels: dict[str, str], value: float) -> None:
    experiment = spec.load(f"pckd/{name}")
    assert printed.load(experiment)[printed.key_of(experiment, labels, "test/acc1_pct")] == [value]


UNITS = """paper,table,method,metric,value,unit,note
tiny,I,a,mem,6.5,G,
tiny,I,b,mem,512,{unit},
tiny,I,a,time,2,h,
tiny,I,b,time,90,,
"""


def load_units(bench: Any, monkeypatch: pytest.MonkeyPatch, unit: str) -> dict[printed.Key, list[float]]:
    (bench.folder / "units.csv").write_text(UNITS.format(unit=unit))
    monkeypatch.setattr(printed, "folder", lambda: bench.folder)
    report = '[report.reference]\nfile = "units.csv"\norigin = "printed"\naxes = { row = "{method}" }\n'
    metrics = ["train/peak_memory_mib", "time/train_s"]
    return printed.load(spec.load(bench.write(bench.axis("row", ["a", "b"]), report=report, metrics=metrics)))


def test_one_metric_in_two_units_is_brought_to_ours(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    values = load_units(bench, monkeypatch, "")  # no unit: ours, MiB and s
    assert values == {
        (("a",), "train/peak_memory_mib"): [6656.0],
        (("b",), "train/peak_memory_mib"): [512.0],
        (("a",), "time/train_s"): [7200.0],
        (("b",), "time/train_s"): [90.0],
    }


def test_unit_that_nobody_knows_is_an_error(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ReportError, match=r"tiny/grid: units.csv: unknown unit 'MB' of mem; known: none, %, G, h"):
        load_units(bench, monkeypatch, "MB")
