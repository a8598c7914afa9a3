"""What an experiment file may say of its report, for the kinds that need more than axes and metrics."""

from __future__ import annotations

from typing import Any

import pytest

from sweeps import spec
from sweeps.errors import SpecError

DENSITY: dict[str, Any] = {"kind": "density", "metrics": ["train/difficulty"]}
IMAGES: dict[str, Any] = {"kind": "images", "metrics": ["train/easiest", "train/hardest"]}
SEARCH = '\n[search]\ntrials = 1\nspace = [ { path = "hparams.alpha", low = 0.0, high = 1.0 } ]\n'


def faults(bench: Any, **options: Any) -> list[str]:
    name = bench.write(options.pop("axes", bench.axis("row", ["a"])), **options)
    try:
        spec.load(name)
    except SpecError as error:
        return [fault.removeprefix(f"{name}: ") for fault in error.faults]
    return []


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "epochs"},
        {"kind": "histogram", "metrics": ["test/loyalty_code"]},
        DENSITY | {"report": 'epochs = [10, "last"]\ntotal_epochs = 300'},
        DENSITY | {"report": "epochs = [0, 299]\ntotal_epochs = 300"},
        {"kind": "declared", "metrics": ["Target", "Student"]},
        IMAGES | {"report": "epochs = [50]\ntotal_epochs = 240"},
        {"kind": "images", "metrics": ["train/spread"], "report": 'epochs = ["last"]'},
        {"kind": "scatter", "metrics": ["test/embedding"]},
        {"kind": "matrix", "metrics": ["classifier/centres"]},
        {"kind": "scatter", "axes": "", "more": SEARCH},
        {"metrics": ["stats/from/test/acc1_pct_mean", "train/peak_memory_mib"], "over_seeds": "mean_curve"},
    ],
)
def test_kinds_that_are_whole_have_no_faults(bench: Any, options: dict[str, Any]) -> None:
    assert faults(bench, **options) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"kind": "histogram"},
            "report.metrics: kind 'histogram' shows one of test/loyalty_code (got ['test/acc1_pct'])",
        ),
        (
            {"kind": "epochs", "metrics": ["best/test/acc1_pct"]},
            "report.metrics: 'best/test/acc1_pct' has one value a run, no curve; name the metric itself, e.g. test/acc1_pct",
        ),
        (
            DENSITY | {"report": "epochs = [10]\ntotal_epochs = 300"},
            'report.epochs: needs two different epochs, e.g. [10, "last"] (got [10])',
        ),
        (
            DENSITY | {"report": "epochs = [10, 10]\ntotal_epochs = 300"},
            'report.epochs: needs two different epochs, e.g. [10, "last"] (got [10, 10])',
        ),
        (
            DENSITY | {"report": 'epochs = [10, "last"]'},
            "report.total_epochs: is missing; epochs [10, 'last'] are counted in it",
        ),
        (
            DENSITY | {"report": "epochs = [10, 300]\ntotal_epochs = 300"},
            "report.epochs: 300 is not among the epochs 0 to 299",
        ),
        (
            {"kind": "bars", "report": "total_epochs = 300"},
            "report.total_epochs: only kinds 'density' and 'images' have it, not 'bars'",
        ),
        (
            {"kind": "scatter", "metrics": ["test/embedding"], "report": 'epochs = ["last"]'},
            "report.epochs: only kinds 'density' and 'images' have it, not 'scatter'",
        ),
        (
            {"kind": "scatter", "metrics": ["test/silhouette"]},
            "report.metrics: kind 'scatter' shows one of test/embedding (got ['test/silhouette'])",
        ),
        (
            {"kind": "matrix"},
            "report.metrics: kind 'matrix' shows one of classifier/centres (got ['test/acc1_pct'])",
        ),
        (
            {"kind": "images", "metrics": ["train/easiest", "train/worst"], "report": 'epochs = ["last"]'},
            "report.metrics: kind 'images' shows some of train/easiest, train/hardest, train/spread "
            "(got ['train/easiest', 'train/worst'])",
        ),
        (
            {"kind": "images", "metrics": ["train/easiest", "train/easiest"], "report": 'epochs = ["last"]'},
            "report.metrics: one is repeated (got ['train/easiest', 'train/easiest'])",
        ),
        (IMAGES, 'report.epochs: needs one epoch, e.g. [50] or ["last"] (got [])'),
        (
            IMAGES | {"report": 'epochs = [50, "last"]\ntotal_epochs = 240'},
            "report.epochs: needs one epoch, e.g. [50] or [\"last\"] (got [50, 'last'])",
        ),
        (
            IMAGES | {"report": "epochs = [50]"},
            "report.total_epochs: is missing; epochs [50] are counted in it",
        ),
        (
            IMAGES | {"report": "epochs = [240]\ntotal_epochs = 240"},
            "report.epochs: 240 is not among the epochs 0 to 239",
        ),
    ],
)
def test_one_fault_names_key_and_value(bench: Any, options: dict[str, Any], expected: str) -> None:
    assert faults(bench, **options) == [expected]


def test_unknown_word_among_the_epochs_is_a_fault(bench: Any) -> None:
    found = faults(bench, **DENSITY, report='epochs = [10, "first"]\ntotal_epochs = 300')
    assert any(fault.startswith("report.epochs") and "'first'" in fault for fault in found)


@pytest.mark.parametrize("kind", ["histogram", "epochs", "density"])
def test_kinds_without_columns_refuse_them(bench: Any, kind: str) -> None:
    axes = bench.axis("row", ["a"]) + bench.axis("col", ["b"])
    found = faults(bench, axes=axes, kind=kind, report='columns = "col"')
    assert f"report.columns: kind {kind!r} has none (got 'col'); use rows and panels" in found


@pytest.mark.parametrize("kind", ["images", "scatter", "matrix", "declared"])
def test_kinds_with_rows_only_refuse_columns_and_panels(bench: Any, kind: str) -> None:
    axes = bench.axis("row", ["a"]) + bench.axis("col", ["b"]) + bench.axis("pair", ["c"])
    found = faults(bench, axes=axes, kind=kind, report='columns = "col"\npanels = "pair"')
    assert found[:2] == [
        f"report.columns: kind {kind!r} has none (got 'col'); use rows",
        f"report.panels: kind {kind!r} has none (got 'pair'); use rows",
    ]


def test_left_out_metrics_must_be_the_reports(bench: Any) -> None:
    more = '\n[[absent]]\nmatch = { row = "a" }\nmetrics = ["test/agree1"]\nreason = "no teacher"\n'
    metrics = ["test/acc1_pct", "test/agree1_pct"]
    (fault,) = faults(bench, more=more, metrics=metrics)
    assert fault == (
        "absent[0].metrics: unknown metric of report.metrics 'test/agree1'; did you mean 'test/agree1_pct'? "
        "known: test/acc1_pct, test/agree1_pct"
    )


def test_only_absent_takes_metrics_and_not_none_of_them(bench: Any) -> None:
    more = '\n[[reported]]\nmatch = { row = "a" }\nmetrics = ["test/acc1_pct"]\nreason = "x"\n'
    assert faults(bench, more=more) == [
        "reported[0].metrics: ['test/acc1_pct'] means nothing here; only [[absent]] leaves out single metrics"
    ]
    (fault,) = faults(bench, more='\n[[absent]]\nmatch = { row = "a" }\nmetrics = []\nreason = "x"\n')
    assert fault.startswith("absent.0.metrics: ")


def test_cell_of_which_a_metric_is_left_out_is_trained(bench: Any) -> None:
    more = '\n[[absent]]\nmatch = { row = "a" }\nmetrics = ["test/acc1_pct"]\nreason = "x"\n'
    more += '\n[[absent]]\nmatch = { row = "b" }\nreason = "y"\n'
    cells = spec.load(bench.write(bench.axis("row", ["a", "b"]), more=more)).cells
    assert [(cell.status, cell.reason) for cell in cells] == [("run", ""), ("absent", "y")]


def test_what_is_said_of_digits_and_of_a_ranking_must_be_shown(bench: Any) -> None:
    axes = bench.axis("row", ["a", "b"]) + bench.axis("col", ["c"])
    good = 'columns = "col"\ndigits = { "test/acc1_pct" = 1 }\nunranked = ["a"]\nvariants = [["a", "b"]]\n'
    assert faults(bench, axes=axes, report=good) == []
    assert faults(bench, axes=axes, report='columns = "col"\ncompared = "col"\nunranked = ["c"]', kind="heatmap") == []
    bad = 'columns = "col"\ndigits = { "test/acc1" = 1 }\nunranked = ["A", "b", "b"]\nvariants = [["a", "x"]]\n'
    assert faults(bench, axes=axes, report=bad) == [
        "report.digits: unknown metric of report.metrics 'test/acc1'; did you mean 'test/acc1_pct'? known: test/acc1_pct",
        "report.unranked: unknown label of axis row 'A'; known: a, b",
        "report.unranked: 'b' occurs 2 times; once is allowed",
        "report.variants: unknown label of axis row 'x'; known: a, b",
    ]


def test_only_axes_beside_and_above_compete_and_only_tables_do_so_by_themselves(bench: Any) -> None:
    axes = bench.axis("row", ["a"]) + bench.axis("col", ["c"]) + bench.axis("pair", ["p"])
    report = 'columns = "col"\npanels = "pair"\n'
    assert faults(bench, axes=axes, report=report + 'compared = "pair"\n') == [
        "report.compared: unknown axis of rows or columns 'pair'; known: row, col"
    ]
    assert faults(bench, axes=axes, kind="heatmap", report=report + 'unranked = ["a"]\n') == [
        "report.unranked: kind 'heatmap' ranks nothing; name the axis in report.compared"
    ]


def test_digits_are_whole_and_few(bench: Any) -> None:
    (fault,) = faults(bench, report='digits = { "test/acc1_pct" = 11 }')
    assert fault.startswith("report.digits.test/acc1_pct: ") and fault.endswith("(got 11)")
