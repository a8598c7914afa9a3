"""What an experiment file may say of its report, for the kinds that need more than axes and metrics."""

from __future__ import annotations

from typing import Any

import pytest

from sweeps import spec
from sweeps.errors import SpecError

DENSITY: dict[str, Any] = {"kind": "density", "metrics": ["train/difficulty"]}


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
            "report.total_epochs: only kind 'density' has it, not 'bars'",
        ),
    ],
)
def test_one_fault_names_key_and_value(bench: Any, options: dict[str, Any], expected: str) -> None:
    assert faults(bench, **options) == [expected]


def test_unknown_word_among_the_epochs_is_a_fault(bench: Any) -> None:
    found = faults(bench, **DENSITY, report='epochs = [10, "first"]\ntotal_epochs = 300')
    assert any(fault.startswith("report.epochs") and "'first'" in fault for fault in found)


@pytest.mark.parametrize("kind", ["histogram", "epochs", "density", "declared"])
def test_kinds_without_columns_refuse_them(bench: Any, kind: str) -> None:
    axes = bench.axis("row", ["a"]) + bench.axis("col", ["b"])
    found = faults(bench, axes=axes, kind=kind, report='columns = "col"')
    assert f"report.columns: kind {kind!r} has none (got 'col'); use rows and panels" in found


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
