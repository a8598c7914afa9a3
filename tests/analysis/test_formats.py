"""Golden texts of one table in every format; typed by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis import tables
from analysis.formats._tex import TEX, tex, tex_address
from analysis.formats.latex import broken, lines_of
from analysis.layout import Block, Entry, Style, Table

RUN = "http://host:5000/#/experiments/1/runs/"


def example() -> Table:
    """Two blocks with numbers of different lengths; ties, a hole, a paper's value, marks, differences and links."""
    accuracy = [
        ("Teacher", [Entry("95.60", links=(("0", f"{RUN}t"),)), Entry("–", note=1)]),
        ("KD", [Entry("9.50", "0.71", "9.40", mark="second", links=(("0", f"{RUN}a"), ("7", f"{RUN}b"))), Entry("–")]),
        ("A_1 & <b>", [Entry("93.50", "0.07", mark="best", change="+84.00", links=(("0", f"{RUN}c"),)), Entry("–")]),
        ("B 100%", [Entry("93.50", "12.34", mark="best", change="-0.50"), Entry("75.22", note=2, change="0.00")]),
    ]
    loyalty = [(label, [Entry("0.8276"), Entry("–")]) for label in ("Teacher", "KD", "A_1 & <b>", "B 100%")]
    return Table(
        "Small grid",
        "tiny/grid: one seed.",
        "row \\ pair",
        ["ResNet34 / ResNet18", "c2"],
        [Block("Acc@1 (%)", accuracy), Block("Loyalty", loyalty)],
        ["failed: loss is NaN", "printed value, not ours: copied"],
        ["Lower is better: σ²."],
        name="tiny/grid",
        marked="column",
        unranked=["Teacher"],
    )


def test_markdown_marks_best_and_second_and_says_so() -> None:
    assert (
        tables.markdown(example())
        == """**Small grid**

tiny/grid: one seed. Marked in each column: **best**, _second_; not ranked: Teacher.

Acc@1 (%)

| row \\ pair       |       ResNet34 / ResNet18 |               c2 |
|------------------|--------------------------:|-----------------:|
| Teacher          |                     95.60 |            – [1] |
| KD               |      _9.50_ ± 0.71 (9.40) |                – |
| A_1 &amp; &lt;b> | **93.50** ± 0.07 (↑84.00) |                – |
| B 100%           | **93.50** ± 12.34 (↓0.50) | 75.22 (0.00) [2] |

Loyalty

| row \\ pair       | ResNet34 / ResNet18 |  c2 |
|------------------|--------------------:|----:|
| Teacher          |              0.8276 |   – |
| KD               |              0.8276 |   – |
| A_1 &amp; &lt;b> |              0.8276 |   – |
| B 100%           |              0.8276 |   – |

[1] failed: loss is NaN  
[2] printed value, not ours: copied

Lower is better: σ².
"""
    )


def test_markdown_links_one_run_behind_the_value_and_several_behind_their_seeds() -> None:
    text = tables.markdown(example(), Style(links=True, spread="subscript"))
    assert f" [95.60]({RUN}t) |" in text
    assert f"_9.50_<sub>±0.71</sub> (9.40) seeds [0]({RUN}a), [7]({RUN}b) |" in text
    assert f"[**93.50**]({RUN}c)<sub>±0.07</sub> (↑84.00) |" in text
    assert RUN not in tables.markdown(example())


def test_latex_of_the_same_table() -> None:
    assert (
        tables.latex(example())
        == r"""% needs \usepackage{booktabs}
\begin{table*}
\centering
\footnotesize
\setlength{\tabcolsep}{3pt}
\caption{Small grid. tiny/grid: one seed. Marked in each column: \textbf{best}, \underline{second}; not ranked: Teacher.}
\label{tab:tiny-grid}
\smallskip
\begin{tabular}{lrr}
\toprule
row \textbackslash{} pair & \shortstack[r]{ResNet34 / \\ ResNet18} & c2 \\
\midrule
\multicolumn{3}{l}{\emph{Acc@1 (\%)}} \\
Teacher & 95.60 & --$^{1}$ \\
KD & \underline{9.50} $\pm$ 0.71 (9.40) & -- \\
A\_1 \& \textless{}b\textgreater{} & \textbf{93.50} $\pm$ 0.07 ($\uparrow_{84.00}$) & -- \\
B 100\% & \textbf{93.50} $\pm$ 12.34 ($\downarrow_{0.50}$) & 75.22 (0.00)$^{2}$ \\
\midrule
\multicolumn{3}{l}{\emph{Loyalty}} \\
Teacher & 0.8276 & -- \\
KD & 0.8276 & -- \\
A\_1 \& \textless{}b\textgreater{} & 0.8276 & -- \\
B 100\% & 0.8276 & -- \\
\bottomrule
\end{tabular}

\smallskip
\begin{minipage}{\linewidth}\footnotesize
$^{1}$ failed: loss is NaN \\
$^{2}$ printed value, not ours: copied \\
Lower is better: $\sigma$$^2$.
\end{minipage}
\end{table*}
"""
    )


def test_siunitx_aligns_each_block_by_its_own_numbers() -> None:
    text = tables.latex(example(), Style(siunitx=True))
    assert text.startswith("% needs \\usepackage{booktabs}\n% needs \\usepackage{siunitx}\n")
    # 12.34 has four digits, so every spread gets the room of four
    first = "S[table-format=2.2(4), table-number-alignment=left, table-text-alignment=left]"
    second = "S[table-format=2.2, table-number-alignment=left, table-text-alignment=left]"
    assert f"\\begin{{tabular}}{{l{first}{second}}}" in text
    assert r"& \multicolumn{1}{c}{\shortstack[c]{ResNet34 / \\ ResNet18}} & \multicolumn{1}{c}{c2} \\" in text
    assert r"Teacher & 95.60 & {--$^{1}$} \\" in text
    assert r"KD & {\underline{\mbox{\tablenum[table-format=2.2(4)]{9.50 +- 0.71}}} (9.40)} & {--} \\" in text
    assert r" & {\mbox{\bfseries\tablenum[table-format=2.2(4)]{93.50 +- 0.07}} ($\uparrow_{84.00}$)} & {--} \\" in text
    assert r"Teacher & {\mbox{\tablenum[table-format=1.4]{0.8276}}} & {--} \\" in text


def test_subscripts_and_links_in_latex() -> None:
    text = tables.latex(example(), Style(spread="subscript", links=True))
    assert "% needs \\usepackage{hyperref}" in text
    address = r"http://host:5000/\#/experiments/1/runs/"
    assert rf"Teacher & \href{{{address}t}}{{95.60}} &" in text
    assert (
        rf"KD & \underline{{9.50}}$_{{\pm 0.71}}$ (9.40) seeds \href{{{address}a}}{{0}}, \href{{{address}b}}{{7}} &"
        in text
    )
    assert rf"\href{{{address}c}}{{\textbf{{93.50}}}}$_{{\pm 0.07}}$ ($\uparrow_{{84.00}}$)" in text


def test_standalone_is_a_document_with_the_same_table_in_it() -> None:
    style = Style(siunitx=True, links=True)
    part, whole = (tables.latex(example(), replace(style, standalone=each)) for each in (False, True))
    assert whole.startswith("\\documentclass{article}\n")
    assert "\\usepackage{booktabs}\n\\usepackage{siunitx}\n\\usepackage[hidelinks]{hyperref}\n" in whole
    assert part[part.index("\\begin{table") :] in whole
    assert whole.endswith("\\end{document}\n")


def test_html_is_a_fragment_with_scopes_escaped_text_and_links() -> None:
    assert (
        tables.html(example())
        == f"""<table>
<caption><strong>Small grid</strong>. tiny/grid: one seed. Marked in each column: <strong>best</strong>, <u>second</u>; not ranked: Teacher.</caption>
<thead>
<tr><th scope="col">row \\ pair</th><th scope="col">ResNet34 / ResNet18</th><th scope="col">c2</th></tr>
</thead>
<tbody>
<tr><th scope="rowgroup" colspan="3">Acc@1 (%)</th></tr>
<tr><th scope="row">Teacher</th><td><a href="{RUN}t">95.60</a></td><td>– <sup>[1]</sup></td></tr>
<tr><th scope="row">KD</th><td><u>9.50</u> ± 0.71 (9.40) <small>seeds <a href="{RUN}a">0</a>, <a href="{RUN}b">7</a></small></td><td>–</td></tr>
<tr><th scope="row">A_1 &amp; &lt;b&gt;</th><td><a href="{RUN}c"><strong>93.50</strong></a> ± 0.07 (↑84.00)</td><td>–</td></tr>
<tr><th scope="row">B 100%</th><td><strong>93.50</strong> ± 12.34 (↓0.50)</td><td>75.22 (0.00) <sup>[2]</sup></td></tr>
</tbody>
<tbody>
<tr><th scope="rowgroup" colspan="3">Loyalty</th></tr>
<tr><th scope="row">Teacher</th><td>0.8276</td><td>–</td></tr>
<tr><th scope="row">KD</th><td>0.8276</td><td>–</td></tr>
<tr><th scope="row">A_1 &amp; &lt;b&gt;</th><td>0.8276</td><td>–</td></tr>
<tr><th scope="row">B 100%</th><td>0.8276</td><td>–</td></tr>
</tbody>
<tfoot>
<tr><td colspan="3"><sup>[1]</sup> failed: loss is NaN</td></tr>
<tr><td colspan="3"><sup>[2]</sup> printed value, not ours: copied</td></tr>
<tr><td colspan="3">Lower is better: σ².</td></tr>
</tfoot>
</table>
"""
    )


def test_html_names_a_run_without_a_page_and_links_to_nothing() -> None:
    entry = Entry("1.0", "0.1", links=(("0", 'runs:/a"b'), ("1", "runs:/c")))
    text = tables.html(Table("t", "c", "k", ["v"], [Block("", [("r", [entry])])], [], []), Style(spread="subscript"))
    assert '<td data-runs="runs:/a&quot;b runs:/c">1.0<sub>±0.1</sub></td>' in text
    assert "<a " not in text
    assert "<tfoot>" not in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a--b", "a-{}-b"),
        ("a---b", "a-{}-{}-b"),
        ("é Ł ñ", "\\'{e} \\texttt{U+0141} \\~{n}"),
        ("中", "\\texttt{U+4E2D}"),
        ("\N{MINUS SIGN}1 ≤ Σ†", "$-$1 $\\leq$ $\\Sigma$$\\dagger$"),
        ("*a [b]", "{*}a {[}b{]}"),
        ("a`b\x07", "a\\textasciigrave{}b\\texttt{U+0007}"),
    ],
)
def test_tex_shows_what_it_can_and_names_the_rest(text: str, expected: str) -> None:
    assert tex(text) == expected


def test_addresses_survive_inside_commands() -> None:
    assert tex_address("http://h/#/a_b%20c?x=1&y={z}") == r"http://h/\#/a\_b\%20c?x=1\&y=\%7Bz\%7D"


def test_headings_break_in_the_middle_and_pairs_alike() -> None:
    assert lines_of(["VGG13 / VGG8", "c2"]) == [["VGG13 / VGG8"], ["c2"]]
    assert lines_of(["ResNet32x4 / ResNet8x4", "VGG13 / VGG8", "two words"]) == [
        ["ResNet32x4 /", "ResNet8x4"],
        ["VGG13 /", "VGG8"],
        ["two words"],
    ]
    assert broken("Peak memory (GiB)") == ["Peak memory", "(GiB)"]
    assert broken("averyverylongword") == ["averyverylongword"]


STYLES = [
    Style(),
    Style(siunitx=True),
    Style(links=True),
    Style(spread="subscript"),
    Style(siunitx=True, links=True),
    Style(siunitx=True, spread="subscript", links=True),
]


@pytest.mark.latex
@pytest.mark.parametrize("style", STYLES)
def test_latex_compiles_alone_and_within_a_document(pdflatex: Any, tmp_path: Path, style: Style) -> None:
    alone = pdflatex(tables.latex(example(), replace(style, standalone=True)))
    (tmp_path / "table.tex").write_text(tables.latex(example(), style), encoding="utf-8")
    packages = "\\usepackage{booktabs,siunitx,hyperref}"
    whole = pdflatex(
        f"\\documentclass[twocolumn]{{article}}{packages}\\begin{{document}}A\\input{{table}}B\\end{{document}}"
    )
    for text in (alone, whole):
        assert "B 100%" in text and "1 & <b>" in text  # its underscore is a rule, no character
        assert text.count("93.50") == 2 and text.count("0.8276") == 4
        assert "not ranked: Teacher" in text


@pytest.mark.latex
@pytest.mark.parametrize("style", STYLES)
def test_spread_of_equal_seeds_is_shown(pdflatex: Any, style: Style) -> None:
    entries = [Entry("95.0", "0.0"), Entry("94.5", "0.0", mark="best"), Entry("93.0", "0.2", note=1)]
    table = Table("t", "c", "k", ["x", "y", "z"], [Block("", [("row", entries)])], ["note"], [])
    text = pdflatex(tables.latex(table, replace(style, standalone=True)))
    shown = "".join(text.split())
    for number in ("95.0±0.0", "94.5±0.0", "93.0±0.2"):
        assert number in shown


@pytest.mark.latex
def test_every_character_of_the_escapes_compiles(pdflatex: Any) -> None:
    labels = [character for character in TEX if character.strip("\0")] + ["a--b", "é", "中", "*[x]", "\\input{x}"]
    rows = [(label, [Entry("1.00")]) for label in labels]
    table = Table(" ".join(labels), "c", "k", [f"{labels[0]} & long heading %"], [Block("#1", rows)], labels, labels)
    text = pdflatex(tables.latex(replace(table, blocks=[Block("#1", rows[:40])]), Style(standalone=True)))
    for shown in ("U+4E2D", "\\input{x}", "∗[x]" if "∗[x]" in text else "*[x]", "#1"):
        assert shown in text


def test_what_is_wider_than_a_page_is_scaled_to_it() -> None:
    header = [f"a long heading {i}" for i in range(14)]
    table = Table("t", "c", "k", header, [Block("", [("row", [Entry("93.50", "0.71")] * 14)])], [], [])
    text = tables.latex(table)
    assert "% needs \\usepackage{graphicx}" in text
    assert "\\resizebox{\\linewidth}{!}{%\n\\begin{tabular}" in text
    assert "\\end{tabular}\n}\n" in text
    assert "resizebox" not in tables.latex(example())
