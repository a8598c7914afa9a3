"""Tables of words (CuDFKD, Table I): ours from the plan, the paper's beside them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from analysis import cli
from analysis.errors import ReportError, StoreError

COLUMNS = ("Target", "Student", "Dynamic")
REFERENCE = '[report.reference]\nfile = "cudfkd_table1.csv"\norigin = "printed"\naxes = { row = "{method}" }\n'
WORDS = {
    "DAFL": ("Data Prior", "No", "No"),
    "DFQ": ("Adversarial", "Yes", "No"),
    "CMI": ("Memory", "Yes", "Yes"),  # the paper says that CMI does not look at the student
    "CuDFKD": ("Difficulty", "Yes", "Yes"),
}


def swept(bench: Any, report: str = REFERENCE, edit: Any = lambda plan: None, **options: Any) -> str:
    name: str = bench.write(bench.axis("row", WORDS), kind="declared", metrics=COLUMNS, report=report, **options)

    def declare(plan: dict[str, Any]) -> None:
        for cell in plan["cells"]:
            if cell["status"] not in ("absent", "reported"):
                words = dict(zip(COLUMNS, WORDS[cell["labels"]["row"]], strict=True))
                cell |= {"status": "declared", "trials": {}, "declared": words}
        edit(plan)

    bench.plan(name, edit=declare)
    return name


def load(bench: Any, name: str) -> Any:
    return cli.load(cli_store(bench), name, "demo")


def cli_store(bench: Any) -> Any:
    from analysis import runs

    return runs.connect(bench.settings)


def test_table_has_printed_words_beside_ours_and_marks_what_differs(bench: Any) -> None:
    text = cli.table_texts(load(bench, swept(bench)))["md"]
    assert (
        text
        == """**Small grid**

tiny/grid, profile demo: as the methods' files declare.

| row    | Target      | printed     | Student | printed | Dynamic | printed |
|--------|-------------|-------------|---------|---------|---------|---------|
| DAFL   | Data Prior  | Data Prior  | No      | No      | No      | No      |
| DFQ    | Adversarial | Adversarial | Yes     | Yes     | No      | No      |
| CMI    | Memory      | Memory      | Yes [1] | No      | Yes     | Yes     |
| CuDFKD | Difficulty  | Difficulty  | Yes     | Yes     | Yes     | Yes     |

[1] differs from the printed value
"""
    )


def test_latex_and_csv_hold_the_same_words(bench: Any) -> None:
    texts = cli.table_texts(load(bench, swept(bench)))
    assert r"\begin{tabular}{llllll" in texts["latex"]
    assert r"CMI & Memory & Memory & Yes$^{1}$ & No & Yes & Yes \\" in texts["latex"]
    assert texts["csv"].splitlines()[:2] == [
        "row,metric,value,printed,state,note,origin",
        "DAFL,Target,Data Prior,Data Prior,done,,printed",
    ]


def test_diff_says_same_or_differs(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    name = swept(bench)
    assert cli.main(["diff", name, "--profile", "demo", "--metric", "Student"]) == 0
    out = capsys.readouterr().out
    assert "| CMI    | Yes  | No      | differs    |" in out
    assert "| DFQ    | Yes  | Yes     | same       |" in out
    assert cli.main(["diff", name, "--profile", "demo", "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["comparable"] is True
    assert [row["differs"] for row in answer["rows"]].count(True) == 1


def test_cell_without_words_is_a_hole(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def forget(plan: dict[str, Any]) -> None:
        del plan["cells"][0]["declared"]["Target"]
        plan["cells"].pop(1)

    name = swept(bench, edit=forget)
    assert cli.main(["table", name, "--profile", "demo"]) == 1
    out, err = capsys.readouterr()
    assert "| DAFL   | – [1]      | Data Prior" in out
    assert "| DFQ    | – [2]" in out
    assert "[1] not declared" in out
    assert "[2] not in the last plan" in out
    assert err == "missing: 2 of the trials asked for have no value\n"


def test_words_that_the_paper_leaves_out_are_absent(bench: Any) -> None:
    more = '\n[[absent]]\nmatch = { row = "DAFL" }\nmetrics = ["Dynamic"]\nreason = "not said"\n'
    more += '[[reported]]\nmatch = { row = "CMI" }\nreason = "not built here"\n'
    found = load(bench, swept(bench, more=more))
    assert found.missing == []
    states = {(cell["row"], cell["metric"]): cell["state"] for cell in found.cells}
    assert states["DAFL", "Dynamic"] == "absent"
    assert states["DAFL", "Target"] == "done"
    assert states["CMI", "Target"] == "reported"


def test_without_reference_there_is_only_ours(bench: Any) -> None:
    name = swept(bench, report="")
    assert "| CMI    | Memory      | Yes     | Yes     |" in cli.table_texts(load(bench, name))["md"]
    assert "There are no printed values for this experiment." in cli.diff_text(load(bench, name))


def test_table_of_words_has_no_figure(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    name = swept(bench)
    assert cli.main(["figure", name, "--profile", "demo"]) == 2
    assert "error: tiny/grid: a table of words has no figure; `paper table tiny/grid" in capsys.readouterr().err
    assert len(cli.outputs(name, "demo", bench.settings, bench.folder).files) == 4


def test_column_that_no_cell_declares_is_an_error(bench: Any) -> None:
    name = swept(bench)
    with pytest.raises(StoreError, match=r"no cell declares 'Trget'; they declare Dynamic, Student, Target"):
        cli.load(cli_store(bench), name, "demo", ["Trget"])


def test_plan_with_something_else_than_words_is_an_error(bench: Any) -> None:
    name = swept(bench, edit=lambda plan: plan["cells"][0].update(declared={"Target": 1}))
    with pytest.raises(StoreError, match=r"cell row=DAFL of plan.json declares \{'Target': 1\}, not words by column"):
        load(bench, name)


def test_reference_of_numbers_is_an_error(bench: Any) -> None:
    reference = REFERENCE.replace("table1", "table4").replace("{method}", "{method}")
    with pytest.raises(ReportError, match=r"cudfkd_table4.csv has no column 'attribute', which kind 'declared' needs"):
        load(bench, swept(bench, report=reference))
