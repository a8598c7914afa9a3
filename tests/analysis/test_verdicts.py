"""Verdicts beside the printed values: what is tested, what is not and why, and how it is shown."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

import pytest

from analysis import cli, diff, grid, runs, stats, tables, verdicts
from sweeps import spec
from sweeps.errors import SpecError

REFERENCE = '[report.reference]\nfile = "cudfkd_fig8.csv"\norigin = "authors\' notebook"\naxes = { row = "{x}" }\n'
WELCH = '[report.reference]\nfile = "cudfkd_fig4.csv"\norigin = "authors\' notebook"\naxes = { row = "{method}", col = "{x}" }\n'
MARGIN = 'margin = { "test/acc1_pct" = 0.5 }\n'
RESULT = "best/test/acc1_pct"


def load(bench: Any, name: str, **options: Any) -> grid.Grid:
    experiment = spec.load(name, spec.load_profile("demo"))
    store = runs.connect(bench.settings)
    return grid.load(experiment, "demo", store.sweep(experiment.name, "demo"), store, **options)


def swept(
    bench: Any,
    values: dict[str, list[float]],
    *,
    report: str = MARGIN + REFERENCE,
    comparable: bool = True,
    **options: Any,
) -> str:
    """lambda_0 by label; printed are 2.0: 93.34, 2.2: 93.24, 2.5: 93.17, 2.8: 93.10."""
    seeds = range(max(len(row) for row in values.values()))
    name: str = bench.write(bench.axis("row", values), report=report, seeds=seeds, **options)
    bench.plan(name, comparable=comparable)
    for label, row in values.items():
        for seed, value in enumerate(row):
            if not math.isnan(value):
                bench.trial(bench.digest("demo", f"row={label}", seed), {RESULT: value})
    return name


CLOSE = [93.32, 93.34, 93.36]
FAR = [95.10, 95.12, 95.14]
SPREAD = [92.2, 93.2, 94.2]


def words(bench: Any, name: str) -> dict[str, verdicts.Verdict]:
    found = load(bench, name)
    return {record["row"]: verdict for record, verdict in zip(found.cells, verdicts.judge(found), strict=True)}


def test_reproduced_differs_and_too_few(bench: Any) -> None:
    found = words(bench, swept(bench, {"2.0": CLOSE, "2.2": FAR, "2.5": SPREAD, "2.8": [93.1]}))
    assert {label: verdict.word for label, verdict in found.items()} == {
        "2.0": "reproduced",
        "2.2": "differs",
        "2.5": "too few seeds to tell",
        "2.8": "too few seeds to tell",
    }
    assert found["2.0"].reason == "two one-sided tests (TOST, one-sample t) within the margin ±0.5"
    assert found["2.2"].reason == "one-sample t, beyond the margin ±0.5"
    assert found["2.5"].reason == "one-sample t: neither within nor beyond the margin ±0.5"
    assert found["2.8"].reason == "one seed has no spread"
    assert (found["2.0"].within, found["2.2"].within) == (True, False)
    # three cells are tested: the smallest p of either verdict counts three times
    alone = stats.equivalence(CLOSE, stats.Summary(93.34, None, 1), 0.5)
    assert found["2.0"].p == pytest.approx(3 * alone, abs=1e-12)


def test_correction_takes_a_verdict_away(bench: Any) -> None:
    # p = .021 for one cell; with two more tested cells Holm makes .064 of it
    values = [93.00, 93.15, 93.30]
    assert 0.05 / 3 < stats.equivalence(values, stats.Summary(93.34, None, 1), 0.6) < 0.05
    wide = MARGIN.replace("0.5", "0.6") + REFERENCE
    assert words(bench, swept(bench, {"2.0": values}, report=wide))["2.0"].word == "reproduced"
    name = swept(bench, {"2.0": values, "2.2": SPREAD, "2.5": SPREAD}, report=wide, name="three")
    assert words(bench, name)["2.0"].word == "too few seeds to tell"


def test_without_margin_nothing_is_reproduced_and_a_difference_still_found(bench: Any) -> None:
    found = words(bench, swept(bench, {"2.0": CLOSE, "2.2": FAR}, report=REFERENCE))
    assert found["2.0"].word == "too few seeds to tell"
    assert found["2.0"].reason == "one-sample t: no difference shown, and no margin declared"
    assert found["2.2"].word == "differs"
    assert found["2.2"].reason == "one-sample t, no margin declared"
    assert math.isnan(found["2.2"].margin)
    assert found["2.2"].within is None


def test_printed_runs_make_it_welch(bench: Any) -> None:
    # CuDFKD, clean: 95.28, 95.24, 95.15 in the notebook
    axes = bench.axis("row", ["CuDFKD"]) + bench.axis("col", ["clean"])
    name = bench.write(axes, report='columns = "col"\n' + MARGIN + WELCH, seeds=[0, 1, 2])
    bench.plan(name, comparable=True)
    for seed, value in enumerate([95.2, 95.25, 95.3]):
        bench.trial(bench.digest("demo", "row=CuDFKD col=clean", seed), {RESULT: value})
    (found,) = verdicts.judge(load(bench, name))
    assert found.word == "reproduced"
    assert found.reason == "two one-sided tests (TOST, Welch's t) within the margin ±0.5"


def test_missing_seed_leaves_those_that_are_there(bench: Any) -> None:
    found = words(bench, swept(bench, {"2.0": [93.33, math.nan, 93.35], "2.2": [math.nan, math.nan, 93.2]}))
    assert found["2.0"].word == "reproduced"
    assert found["2.2"] == verdicts.Verdict("too few seeds to tell", "one seed has no spread", margin=0.5, within=True)


def test_equal_seeds_and_no_seed(bench: Any) -> None:
    found = words(bench, swept(bench, {"2.0": [93.3, 93.3, 93.3], "2.2": [math.nan] * 3}))
    assert found["2.0"].reason == "all 3 seeds are equal: no spread to test with"
    assert found["2.2"].reason == "no finished run"
    assert {verdict.word for verdict in found.values()} == {"too few seeds to tell"}


def test_best_of_several_is_not_tested_but_placed(bench: Any) -> None:
    name = swept(bench, {"2.0": CLOSE, "2.2": FAR}, over_seeds="best")
    found = words(bench, name)
    assert {verdict.word for verdict in found.values()} == {"not tested"}
    text = tables.markdown(diff.table(load(bench, name)))
    assert "a maximum has no spread over seeds, so no t test applies; the difference itself is within ±0.5" in text
    assert "the difference itself is beyond ±0.5" in text
    assert "| p " not in text


def test_statistics_of_all_seeds_together_are_not_tested(bench: Any) -> None:
    assert verdicts.folded("stats/from/test/acc1_pct_var")
    assert verdicts.folded("train/peak_memory_mib")
    assert not verdicts.folded("stats/from/test/acc1_pct_mean")
    assert not verdicts.folded("test/acc1_pct")


def test_no_verdict_at_another_scale_nor_without_a_printed_value(bench: Any) -> None:
    name = swept(bench, {"2.0": CLOSE}, comparable=False)
    (found,) = verdicts.judge(load(bench, name))
    assert (found.word, found.reason) == ("", "profile demo has another scale than the paper")
    text = tables.markdown(diff.table(load(bench, name)))
    assert "verdict" not in text
    assert "printed values are not compared" in text
    name = swept(bench, {"2.0": CLOSE, "9": CLOSE}, name="more")
    assert words(bench, name)["9"] == verdicts.Verdict("", "no printed value", margin=0.5)


def test_table_names_every_test(bench: Any) -> None:
    name = swept(bench, {"2.0": CLOSE, "2.2": FAR, "2.5": SPREAD, "2.8": [93.1]})
    text = tables.markdown(diff.table(load(bench, name)))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert [part.strip() for part in lines[0].split("|")] == [
        "", "row", "ours", "authors' notebook", "difference", "verdict", "p", "",
    ]  # fmt: skip
    assert "reproduced [1]" in lines[2]
    assert "differs [2]" in lines[3]
    # t = (1.88 - 0.5) / (0.02 / sqrt(3)) = 119.5; p = 2 x 3 x (1 - t / sqrt(t^2 + 2)) / 2 = 0.00021
    assert lines[3].rstrip(" |").endswith(" 0.00021")
    assert "Verdicts at the 5% level; p after Holm's correction over the table's 3 tested cells" in text
    assert max(map(len, lines)) <= 100


def test_csv_and_json_hold_the_numbers(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    name = swept(bench, {"2.0": CLOSE, "2.2": FAR})
    assert cli.main(["diff", name, "--profile", "demo", "--format", "csv"]) == 0
    row, other = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (row["verdict"], other["verdict"]) == ("reproduced", "differs")
    assert float(row["low"]) < float(row["difference"]) < float(row["high"])
    assert (row["margin"], row["within_margin"]) == ("0.5", "True")
    assert cli.main(["diff", name, "--profile", "demo", "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["rows"][1]["p"] == pytest.approx(float(other["p"]), abs=1e-12)


def test_margin_counts_for_another_selection_too(bench: Any) -> None:
    found = load(bench, swept(bench, {"2.0": CLOSE}), metrics=["best/test/acc1_pct"])
    assert verdicts.margin_of(found, "best/test/acc1_pct") == 0.5
    assert math.isnan(verdicts.margin_of(found, "test/agree1_pct"))


@pytest.mark.parametrize(
    ("report", "fault"),
    [
        (
            'margin = { "test/acc1" = 0.5 }\n' + REFERENCE,
            "report.margin: unknown metric of report.metrics 'test/acc1'; did you mean 'test/acc1_pct'? known: test/acc1_pct",
        ),
        (MARGIN, "report.margin: needs printed values, [report.reference]; leave it out (got {'test/acc1_pct': 0.5})"),
        (
            'margin = { "test/acc1_pct" = -0.5 }\n' + REFERENCE,
            "report.margin.test/acc1_pct: Input should be greater than 0 (got -0.5)",
        ),
    ],
)
def test_faulty_margins(bench: Any, report: str, fault: str) -> None:
    name = bench.write(bench.axis("row", ["2.0"]), report=report)
    with pytest.raises(SpecError) as raised:
        spec.load(name)
    assert [text.removeprefix(f"{name}: ") for text in raised.value.faults] == [fault]


def test_tables_of_data_free_methods_declare_a_margin() -> None:
    found = {
        name: spec.load(name).file.report.margin for name in spec.experiment_names() if name.startswith("cudfkd/table")
    }
    assert found == {"cudfkd/table1": {}} | {f"cudfkd/table{i}": {"test/acc1_pct": 0.5} for i in (2, 3, 4, 5)}
