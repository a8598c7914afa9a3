"""The table of a search."""

from __future__ import annotations

import json
import math
from typing import Any

from analysis import runs, searches, tables
from sweeps import spec

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


def test_best_follows_the_direction_and_takes_the_earliest_of_equals() -> None:
    values = [2.0, 1.0, None, math.nan, 2.0, 1.0]
    suggestions = [{"number": i, "state": "complete", "value": value} for i, value in enumerate(values)]
    study = searches.Study("all", suggestions, {})
    assert searches.best(study, "maximize") == 0
    assert searches.best(study, "minimize") == 1
    assert searches.best(searches.Study("all", [], {}), "maximize") is None
