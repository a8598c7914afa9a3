"""The command: exit codes, streams, files and equal bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from analysis import cli, figures, runs
from analysis.layout import Style

FILES = ["table.md", "table.tex", "table.csv", "table.html", "heatmap.png", "heatmap.pdf", "heatmap.svg"]
HOLE = "pair=ResNet34 / ResNet18 k_begin=1/4 k_end=3/4"


@pytest.fixture
def fig9(bench: Any) -> Any:
    bench.plan("cudfkd/fig9")
    bench.fill("cudfkd/fig9")
    return bench


def test_table_prints_and_writes_four_formats(fig9: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["table", "cudfkd/fig9", "--profile", "demo"]) == 0
    out, err = capsys.readouterr()
    folder = fig9.folder / "paper" / "cudfkd" / "fig9" / "demo"
    assert out == (folder / "table.md").read_text()
    assert out.startswith("**Effect of k_begin and k_end**\n")
    assert err == ""
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES[:4])


@pytest.mark.parametrize(
    ("kind", "start"),
    [("latex", "% needs"), ("csv", "pair,k_begin,k_end,metric,value"), ("html", "<table>\n<caption>")],
)
def test_format_is_what_stdout_gets(fig9: Any, capsys: pytest.CaptureFixture[str], kind: str, start: str) -> None:
    assert cli.main(["table", "cudfkd/fig9", "--profile", "demo", "--format", kind, "--out", "elsewhere"]) == 0
    assert capsys.readouterr().out.startswith(start)
    assert (fig9.folder / "elsewhere" / "cudfkd" / "fig9" / "demo" / "table.tex").is_file()


def test_figure_prints_its_paths(fig9: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["figure", "cudfkd/fig9", "--profile", "demo", "--out", "figures"]) == 0
    paths = capsys.readouterr().out.splitlines()
    assert paths == [f"figures/cudfkd/fig9/demo/heatmap.{extension}" for extension in ("png", "pdf", "svg")]
    assert all(Path(path).stat().st_size > 10_000 for path in paths)


def test_talk_size_has_names_of_its_own(fig9: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.SIZES == figures.SIZES
    assert cli.main(["figure", "cudfkd/fig9", "--profile", "demo", "--out", "figures", "--size", "talk"]) == 0
    paths = capsys.readouterr().out.splitlines()
    assert paths == [f"figures/cudfkd/fig9/demo/heatmap-talk.{extension}" for extension in ("png", "pdf", "svg")]


def test_json_for_machines(fig9: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["table", "cudfkd/fig9", "--profile", "demo", "--json", "--metric", "test/acc1_pct"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["experiment"] == "cudfkd/fig9"
    assert len(answer["rows"]) == 9
    assert len(answer["files"]) == 4
    assert answer["rows"][1]["value"] == 90.62
    assert answer["rows"][1]["std"] is None
    assert cli.main(["diff", "cudfkd/fig9", "--profile", "demo", "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["comparable"] is False
    assert answer["rows"][0]["printed"] is None


def test_diff_at_another_scale_says_so(fig9: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["diff", "cudfkd/fig9", "--profile", "demo"]) == 0
    out = capsys.readouterr().out
    assert "printed values are not compared" in out
    assert "difference" not in out
    assert not (fig9.folder / "paper").exists()


@pytest.mark.parametrize("verb", ["table", "diff"])
def test_hole_gives_exit_code_1(bench: Any, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    bench.plan("cudfkd/fig9")
    bench.fill("cudfkd/fig9", skip=[HOLE])
    assert cli.main([verb, "cudfkd/fig9", "--profile", "demo"]) == 1
    out, err = capsys.readouterr()
    assert out
    assert err == "missing: 1 of the trials asked for have no value\n"


@pytest.mark.parametrize(
    ("arguments", "messages"),
    [
        (["cudfkd/fig99"], ["error: unknown experiment 'cudfkd/fig99';"]),
        (["cudfkd/fig9", "--profile", "dem"], ["error: unknown profile 'dem'; did you mean 'demo'?"]),
        (["cudfkd/fig9"], ["error: cudfkd/fig9: never swept with profile 'paper' in sqlite:///"]),
        (["a/b", "c/d"], ["error: unknown experiment 'a/b';", "error: unknown experiment 'c/d';"]),
        (
            ["cudfkd/fig9", "--profile", "demo", "--metric", "x", "--metric", "y"],
            [
                "error: cudfkd/fig9: no finished run has metric 'best/x'; they have best/test/acc1_pct, ",
                "error: cudfkd/fig9: no finished run has metric 'best/y'",
            ],
        ),
    ],
)
def test_bad_usage_gives_exit_code_2_and_a_line_for_each_fault(
    fig9: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], messages: list[str]
) -> None:
    assert cli.main(["table", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == len(messages)
    for line, message in zip(err.splitlines(), messages, strict=True):
        assert line.startswith(message)


def test_missing_store_gives_exit_code_2(
    fig9: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{fig9.folder}/none.db")
    assert cli.main(["table", "cudfkd/fig9"]) == 2
    assert "none.db: no such store; nothing was swept here yet" in capsys.readouterr().err


def test_one_experiment_without_results_does_not_hide_the_others(fig9: Any, capsys: pytest.CaptureFixture[str]) -> None:
    other = fig9.write(fig9.axis("row", ["a"]))
    assert cli.main(["table", other, "cudfkd/fig9", "--profile", "demo"]) == 2
    out, err = capsys.readouterr()
    assert out.startswith("**Effect of")
    assert "tiny/grid: never swept" in err


def test_kind_that_nothing_draws(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    name = bench.write(bench.axis("row", ["a"]), kind="table")
    bench.plan(name)
    bench.fill(name)
    assert cli.main(["figure", name, "--profile", "demo"]) == 2
    assert "error: tiny/grid: no figure for report.kind = 'table'" in capsys.readouterr().err


def test_folder_that_cannot_be_written(fig9: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (fig9.folder / "file").write_text("")
    assert cli.main(["table", "cudfkd/fig9", "--profile", "demo", "--out", "file"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(
        "error: file/cudfkd/fig9/demo/table.md: cannot be written: Not a directory; choose another folder"
    )


def test_unknown_verb_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["tabel"])
    assert stopped.value.code == 2


def test_outputs_writes_every_file_and_returns_the_table(fig9: Any) -> None:
    made = cli.outputs("cudfkd/fig9", "demo", fig9.settings, fig9.folder / "out")
    assert [path.relative_to(fig9.folder).as_posix() for path in made.files] == [
        f"out/cudfkd/fig9/demo/{name}" for name in FILES
    ]
    assert made.table_text == made.files[0].read_text()
    assert sorted(path.name for path in made.files[0].parent.iterdir()) == sorted(FILES)  # no temporary file is left


def test_outputs_of_a_table_have_no_figure_and_those_of_a_search_have(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a"]), kind="table")
    bench.plan(name)
    assert len(cli.outputs(name, "demo", bench.settings, bench.folder).files) == 4
    space = '\n[search]\ntrials = 1\nspace = [ { path = "hparams.alpha", low = 0.0, high = 1.0 } ]\n'
    name = bench.write("", name="search", more=space)
    search = {"schema": 1, "metric": "best/val/acc1_pct", "direction": "maximize", "cells": [], "importances": {}}
    bench.plan(name, search=search)
    files = [path.name for path in cli.outputs(name, "demo", bench.settings, bench.folder).files]
    assert files[4:] == ["search.png", "search.pdf", "search.svg"]


def test_same_runs_same_bytes_from_another_folder_without_the_cache_torch_ray_and_optuna(
    fig9: Any, tmp_path: Path
) -> None:
    first = [path.read_bytes() for path in cli.outputs("cudfkd/fig9", "demo", fig9.settings, tmp_path / "one").files]
    for file in (fig9.folder / ".sweeps" / "cache").iterdir():
        file.unlink()
    elsewhere = tmp_path / "deep" / "folder"
    elsewhere.mkdir(parents=True)
    code = (
        "import sys; from analysis import cli; "
        "sys.exit(cli.main(['table', 'cudfkd/fig9', '--profile', 'demo', '--out', 'two']) "
        "or cli.main(['figure', 'cudfkd/fig9', '--profile', 'demo', '--out', 'two']) "
        "or any(name in sys.modules for name in ('torch', 'ray', 'optuna', 'trainers')))"
    )
    source = Path(cli.__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(source), "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code], cwd=elsewhere, env=environment, check=True, capture_output=True)
    assert [(elsewhere / "two" / "cudfkd" / "fig9" / "demo" / name).read_bytes() for name in FILES] == first


def test_second_time_loads_no_mlflow_and_prints_the_same(fig9: Any, capfd: pytest.CaptureFixture[str]) -> None:
    code = (
        "import sys; from analysis import cli; code = cli.main(['table', 'cudfkd/fig9', '--profile', 'demo'])\n"
        "sys.exit(code or 10 * ('mlflow' in sys.modules))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1])}
    printed = []
    for expected in (10, 0):
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (expected, "")
        printed.append(done.stdout)
    assert printed[0] == printed[1]
    assert "90.62" in printed[0]


@pytest.mark.parametrize("verb", ["table", "diff", "figure"])
def test_plan_of_an_older_schema_is_one_clear_error(bench: Any, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    bench.plan("cudfkd/fig9", edit=lambda plan: plan.update(schema=0))
    assert cli.main([verb, "cudfkd/fig9", "--profile", "demo"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: plan.json of run ")
    assert err.endswith(" has schema 0, known is 1; `sweep sync` writes it again\n")
    assert err.count("\n") == 1


def test_server_that_cannot_be_reached_is_one_error(
    fig9: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert cli.main(["table", "cudfkd/fig9", "cudfkd/fig10", "--profile", "demo"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: http://me:***@127.0.0.1:9: cannot be read: ")
    assert err.endswith("check MLFLOW_TRACKING_URI and that the server runs\n")
    assert (err.count("\n"), "secret" in err) == (1, False)


def test_experiment_of_which_the_paper_leaves_everything_out(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    more = '\n[[absent]]\nmatch = { row = ["a", "b"] }\nreason = "needs a GPU"\n'
    name = bench.write(bench.axis("row", ["a", "b"]), more=more)
    bench.plan(name)
    assert cli.main(["table", name, "--profile", "demo"]) == 0
    out, err = capsys.readouterr()
    assert out.count("– [1]") == 2
    assert "[1] needs a GPU" in out
    assert err == ""


def test_experiment_without_cells_is_an_error(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    name = bench.write('[[axes]]\nname = "row"\npath = "hparams.row"\nvalues = []\n')
    assert cli.main(["table", name, "--profile", "demo"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"error: {name}: axis 'row': has no values; needs at least one\n"


def test_same_bytes_with_another_clock_and_from_another_folder(
    fig9: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def texts() -> dict[str, str]:
        result = cli.load(runs.connect(fig9.settings), "cudfkd/fig9", "demo")
        return cli.table_texts(result, Style(siunitx=True, standalone=True, links=True))

    first = texts()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1e8)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert texts() == first
    assert not any(str(tmp_path) in text for text in first.values())
    assert time.strftime("%Y") not in "".join(first.values())


def test_style_options_reach_the_files_of_the_formats_they_are_for(
    bench: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    name = bench.write(bench.axis("row", ["a", "b"]), seeds=[0, 1])
    bench.plan(name)
    bench.fill(name)  # a: 90.25 and 90.73, b: 90.99 and 91.47; means 90.49 and 91.23
    options = ["--spread", "subscript", "--arrows", "a", "--siunitx", "--standalone", "--links"]
    assert cli.main(["table", name, "--profile", "demo", *options]) == 0
    out = capsys.readouterr().out
    assert "**91.23**<sub>±0.34</sub> (↑0.74) seeds [0](runs:/" in out
    document = (bench.folder / "paper" / "tiny" / "grid" / "demo" / "table.tex").read_text()
    assert document.startswith("\\documentclass")
    assert "\\tablenum[table-format=2.2]{91.23}}$_{\\pm 0.34}$ ($\\uparrow_{0.74}$) seeds \\href{runs:/" in document
    assert cli.main(["table", name, "--profile", "demo", "--arrows", "c"]) == 2
    assert "error: tiny/grid: --arrows: unknown label of axis row 'c'; known: a, b" in capsys.readouterr().err


def test_words_and_searches_have_no_arrows(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    space = '\n[search]\ntrials = 1\nspace = [ { path = "hparams.alpha", low = 0.0, high = 1.0 } ]\n'
    name = bench.write("", name="search", more=space)
    search = {"schema": 1, "metric": "best/val/acc1_pct", "direction": "maximize", "cells": [], "importances": {}}
    bench.plan(name, search=search)
    assert cli.main(["table", name, "--profile", "demo", "--arrows", "KD"]) == 2
    assert "tiny/search: a search compares no rows with 'KD'; leave out --arrows" in capsys.readouterr().err


def test_cell_with_two_configurations_is_an_error_that_names_both(
    bench: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    name = bench.write(bench.axis("row", ["a"]))
    bench.plan(name, edit=lambda plan: plan["cells"].append({"labels": {"row": "a"}, "trials": {"0": "b" * 64}}))
    assert cli.main(["table", name, "--profile", "demo"]) == 2
    out, err = capsys.readouterr()
    first = bench.digest("demo", "row=a", 0)
    assert (out, err) == (
        "",
        f"error: tiny/grid: cell row=a seed 0 has two configurations in the last plan: {first} and {'b' * 64}\n",
    )


@pytest.mark.parametrize("verb", ["table", "figure", "diff"])
def test_example_of_the_help_works(fig9: Any, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([verb, "--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    assert "example:" in text
    example = text.split("example:\n")[1].splitlines()[0].split()
    assert example[:2] == ["paper", verb]
    assert cli.main(example[1:]) == 0


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from analysis import cli\n"
        "try: cli.main(['table', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(any(name in sys.modules for name in ('pandas', 'numpy', 'matplotlib', 'mlflow', 'pydantic')))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
