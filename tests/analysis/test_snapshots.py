"""What trials keep of single epochs: which epoch is taken, what is read, and what is said where it is missing."""

from __future__ import annotations

from typing import Any

import pytest

from analysis import grid, runs
from analysis.errors import ReportError, StoreError
from sweeps import spec

DENSITY = 'epochs = [10, "last"]\ntotal_epochs = 300'


def load(bench: Any, name: str) -> grid.Grid:
    experiment = spec.load(name, spec.load_profile("demo"))
    store = runs.connect(bench.settings)
    return grid.load(experiment, "demo", store.sweep(experiment.name, "demo"), store)


def density(bench: Any, epochs: dict[int, float], *, comparable: bool = False, more: str = DENSITY) -> str:
    """A trial that recorded these epochs; the mean difficulty is the value."""
    name: str = bench.write(bench.axis("row", ["a"]), kind="density", metrics=["train/difficulty"], report=more)
    bench.plan(name, comparable=comparable)
    files = {f"epoch_{epoch:04d}/difficulty.json": bench.histogram([m - 0.5, m + 0.5]) for epoch, m in epochs.items()}
    bench.trial(bench.digest("demo", "row=a", 0), artifacts=files)
    return name


def test_histogram_of_the_last_recorded_epoch_counts(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a"]), kind="histogram", metrics=["test/loyalty_code"])
    bench.plan(name)
    files = {f"epoch_{e:04d}/loyalty.json": bench.histogram([0.1 * e, 0.2], 0, 1) for e in (0, 5, 3)}
    bench.trial(bench.digest("demo", "row=a", 0), {"last/test/loyalty_code": 0.9}, artifacts=files)
    found = load(bench, name)
    (cell,) = found.cells
    assert cell["value"] == pytest.approx(0.35, abs=1e-12)
    (snapshot,) = grid.snapshots_of(found, cell)
    assert (snapshot.epoch, snapshot.total, snapshot.histogram.n) == (5, 6, 2)
    assert sum(snapshot.histogram.counts) == 2
    assert found.epoch == "mean over test images, last recorded epoch"


@pytest.mark.parametrize(
    ("recorded", "taken"),
    [
        ((0, 10, 80, 150, 299), 10),  # the paper's own length
        ((0, 1, 5, 10, 19), 1),  # 10 of 300 is 0.67 of 20
        ((0, 2, 29), 0),  # 1 of 30 is as near to 0 as to 2: the earlier
        ((7,), 7),
    ],
)
def test_epoch_is_taken_at_the_papers_share_of_the_training(bench: Any, recorded: Any, taken: int) -> None:
    name = density(bench, {epoch: 1.0 + epoch for epoch in recorded})
    found = load(bench, name)
    assert found.metrics == ("epoch10/train/difficulty", "last/train/difficulty")
    assert [cell["value"] for cell in found.cells] == pytest.approx([1.0 + taken, 1.0 + recorded[-1]], abs=1e-12)
    said = f"Epoch 10 of the paper's 300 is epoch {taken} of {recorded[-1] + 1} here"
    assert any(said in remark for remark in found.remarks) == (recorded[-1] != 299)


def test_runs_at_the_papers_scale_must_be_as_long_as_the_report_says(bench: Any) -> None:
    name = density(bench, {0: 1.0, 249: 2.0}, comparable=True)
    with pytest.raises(
        ReportError, match=r"tiny/grid: report.total_epochs is 300, but runs at the paper's scale have 250"
    ):
        load(bench, name)


def test_run_without_artifacts_leaves_a_hole_with_its_reason(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a", "b"]), kind="density", metrics=["train/difficulty"], report=DENSITY)
    bench.plan(name)
    bench.trial(bench.digest("demo", "row=a", 0))
    found = load(bench, name)
    notes = {(cell["row"], cell["note"]) for cell in found.cells}
    assert notes == {("a", "the run has no difficulty.json"), ("b", "not started")}
    assert len(found.holes) == 4


def test_pictures_by_class_come_before_those_of_older_runs(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a"]), kind="density", metrics=["train/difficulty"], report=DENSITY)
    bench.plan(name)
    files = {f"epoch_{e:04d}/difficulty.json": bench.histogram([1.0, 2.0]) for e in (0, 5)}
    files |= {
        "epoch_0000/samples.png": b"old",
        "epoch_0005/samples.png": b"any",
        "epoch_0005/samples_by_class.png": b"new",
    }
    bench.trial(bench.digest("demo", "row=a", 0), artifacts=files)
    found = load(bench, name)
    kept = [grid.snapshots_of(found, cell)[0] for cell in found.cells]
    assert [(each.name, each.picture) for each in kept] == [("samples.png", b"old"), ("samples_by_class.png", b"new")]


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"edges": [0, 1], "counts": [1, 2], "n": 3, "mean": 0.5}', b"{}"])
def test_file_that_is_no_histogram_is_an_error(bench: Any, content: bytes) -> None:
    name = bench.write(bench.axis("row", ["a"]), kind="histogram", metrics=["test/loyalty_code"])
    bench.plan(name)
    bench.trial(bench.digest("demo", "row=a", 0), artifacts={"epoch_0003/loyalty.json": content})
    with pytest.raises(
        StoreError, match=r"epoch_0003/loyalty.json of run \w+ is no histogram: .*; delete this MLflow run"
    ):
        load(bench, name)


def test_equal_values_make_bins_of_no_width(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a"]), kind="histogram", metrics=["test/loyalty_code"])
    bench.plan(name)
    bench.trial(bench.digest("demo", "row=a", 0), artifacts={"epoch_0003/loyalty.json": bench.histogram([2.5] * 7)})
    assert load(bench, name).cells[0]["value"] == 2.5
