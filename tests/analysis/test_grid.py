"""The tidy frame: every cell is there, whatever became of it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from analysis import grid, runs, tables
from analysis.errors import ReportError, StoreError
from sweeps import spec


def load(bench: Any, name: str, profile_name: str = "demo", **overrides: Any) -> grid.Grid:
    profile = spec.load_profile(profile_name)
    experiment = spec.load(name, profile)
    store = runs.connect(bench.settings)
    return grid.load(experiment, profile_name, store.sweep(experiment.name, profile_name), store, **overrides)


def test_frame_of_fig9_has_one_row_for_each_cell_and_metric(bench: Any) -> None:
    bench.plan("cudfkd/fig9")
    bench.fill("cudfkd/fig9")
    found = load(bench, "cudfkd/fig9")
    frame = found.frame
    assert len(frame) == 9 * 3
    assert found.holes.empty
    assert list(frame.columns) == ["pair", "k_begin", "k_end", *grid.COLUMNS]
    assert list(frame["k_begin"].cat.categories) == ["1/5", "1/4", "1/3"]
    assert frame["k_begin"].cat.ordered
    assert list(frame["pair"].cat.categories) == ["ResNet34 / ResNet18"]
    row = frame[(frame["k_begin"] == "1/5") & (frame["k_end"] == "3/4") & (frame["metric"] == "test/acc1_pct")].iloc[0]
    assert row["value"] == 90.62  # 90.25, one step of 0.37
    assert row["reference"] == 75.16
    assert row["origin"] == "authors' notebook"
    assert row["seed"] == 0
    assert row["digest"] == bench.digest("demo", "pair=ResNet34 / ResNet18 k_begin=1/5 k_end=3/4", 0)
    assert row["link"] == f"runs:/{row['run_id']}"


@pytest.mark.parametrize(
    ("state", "error", "note"),
    [
        ("failed", "CUDA out of\nmemory", "failed: CUDA out of memory"),
        ("failed", "", "failed: cause not recorded"),
        ("stopped", "", "stopped by a pruner"),
        ("partial", "", "not finished"),
    ],
)
def test_only_a_finished_run_fills_a_cell(bench: Any, state: str, error: str, note: str) -> None:
    name = bench.write(bench.axis("row", ["a", "b"]))
    bench.plan(name)
    bench.trial(bench.digest("demo", "row=a", 0), {"best/test/acc1_pct": 90.0})
    bench.trial(bench.digest("demo", "row=b", 0), {"best/test/acc1_pct": 90.0}, state=state, error=error)
    found = load(bench, name)
    assert found.holes[["row", "state", "note"]].values.tolist() == [["b", state, note]]


def test_run_that_does_not_exist_leaves_a_hole(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a"]))
    bench.plan(name)
    assert load(bench, name).frame[["state", "note"]].values.tolist() == [["new", "not started"]]


def test_cell_added_after_the_plan_leaves_a_hole_and_a_remark(bench: Any) -> None:
    bench.plan(bench.write(bench.axis("row", ["a"])))
    name = bench.write(bench.axis("row", ["a", "b"]))
    found = load(bench, name)
    assert found.holes[["row", "note"]].values.tolist() == [["a", "not started"], ["b", "not in the last plan"]]
    assert any(
        "changed since the last plan; `sweep run tiny/grid --profile demo`" in remark for remark in found.remarks
    )


def test_seed_added_after_the_plan_leaves_a_hole(bench: Any) -> None:
    bench.plan(bench.write(bench.axis("row", ["a"])))
    found = load(bench, bench.write(bench.axis("row", ["a"]), seeds=[0, 7]))
    assert found.frame[["seed", "note"]].values.tolist() == [[0, "not started"], [7, "not in the last plan"]]


def test_seed_that_only_the_plan_has_counts(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a"]))
    bench.plan(name, edit=lambda plan: plan["cells"][0]["trials"].update({"5": "b" * 64}))
    assert load(bench, name).frame["seed"].tolist() == [0, 5]


def test_cell_with_two_configurations_names_both(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a"]))
    bench.plan(name, edit=lambda plan: plan["cells"].append({"labels": {"row": "a"}, "trials": {"0": "b" * 64}}))
    first = bench.digest("demo", "row=a", 0)
    with pytest.raises(
        StoreError, match=f"cell row=a seed 0 has two configurations in the last plan: {first} and {'b' * 64}"
    ):
        load(bench, name)


def test_absent_and_reported_cells_are_no_holes(bench: Any) -> None:
    more = '\n[[absent]]\nmatch = { row = "b" }\nreason = "needs equal widths"\n'
    more += '[[reported]]\nmatch = { row = "c" }\nreason = "copied from its paper"\n'
    name = bench.write(bench.axis("row", ["a", "b", "c"]), more=more)
    bench.plan(name)
    bench.fill(name)
    found = load(bench, name)
    assert found.holes.empty
    assert found.frame["state"].tolist() == ["done", "absent", "reported"]
    assert found.frame["note"].tolist() == ["", "needs equal widths", "copied from its paper"]


def test_unknown_metric_names_those_that_runs_have(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a"]))
    bench.plan(name)
    bench.fill(name, results={"best/test/acc1_pct": 90.0, "test/acc1_pct": 89.0})
    with pytest.raises(StoreError, match=r"no finished run has metric 'best/test/acc9'; they have best/test/acc1_pct$"):
        load(bench, name, metrics=["test/acc9"])


def test_finished_run_without_the_metric_or_with_nan_is_a_hole(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a", "b", "c"]))
    bench.plan(name)
    for label, metrics in (("a", {"best/test/acc1_pct": 1.0}), ("b", {}), ("c", {"best/test/acc1_pct": math.nan})):
        bench.trial(bench.digest("demo", f"row={label}", 0), metrics)
    notes = load(bench, name).frame["note"].tolist()
    assert notes == ["", "the run has no best/test/acc1_pct", "the run's best/test/acc1_pct is nan"]


def test_selection_and_metrics_may_be_chosen(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a"]))
    bench.plan(name)
    bench.fill(name, results={"best/test/acc1_pct": 92.0, "last/test/acc1_pct": 91.0, "last/test/loyalty_code": 0.5})
    found = load(bench, name, select="last", metrics=["test/loyalty_code", "test/acc1_pct"])
    assert found.frame["value"].tolist() == [0.5, 91.0]


def test_axis_with_the_name_of_a_column_is_an_error(bench: Any) -> None:
    axes = bench.axis("row", ["a"]) + bench.axis("state", ["x"])
    name = bench.write(axes, report='columns = "state"')
    bench.plan(name)
    with pytest.raises(ReportError, match=r"axis 'state' has the name of a result column"):
        load(bench, name)


def test_cells_fold_seeds_and_say_which_are_missing(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a", "b"]), seeds=[0, 10, 20])
    bench.plan(name)
    for seed, value in ((0, 90.0), (20, 93.0)):
        bench.trial(bench.digest("demo", "row=a", seed), {"best/test/acc1_pct": value})
    bench.trial(bench.digest("demo", "row=a", 10), state="failed", error="NaN")
    first, second = load(bench, name).cells
    assert (first["value"], first["n"], first["seeds"], first["state"]) == (91.5, 2, 3, "incomplete")
    assert first["std"] == pytest.approx(4.5**0.5, abs=1e-12)  # deviations 1.5: (2.25 + 2.25) / 1
    assert first["note"] == "seed 10 failed: NaN"
    assert math.isnan(second["value"])
    assert (second["n"], second["state"], second["note"]) == (0, "hole", "not started")


def test_best_over_seeds(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a"]), seeds=[0, 1], over_seeds="best")
    bench.plan(name)
    for seed, value in ((0, 90.0), (1, 93.0)):
        bench.trial(bench.digest("demo", "row=a", seed), {"best/test/acc1_pct": value})
    (row,) = load(bench, name).cells
    assert row["value"] == 93.0
    assert math.isnan(row["std"])
    assert row["n"] == 2


LEFT_OUT = '\n[[absent]]\nmatch = { row = "b" }\nmetrics = ["test/agree1_pct"]\nreason = "has no teacher"\n'
TWO = ("test/acc1_pct", "test/agree1_pct")


def test_metric_that_the_paper_leaves_out_is_absent_and_its_cell_is_trained(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a", "b"]), metrics=TWO, more=LEFT_OUT)
    bench.plan(name)
    bench.fill(name, results={"best/test/acc1_pct": 90.0, "best/test/agree1_pct": 91.0})
    found = load(bench, name)
    assert found.frame["state"].tolist() == ["done", "done", "done", "absent"]
    assert found.frame["note"].tolist() == ["", "", "", "has no teacher"]
    assert found.holes.empty
    assert [cell["state"] for cell in found.cells] == ["done", "done", "done", "absent"]
    again = load(bench, name, metrics=["best/test/agree1_pct"])
    assert again.frame["state"].tolist() == ["done", "absent"]


def test_metric_that_only_unfinished_cells_will_have_is_a_hole_not_an_error(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a", "b"]), metrics=TWO, more=LEFT_OUT)
    bench.plan(name)
    bench.trial(bench.digest("demo", "row=b", 0), {"best/test/acc1_pct": 90.0})
    assert load(bench, name).frame["state"].tolist() == ["new", "new", "done", "absent"]


def test_cell_with_seeds_of_its_own_misses_no_others(bench: Any) -> None:
    axes = '[[axes]]\nname = "row"\nvalues = [{ label = "a", seeds = [7] }, { label = "b", preset = "x" }]\n'
    name = bench.write(axes, seeds=[0, 1])
    bench.plan(name)
    bench.fill(name)
    found = load(bench, name)
    assert found.holes.empty
    assert found.frame[["row", "seed"]].values.tolist() == [["a", 7], ["b", 0], ["b", 1]]


def test_times_are_shown_in_a_unit_that_suits_them_and_kept_in_seconds(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a"]), metrics=["time/train_s"])
    bench.plan(name)
    bench.trial(bench.digest("demo", "row=a", 0), {"time/train_s": 300.0})
    found = load(bench, name)
    assert found.cells[0]["value"] == 300.0
    assert found.metric("time/train_s").title == "Training time (min)"
    assert found.block("time/train_s", "")[0]["value"] == 5.0
    assert found.drawn("time/train_s").text(5.0) == "5.00"


def test_seconds_and_hours_in_one_column_have_one_unit(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a", "b"]), metrics=["time/train_s", "test/acc1_pct"])
    bench.plan(name)
    for label, seconds, accuracy in (("a", 36.0, 50.0), ("b", 10800.0, 60.0)):
        results = {"time/train_s": seconds, "best/test/acc1_pct": accuracy}
        bench.trial(bench.digest("demo", f"row={label}", 0), results)
    text = tables.markdown(tables.table(load(bench, name)))
    assert "| row | Training time (h) | Acc@1 (%) |" in text
    assert "| a   |          **0.01** |   _50.00_ |" in text  # 36 s are 0.01 h
    assert "| b   |            _3.00_ | **60.00** |" in text


def test_printed_values_appear_only_at_the_papers_scale(bench: Any) -> None:
    for comparable, profile in ((False, "demo"), (True, "paper")):
        bench.plan("cudfkd/fig9", profile, comparable=comparable)
        found = load(bench, "cudfkd/fig9", profile)
        assert [not math.isnan(cell["printed"]) for cell in found.cells] == [comparable] * len(found.cells)
        assert ("another scale than the paper (data cifar100 -> digits)" in found.remarks[0]) != comparable
