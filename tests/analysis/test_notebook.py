"""What notebooks call: the tidy frame, its units and errors, the table as text, and the example notebook."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import analysis
from analysis import cli, grid, runs
from analysis.errors import NeverSwept, ReportError, StoreError
from sweeps.errors import SpecError

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "example.ipynb"


@pytest.fixture
def tiny(bench: Any) -> str:
    """Two rows with two seeds: a is 90.25 and 90.73, b 90.99 and a hole."""
    name: str = bench.write(bench.axis("row", ["a", "b"]), seeds=[0, 7])
    bench.plan(name)
    for label, seed, value in (("a", 0, 90.25), ("a", 7, 90.73), ("b", 0, 90.99)):
        results = {"best/test/acc1_pct": value, "last/test/acc1_pct": value - 1, "best/train/peak_memory_mib": 1.0}
        results |= {"train/peak_memory_mib": 512.0}
        bench.trial(bench.digest("demo", f"row={label}", seed), results, curves={"train/peak_memory_mib": [512.0]})
    return name


def test_frame_has_a_row_for_each_cell_seed_and_metric(tiny: str) -> None:
    frame = analysis.load(tiny, profile="demo")
    assert list(frame.columns) == ["row", *grid.COLUMNS]
    assert [*zip(frame["row"], frame["seed"], frame["state"], strict=True)] == [
        ("a", 0, "done"),
        ("a", 7, "done"),
        ("b", 0, "done"),
        ("b", 7, "new"),
    ]
    assert frame["value"].tolist()[:3] == [90.25, 90.73, 90.99]
    assert math.isnan(frame["value"].iloc[3])
    assert frame["note"].iloc[3] == "not started"
    assert frame["row"].cat.ordered
    assert frame.attrs["units"] == {"test/acc1_pct": "%"}
    assert frame.attrs["axes"] == ["row"]
    assert (frame.attrs["experiment"], frame.attrs["profile"]) == ("tiny/grid", "demo")
    assert (frame.attrs["select"], frame.attrs["comparable"]) == ("best", False)


def test_arguments_replace_what_the_file_says(tiny: str) -> None:
    frame = analysis.load(
        tiny, profile="demo", seeds=[7], metrics=["train/peak_memory_mib", "test/acc1_pct"], select="last"
    )
    assert frame["seed"].unique().tolist() == [7]
    assert frame.attrs["units"] == {"train/peak_memory_mib": "MiB", "test/acc1_pct": "%"}
    values = frame.set_index(["row", "metric"])["value"]
    assert values["a", "train/peak_memory_mib"] == 512.0
    assert values["a", "test/acc1_pct"] == pytest.approx(89.73)
    assert "curve" in frame.columns


def test_another_store_by_path_and_by_address(bench: Any, tiny: str, tmp_path: Path) -> None:
    path = bench.folder / ".sweeps" / "mlflow.db"
    moved = path.rename(tmp_path / "other.db")
    expected = [90.25, 90.73, 90.99]
    assert analysis.load(tiny, "demo", store=moved)["value"].dropna().tolist() == expected
    assert analysis.load(tiny, "demo", store=f"sqlite:///{moved}")["value"].dropna().tolist() == expected
    with pytest.raises(StoreError, match=r"mlflow\.db: no such store"):
        analysis.load(tiny, "demo")


def test_table_is_what_the_command_prints(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("md", "latex", "csv", "html"):
        assert cli.main(["table", tiny, "--profile", "demo", "--format", kind]) == 1
        assert analysis.table(tiny, "demo", format=kind) == capsys.readouterr().out  # type: ignore[arg-type]
    assert "_90.49_ ± 0.34" in analysis.table(tiny, "demo")  # mean of 90.25 and 90.73, std 0.48 / sqrt(2)
    assert "_90.25_ " in analysis.table(tiny, "demo", seeds=[0])
    assert "↑0.50" in analysis.table(tiny, "demo", baseline="a")  # 90.99 - 90.49


def test_searches_and_words_are_frames_too(bench: Any) -> None:
    space = '\n[search]\ntrials = 1\nspace = [ { path = "hparams.alpha", low = 0.0, high = 1.0 } ]\n'
    name = bench.write("", name="search", more=space)
    bench.trial("c" * 64, {"best/val/acc1_pct": 91.0, "best/test/acc1_pct": 90.0})
    suggestion = {"number": 0, "params": {"hparams.alpha": 0.25}, "state": "complete", "value": 91.0}
    search = {"schema": 1, "metric": "best/val/acc1_pct", "direction": "maximize", "importances": {}}
    cells = [{"labels": {}, "suggestions": [suggestion | {"trials": {"0": "c" * 64}}]}]
    bench.plan(name, search=search | {"cells": cells})
    frame = analysis.load(name, "demo")
    assert frame.iloc[0][["hparams.alpha", "best/val/acc1_pct", "best/test/acc1_pct"]].tolist() == [0.25, 91.0, 90.0]
    assert frame.attrs["units"] == {"best/val/acc1_pct": "%", "best/test/acc1_pct": "%"}
    with pytest.raises(ReportError, match="tiny/search: its rows have no seeds of their own; leave out `seeds`"):
        analysis.load(name, "demo", seeds=[0])
    bench.plan("cudfkd/table1")
    assert {"value", "printed", "state"} <= set(analysis.load("cudfkd/table1", "demo").columns)


def test_errors_are_those_of_the_command(bench: Any, tiny: str) -> None:
    with pytest.raises(SpecError, match="unknown experiment 'cudfkd/fig99'"):
        analysis.load("cudfkd/fig99")
    with pytest.raises(SpecError, match="unknown profile 'dem'; did you mean 'demo'"):
        analysis.load("cudfkd/fig9", "dem")
    with pytest.raises(NeverSwept, match="cudfkd/fig9: never swept with profile 'demo'"):
        analysis.load("cudfkd/fig9", "demo")
    with pytest.raises(StoreError) as raised:
        analysis.load(tiny, "demo", metrics=["x", "y"])
    assert [fault.split(";")[0] for fault in raised.value.faults] == [
        "tiny/grid: no finished run has metric 'best/x'",
        "tiny/grid: no finished run has metric 'best/y'",
    ]
    with pytest.raises(ReportError, match="tiny/grid: unknown seeds: 3, 5; in file and plan: 0, 7"):
        analysis.load(tiny, "demo", seeds=[5, 0, 3])
    with pytest.raises(ReportError, match="unknown seeds: none"):
        analysis.load(tiny, "demo", seeds=[])
    with pytest.raises(ReportError, match="'test/acc1_pct' is one text"):
        analysis.load(tiny, "demo", metrics="test/acc1_pct")
    with pytest.raises(ReportError, match="unknown format 'tex'; did you mean 'latex'"):
        analysis.table(tiny, "demo", format="tex")  # type: ignore[arg-type]
    with pytest.raises(AttributeError, match="module 'analysis' has no attribute 'laod'"):
        analysis.laod  # noqa: B018


def test_import_is_light_and_offers_both_functions() -> None:
    code = (
        "import sys, analysis\n"
        "assert {'load', 'table'} <= set(dir(analysis))\n"
        "sys.exit(any(name in sys.modules for name in ('pandas', 'numpy', 'mlflow', 'matplotlib', 'pydantic')))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    assert (Path(analysis.__file__).parent / "py.typed").is_file()


def test_example_notebook_runs(bench: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("MPLBACKEND", "Agg")
    bench.plan("cudfkd/fig9")
    bench.fill("cudfkd/fig9")  # test/acc1_pct of the nine cells: 90.25, 90.62, ... 93.21
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) >= 4
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    names: dict[str, Any] = {}
    for number, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert names["accuracy"].shape == (3, 3)
    assert names["accuracy"].loc["1/5", "3/4"] == pytest.approx(90.62)
    assert len(names["holes"]) == 0
    assert "**Effect of k_begin and k_end**" in capsys.readouterr().out
    runs.connect(bench.settings)  # the store is still whole
