"""Golden tables: small grids whose text was written by hand."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from analysis import diff, grid, runs, tables
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
    bench.trial(bench.digest("demo", "row=r1 col=c1", 0), {"best/test/acc1_pct": 93.456})
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
    assert text.splitlines()[0] == "row,col,metric,value,std,n,seeds,state,note,printed,printed_std,printed_n,origin"
    assert rows[0] | {} == {
        "row": "r1", "col": "c1", "metric": "best/test/acc1_pct", "value": "93.456", "std": "", "n": "1", "seeds": "1",
        "state": "done", "note": "", "printed": "", "printed_std": "", "printed_n": "0", "origin": "",
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

tiny/grid, profile demo: best over epochs, per metric; mean ± sample std, n = 2 to 3.

| row |        Acc@1 (%) | authors' notebook |
|-----|-----------------:|------------------:|
| 1.5 |     91.00 ± 1.00 |                 – |
| 2.0 | 93.50 ± 0.71 [1] |             93.34 |
| 2.8 |     93.10 ± 0.00 |             93.10 |

[1] seed 10 not started
"""
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
    assert "\n{[}1{]} \\textless{}b\\textgreater{}\\textbar{}* & 90.62" in latex
    assert r"\_x\_ a\_b $\lambda$$\rightarrow$ & 90.99" in latex
    markdown = tables.markdown(table)
    assert r"| \[1\] &lt;b>\|\*" in markdown
    assert r"| \_x\_ a_b λ→" in markdown


@pytest.mark.parametrize("letter", "αβγδεζηθικλμνξπρστυφχψω")
def test_greek_letters_become_commands(letter: str) -> None:
    assert tables.tex(letter).startswith("$\\")
    assert tables.tex("λ") == "$\\lambda$"
    assert tables.tex("μ") == "$\\mu$"


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
    assert "$\\sigma$$^2$ Acc@1 (\\%$^2$)" in latex
    assert "difference" in tables.markdown(diff.table(load(bench, name)))
