"""Kinds that draw histories and artifacts: lines over epochs, histograms, densities, bars of the paper's Figure 4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import cli, figures, grid, runs
from analysis.errors import ReportError
from analysis.figures import _style
from sweeps import spec

DENSITY = 'epochs = [10, "last"]\ntotal_epochs = 300'


def load(bench: Any, name: str, **options: Any) -> grid.Grid:
    experiment = spec.load(name, spec.load_profile("demo"))
    store = runs.connect(bench.settings)
    return grid.load(experiment, "demo", store.sweep(experiment.name, "demo"), store, **options)


def lines(bench: Any) -> str:
    """a: two seeds of 4 and 3 epochs; b: one of 2; c: none."""
    axes = bench.axis("row", ["a", "b", "c"])
    name: str = bench.write(axes, name="epochs", kind="epochs", seeds=[0, 1])
    bench.plan(name)
    bench.learn(bench.digest("demo", "row=a", 0), [10.0, 50.0, 80.0, 90.0])
    bench.learn(bench.digest("demo", "row=a", 1), [20.0, 60.0, 70.0])
    bench.learn(bench.digest("demo", "row=b", 0), [30.0, 40.0])
    return name


def images(bench: Any, seeds: tuple[int, ...] = (0,)) -> str:
    """Loyalties of four images for a, none for b."""
    axes = bench.axis("row", ["a", "b"])
    name: str = bench.write(axes, name="histogram", kind="histogram", metrics=["test/loyalty_code"], seeds=seeds)
    bench.plan(name)
    for seed in seeds:
        files = {"epoch_0019/loyalty.json": bench.histogram([0.21, 0.21, 0.81, 0.45 + 0.4 * seed], 0, 1)}
        bench.trial(bench.digest("demo", "row=a", seed), {}, artifacts=files)
    return name


def difficulty(bench: Any, pictures: bool = True) -> str:
    name: str = bench.write(
        bench.axis("row", ["a"]), name="density", kind="density", metrics=["train/difficulty"], report=DENSITY
    )
    bench.plan(name)
    files = {}
    for epoch, scale in ((0, 0.01), (1, 0.1), (19, 1.0)):
        files[f"epoch_{epoch:04d}/difficulty.json"] = bench.histogram(scale * np.linspace(0, 1, 101) ** 2)
        if pictures:
            files[f"epoch_{epoch:04d}/samples_by_class.png"] = bench.samples(epoch, rows=2, pixels=4)
    bench.trial(bench.digest("demo", "row=a", 0), {}, artifacts=files)
    return name


def test_epochs_draw_the_mean_over_the_epochs_that_all_seeds_have(bench: Any) -> None:
    (axes,) = figures.draw(load(bench, lines(bench))).axes
    first, second, third = axes.lines
    assert (list(first.get_xdata()), list(first.get_ydata())) == ([0, 1, 2], [15.0, 55.0, 75.0])
    assert (list(second.get_xdata()), list(second.get_ydata())) == ([0, 1], [30.0, 40.0])
    assert len(third.get_xdata()) == 0
    assert len(axes.collections) == 1  # a band for a, whose seeds are two
    assert [text.get_text() for text in axes.texts] == ["no result: c"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "Acc@1 (%)")
    assert axes.get_ylim()[0] <= 8 and axes.get_ylim()[1] >= 82  # the band is inside


def test_epochs_have_a_row_of_axes_for_each_metric_and_a_panel_each(bench: Any) -> None:
    axes = bench.axis("row", ["a", "b"]) + bench.axis("data", ["x", "y"])
    metrics = ["test/acc1_pct", "test/loyalty_code"]
    name = bench.write(axes, kind="epochs", metrics=metrics, report='panels = "data"')
    bench.plan(name)
    for cell in ("row=a data=x", "row=b data=y"):
        curves = {"test/acc1_pct": [50.0, 60.0], "test/loyalty_code": [0.5, 0.6]}
        results = {f"{s}/{m}": values[-1] for s in ("best", "last") for m, values in curves.items()}
        bench.trial(bench.digest("demo", cell, 0), results, curves=curves)
    figure = figures.draw(load(bench, name))
    assert len(figure.axes) == 4
    assert [each.get_title() for each in figure.axes] == ["x", "y", "", ""]
    assert [each.get_ylabel() for each in figure.axes] == ["Acc@1 (%)", "", "Loyalty (code)", ""]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert figure.get_size_inches()[0] == _style.PAGE_IN


def test_epochs_of_another_selection_draw_the_same_lines(bench: Any) -> None:
    name = lines(bench)
    both = figures.render(figures.draw(load(bench, name)), "png")
    assert figures.render(figures.draw(load(bench, name, select="last")), "png") == both


def test_epochs_of_what_only_some_runs_measure_in_training(bench: Any) -> None:
    """Lengths differ, b has no such weights, c was not started."""
    axes = bench.axis("row", ["a", "long", "b", "c"])
    name = bench.write(axes, kind="epochs", metrics=["train/mean_v"])
    bench.plan(name)
    for row, curve in (("a", [0.5, 0.75]), ("long", [0.5, 0.625, 0.75, 1.0])):
        bench.trial(bench.digest("demo", f"row={row}", 0), curves={"train/mean_v": curve})
    bench.learn(bench.digest("demo", "row=b", 0), [10.0, 50.0])
    found = load(bench, name)
    assert found.metrics == ("train/mean_v",)
    assert [cell["value"] for cell in found.cells[:2]] == [0.75, 1.0]
    assert [cell["note"] for cell in found.cells[2:]] == ["the run has no train/mean_v", "not started"]
    assert found.epoch == "last"
    (drawn,) = figures.draw(found).axes
    assert [list(line.get_ydata()) for line in drawn.lines] == [[0.5, 0.75], [0.5, 0.625, 0.75, 1.0], [], []]
    assert drawn.get_ylabel() == "Mean weight v"
    assert [text.get_text() for text in drawn.texts] == ["no result: b, c"]
    assert drawn.get_ylim()[1] >= 1.0


def test_histogram_shows_shares_in_percent_and_the_mean(bench: Any) -> None:
    (axes,) = figures.draw(load(bench, images(bench))).axes
    data = axes.patches[0].get_data()
    assert data.values[10] == 50.0  # two of four in [0.20, 0.22)
    assert sum(data.values) == pytest.approx(100.0, abs=1e-9)
    assert axes.lines[0].get_xdata()[0] == pytest.approx(0.42, abs=1e-9)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Loyalty (code) of a test image", "share of images (%)")
    assert [text.get_text() for text in axes.texts] == ["no result: b"]


def test_histogram_averages_shares_over_seeds(bench: Any) -> None:
    (axes,) = figures.draw(load(bench, images(bench, (0, 1)))).axes
    data = axes.patches[0].get_data()
    assert (data.values[10], data.values[22], data.values[42]) == (50.0, 12.5, 12.5)


def test_histogram_of_what_no_trial_keeps_is_an_error(bench: Any) -> None:
    name = images(bench)
    bench.trial(bench.digest("demo", "row=b", 0), {"last/test/acc1_pct": 90.0})
    found = load(bench, name, metrics=["test/acc1_pct"])
    assert found.cells[1]["value"] == 90.0
    with pytest.raises(ReportError, match=r"no histogram is kept of test/acc1_pct; leave --metric out"):
        figures.draw(found)


def test_seeds_with_other_bins_are_an_error(bench: Any) -> None:
    name = images(bench, (0, 1))
    files = {"epoch_0019/loyalty.json": bench.histogram([0.2, 0.3], 0, 0.5)}
    bench.trial(bench.digest("demo", "row=b", 0), {}, artifacts=files)
    files = {"epoch_0019/loyalty.json": bench.histogram([0.2, 0.3], 0, 1)}
    bench.trial(bench.digest("demo", "row=b", 1), {}, artifacts=files)
    with pytest.raises(ReportError, match=r"seeds of one cell have histograms with different bins"):
        figures.draw(load(bench, name))


def test_density_has_both_epochs_and_their_images(bench: Any) -> None:
    figure = figures.draw(load(bench, difficulty(bench)))
    left, first, last = figure.axes
    assert left.get_yscale() == "log"
    texts = [text.get_text() for text in left.get_legend().get_texts()]
    assert texts == ["epoch 1 of 20, mean 0.033", "epoch 19, the last, mean 0.335"]
    assert [axes.get_title() for axes in (first, last)] == ["epoch 1 of 20", "epoch 19, the last"]
    assert [axes.images[0].get_array().shape for axes in (first, last)] == [(20, 20, 3)] * 2
    for patch in left.patches[::2]:
        data = patch.get_data()
        area = np.nansum(data.values * np.diff(data.edges))
        assert area == pytest.approx(1.0, abs=1e-9)
    assert "1/nat" in left.get_ylabel() and "(nats)" in left.get_xlabel()


def test_density_without_images_or_runs_says_so(bench: Any) -> None:
    figure = figures.draw(load(bench, difficulty(bench, pictures=False)))
    assert [axes.texts[0].get_text() for axes in figure.axes[1:]] == ["no sample images"] * 2
    name = bench.write(
        bench.axis("row", ["z"]), name="empty", kind="density", metrics=["train/difficulty"], report=DENSITY
    )
    bench.plan(name)
    figure = figures.draw(load(bench, name))
    assert [axes.get_title() for axes in figure.axes[1:]] == ["no result"] * 2
    assert figures.render(figure, "pdf").startswith(b"%PDF")


def test_grey_images_and_several_cells_are_drawn(bench: Any) -> None:
    axes = bench.axis("row", ["a", "b"]) + bench.axis("pair", ["x"])
    report = f'panels = "pair"\n{DENSITY}'
    name = bench.write(axes, kind="density", metrics=["train/difficulty"], report=report)
    bench.plan(name)
    for label in "ab":
        files = {f"epoch_{e:04d}/difficulty.json": bench.histogram([1.0, 2.0]) for e in (0, 9)}
        files |= {f"epoch_{e:04d}/samples.png": bench.samples(e, rows=2, pixels=4, grey=True) for e in (0, 9)}
        bench.trial(bench.digest("demo", f"row={label} pair=x", 0), {}, artifacts=files)
    figure = figures.draw(load(bench, name))
    assert [axes.get_legend().get_title().get_text() for axes in figure.axes[::3]] == ["x, a", "x, b"]
    assert figure.axes[1].images[0].get_array().ndim == 2


def test_equal_difficulties_are_drawn(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a"]), kind="density", metrics=["train/difficulty"], report=DENSITY)
    bench.plan(name)
    files = {f"epoch_{e:04d}/difficulty.json": bench.histogram([2.5] * 7) for e in (0, 9)}
    bench.trial(bench.digest("demo", "row=a", 0), {}, artifacts=files)
    assert figures.render(figures.draw(load(bench, name)), "png").startswith(b"\x89PNG")


def test_density_of_what_no_trial_keeps_is_an_error(bench: Any) -> None:
    name = difficulty(bench)
    bench.trial("a" * 64, {"last/test/acc1_pct": 90.0})
    with pytest.raises(
        ReportError, match=r"no densities at two epochs are kept of last/train/difficulty; leave --metric out"
    ):
        figures.draw(load(bench, name, metrics=["last/train/difficulty"]))


def test_bars_of_figure_4_have_the_spread_of_the_papers_runs(bench: Any) -> None:
    axes = bench.axis("row", ["CuDFKD", "DAFL"]) + bench.axis("teacher", ["clean", "noisy"])
    report = 'columns = "teacher"\n[report.reference]\nfile = "cudfkd_fig4.csv"\norigin = "authors\' notebook"\n'
    report += 'axes = { row = "{method}", teacher = "{x}" }\n'
    name = bench.write(axes, kind="bars", report=report, seeds=[0, 10, 20])
    bench.plan(name, comparable=True)
    bench.fill(name)
    found = load(bench, name)
    cell = next(cell for cell in found.cells if cell["row"] == "DAFL" and cell["teacher"] == "clean")
    # 91.45, 89.41, 89.04: mean 89.9667, squares 2.2002 + 0.3099 + 0.8587 = 3.3689, / 2
    assert (cell["printed"], cell["printed_n"]) == (pytest.approx(269.9 / 3, abs=1e-9), 3)
    assert cell["printed_std"] == pytest.approx((3.36887 / 2) ** 0.5, abs=1e-4)
    (drawn,) = figures.draw(found).axes
    assert len(drawn.collections) == 6  # for each teacher: our error bars, printed lines, their spread
    spread = [path.vertices for path in drawn.collections[2].get_paths()]
    assert spread[1][1][1] - spread[1][0][1] == pytest.approx(2 * cell["printed_std"], abs=1e-9)


@pytest.mark.parametrize("make", [lines, images, difficulty])
def test_same_runs_same_bytes_with_and_without_the_cache(bench: Any, tmp_path: Path, make: Any) -> None:
    name = make(bench)
    made = []
    for folder in ("one", "two", "three"):
        files = cli.outputs(name, "demo", bench.settings, tmp_path / folder).files
        made.append([path.read_bytes() for path in files])
        if folder == "two":
            for file in (bench.folder / ".sweeps" / "cache").iterdir():
                file.unlink()
    assert len(made[0]) == 7
    assert made[0] == made[1] == made[2]


@pytest.mark.parametrize("make", [lines, images, difficulty])
def test_every_verb_works(bench: Any, capsys: pytest.CaptureFixture[str], make: Any) -> None:
    name = make(bench)
    complete = make is difficulty
    for verb in ("table", "figure", "diff"):
        assert cli.main([verb, name, "--profile", "demo"]) == (0 if complete else 1)
        assert capsys.readouterr().out
        assert cli.main([verb, name, "--profile", "demo", "--json"]) == (0 if complete else 1)
        capsys.readouterr()
