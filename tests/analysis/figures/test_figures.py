"""Every kind of figure: what is drawn, and equal bytes for equal runs."""

from __future__ import annotations

import io
import re
import zlib
from typing import Any
from xml.etree import ElementTree

import matplotlib
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from PIL import Image

from analysis import figures, grid, runs
from analysis.errors import ReportError
from analysis.figures import _style, curve
from analysis.metrics import HOLE, metric
from sweeps import spec

REFERENCE = '[report.reference]\nfile = "cudfkd_fig6.csv"\norigin = "authors\' notebook"\naxes = { row = "{x}" }\n'


def load(bench: Any, name: str, profile: str = "demo") -> grid.Grid:
    experiment = spec.load(name, spec.load_profile(profile))
    store = runs.connect(bench.settings)
    return grid.load(experiment, profile, store.sweep(experiment.name, profile), store)


def strategies(bench: Any, kind: str, *, comparable: bool = True, seeds: tuple[int, ...] = (0, 10)) -> grid.Grid:
    """The values of fig6, with a hole at "soft"."""
    labels = bench.axis("row", ["none", "hard", "soft", "log"])
    name = bench.write(labels, name=f"{kind}-{comparable}", kind=kind, report=REFERENCE, seeds=seeds)
    bench.plan(name, comparable=comparable)
    bench.fill(name, skip=["row=soft"])
    return load(bench, name)


def test_kinds_are_the_files() -> None:
    assert figures.kinds() == [
        "bars", "curve", "density", "epochs", "heatmap", "histogram", "images", "matrix", "scatter", "search",
    ]  # fmt: skip


def test_unknown_kind_names_the_known(bench: Any) -> None:
    with pytest.raises(
        ReportError, match=r"no figure for report.kind = 'table'; drawn are bars, curve, density, epochs, "
    ):
        figures.draw(strategies(bench, "table"))


def test_heatmap_of_fig9_in_the_papers_arrangement(bench: Any) -> None:
    bench.plan("cudfkd/fig9")
    hole = "pair=ResNet34 / ResNet18 k_begin=1/4 k_end=3/4"
    bench.fill("cudfkd/fig9", skip=[hole])
    figure = figures.draw(load(bench, "cudfkd/fig9"))
    axes = [axes for axes in figure.axes if axes.images]
    assert [a.get_title() for a in axes] == [
        f"{m}, ResNet34 / ResNet18" for m in ("Acc@1 (%)", "Agree@1 (%)", "Loyalty (code)")
    ]
    assert [t.get_text() for t in axes[0].get_yticklabels()] == ["1/5", "1/4", "1/3"]
    assert [t.get_text() for t in axes[-1].get_xticklabels()] == ["2/3", "3/4", "4/5"]
    texts = {text.get_position(): text.get_text() for text in axes[0].texts}
    assert texts[0, 0] == "90.25"
    assert texts[2, 0] == "90.99"
    assert texts[0, 1] == "91.36"
    assert texts[1, 1] == HOLE
    assert [patch.get_hatch() for patch in axes[0].patches if isinstance(patch, Rectangle)] == ["////"]
    assert axes[0].images[0].get_clim() == (90.0, 93.0)
    assert figure.get_size_inches()[0] == _style.COLUMN_IN


def test_heatmap_of_several_panels_takes_the_page_and_shows_printed_values(bench: Any) -> None:
    bench.plan("cudfkd/fig9", "paper", comparable=True)
    bench.fill("cudfkd/fig9", "paper")
    figure = figures.draw(load(bench, "cudfkd/fig9", "paper"))
    axes = [axes for axes in figure.axes if axes.images]
    assert len(axes) == 9
    assert figure.get_size_inches()[0] == _style.PAGE_IN
    assert axes[0].texts[0].get_text() == "90.25\n(71.00)"


def test_heatmap_without_columns_is_an_error(bench: Any) -> None:
    with pytest.raises(ReportError, match=r"tiny/heatmap-True: a heatmap needs report.columns"):
        figures.draw(strategies(bench, "heatmap"))


def test_heatmap_without_any_value_is_all_holes(bench: Any) -> None:
    bench.plan("cudfkd/fig9")
    figure = figures.draw(load(bench, "cudfkd/fig9"))
    assert len(figure.axes[0].patches) == 9
    assert figures.render(figure, "png").startswith(b"\x89PNG")


def test_curve_has_a_gap_a_band_and_the_printed_line(bench: Any) -> None:
    (axes,) = figures.draw(strategies(bench, "curve")).axes
    ours, printed = axes.lines
    assert ours.get_ydata()[0] == pytest.approx(90.49, abs=1e-9)  # seeds 90.25 and 90.25 + 0.37 + 0.11
    assert [y != y for y in ours.get_ydata()] == [False, False, True, False]
    assert list(printed.get_ydata()) == [93.24, 94.97, 95.01, 95.28]
    assert len(axes.collections) == 1
    assert [text.get_text() for text in axes.texts] == [HOLE]
    assert axes.get_ylabel() == "Acc@1 (%)"


def test_curve_at_another_scale_or_with_one_seed_is_a_bare_line(bench: Any) -> None:
    (axes,) = figures.draw(strategies(bench, "curve", comparable=False, seeds=(0,))).axes
    assert len(axes.lines) == 1
    assert not axes.collections


def test_bars_have_numbers_error_bars_and_printed_lines(bench: Any) -> None:
    (axes,) = figures.draw(strategies(bench, "bars")).axes
    assert len(axes.patches) == 3
    assert [text.get_text() for text in axes.texts].count(HOLE) == 1
    assert len(axes.collections) == 2  # error bars, printed lines
    (axes,) = figures.draw(strategies(bench, "bars", comparable=False, seeds=(0,))).axes
    assert not axes.collections


def test_groups_have_a_colour_each(bench: Any) -> None:
    axes = bench.axis("row", ["a", "b"]) + bench.axis("col", ["clean", "noisy"])
    for kind in ("bars", "curve"):
        name = bench.write(axes, name=kind, kind=kind, report='columns = "col"')
        bench.plan(name)
        bench.fill(name)
        figure = figures.draw(load(bench, name))
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["clean", "noisy"]
        drawn = figure.axes[0].lines if kind == "curve" else figure.axes[0].patches[::2]
        colours = [to_hex(item.get_color() if kind == "curve" else item.get_facecolor()).upper() for item in drawn]
        assert colours == list(_style.COLOURS[:2])


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["4", "5", "20"], [4.0, 5.0, 20.0]),
        (["none", "5"], [0.0, 1.0]),
        (["0.001", "0.01", "1"], [0.0, 1.0, 2.0]),  # 0.009 of 0.999: the first two would touch
        (["1.003", "1.005", "1.05"], [0.0, 1.0, 2.0]),  # 0.04 of the axis apart: room for two characters, not for five
        (["nan", "1"], [0.0, 1.0]),
        (["1", "1.0"], [0.0, 1.0]),
        (["7"], [7.0]),
    ],
)
def test_positions_are_numbers_where_they_can_be_read(labels: list[str], expected: list[float]) -> None:
    assert curve.positions(labels) == expected


@pytest.mark.parametrize(
    ("values", "name", "expected"),
    [
        ([90.25, 92.84], "test/acc1_pct", (90.0, 93.0)),
        ([90.0, 90.0], "test/acc1_pct", (90.0, 90.5)),
        ([0.7512, 0.7771], "test/loyalty_code", (0.75, 0.78)),
        ([float("nan")], "test/acc1_pct", (0.0, 100.0)),
        ([], "test/loyalty_code", (0.0, 1.0)),
    ],
)
def test_limits_enclose_the_values(values: list[float], name: str, expected: tuple[float, float]) -> None:
    assert _style.limits(values, metric(name)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("k_begin", r"$k_{\mathrm{begin}}$"),
        ("lambda_0", r"$\lambda_{\mathrm{0}}$"),
        ("alpha", r"$\alpha$"),
        ("batch_size", "batch size"),
        ("cost $", r"cost \$"),
    ],
)
def test_symbols(name: str, shown: str) -> None:
    assert _style.symbol(name) == shown


@pytest.mark.parametrize("extension", figures.FORMATS)
def test_same_grid_same_bytes_whatever_the_users_settings(bench: Any, extension: str) -> None:
    found = strategies(bench, "bars")
    first = figures.render(figures.draw(found), extension)
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "savefig.dpi": 30}):
        assert figures.render(figures.draw(found), extension) == first
    assert b"CreationDate" not in first
    assert b"<dc:date>" not in first
    assert b"Software" not in first
    assert b"Matplotlib" not in first
    assert matplotlib.__version__.encode() not in first


@pytest.mark.parametrize("extension", figures.FORMATS)
def test_talk_size_is_the_same_drawing_as_large_as_a_slide(bench: Any, extension: str) -> None:
    found = strategies(bench, "bars")  # 3.5 inches wide and lower than a slide at that factor
    small, large = (figures.render(figures.draw(found), extension, size) for size in figures.SIZES)
    width_in, height_in = figures.draw(found).get_size_inches()
    factor = 12.3 / 3.5
    assert height_in * factor < 6.0
    assert size_in(small, extension) == pytest.approx((width_in, height_in), abs=0.01)
    assert size_in(large, extension) == pytest.approx((12.3, height_in * factor), abs=0.01)
    assert figures.render(figures.draw(found), extension, "talk") == large
    if extension == "png":
        assert Image.open(io.BytesIO(large)).width == 1968  # 160 pixels an inch
        assert Image.open(io.BytesIO(small)).width == 1050
    if extension == "svg":
        inside = [text.decode().split("viewBox", 1)[1] for text in (small, large)]
        assert inside[0] == inside[1]
    if extension == "pdf":
        content = [
            zlib.decompress(file.split(b"stream\r\n" if b"stream\r\n" in file else b"stream\n")[1])
            for file in (small, large)
        ]
        number = re.search(rb"^([0-9.]+) 0 0 ([0-9.]+) 0 0 cm$", content[1], re.MULTILINE)
        assert number is not None
        assert float(number[1]) == float(number[2]) == pytest.approx(factor, abs=1e-4)
        assert content[1].replace(number[0] + b"\n", b"") == content[0]


def test_talk_size_of_a_high_figure_is_as_high_as_a_slide(bench: Any) -> None:
    bench.plan("cudfkd/fig9")
    bench.fill("cudfkd/fig9")
    large = figures.render(figures.draw(load(bench, "cudfkd/fig9")), "svg", "talk")
    width_in, height_in = size_in(large, "svg")
    assert height_in == pytest.approx(6.0)
    assert width_in < 12.3


def size_in(file: bytes, extension: str) -> tuple[float, float]:
    """Width and height that the file asks for, in inches."""
    if extension == "png":
        image = Image.open(io.BytesIO(file))
        across, up = image.info["dpi"]
        return image.width / across, image.height / up
    pattern = (
        rb"/MediaBox \[ 0 0 ([0-9.]+) ([0-9.]+) \]"
        if extension == "pdf"
        else rb'width="([0-9.]+)pt" height="([0-9.]+)pt"'
    )
    found = re.search(pattern, file)
    assert found is not None
    return float(found[1]) / 72, float(found[2]) / 72


def test_labels_with_markup_are_drawn_as_they_are(bench: Any) -> None:
    labels = ["$x_1$ & <b>", "50% \\alpha {a}", '"q" λ→']
    name = bench.write(bench.axis("row", labels), kind="bars")
    bench.plan(name)
    bench.fill(name)
    figure = figures.draw(load(bench, name))
    file = figures.render(figure, "svg")
    ElementTree.fromstring(file)
    shown = " ".join(text.get_text() for text in figure.axes[0].get_xticklabels())
    for part in (r"\$x_1\$", "&", "<b>", "50%", "\\alpha", "{a}", '"q"', "λ→"):
        assert part in shown
    assert figures.render(figure, "pdf").startswith(b"%PDF")


def test_long_bar_labels_are_wrapped(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["none", "none, with ramp", "hard", "soft", "log"]), kind="bars")
    bench.plan(name)
    bench.fill(name)
    ticks = figures.draw(load(bench, name)).axes[0].get_xticklabels()
    assert [tick.get_text() for tick in ticks] == ["none", "none, with\nramp", "hard", "soft", "log"]
