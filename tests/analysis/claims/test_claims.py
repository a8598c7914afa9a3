"""The 45 claims: what the papers' own values say of them, and what runs do."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from analysis import claims, cli, runs
from analysis.claims import cudfkd, pckd
from analysis.claims._sources import Cell, Ours, Printed, Reader
from analysis.errors import ReportError
from sweeps import spec

CLAIMS = claims.catalogue()
BY_ID = {claim.id: claim for claim in CLAIMS}
HOLDS = [claim.id for claim in CLAIMS if claim.table_check == "holds"]


def printed_verdict(claim_id: str, *origins: str) -> claims.Outcome:
    return claims.judge(BY_ID[claim_id], Printed(origins or ("printed",)))


@pytest.mark.parametrize("claim_id", BY_ID)
def test_the_papers_tables_give_the_verdict_that_was_read_off_them(claim_id: str) -> None:
    expected = BY_ID[claim_id].table_check
    found = printed_verdict(claim_id)
    assert found.verdict == ("cannot tell" if expected == "not in tables" else expected)
    assert found.origins in ((), ("printed",))


def test_every_claim_has_one_check_and_every_check_a_claim() -> None:
    assert len(CLAIMS) == 45
    assert [claim.id for claim in CLAIMS] == [f"C{i:02d}" for i in range(1, 25)] + [f"P{i:02d}" for i in range(1, 22)]
    for module in (cudfkd, pckd):
        checks = {name.upper() for name in vars(module) if name[0] in "cp" and name[1:].isdigit()}
        assert checks == {claim.id for claim in CLAIMS if claim.paper == module.__name__.rsplit(".", 1)[1]}


def test_every_experiment_that_a_check_reads_exists() -> None:
    used = set()
    for claim in CLAIMS:
        read = Reader(Printed())
        claims.check_of(claim)(read)
        used |= set(read.used)
    assert used <= set(spec.experiment_names())
    assert len(used) == 28  # CuDFKD: Tables II to V, Figures 2 to 10; PCKD: Tables I to IX, Figures 5a to 5d, 6 and 8


@pytest.mark.parametrize(
    ("claim_id", "verdict"),
    [
        ("C12", "partly"),  # mean 93.31 is above 93.3, but 94.07 - 93.31 = 0.76
        ("C13", "holds"),  # 0.9021 against 0.8907
        ("C14", "partly"),  # std over seeds: CuDFKD's is above CMI's in all three metrics under the noisy teacher
        ("C15", "holds"),
        ("C16", "holds"),
        ("C17", "holds"),
        ("C18", "cannot tell"),  # nothing below 2 and above 3
        ("C19", "holds"),
        ("C20", "partly"),  # relative range in the WRN pair: Acc@1 0.0149, Loyalty 0.0220
        ("C21", "holds"),
        ("C22", "holds"),  # 20
    ],
)
def test_the_authors_notebooks_decide_what_the_tables_leave_open(claim_id: str, verdict: str) -> None:
    found = printed_verdict(claim_id, "printed", "authors' notebook")
    assert found.verdict == verdict
    assert found.origins == ("authors' notebook",)


@pytest.mark.parametrize(
    ("claim_id", "texts"),
    [
        ("C06", ["20 of 24", "75.71, not above 77.10", "66.43, not above 66.89", "0.5216, not above 0.5525", "0.5187, not above 0.5319"]),
        ("C08", ["8 of 8", "6 of 8", "0.8276, not below 0.8267", "0.5394, not below 0.5187"]),
        ("C11", ["1.06, at most 1.1", "7.50 h, not below 7.09 h"]),
        ("P02", ["2.051, above 2.005"]),
        ("P05", ["4.287, above 2.051", "4.287, above 3.32"]),
        ("P06", ["4, above 3"]),
        ("P07", ["FitNet below KD: 12 of 13", "RKD below KD: 13 of 13", "FSP below KD: 6 of 6", "SSKD not below KD: 9 of 13"]),
        ("P14", ["76.45, not above 76.63"]),
        ("P17", ["6 of 6"]),
        ("P20", ["8 of 8"]),
    ],
)  # fmt: skip
def test_evidence_has_the_numbers_that_were_read_off_the_tables(claim_id: str, texts: list[str]) -> None:
    shown = ". ".join(part.evidence for part in printed_verdict(claim_id).parts)
    assert [text for text in texts if text not in shown] == []


class Changed(Printed):
    """Printed values times a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__(("printed",))
        self.factor = factor

    def cells(self, experiment: str, metric: str) -> list[Cell]:
        return [replace(cell, value=cell.value * self.factor) for cell in super().cells(experiment, metric)]

    def lowest(self, experiment: str, metric: str) -> float:
        return super().lowest(experiment, metric) * self.factor


@pytest.mark.parametrize("claim_id", [name for name in HOLDS if name != "C07"])  # a correlation keeps its sign
def test_no_claim_holds_upside_down(claim_id: str) -> None:
    assert claims.judge(BY_ID[claim_id], Changed(-1.0)).verdict in ("fails", "partly")


@pytest.mark.parametrize("claim_id", HOLDS)
def test_nothing_can_be_told_without_values(claim_id: str) -> None:
    found = claims.judge(BY_ID[claim_id], Changed(math.nan))
    assert found.verdict == "cannot tell"
    assert found.waits


def test_ids_in_any_case_and_of_one_paper() -> None:
    assert [claim.id for claim in claims.find(["p01", "C02"])] == ["C02", "P01"]
    assert len(claims.find([], "pckd")) == 21
    with pytest.raises(ReportError) as raised:
        claims.find(["C99", "P01"], "cudfkd")
    assert [fault.split(";")[0] for fault in raised.value.faults] == [
        "unknown claim of cudfkd 'C99'",
        "unknown claim of cudfkd 'P01'",
    ]


# --- our runs ---------------------------------------------------------------------------------------------------------

RESULTS = {"CuDFKD": 60.0, "DFQ": 50.0, "ADI": 20.0, "CMI": 10.0, "Teacher": 70.0, "Student": 55.0}


def tiny(bench: Any, results: Mapping[str, float], comparable: bool = False) -> None:
    """Table IV at the demo's scale: accuracies of the stem that the paper has; no run for a method that is left out."""
    bench.plan("cudfkd/table4", comparable=comparable)
    for method, value in results.items():
        digest = bench.digest("demo", f"method={method} student's stem=7x7", 0)
        bench.trial(digest, {"best/test/acc1_pct": value}, experiment="cudfkd-demo")


def ours(bench: Any) -> Ours:
    return Ours(runs.connect(bench.settings), spec.load_profile("demo"))


def test_order_holds_at_any_scale_and_the_origin_says_which(bench: Any) -> None:
    tiny(bench, RESULTS)
    found = claims.judge(BY_ID["C09"], ours(bench))
    assert found.verdict == "holds"
    assert found.origins == ("our runs, profile demo",)
    assert found.parts[0].evidence.startswith(
        "order of the methods: 3 of 3; closest 7x7, Acc@1: CuDFKD against DFQ: 60.00"
    )
    assert "seeds: 1" in found.reasons


def test_a_hole_leaves_a_claim_open_and_a_counterexample_decides_it(bench: Any) -> None:
    tiny(bench, {"CuDFKD": 60.0, "DFQ": 50.0, "ADI": 20.0})
    found = claims.judge(BY_ID["C09"], ours(bench))
    assert (found.verdict, found.waits) == ("cannot tell", True)
    assert any("cudfkd/table4: no value for CMI, 7x7 (not started)" in reason for reason in found.reasons)
    bench.trial(
        bench.digest("demo", "method=CMI student's stem=7x7", 0), state="failed", error="x", experiment="cudfkd-demo"
    )
    assert claims.judge(BY_ID["C09"], ours(bench)).verdict == "cannot tell"


def test_counterexample_decides_whatever_is_missing(bench: Any) -> None:
    tiny(bench, {"CuDFKD": 40.0, "DFQ": 50.0})
    found = claims.judge(BY_ID["C09"], ours(bench))
    assert (found.verdict, found.waits) == ("fails", False)


def test_claim_of_what_was_never_swept_says_so(bench: Any) -> None:
    found = claims.judge(BY_ID["C09"], ours(bench))
    assert (found.verdict, found.waits) == ("cannot tell", True)
    assert found.reasons[0].startswith("cudfkd/table4: never swept with profile 'demo'")
    assert found.origins == ()


def convergence(bench: Any, comparable: bool) -> claims.Outcome:
    """Figure 3's CuDFKD, four seeds whose mean passes 90 at epoch 2: 30, 80, 91, 95."""
    bench.plan("cudfkd/fig3", comparable=comparable)
    for seed, shift in zip((0, 20, 30, 95), (-1.0, 1.0, -2.0, 2.0), strict=True):
        digest = bench.digest("demo", "method=CuDFKD data set=CIFAR-10", seed)
        bench.learn(digest, [value + shift for value in (30.0, 80.0, 91.0, 95.0)], experiment="cudfkd-demo")
    return claims.judge(BY_ID["C02"], ours(bench))


def test_absolute_numbers_need_the_papers_scale(bench: Any) -> None:
    found = convergence(bench, comparable=False)
    assert (found.verdict, found.waits) == ("cannot tell", False)
    assert "absolute numbers mean something at the paper's own scale only" in found.reasons


def test_curve_averaged_over_seeds_is_read_at_the_papers_scale(bench: Any) -> None:
    found = convergence(bench, comparable=True)
    assert found.verdict == "holds"
    assert found.parts[0].comparisons[0].left == 2.0


def test_formulas_need_no_runs(bench: Any) -> None:
    found = claims.judge(BY_ID["C24"], ours(bench))
    assert (found.verdict, found.origins) == ("holds", ("formulas",))


def test_extra_cells_do_not_compete_and_the_profile_is_named(bench: Any) -> None:
    read = Reader(ours(bench))
    labels = {cell.labels["curriculum"] for cell in read.cells("cudfkd/fig6", "test/acc1_pct")}
    assert labels == {"none", "hard", "soft", "log"}
    assert math.isnan(read.value("cudfkd/fig6", "test/acc1_pct", curriculum="none, with ramp"))
    read.cells("cudfkd/fig9", "test/acc1_pct")
    assert "cudfkd/fig9: profile demo keeps 1 of 3 labels of pair" in read.reasons


# --- command line -----------------------------------------------------------------------------------------------------


def test_command_prints_a_narrow_table_with_the_numbers_below(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    tiny(bench, RESULTS)
    assert cli.main(["claims", "C09", "c12", "--profile", "demo"]) == 1
    out, err = capsys.readouterr()
    assert "| C09   | holds [1]       | holds              | printed           |" in out
    assert "| C12   | cannot tell [2] | partly             | authors' notebook |" in out
    assert "profile demo: 1 hold, 1 cannot be told." in out
    assert "[1] On Tiny ImageNet CuDFKD still trains well" in out
    assert (
        "The paper's: order of the methods: 3 of 3; closest 7x7, Acc@1: CuDFKD against DFQ: 43.42, above 41.30." in out
    )
    assert err == "missing: 1 of the claims asked for wait for runs\n"


def test_command_gives_csv_and_json(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    tiny(bench, RESULTS | {"DFQ": 65.0})
    assert cli.main(["claims", "C09", "--profile", "demo", "--format", "csv"]) == 0
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["verdict"], row["printed_verdict"], row["printed_origin"]) == ("fails", "holds", "printed")
    assert "60.00, not above 65.00" in row["evidence"]
    assert cli.main(["claims", "C09", "--profile", "demo", "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["ours"]["parts"][0]["comparisons"][0] == {
        "where": "7x7, Acc@1: CuDFKD against DFQ",
        "left": 60.0,
        "relation": ">",
        "right": 65.0,
        "metric": "test/acc1_pct",
        "holds": False,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["C99"], "error: unknown claim 'C99'; did you mean 'C19'? known: C01"),
        (["P01", "--paper", "cudfkd"], "error: unknown claim of cudfkd 'P01';"),
        (["C01", "--profile", "dem"], "error: unknown profile 'dem'; did you mean 'demo'?"),
    ],
)
def test_bad_usage_gives_exit_code_2(
    bench: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert cli.main(["claims", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(message)


def test_example_of_the_help_works(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    tiny(bench, RESULTS)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["claims", "--help"])
    assert stopped.value.code == 0
    example = capsys.readouterr().out.split("example:\n")[1].splitlines()[0].split()
    assert example[:2] == ["paper", "claims"]
    assert cli.main(example[1:]) == 1  # most of it was not swept here
