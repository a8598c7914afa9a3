"""Golden tables: small grids whose text was written by hand."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from analysis import diff, grid, runs, tables
from analysis.errors import ReportError
from analysis.formats._tex import tex
from analysis.layout import Style
from sweeps import spec

NOTEBOOK = '[report.reference]\nfile = "cudfkd_fig8.csv"\norigin = "authors\' notebook"\naxes = { row = "{x}" }\n'


def load(bench: Any, name: str) -> grid.Grid:
    experiment = spec.load(name, spec.load_profile("demo"))
    store = runs.connect(bench.settings)
    return grid.load(experiment, "demo", store.sweep(experiment.name, "demo"), store)


def square(bench: Any, **options: Any) -> str:
    """Two by two cells; the first has a value, the second failed, the third is absent, the fourth new."""
    axes = bench.axis("row", ["r1", "r2"]) + bench.axis("col", ["c1", "c2"])
    more = '\n[[absent]]\nmatch = { row = "r2", col = "c1" }\nreason = "needs equal widths"\n'
    name: str = bench.write(axes, report='columns = "col"', more=more, **options)
    bench.plan(name)
    bench.run = bench.trial(bench.digest("demo", "row=r1 col=c1", 0), {"best/test/acc1_pct": 93.456})
    bench.trial(bench.digest("demo", "row=r1 col=c2", 0), state="failed", error="loss is NaN")
    return name


def test_markdown_of_a_grid_with_holes(bench: Any) -> None:
    text = tables.markdown(tables.table(load(bench, square(bench))))
    assert (
        text
        == """**Small grid**

tiny/grid, profile demo: best over epochs, per metric; one seed.

Acc@1 (%)

| row \\ col |    c1 |    c2 |
|-----------|------:|------:|
| r1        | 93.46 | – [1] |
| r2        | – [2] | – [3] |

[1] failed: loss is NaN  
[2] needs equal widths  
[3] not started

Profile demo has another scale than the paper (data cifar100 -> digits): printed values are not compared.
"""
    )


def test_latex_of_a_grid_with_holes(bench: Any) -> None:
    text = tables.latex(tables.table(load(bench, square(bench))))
    assert (
        text
        == r"""% needs \usepackage{booktabs}
\begin{table}
\centering
\caption{Small grid. tiny/grid, profile demo: best over epochs, per metric; one seed.}
\label{tab:tiny-grid}
\smallskip
\begin{tabular}{lrr}
\toprule
row \textbackslash{} col & c1 & c2 \\
\midrule
\multicolumn{3}{l}{\emph{Acc@1 (\%)}} \\
r1 & 93.46 & --$^{1}$ \\
r2 & --$^{2}$ & --$^{3}$ \\
\bottomrule
\end{tabular}

\smallskip
\begin{minipage}{\linewidth}\footnotesize
$^{1}$ failed: loss is NaN \\
$^{2}$ needs equal widths \\
$^{3}$ not started \\
Profile demo has another scale than the paper (data cifar100 -\textgreater{} digits): printed values are not compared.
\end{minipage}
\end{table}
"""
    )


def test_csv_is_long_and_unrounded(bench: Any) -> None:
    text = tables.csv_text(tables.rows(load(bench, square(bench))))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert text.splitlines()[0] == (
        "row,col,metric,value,std,n,seeds,state,note,links,printed,printed_std,printed_n,origin,mark"
    )
    assert rows[0] | {} == {
        "row": "r1", "col": "c1", "metric": "best/test/acc1_pct", "value": "93.456", "std": "", "n": "1", "seeds": "1",
        "state": "done", "note": "", "printed": "", "printed_std": "", "printed_n": "0", "origin": "", "mark": "",
        "links": f"runs:/{bench.run}",
    }  # fmt: skip
    assert [row["state"] for row in rows] == ["done", "hole", "absent", "hole"]
    assert json.dumps(tables.rows(load(bench, square(bench))), allow_nan=False)


def swept(bench: Any, comparable: bool, **options: Any) -> grid.Grid:
    """lambda_0 at 1.5 (not printed), 2.0 (two of three seeds) and 2.8 (three equal seeds)."""
    name = bench.write(bench.axis("row", ["1.5", "2.0", "2.8"]), report=NOTEBOOK, seeds=[0, 10, 20], **options)
    bench.plan(name, comparable=comparable)
    for label, seed, value in (
        ("1.5", 0, 90.0),
        ("1.5", 10, 91.0),
        ("1.5", 20, 92.0),
        ("2.0", 0, 93.0),
        ("2.0", 20, 94.0),
    ):
        bench.trial(bench.digest("demo", f"row={label}", seed), {"best/test/acc1_pct": value})
    for seed in (0, 10, 20):
        bench.trial(bench.digest("demo", "row=2.8", seed), {"best/test/acc1_pct": 93.1})
    return load(bench, name)


def test_one_parameter_table_has_printed_values_beside_ours(bench: Any) -> None:
    # 2.0: mean 93.5, std sqrt((0.25 + 0.25) / 1) = 0.71
    text = tables.markdown(tables.table(swept(bench, comparable=True)))
    assert (
        text
        == """**Small grid**

tiny/grid, profile demo: best over epochs, per metric; mean ± sample std, n = 2 to 3. Marked in each column: **best**, _second_.

| row |            Acc@1 (%) | authors' notebook |
|-----|---------------------:|------------------:|
| 1.5 |         91.00 ± 1.00 |                 – |
| 2.0 | **93.50** ± 0.71 [1] |             93.34 |
| 2.8 |       _93.10_ ± 0.00 |             93.10 |

[1] seed 10 not started
"""
    )


def test_seeds_that_failed_or_gave_nan_lower_n_and_are_named(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["all", "some", "one", "none"]), seeds=[0, 10, 20])
    bench.plan(name)
    for label, seed, value in (
        ("all", 0, 90.0), ("all", 10, 91.0), ("all", 20, 92.0), ("some", 0, 93.0), ("some", 20, 94.0), ("one", 10, 91.0)
    ):  # fmt: skip
        bench.trial(bench.digest("demo", f"row={label}", seed), {"best/test/acc1_pct": value})
    bench.trial(bench.digest("demo", "row=some", 10), {"best/test/acc1_pct": float("nan")})
    for seed in (0, 10, 20):
        bench.trial(bench.digest("demo", "row=none", seed), state="failed", error="CUDA out of memory\nat step 3")
    bench.trial(bench.digest("demo", "row=one", 0), state="stopped")
    table = tables.table(load(bench, name))
    assert (
        tables.markdown(table)
        == """**Small grid**

tiny/grid, profile demo: best over epochs, per metric; mean ± sample std, n = 1 to 3. Marked in each column: **best**, _second_.

| row  |            Acc@1 (%) |
|------|---------------------:|
| all  |       _91.00_ ± 1.00 |
| some | **93.50** ± 0.71 [1] |
| one  |          _91.00_ [2] |
| none |                – [3] |

[1] seed 10 the run's best/test/acc1_pct is nan  
[2] seed 0 stopped by a pruner; seed 20 not started  
[3] failed: CUDA out of memory at step 3

Profile demo has another scale than the paper (data cifar100 -> digits): printed values are not compared.
"""
    )
    body = tables.latex(table).split("\\midrule\n")[1].split("\n\\bottomrule")[0]
    assert (
        body
        == r"""all & \underline{91.00} $\pm$ 1.00 \\
some & \textbf{93.50} $\pm$ 0.71$^{1}$ \\
one & \underline{91.00}$^{2}$ \\
none & --$^{3}$ \\"""
    )


def test_grid_has_printed_values_in_parentheses(bench: Any) -> None:
    axes = bench.axis("row", ["2.0"]) + bench.axis("col", ["c"])
    name = bench.write(axes, report='columns = "col"\n' + NOTEBOOK)
    bench.plan(name, comparable=True)
    bench.fill(name)
    text = tables.markdown(tables.table(load(bench, name)))
    assert "In parentheses: value from the authors' notebook." in text
    assert "| 2.0       | 90.25 (93.34) |" in text


def test_printed_values_are_hidden_at_another_scale(bench: Any) -> None:
    text = tables.markdown(tables.table(swept(bench, comparable=False)))
    assert "93.34" not in text
    assert "notebook" not in text
    assert text.endswith("printed values are not compared.\n")


def test_panels_and_metrics_are_blocks(bench: Any) -> None:
    axes = bench.axis("row", ["r"]) + bench.axis("col", ["c"]) + bench.axis("pair", ["A / B", "C / D"])
    metrics = ["test/acc1_pct", "test/loyalty_code"]
    name = bench.write(axes, report='columns = "col"\npanels = "pair"', metrics=metrics)
    bench.plan(name)
    bench.fill(name)
    table = tables.table(load(bench, name))
    titles = ["Acc@1 (%), A / B", "Loyalty (code), A / B", "Acc@1 (%), C / D", "Loyalty (code), C / D"]
    assert [block.title for block in table.blocks] == titles
    values = [block.rows[0][1][0].value for block in table.blocks]
    assert values == ["90.25", "0.7512", "90.62", "0.7549"]


def test_special_characters_are_escaped(bench: Any) -> None:
    labels = ["50% & $x_1$ #{a}~^\\", "[1] <b>|*", "_x_ a_b λ→"]
    name = bench.write(bench.axis("row", labels))
    bench.plan(name)
    bench.fill(name)
    table = tables.table(load(bench, name))
    latex = tables.latex(table)
    assert r"50\% \& \$x\_1\$ \#\{a\}\textasciitilde{}\textasciicircum{}\textbackslash{} & 90.25 \\" in latex
    assert "\n{[}1{]} \\textless{}b\\textgreater{}\\textbar{}{*} & \\underline{90.62}" in latex
    assert r"\_x\_ a\_b $\lambda$$\rightarrow$ & \textbf{90.99}" in latex
    markdown = tables.markdown(table)
    assert r"| \[1\] &lt;b>\|\*" in markdown
    assert r"| \_x\_ a_b λ→" in markdown


@pytest.mark.parametrize("letter", "αβγδεζηθικλμνξπρστυφχψω")
def test_greek_letters_become_commands(letter: str) -> None:
    assert tex(letter).startswith("$\\")
    assert tex("λ") == "$\\lambda$"
    assert tex("μ") == "$\\mu$"


def test_diff_shows_the_difference_with_its_sign(bench: Any) -> None:
    found = swept(bench, comparable=True)
    text = tables.markdown(diff.table(found))
    assert "| 1.5 |     91.00 ± 1.00 |                 – |          – |" in text
    assert "| 2.0 | 93.50 ± 0.71 [1] |             93.34 |      +0.16 |" in text
    assert "| 2.8 |     93.10 ± 0.00 |             93.10 |       0.00 |" in text
    rows = diff.rows(found)
    assert rows[0]["difference"] is None
    assert rows[1]["difference"] == pytest.approx(0.16, abs=1e-9)
    assert json.dumps(rows, allow_nan=False)


def test_negative_difference_has_a_true_minus(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["2.0"]), report=NOTEBOOK)
    bench.plan(name, comparable=True)
    bench.fill(name)
    text = tables.markdown(diff.table(load(bench, name)))
    assert "| 90.25 |             93.34 |      \N{MINUS SIGN}3.09 |" in text


def test_diff_at_another_scale_shows_no_difference(bench: Any) -> None:
    text = tables.markdown(diff.table(swept(bench, comparable=False)))
    assert "difference" not in text
    assert "93.34" not in text
    assert "printed values are not compared" in text


def test_diff_without_reference_says_so(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a"]))
    bench.plan(name, comparable=True)
    bench.fill(name)
    assert "There are no printed values for this experiment." in tables.markdown(diff.table(load(bench, name)))


def test_table_5_names_the_best_and_the_window_and_is_wide_in_latex(bench: Any) -> None:
    axes = bench.axis("row", ["DAFL", "DFAD"]) + bench.axis("data", ["CIFAR10"])
    report = 'panels = "data"\n[report.reference]\nfile = "cudfkd_table5.csv"\norigin = "printed"\n'
    report += 'axes = { row = "{method}", data = "{dataset}" }\n'
    metrics = ["stats/from/test/acc1_pct_mean", "stats/from/test/acc1_pct_var", "test/acc1_pct"]
    metrics += ["train/peak_memory_mib", "time/train_s"]
    more = '\n[[reported]]\nmatch = { row = "DFAD" }\nreason = "copied"\n'
    name = bench.write(axes, report=report, metrics=metrics, seeds=[0, 1], over_seeds="mean_curve", more=more)
    bench.plan(name, comparable=True)
    for seed in (0, 1):
        bench.learn(bench.digest("demo", "row=DAFL data=CIFAR10", seed), [10.0, 60.0 + 2 * seed, 80.0], first=1)
    table = tables.table(load(bench, name))
    assert (
        tables.markdown(table)
        == """**Small grid**

tiny/grid, profile demo: best over epochs, per metric; mean ± sample std over seeds, n = 2.

CIFAR10

| row  | μ Acc@1 (%) | printed | σ² Acc@1 (%²) | printed | Best Acc@1 (%) | printed | Peak memory (GiB) | printed | Training time (h) | printed |
|------|------------:|--------:|--------------:|--------:|---------------:|--------:|------------------:|--------:|------------------:|--------:|
| DAFL |       70.50 |   62.60 |         90.25 |   17.10 |   80.00 ± 0.00 |   92.00 |              2.00 |    6.45 |       0.03 ± 0.00 |    6.10 |
| DFAD |       – [1] |   86.10 |         – [1] |   12.30 |          – [1] |   93.30 |             – [1] |       – |             – [1] |       – |

[1] copied

μ and σ² are mean and population variance over epochs of the curve averaged over seeds; epochs, counted from 0: 1 to 2.

Peak memory is the largest over seeds; other values without μ or σ² are means over seeds.
"""
    )
    latex = tables.latex(table)
    assert "\\begin{table*}\n\\centering\n\\footnotesize" in latex
    assert latex.endswith("\\end{table*}\n")
    assert "\\shortstack[r]{$\\sigma$$^2$ Acc@1 \\\\ (\\%$^2$)}" in latex
    assert "difference" in tables.markdown(diff.table(load(bench, name)))


RANKED = ["Teacher", "KD", "A", "B", "C", "LSKD", "D"]


def ranked(bench: Any, report: str = "", comparable: bool = True, **options: Any) -> grid.Grid:
    """One pair, one seed: A and B are equal as printed, C is a little worse, LSKD is the paper's, D's run gave NaN."""
    axes = bench.axis("row", RANKED, {"KD": "2.0", "LSKD": "2.8"}) + bench.axis("col", ["c"])
    more = '\n[[reported]]\nmatch = { row = "LSKD" }\nreason = "no code is public"\n'
    name = bench.write(axes, report='columns = "col"\n' + report + NOTEBOOK, more=more, **options)
    bench.plan(name, comparable=comparable)
    values = {"Teacher": 99.0, "KD": 91.0, "A": 93.004, "B": 93.001, "C": 92.994, "D": float("nan")}
    for label, value in values.items():
        bench.trial(bench.digest("demo", f"row={label} col=c", 0), {"best/test/acc1_pct": value})
    return load(bench, name)


def test_ties_share_the_mark_and_unranked_and_printed_rows_have_none(bench: Any) -> None:
    # 93.004 and 93.001 are both 93.00, 92.994 is 92.99; the notebook has 93.34 for x = 2 and 93.10 for x = 2.8
    text = tables.markdown(tables.table(ranked(bench, 'unranked = ["Teacher"]\n')))
    assert (
        text
        == """**Small grid**

tiny/grid, profile demo: best over epochs, per metric; one seed. In parentheses: value from the authors' notebook. Marked in each column: **best**, _second_; not ranked: Teacher.

Acc@1 (%)

| row \\ col |             c |
|-----------|--------------:|
| Teacher   |         99.00 |
| KD        | 91.00 (93.34) |
| A         |     **93.00** |
| B         |     **93.00** |
| C         |       _92.99_ |
| LSKD      |     93.10 [1] |
| D         |         – [2] |

[1] value from the authors' notebook, not ours: no code is public  
[2] the run's best/test/acc1_pct is nan
"""
    )


def test_printed_numbers_stay_away_at_another_scale(bench: Any) -> None:
    text = tables.markdown(tables.table(ranked(bench, comparable=False)))
    assert "| LSKD      |     – [1] |" in text
    assert "[1] no code is public" in text
    assert "| Teacher   | **99.00** |" in text


def test_arrows_replace_printed_values_and_take_the_papers_baseline_for_the_papers_rows(bench: Any) -> None:
    found = ranked(bench, 'unranked = ["Teacher"]\n')
    table = tables.table(found, "KD")
    assert [entries[0].change for _, entries in table.blocks[0].rows] == [
        "",
        "",
        "+2.00",
        "+2.00",
        "+1.99",
        "-0.24",
        "",
    ]
    text = tables.markdown(table)
    assert "In parentheses: difference to KD. Marked" in text
    assert "| KD        |             91.00 |" in text
    assert "| A         | **93.00** (↑2.00) |" in text
    assert "| LSKD      | 93.10 (↓0.24) [1] |" in text  # 93.10 - 93.34, both the notebook's
    assert r"A & \textbf{93.00} ($\uparrow_{2.00}$) \\" in tables.latex(table)


def test_no_change_has_no_arrow(bench: Any) -> None:
    text = tables.markdown(tables.table(ranked(bench), "A"))
    assert "| B         |    _93.00_ (0.00) |" in text
    assert "| Teacher   | **99.00** (↑6.00) |" in text


def test_unknown_baseline_names_the_known_ones_and_a_heat_map_has_none(bench: Any) -> None:
    with pytest.raises(
        ReportError, match=r"tiny/grid: --arrows: unknown label of axis row 'Kd'; known: Teacher, KD, A"
    ):
        tables.table(ranked(bench), "Kd")
    with pytest.raises(ReportError, match=r"kind 'heatmap' compares no rows; name the axis in report.compared"):
        tables.table(ranked(bench, kind="heatmap"), "KD")


def test_only_tables_are_ranked_unless_the_file_names_the_axis(bench: Any) -> None:
    assert tables.table(ranked(bench, kind="heatmap")).marked == ""
    table = tables.table(ranked(bench, 'compared = "row"\n', kind="heatmap"))
    assert table.marked == "column"
    assert table.blocks[0].rows[0][1][0].mark == "best"


def test_columns_compete_within_each_row_where_the_file_says_so(bench: Any) -> None:
    axes = bench.axis("row", ["r1", "r2"]) + bench.axis("col", ["c1", "c2", "c3"])
    name = bench.write(axes, report='columns = "col"\ncompared = "col"\nunranked = ["c3"]')
    bench.plan(name)
    bench.fill(name)  # rises by 0.37 from cell to cell
    table = tables.table(load(bench, name))
    assert [[entry.mark for entry in entries] for _, entries in table.blocks[0].rows] == [["second", "best", ""]] * 2
    assert "Marked in each row: **best**, _second_; not ranked: c3." in tables.markdown(table)


def test_lower_is_better_and_digits_come_from_the_file(bench: Any) -> None:
    report = 'digits = { "test/acc1_pct" = 0 }'
    name = bench.write(bench.axis("row", ["a", "b", "c"]), metrics=["test/acc1_pct", "time/train_s"], report=report)
    bench.plan(name)
    for label, accuracy, seconds in (("a", 90.4, 30.0), ("b", 89.6, 20.0), ("c", 88.0, 20.04)):
        bench.trial(bench.digest("demo", f"row={label}", 0), {"best/test/acc1_pct": accuracy, "time/train_s": seconds})
    table = tables.table(load(bench, name))
    assert [[(e.value, e.mark) for e in entries] for _, entries in table.blocks[0].rows] == [
        [("90", "best"), ("30.0", "second")],
        [("90", "best"), ("20.0", "best")],
        [("88", "second"), ("20.0", "best")],
    ]
    assert table.remarks[-1] == "Lower is better: Training time."
    rows = tables.rows(load(bench, name))
    assert [row["mark"] for row in rows if row["metric"] == "time/train_s"] == ["second", "best", "best"]


@pytest.mark.parametrize(
    ("numbers", "lower", "variants", "expected"),
    [
        ({"a": 1.0}, False, (), {}),
        ({"a": 1.0, "b": 1.0}, False, (), {"a": "best", "b": "best"}),
        ({"a": 3.0, "b": 2.0, "c": 2.0, "d": 1.0}, False, (), {"a": "best", "b": "second", "c": "second"}),
        ({"a": 3.0, "b": 2.0, "c": 1.0}, True, (), {"c": "best", "b": "second"}),
        ({"a": 3.0, "b": 2.0, "c": 1.0}, False, (("a", "b"),), {"a": "best", "c": "second"}),
        ({"a": 3.0, "b": 2.0, "c": 1.0}, False, (("b", "c"),), {"a": "best", "b": "second"}),
        ({"a": 3.0, "b": 2.0}, False, (("a", "b"),), {"a": "best"}),
    ],
)
def test_rank_in_words_of_few_labels(numbers: Any, lower: bool, variants: Any, expected: Any) -> None:
    assert tables.rank(numbers, lower, variants) == expected


def test_values_link_to_the_runs_behind_them_and_csv_names_them(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a"]), seeds=[0, 1])
    bench.plan(name)
    runs_ = [bench.trial(bench.digest("demo", "row=a", seed), {"best/test/acc1_pct": 90.0}) for seed in (0, 1)]
    found = load(bench, name)
    assert tables.table(found).blocks[0].rows[0][1][0].links == tuple(
        (str(i), f"runs:/{id_}") for i, id_ in enumerate(runs_)
    )
    assert tables.rows(found)[0]["links"] == f"runs:/{runs_[0]} runs:/{runs_[1]}"
    assert f"seeds [0](runs:/{runs_[0]}), [1](runs:/{runs_[1]})" in tables.markdown(
        tables.table(found), Style(links=True)
    )
