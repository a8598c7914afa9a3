"""Statistics of the curve averaged over seeds (CuDFKD, Table V), and what else needs a history."""

from __future__ import annotations

import math
from typing import Any

import pytest

from analysis import grid, runs
from sweeps import spec

MEAN, VAR = "stats/from/test/acc1_pct_mean", "stats/from/test/acc1_pct_var"
TABLE_5 = (MEAN, VAR, "test/acc1_pct", "train/peak_memory_mib", "time/train_s")


def load(bench: Any, name: str) -> grid.Grid:
    experiment = spec.load(name, spec.load_profile("demo"))
    store = runs.connect(bench.settings)
    return grid.load(experiment, "demo", store.sweep(experiment.name, "demo"), store)


def two_seeds(bench: Any, over_seeds: str = "mean_curve", metrics: Any = TABLE_5) -> str:
    """Averages by epoch 15, 70, 80, 90; the window is that of epochs 1 to 3."""
    name: str = bench.write(bench.axis("row", ["a"]), seeds=[0, 1], over_seeds=over_seeds, metrics=metrics)
    bench.plan(name)
    bench.learn(bench.digest("demo", "row=a", 0), [10.0, 60.0, 90.0, 88.0], first=1)
    bench.learn(bench.digest("demo", "row=a", 1), [20.0, 80.0, 70.0, 92.0], first=1)
    return name


def test_table_5_by_hand(bench: Any) -> None:
    mean, var, best, memory, seconds = load(bench, two_seeds(bench)).cells
    assert (mean["value"], mean["n"]) == (pytest.approx(80.0, abs=1e-9), 2)
    assert var["value"] == pytest.approx(200 / 3, abs=1e-9)  # (100 + 0 + 100) / 3
    assert math.isnan(mean["std"]) and math.isnan(var["std"])
    assert (best["value"], best["std"]) == (91.0, pytest.approx(math.sqrt(2), abs=1e-12))  # of 90 and 92
    assert (memory["value"], math.isnan(memory["std"])) == (2048.0, True)
    assert (seconds["value"], seconds["std"]) == (120.0, 0.0)


def test_mean_over_seeds_of_each_seeds_own_statistic_is_another_number(bench: Any) -> None:
    found = load(bench, two_seeds(bench, "mean_std"))
    # seed 0: 60, 90, 88 about 238/3; seed 1: 80, 70, 92 about 242/3
    own = [sum((x - sum(part) / 3) ** 2 for x in part) / 3 for part in ([60, 90, 88], [80, 70, 92])]
    assert found.cells[1]["value"] == pytest.approx(sum(own) / 2, abs=1e-9)
    assert "of each seed's own curve" in found.remarks[-1]


def test_best_over_seeds_takes_the_smaller_variance_and_cost(bench: Any) -> None:
    _, var, best, memory, _ = load(bench, two_seeds(bench, "best")).cells
    assert var["value"] == pytest.approx(728 / 9, abs=1e-9)  # seed 1's; seed 0's is 1688 / 9
    assert (best["value"], memory["value"]) == (92.0, 2048.0)


def test_caption_names_the_epochs_of_the_window(bench: Any) -> None:
    assert "epochs, counted from 0: 1 to 3." in load(bench, two_seeds(bench)).remarks[-2]
    assert "Peak memory is the largest over seeds" in load(bench, two_seeds(bench)).remarks[-1]


def test_seeds_with_different_windows_leave_a_hole(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a"]), seeds=[0, 1], over_seeds="mean_curve", metrics=[MEAN])
    bench.plan(name)
    for seed, first in ((0, 1), (1, 2)):
        bench.learn(bench.digest("demo", "row=a", seed), [10.0, 60.0, 90.0, 88.0], first=first)
    found = load(bench, name)
    (cell,) = found.cells
    assert (cell["state"], cell["n"]) == ("hole", 0)
    assert cell["note"] == "the seeds' windows differ (seed 0 from epoch 1, seed 1 from epoch 2)"
    assert len(found.holes) == 2


def test_history_that_does_not_give_the_recorded_mean_leaves_a_hole(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a"]), over_seeds="mean_curve", metrics=[MEAN])
    bench.plan(name)
    results = {MEAN: 75.0, VAR: 1.0, "best/test/acc1_pct": 90.0}
    bench.trial(bench.digest("demo", "row=a", 0), results, curves={"test/acc1_pct": [10.0, 60.0]})
    (cell,) = load(bench, name).cells
    assert cell["state"] == "hole"
    assert cell["note"].startswith(f"its history does not give its {MEAN}; delete the MLflow run, then `sweep sync`")


def test_seeds_of_different_lengths_average_over_the_epochs_that_all_have(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a"]), seeds=[0, 1], over_seeds="mean_curve", metrics=[MEAN])
    bench.plan(name)
    bench.learn(bench.digest("demo", "row=a", 0), [10.0, 60.0, 90.0, 88.0], first=1)
    bench.learn(bench.digest("demo", "row=a", 1), [20.0, 80.0, 70.0], first=1)
    assert load(bench, name).cells[0]["value"] == pytest.approx(75.0, abs=1e-9)  # of 70 and 80


def test_memory_of_a_continued_trial_is_its_peak(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a"]), metrics=["train/peak_memory_mib"])
    bench.plan(name)
    bench.trial(bench.digest("demo", "row=a", 0), curves={"train/peak_memory_mib": [900.0, 4096.0, 1024.0]})
    assert load(bench, name).cells[0]["value"] == 4096.0


def test_missing_seed_lowers_n(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a"]), seeds=[0, 1], over_seeds="mean_curve", metrics=[MEAN])
    bench.plan(name)
    bench.learn(bench.digest("demo", "row=a", 1), [20.0, 80.0, 70.0, 92.0], first=1)
    (cell,) = load(bench, name).cells
    assert (cell["n"], cell["state"], cell["note"]) == (1, "incomplete", "seed 0 not started")
    assert cell["value"] == pytest.approx(242 / 3, abs=1e-9)


def test_epochs_show_best_and_last_and_say_where_seeds_end(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a"]), kind="epochs", seeds=[0, 1])
    bench.plan(name)
    bench.learn(bench.digest("demo", "row=a", 0), [10.0, 90.0, 80.0])
    bench.learn(bench.digest("demo", "row=a", 1), [20.0, 70.0])
    found = load(bench, name)
    assert found.metrics == ("best/test/acc1_pct", "last/test/acc1_pct")
    assert [found.metric(metric).title for metric in found.metrics] == ["Best Acc@1 (%)", "Last Acc@1 (%)"]
    assert [cell["value"] for cell in found.cells] == [80.0, 75.0]
    assert found.remarks[-1] == "a: seeds have 2 to 3 epochs; the curve is drawn over those that all have."
