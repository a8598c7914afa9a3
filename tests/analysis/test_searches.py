"""The table of a search."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest

from analysis import runs, searches, tables
from analysis.layout import Style
from sweeps import spec

ACCURACY = "best/val/acc1_pct"
SEARCH = """
[search]
trials = 4
space = [ { path = "hparams.alpha", low = 0.0, high = 1.0 }, { path = "hparams.T", choices = ["4", "20"] } ]
"""


def write(bench: Any) -> str:
    metrics = ["val/acc1_pct", "test/acc1_pct"]  # the first is the objective, which has its column already
    name: str = bench.write("", name="search", more=SEARCH, metrics=metrics)
    return name


def logged(bench: Any) -> dict[str, Any]:
    states = [("complete", 93.1), ("pruned", None), ("complete", 94.25), ("failed", None), ("complete", 94.25)]
    suggestions = [
        {
            "number": i,
            "params": {"hparams.alpha": i / 3, "hparams.T": "4"},
            "state": state,
            "value": value,
            "trials": {"0": f"{i}" * 64},
        }
        for i, (state, value) in enumerate(states)
    ]
    cells = [{"labels": {}, "study": "tiny-search", "suggestions": suggestions}]
    importances = {"all": {"hparams.T": 0.25, "hparams.alpha": 0.75}}
    return {
        "schema": 1,
        "metric": "best/val/acc1_pct",
        "direction": "maximize",
        "cells": cells,
        "importances": importances,
    }


def logged_two(bench: Any) -> dict[str, Any]:
    """Accuracy up, operations down: 0 and 3 are the front, 4 equals 0, 1 is worse than 0, 2 than 3."""
    points = [(93.0, 4e12), (92.0, 4.5e12), (90.0, 1.5e12), (90.5, 1.25e12), (93.0, 4e12)]
    suggestions = [
        {
            "number": i,
            "params": {"hparams.alpha": float(i)},
            "state": "complete",
            "values": list(values),
            "trials": {"0": f"{i}" * 64},
        }
        for i, values in enumerate(points)
    ]
    suggestions.append(
        {
            "number": 5,
            "params": {"hparams.alpha": 5.0},
            "state": "failed",
            "values": [None, None],
            "trials": {"0": "5" * 64},
        }
    )
    importances = {ACCURACY: {"hparams.alpha": 1.0}, "cost/flops": {"hparams.alpha": 0.5, "hparams.T": 0.5}}
    return {
        "schema": 2,
        "objectives": [
            {"metric": ACCURACY, "direction": "maximize"},
            {"metric": "cost/flops", "direction": "minimize"},
        ],
        "cells": [{"labels": {}, "study": "tiny-search", "suggestions": suggestions}],
        "importances": {"all": importances},
    }


def load(bench: Any, name: str) -> searches.SearchResult:
    experiment = spec.load(name, spec.load_profile("demo"))
    store = runs.connect(bench.settings)
    return searches.load(experiment, "demo", store.sweep(experiment.name, "demo"), store)


def test_table_of_a_search(bench: Any) -> None:
    name = write(bench)
    bench.plan(name, search=logged(bench))
    bench.trial("0" * 64, {"best/test/acc1_pct": 92.5})
    bench.trial("2" * 64, {"best/test/acc1_pct": 93.75})
    found = load(bench, name)
    assert found.missing == []
    assert (
        tables.markdown(searches.table(found))
        == r"""**Small grid**

tiny/search, profile demo: 3 complete, 1 pruned, 1 failed; maximize val Acc@1 (%); results: best over epochs, per metric, mean over seeds. \* is the best.

| suggestion |  alpha | T |    state | val Acc@1 (%) | Acc@1 (%) |
|------------|-------:|--:|---------:|--------------:|----------:|
| 0          |      0 | 4 | complete |         93.10 |     92.50 |
| 1          | 0.3333 | 4 |   pruned |             – |         – |
| 2 \*       | 0.6667 | 4 | complete |         94.25 |     93.75 |
| 3          |      1 | 4 |   failed |             – |         – |
| 4          |  1.333 | 4 | complete |         94.25 |         – |

Importances: alpha 0.75, T 0.25.

Profile demo has another scale than the paper (data cifar100 -> digits): printed values are not compared.
""".replace("| T |", "|   T |")
        .replace("|--:|", "|----:|")
        .replace("| 4 |", "|   4 |")
    )
    rows = searches.rows(found)
    assert rows[2] == {
        "cell": "all", "number": 2, "state": "complete", "hparams.alpha": 2 / 3, "hparams.T": "4",
        "best/val/acc1_pct": 94.25, "best/test/acc1_pct": 93.75,
    }  # fmt: skip
    assert json.dumps(rows, allow_nan=False)


def test_search_without_suggestions_is_missing(bench: Any) -> None:
    name = write(bench)
    bench.plan(name, search=logged(bench) | {"cells": [], "importances": {}})
    found = load(bench, name)
    assert found.missing == ["all"]
    assert "no suggestion yet" in tables.markdown(searches.table(found))
    assert searches.rows(found) == []


def study_of(*values: tuple[float | None, ...]) -> searches.Study:
    suggestions = [{"number": i, "state": "complete", "values": list(each)} for i, each in enumerate(values)]
    return searches.Study("all", suggestions, {})


def test_best_follows_the_direction_and_takes_the_earliest_of_equals() -> None:
    study = study_of((2.0,), (1.0,), (None,), (math.nan,), (2.0,), (1.0,))
    assert searches.front(study, ["maximize"]) == [0]
    assert searches.front(study, ["minimize"]) == [1]
    assert searches.front(study_of(), ["maximize"]) == []


def test_front_is_what_nothing_else_beats() -> None:
    study = study_of((1.0, 1.0), (3.0, 2.0), (2.0, 2.0), (4.0, 9.0), (3.0, 2.0), (9.0, math.nan), (9.0, None))
    # less of the second at more of the first: 1 beats 2 and 4, which equals it; 0 is cheapest, 3 largest
    assert searches.front(study, ["maximize", "minimize"]) == [0, 1, 3]
    assert searches.front(study, ["maximize", "maximize"]) == [3]
    assert searches.front(study, ["minimize", "minimize"]) == [0]


@pytest.mark.parametrize("directions", [("maximize", "minimize", "minimize"), ("minimize", "maximize", "maximize")])
def test_front_of_random_points_beats_or_equals_every_other(directions: tuple[str, ...]) -> None:
    draw = random.Random(3)
    points = [tuple(float(draw.randint(0, 4)) for _ in directions) for _ in range(40)]
    found = searches.front(study_of(*points), directions)

    def as_good(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
        pairs = zip(a, b, directions, strict=True)
        return all(x >= y if direction == "maximize" else x <= y for x, y, direction in pairs)

    assert 1 < len(found) < 40
    for number, point in enumerate(points):
        beaten = any(as_good(points[other], point) for other in found if other != number)
        assert (number in found) != beaten


def test_table_of_a_search_with_two_objectives(bench: Any) -> None:
    name = write(bench)
    bench.plan(name, search=logged_two(bench))
    bench.trial("3" * 64, {"best/test/acc1_pct": 90.25})
    found = load(bench, name)
    assert found.objectives == ((ACCURACY, "maximize"), ("cost/flops", "minimize"))
    table = searches.table(found)
    assert list(table.header) == ["alpha", "state", "val Acc@1 (%)", "Training operations (TFLOP)", "Acc@1 (%)"]
    (block,) = table.blocks
    assert [label for label, _ in block.rows] == ["0 *", "1", "2", "3 *", "4", "5"]
    assert [entry.value for entry in block.rows[3][1]] == ["3", "complete", "90.50", "1.25", "90.25"]
    assert [entry.value for entry in block.rows[5][1]] == ["5", "failed", "–", "–", "–"]
    assert "5 complete, 1 failed; maximize val Acc@1 (%) and minimize Training operations (TFLOP)" in table.caption
    assert table.caption.endswith("* is the Pareto front.")
    assert table.remarks[:2] == [
        "Importances for val Acc@1: alpha 1.00.",
        "Importances for Training operations: T 0.50, alpha 0.50.",
    ]
    rows = searches.rows(found)
    assert rows[3] == {
        "cell": "all", "number": 3, "state": "complete", "hparams.alpha": 3.0,
        "best/val/acc1_pct": 90.5, "cost/flops": 1.25e12, "best/test/acc1_pct": 90.25,
    }  # fmt: skip
    assert (rows[5][ACCURACY], rows[5]["cost/flops"]) == (None, None)
    assert json.dumps(rows, allow_nan=False)


@pytest.mark.latex
@pytest.mark.parametrize("style", [Style(standalone=True), Style(standalone=True, siunitx=True, links=True)])
@pytest.mark.parametrize("objectives", [logged, logged_two])
def test_latex_of_a_search_compiles(bench: Any, pdflatex: Any, objectives: Any, style: Style) -> None:
    name = write(bench)
    bench.plan(name, search=objectives(bench))
    bench.trial("3" * 64, {"best/test/acc1_pct": 90.25})
    text = pdflatex(tables.latex(searches.table(load(bench, name)), style))
    assert "90.25" in text
    assert "3*" in text.replace(" ", "").replace("∗", "*") or objectives is logged


def test_a_search_that_never_logged_shows_the_objectives_of_its_file(bench: Any) -> None:
    objectives = 'objectives = [ { metric = "best/val/acc1_pct", direction = "maximize" }, { metric = "time/train_s", direction = "minimize" } ]\n'
    name = bench.write("", name="search", more=SEARCH.replace("trials = 4\n", f"trials = 4\n{objectives}"))
    bench.plan(name)
    found = load(bench, name)
    assert found.objectives == ((ACCURACY, "maximize"), ("time/train_s", "minimize"))
    assert found.missing == ["all"]
    assert searches.rows(found) == []
