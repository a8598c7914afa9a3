"""The figure of a search: history or Pareto front, importances, slices, parallel coordinates."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import cli, figures
from analysis.figures import search
from analysis.searches import SearchResult, Study

ACCURACY, COST = "best/val/acc1_pct", "cost/flops"


def suggestions(*values: tuple[float | None, ...]) -> list[dict[str, Any]]:
    """Complete where there are values, else pruned; alpha is 0.01 * 10^number, kind of distance in turn."""
    return [
        {
            "number": i,
            "params": {"hparams.alpha": 0.01 * 10**i, "hparams.distance": ["l1", "l2"][i % 2]},
            "state": "pruned" if None in each else "complete",
            "values": list(each),
            "trials": {},
            "results": {},
        }
        for i, each in enumerate(values)
    ]


def result(objectives: tuple[tuple[str, str], ...], *studies: Study) -> SearchResult:
    logarithmic = frozenset({"hparams.alpha"})
    return SearchResult("tiny/search", "demo", "Search", objectives, (), "best", (), studies, logarithmic)


def one(*values: float | None, direction: str = "maximize", importances: Any = None) -> SearchResult:
    study = Study("all", suggestions(*((value,) for value in values)), importances or {})
    return result(((ACCURACY, direction),), study)


def two(*points: tuple[float | None, float | None], **options: Any) -> SearchResult:
    study = Study("all", suggestions(*points), options.get("importances", {}))
    return result(((ACCURACY, "maximize"), (COST, "minimize")), study)


@pytest.mark.parametrize(("direction", "best"), [("maximize", [90.0, 92.0, 92.0]), ("minimize", [90.0, 90.0, 89.0])])
def test_history_has_the_best_so_far_and_marks_what_has_no_value(direction: str, best: list[float]) -> None:
    axes = figures.draw(one(90.0, None, 92.0, 89.0, direction=direction)).axes[0]
    points, line, pruned = axes.lines
    assert (list(points.get_xdata()), list(points.get_ydata())) == ([0, 2, 3], [90.0, 92.0, 89.0])
    assert list(line.get_ydata()) == best
    assert list(pruned.get_xdata()) == [1]
    arrow = "↑" if direction == "maximize" else "↓"
    assert (axes.get_xlabel(), axes.get_ylabel().replace("\n", " ")) == ("suggestion", f"val Acc@1 (%) {arrow}")


def test_front_replaces_the_history_of_two_objectives() -> None:
    found = two((93.0, 4e12), (92.0, 4.5e12), (90.5, 1.25e12), (None, None))
    axes = figures.draw(found).axes[0]
    everything, front = axes.lines
    assert list(everything.get_xdata()) == pytest.approx([4.0, 4.5, 1.25], abs=1e-12)  # costs across, in TFLOP
    assert list(front.get_xdata()) == pytest.approx([1.25, 4.0], abs=1e-12)
    assert list(front.get_ydata()) == [90.5, 93.0]
    assert [text.get_text() for text in axes.texts] == ["2", "0"]
    assert axes.get_xlabel() == "Training operations (TFLOP) ↓"


def test_costs_are_across_whichever_objective_comes_first() -> None:
    study = Study("all", suggestions((1e12, 90.0), (2e12, 95.0)), {})
    axes = figures.draw(result(((COST, "minimize"), (ACCURACY, "maximize")), study)).axes[0]
    assert "operations" in axes.get_xlabel() and "Acc@1" in axes.get_ylabel()


def test_three_objectives_have_a_history_each() -> None:
    objectives = ((ACCURACY, "maximize"), (COST, "minimize"), ("best/test/loyalty", "maximize"))
    study = Study("all", suggestions((90.0, 1e9, 0.5), (91.0, 2e9, 0.4)), {})
    axes = figures.draw(result(objectives, study)).axes
    assert [each.get_xlabel() for each in axes[:3]] == ["suggestion"] * 3
    assert list(axes[1].lines[1].get_ydata()) == [1.0, 1.0]  # the cheapest so far, in GFLOP


def test_importances_are_sorted_by_the_first_objective() -> None:
    shares = {ACCURACY: {"hparams.alpha": 0.25, "hparams.distance": 0.75}, COST: {"hparams.alpha": 1.0}}
    axes = figures.draw(two((90.0, 1e9), (91.0, 2e9), importances={**shares})).axes[1]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["distance", r"$\alpha$"]
    assert [patch.get_width() for patch in axes.patches] == [0.75, 0.25, 0.0, 1.0]


def test_too_few_suggestions_for_importances_are_said_so() -> None:
    axes = figures.draw(one(90.0, 91.0)).axes[1]
    assert axes.texts[0].get_text().replace("\n", " ") == "too few suggestions for importances"


def test_slices_show_every_setting_on_its_scale() -> None:
    axes = figures.draw(one(90.0, 92.0, None, 91.0)).axes
    alpha, distance = axes[2:4]
    assert alpha.get_xscale() == "log"
    points = np.array(alpha.collections[0].get_offsets())
    assert points == pytest.approx(np.array([(0.01, 90.0), (0.1, 92.0), (10.0, 91.0)]), abs=1e-9)
    assert [text.get_text() for text in distance.get_xticklabels()] == ["l1", "l2"]
    assert [tuple(point) for point in distance.collections[0].get_offsets()] == [(0, 90.0), (1, 92.0), (1, 91.0)]
    ringed = [edge[3] > 0 for edge in alpha.collections[0].get_edgecolors()]
    assert ringed == [False, True, False]  # the best


def test_parallel_lines_go_from_0_to_1_and_the_best_is_drawn_last() -> None:
    axes = figures.draw(one(90.0, 92.0, 91.0)).axes[-1]
    lines = [line for line in axes.lines if len(line.get_ydata()) == 3]  # two settings, one objective
    drawn = np.array([line.get_ydata() for line in lines])
    assert drawn == pytest.approx(np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.5], [0.5, 1.0, 1.0]]), abs=1e-12)
    assert [text.get_text() for text in axes.texts] == ["0.01", "1", "l1", "l2", "90.00", "92.00"]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.1, 10.0, [0.1, 0.5, 2.0, 10.0]),
        (0.003, 0.05, [0.005, 0.01, 0.02, 0.05]),
        (3.0, 4.0, [3.0]),
        (1.0, 1.0, [1.0]),
    ],
)
def test_logarithmic_ticks_are_few_and_round(low: float, high: float, expected: list[float]) -> None:
    assert search.log_ticks(low, high) == expected


def test_one_value_of_a_setting_lies_in_the_middle() -> None:
    scale = search.Scale("hparams.alpha", 2.0, 2.0, True, ())
    assert scale.share(2.0) == 0.5


@pytest.mark.parametrize(
    ("study", "said"),
    [
        (Study("row=a", [], {}), "no suggestion yet"),
        (Study("row=a", suggestions((None,), (math.nan,)), {}), "no complete suggestion yet"),
    ],
)
def test_cells_without_a_value_say_so_beside_others(study: Study, said: str) -> None:
    figure = figures.draw(result(((ACCURACY, "maximize"),), study, Study("row=b", suggestions((90.0,)), {})))
    assert figure.axes[0].texts[0].get_text().replace("\n", " ") == said
    assert figures.render(figure, "png").startswith(b"\x89PNG")
    assert [part.get_suptitle() for part in figure.subfigs] == ["row=a", "row=b"]


def test_paper_figure_draws_a_search_with_the_same_bytes(
    bench: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space = '\n[search]\ntrials = 2\nspace = [ { path = "hparams.alpha", low = 0.01, high = 1.0, log = true } ]\n'
    name = bench.write("", name="search", more=space, kind="scatter", metrics=["val/acc1_pct"])
    logged = [s | {"value": s["values"][0]} for s in suggestions((90.0,), (91.0,))]
    cells = [{"labels": {}, "study": "s", "suggestions": logged}]
    content = {"schema": 1, "metric": ACCURACY, "direction": "maximize", "cells": cells, "importances": {}}
    bench.plan(name, search=content)
    made = []
    for folder in ("one", "two"):
        assert cli.main(["figure", name, "--profile", "demo", "--out", folder]) == 0
        paths = capsys.readouterr().out.splitlines()
        assert [Path(path).name for path in paths] == ["search.png", "search.pdf", "search.svg"]
        made.append([Path(path).read_bytes() for path in paths])
    assert made[0] == made[1]
