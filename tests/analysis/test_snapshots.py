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
    assert (snapshot.epoch, snapshot.total, snapshot.content.n) == (5, 6, 2)
    assert sum(snapshot.content.counts) == 2
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


ONE = {"0": {"easiest": [0.0, 0.5], "hardest": [4.0], "spread": [0.0, 1.0]}}
TWO = ONE | {"7": {"easiest": [0.25, 0.25, 0.25], "hardest": [], "spread": [3.0]}}


def pictures(bench: Any, epochs: list[int], *, comparable: bool = False, **options: Any) -> str:
    """A trial that recorded the images of TWO at these epochs."""
    more = "epochs = [50]\ntotal_epochs = 240"
    metrics = ["train/easiest", "train/hardest"]
    name: str = bench.write(bench.axis("row", ["a"]), kind="images", metrics=metrics, report=more)
    bench.plan(name, comparable=comparable)
    kept = bench.extremes(TWO, columns=4, **options)
    files = {f"epoch_{epoch:04d}/{file}": content for epoch in epochs for file, content in kept.items()}
    bench.trial(bench.digest("demo", "row=a", 0), {"last/test/acc1_pct": 90.0}, artifacts=files)
    return name


def test_images_are_taken_at_the_papers_share_and_their_value_is_the_mean_of_g(bench: Any) -> None:
    found = load(bench, pictures(bench, [0, 12, 40, 59]))  # 50 of 240 is 12.5 of 60
    assert found.metrics == ("epoch50/train/easiest", "epoch50/train/hardest")
    assert [cell["value"] for cell in found.cells] == pytest.approx([1.25 / 5, 4.0], abs=1e-12)
    (easiest,), (hardest,) = (grid.snapshots_of(found, cell) for cell in found.cells)
    assert (easiest.epoch, easiest.total, easiest.name, hardest.name) == (12, 60, "easiest.png", "hardest.png")
    assert easiest.content.scores == {"0": (0.0, 0.5), "7": (0.25, 0.25, 0.25)}
    assert easiest.content.size_px == (24, 12)
    said = "Epoch 50 of the paper's 240 is epoch 12 of 60 here, the recorded one nearest to the same share."
    assert [remark for remark in found.remarks if remark.startswith("Epoch")] == [said]
    assert found.epoch == "mean over the images shown"


def test_images_of_one_sort_or_metrics_of_runs_can_be_asked_for(bench: Any) -> None:
    experiment = spec.load(pictures(bench, [0, 59]), spec.load_profile("demo"))
    store = runs.connect(bench.settings)
    asked = ["train/spread", "test/acc1_pct"]
    found = grid.load(experiment, "demo", store.sweep(experiment.name, "demo"), store, asked)
    assert found.metrics == ("epoch50/train/spread", "test/acc1_pct")
    assert [cell["value"] for cell in found.cells] == pytest.approx([4.0 / 3, 90.0], abs=1e-12)


def test_images_at_the_papers_scale_must_be_of_runs_as_long(bench: Any) -> None:
    with pytest.raises(ReportError, match=r"report.total_epochs is 240, but runs at the paper's scale have 60"):
        load(bench, pictures(bench, [0, 59], comparable=True))


@pytest.mark.parametrize(
    ("lost", "note"),
    [("extremes.json", "the run has no extremes.json"), ("hardest.png", "the run has no hardest.png")],
)
def test_images_that_a_run_lacks_are_named(bench: Any, lost: str, note: str) -> None:
    name = bench.write(bench.axis("row", ["a"]), kind="images", metrics=["train/hardest"], report='epochs = ["last"]')
    bench.plan(name)
    files = {f"epoch_0003/{file}": content for file, content in bench.extremes(TWO).items() if file != lost}
    bench.trial(bench.digest("demo", "row=a", 0), artifacts=files)
    (cell,) = load(bench, name).cells
    assert (cell["state"], cell["note"]) == ("hole", note)


def test_no_image_at_all_is_a_hole(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a"]), kind="images", metrics=["train/hardest"], report='epochs = ["last"]')
    bench.plan(name)
    kept = bench.extremes({"3": {"easiest": [1.0], "hardest": [], "spread": [1.0]}})
    files = {f"epoch_0003/{file}": content for file, content in kept.items()}
    bench.trial(bench.digest("demo", "row=a", 0), artifacts=files)
    assert load(bench, name).cells[0]["note"] == "the run's extremes.json has nothing to show"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("easiest.png", b"GIF", r"easiest.png of run \w+ is no PNG, its extremes.json says 48 x 12; delete"),
        ("easiest.png", None, r"easiest.png of run \w+ has 48 x 6 pixels, its extremes.json says 48 x 12; delete"),
        ("extremes.json", b'{"classes": {}}', r"extremes.json of run \w+ is no list of images: KeyError\('columns'\)"),
        ("extremes.json", b'{"columns": 1, "tile": 2, "border": 1, "classes": {}}', r"1 columns of tiles of 2 pixels"),
        (
            "extremes.json",
            b'{"columns": 1, "tile": 6, "border": 1, "classes": {"0": {"easiest": [[1, 2.0], [2, 3.0]]}}}',
            r"a class with more than 1 images",
        ),
    ],
)
def test_images_that_do_not_fit_together_are_an_error(bench: Any, file: str, content: Any, message: str) -> None:
    name = bench.write(bench.axis("row", ["a"]), kind="images", metrics=["train/easiest"], report='epochs = ["last"]')
    bench.plan(name)
    kept = bench.extremes(TWO) | {file: content or bench.extremes(ONE)[file]}
    files = {f"epoch_0003/{name}": content for name, content in kept.items()}
    bench.trial(bench.digest("demo", "row=a", 0), artifacts=files)
    with pytest.raises(StoreError, match=message):
        load(bench, name)


def measured(bench: Any, kind: str, content: bytes) -> str:
    """A finished measurement, whose only epoch kept `content`."""
    metric, file = {"scatter": ("test/embedding", "embedding"), "matrix": ("classifier/centres", "centres")}[kind]
    name: str = bench.write(bench.axis("row", ["a"]), kind=kind, metrics=[metric])
    bench.plan(name)
    bench.trial(bench.digest("demo", "row=a", 0), artifacts={f"epoch_0000/{file}.json": content})
    return name


def test_value_of_an_embedding_is_its_silhouette(bench: Any) -> None:
    found = load(bench, measured(bench, "scatter", bench.embedding(3, [2, 5])))
    assert found.cells[0]["value"] == 0.4375
    (snapshot,) = grid.snapshots_of(found, found.cells[0])
    assert (len(snapshot.content.x), snapshot.content.classes) == (6, (2, 2, 2, 5, 5, 5))


def test_value_of_centres_is_their_mean_cosine(bench: Any) -> None:
    found = load(bench, measured(bench, "matrix", bench.centres(3, [2, 5])))
    assert found.cells[0]["value"] == 0.125
    (snapshot,) = grid.snapshots_of(found, found.cells[0])
    assert snapshot.content.classes == (2, 5)
    assert snapshot.content.values[1] == pytest.approx((1.0, 1.1, 1.2), abs=1e-12)
    assert found.epoch == "over pairs of different classes, all of them"


@pytest.mark.parametrize(
    ("kind", "changed", "message"),
    [
        ("scatter", {"schema": 2}, r"embedding.json of run \w+ is no embedding: .*schema 2, known is 1.*; delete"),
        ("scatter", {"x": [1.0]}, r"1 x, 6 y and 6 labels"),
        ("scatter", {"x": [1.0, 2.0, 3.0, 4.0, 5.0, float("nan")]}, r"values that are not finite"),
        ("scatter", {"x": [], "y": [], "label": []}, r"0 x, 0 y and 0 labels"),
        ("scatter", {"silhouette": None}, r"is no embedding: TypeError"),
        ("matrix", {"values": [[1.0, 2.0], [1.0]]}, r"2 centres of \[1, 2\] values for 2 classes"),
        ("matrix", {"values": [[1.0, 2.0]]}, r"1 centres of \[2\] values for 2 classes"),
        ("matrix", {"values": [[], []]}, r"2 centres of \[0\] values"),
        ("matrix", {"classes": "ab"}, r"is no list of class centres: ValueError"),
    ],
)
def test_file_that_does_not_hold_together_is_an_error(bench: Any, kind: str, changed: Any, message: str) -> None:
    content = bench.embedding(3, [2, 5], **changed) if kind == "scatter" else bench.centres(2, [2, 5], **changed)
    with pytest.raises(StoreError, match=message):
        load(bench, measured(bench, kind, content))


def test_silhouette_that_is_no_number_is_a_hole(bench: Any) -> None:
    found = load(bench, measured(bench, "scatter", bench.embedding(silhouette=float("nan"))))
    assert found.cells[0]["note"] == "the run's embedding.json has nothing to show"
