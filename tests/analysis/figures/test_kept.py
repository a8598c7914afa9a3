"""Kinds that draw what trials keep of finished networks and single images: images, scatter, matrix."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from analysis import cli, figures, grid, runs
from analysis.errors import ReportError
from analysis.figures import _panels, _style, images, scatter
from sweeps import spec

SCORES = {
    "3": {"easiest": [0.001, 0.02, 0.5], "hardest": [12.5, 7.0], "spread": [0.0, 1.0, 12.5]},
    "8": {"easiest": [0.25], "hardest": [3.0], "spread": [0.25, 3.0]},
}


def load(bench: Any, name: str, **options: Any) -> grid.Grid:
    experiment = spec.load(name, spec.load_profile("demo"))
    store = runs.connect(bench.settings)
    return grid.load(experiment, "demo", store.sweep(experiment.name, "demo"), store, **options)


def pictures(bench: Any, metrics: tuple[str, ...] = ("train/easiest", "train/hardest"), **options: Any) -> str:
    """Three images a row for a, none for b."""
    name: str = bench.write(
        bench.axis("row", ["a", "b"]), name="images", kind="images", metrics=metrics, report='epochs = ["last"]'
    )
    bench.plan(name)
    kept = bench.extremes(SCORES, columns=3, **options)
    files = {f"epoch_0019/{file}": content for file, content in kept.items()}
    bench.trial(bench.digest("demo", "row=a", 0), {}, artifacts=files)
    return name


def points(bench: Any, labels: tuple[str, ...] = ("a", "b")) -> str:
    """Ten classes for all labels but the last."""
    name: str = bench.write(bench.axis("row", labels), name="scatter", kind="scatter", metrics=["test/embedding"])
    bench.plan(name)
    for label in labels[:-1]:
        files = {"epoch_0000/embedding.json": bench.embedding()}
        bench.trial(bench.digest("demo", f"row={label}", 0), {}, artifacts=files)
    return name


def weights(bench: Any) -> str:
    name: str = bench.write(bench.axis("row", ["a", "b"]), name="m", kind="matrix", metrics=["classifier/centres"])
    bench.plan(name)
    files = {"epoch_0000/centres.json": bench.centres(6, [2, 5, 11])}
    bench.trial(bench.digest("demo", "row=a", 0), {}, artifacts=files)
    return name


def test_images_are_side_by_side_with_their_classes_and_difficulties(bench: Any) -> None:
    figure = figures.draw(load(bench, pictures(bench)))
    easiest, hardest, *holes = figure.axes
    assert [axes.get_title() for axes in (easiest, hardest)] == [
        "a, easiest images, epoch 19, the last",
        "a, hardest images, epoch 19, the last",
    ]
    assert [text.get_text() for text in easiest.get_yticklabels()] == ["3", "8"]
    assert [text.get_text() for text in hardest.get_yticklabels()] == []
    assert [text.get_text() for text in easiest.texts] == ["1e-3", "0.02", "0.50", "0.25"]
    assert [text.get_text() for text in hardest.texts] == ["12.5", "7.00", "3.00"]
    assert figure.get_size_inches()[0] == _style.PAGE_IN
    assert [(axes.get_title(), axes.texts[0].get_text()) for axes in holes] == [
        ("b, easiest images", "not started"),
        ("b, hardest images", "not started"),
    ]


def test_strip_of_numbers_parts_the_rows_and_keeps_every_pixel() -> None:
    random = np.random.default_rng(0)
    picture = random.random((12, 18, 3))
    spaced = images.spaced(picture, 6, 2)
    assert spaced.shape == (16, 18, 3)
    assert (spaced[:6] == picture[:6]).all() and (spaced[8:14] == picture[6:]).all()
    assert (spaced[6:8] == 1).all() and (spaced[14:] == 1).all()
    assert (images.spaced(picture, 6, 0) == picture).all()


def test_drawn_pixels_are_those_of_the_file(bench: Any) -> None:
    found = load(bench, pictures(bench, ("train/spread",)))
    (snapshot,) = grid.snapshots_of(found, found.cells[0])
    axes = figures.draw(found).axes[0]
    drawn = axes.images[0].get_array()
    original = np.asarray(Image.open(io.BytesIO(snapshot.picture)))
    assert (np.round(255 * drawn[:6]) == original[:6]).all()


def test_images_from_easy_to_hard_have_an_arrow(bench: Any) -> None:
    figure = figures.draw(load(bench, pictures(bench, ("train/spread",))))
    axes = figure.axes[0]
    words = [text.get_text() for text in axes.texts]
    assert words[:3] == ["easy", "hard", ""]
    left, right = (text.get_position()[0] for text in axes.texts[:2])
    assert left < right
    arrow = axes.texts[2]
    assert (arrow.get_position()[0], arrow.xy[0]) == (left, right)


def test_cells_of_one_sort_are_side_by_side(bench: Any) -> None:
    figure = figures.draw(load(bench, pictures(bench, ("train/spread",))))
    assert figure.get_size_inches()[0] == _style.PAGE_IN
    assert [axes.get_title() for axes in figure.axes] == ["a, epoch 19, the last", "b, from easy to hard"]
    assert [axes.get_subplotspec().colspan.start for axes in figure.axes] == [0, 1]


def test_numbers_that_would_be_too_small_are_left_out(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a"]), kind="images", metrics=["train/easiest"], report='epochs = ["last"]')
    bench.plan(name)
    many = {"0": {"easiest": [0.5] * 20, "hardest": [], "spread": []}}
    files = {f"epoch_0000/{file}": content for file, content in bench.extremes(many, columns=20, grey=True).items()}
    bench.trial(bench.digest("demo", "row=a", 0), {}, artifacts=files)
    figure = figures.draw(load(bench, name))
    assert not figure.axes[0].texts
    assert figure.axes[0].images[0].get_array().ndim == 2
    assert figure.get_supxlabel() == ""


@pytest.mark.parametrize(
    ("score", "text"),
    [(0.0, "0.00"), (1.2345, "1.23"), (12.345, "12.3"), (0.005, "0.01"), (0.0004, "4e-4"), (3e-12, "3e-12")],
)
def test_difficulties_take_few_letters(score: float, text: str) -> None:
    assert images.number(score) == text


def test_scatter_has_a_panel_each_and_one_legend(bench: Any) -> None:
    figure = figures.draw(load(bench, points(bench)))
    filled, hole = figure.axes
    assert filled.get_title() == "a\nsilhouette 0.4375"
    assert len(filled.collections) == 10
    assert sum(len(each.get_offsets()) for each in filled.collections) == 50
    assert filled.get_aspect() == 1.0
    assert not len(filled.get_xticks()) and not len(filled.get_yticks())
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [str(number) for number in range(10)]
    assert (hole.get_title(), hole.texts[0].get_text()) == ("b", "not started")
    assert figure.get_size_inches()[0] == _style.COLUMN_IN


def test_a_class_has_the_same_colour_in_every_panel(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a", "b"]), kind="scatter", metrics=["test/embedding"])
    bench.plan(name)
    for label, classes in (("a", [4, 7]), ("b", [7, 9])):
        files = {"epoch_0000/embedding.json": bench.embedding(2, classes)}
        bench.trial(bench.digest("demo", f"row={label}", 0), {}, artifacts=files)
    first, second = figures.draw(load(bench, name)).axes
    colours = [[to_hex(each.get_facecolor()[0]).upper() for each in axes.collections] for axes in (first, second)]
    # classes 4, 7, 9 in turn; one that a panel lacks has no point there
    assert [len(each.get_offsets()) for axes in (first, second) for each in axes.collections] == [2, 2, 0, 0, 2, 2]
    assert colours[0][:2] == list(_style.TEN_COLOURS[:2])
    assert colours[1][1:] == list(_style.TEN_COLOURS[1:3])


def test_classes_differ_in_colour_and_in_marker() -> None:
    ten = [scatter.style(k) for k in range(10)]
    assert len({each["color"] for each in ten}) == len({each["marker"] for each in ten}) == 10
    assert len({tuple(scatter.style(k).values()) for k in range(100)}) == 100


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, (1, 3.5)), (2, (2, 3.5)), (4, (2, 3.5)), (5, (3, 7.16)), (7, (4, 7.16)), (9, (3, 7.16))],
)
def test_panels_are_arranged_by_their_number(count: int, expected: tuple[int, float]) -> None:
    assert _panels.arrangement(count) == expected


def test_places_without_a_label_are_blank(bench: Any) -> None:
    figure = figures.draw(load(bench, points(bench, ("a", "b", "c"))))
    assert [axes.axison for axes in figure.axes] == [True, True, True, False]


def test_matrix_has_a_column_for_each_class_and_darker_is_larger(bench: Any) -> None:
    figure = figures.draw(load(bench, weights(bench)))
    filled = figure.axes[0]
    drawn = filled.images[0].get_array()
    assert drawn.shape == (6, 3)
    assert drawn[2, 1] == pytest.approx(1.2, abs=1e-12)  # class 1 in order, feature 2
    assert [text.get_text() for text in filled.get_xticklabels()] == ["2", "5", "11"]
    assert filled.get_title() == "a\nmean cosine 0.1250"
    assert filled.images[0].get_clim() == pytest.approx((0.0, 2.5), abs=1e-12)
    shades = filled.images[0].get_cmap()(np.linspace(0, 1, 20))[:, :3] @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(shades) < 0).all()
    (hole,) = (axes for axes in figure.axes if axes.get_title() == "b")
    assert hole.texts[0].get_text() == "not started"


@pytest.mark.parametrize(("make", "noun"), [(pictures, "images"), (points, "points"), (weights, "class centres")])
def test_figure_of_what_no_trial_keeps_is_an_error(bench: Any, make: Any, noun: str) -> None:
    name = make(bench)
    bench.trial(bench.digest("demo", "row=b", 0), {"last/test/acc1_pct": 90.0})
    found = load(bench, name, metrics=["test/acc1_pct"])
    assert found.epoch == "last"
    with pytest.raises(ReportError, match=rf"no {noun} are kept of test/acc1_pct; leave --metric out"):
        figures.draw(found)


@pytest.mark.parametrize("make", [pictures, points, weights])
def test_without_any_result_every_panel_says_why(bench: Any, make: Any) -> None:
    name = make(bench)
    bench.plan(name, profile="paper", edit=lambda plan: [cell.update(trials={}) for cell in plan["cells"]])
    experiment = spec.load(name, spec.load_profile("paper"))
    store = runs.connect(bench.settings)
    figure = figures.draw(grid.load(experiment, "paper", store.sweep(experiment.name, "paper"), store))
    assert {text.get_text() for axes in figure.axes for text in axes.texts} == {"not in the last plan"}


@pytest.mark.parametrize("make", [pictures, points, weights])
def test_same_runs_same_bytes_and_every_verb_works(
    bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any
) -> None:
    name = make(bench)
    first, second = (
        [path.read_bytes() for path in cli.outputs(name, "demo", bench.settings, tmp_path / folder).files]
        for folder in ("one", "two")
    )
    assert len(first) == 7
    assert first == second
    for verb in ("table", "figure", "diff"):
        assert cli.main([verb, name, "--profile", "demo"]) == 1  # b is missing
        assert capsys.readouterr().out
