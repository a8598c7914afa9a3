"""The report's page: what it shows of each experiment, escaped, in equal bytes, with nothing fetched."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from analysis import cli, report, runs
from analysis.layout import Block, Entry, Table
from analysis.report._parts import Counts, Failure, Scrub
from analysis.report._tables import sort_key, table_html

EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Elements of a page by name with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]

    def values(self, attribute: str) -> list[str]:
        return [str(attributes[attribute]) for _, attributes in self.found if attribute in attributes]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def made(bench: Any, *names: str) -> report.Report:
    return report.make(names, runs.connect(bench.settings), "demo")


def section(html: str, anchor: str) -> str:
    """One section with its tags."""
    return html.split(f'<section id="{anchor}"')[1].split("</section>")[0]


def grid(bench: Any, labels: tuple[str, ...] = ("a", "b"), **options: Any) -> str:
    name: str = bench.write(bench.axis("row", labels), **options)
    bench.plan(name)
    return name


def test_page_of_a_swept_experiment_and_one_never_swept(bench: Any) -> None:
    bench.plan("cudfkd/fig9")
    bench.fill("cudfkd/fig9")
    found = made(bench, "cudfkd/fig9", "cudfkd/fig10")
    assert [(part.state, part.counts) for part in found.parts] == [
        ("swept", Counts(done=9)),
        ("never swept", Counts(missing=8)),
    ]
    assert (found.faults, found.missing) == ((), 8)
    mine = section(found.html, "cudfkd-fig9")
    for heading in ("Table", "Figure", "Comparison with the paper", "Failures", "Provenance"):
        assert f"<h3>{heading}</h3>" in mine
    assert mine.count('src="data:image/svg+xml;base64,') == 1
    assert "<p>9 cells: 9 done.</p>" in mine
    never = section(found.html, "cudfkd-fig10")
    assert "<code>sweep run cudfkd/fig10 --profile demo</code> starts it." in never
    assert "<h3>" not in never
    claimed = section(found.html, "claims-cudfkd")
    assert claimed.count('<tr><th scope="row">C') == 24
    assert 'id="claims-pckd"' not in found.html


def test_page_is_whole_and_fetches_nothing(bench: Any) -> None:
    bench.plan("cudfkd/fig9", comparable=True)
    bench.fill("cudfkd/fig9", skip=["pair=ResNet34 / ResNet18 k_begin=1/4 k_end=3/4"])
    page = Page(made(bench, "cudfkd/fig9", "cudfkd/table1", grid(bench)).html)
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    local = [link for link in page.values("href") if link.startswith("#")]
    assert len(local) > 10
    assert {link[1:] for link in local} <= set(ids)
    assert set(page.values("aria-labelledby")) <= set(ids)
    assert {link for link in page.values("href") if not link.startswith("#")} == {"data:,"}
    assert all(source.startswith("data:image/") for source in page.values("src"))
    assert all(attributes.get("alt") for attributes in page.all("img"))
    assert len(page.all("caption")) == len(page.all("table"))
    assert {attributes.get("scope") for attributes in page.all("th")} == {"col", "row", "rowgroup"}
    levels = [int(tag[1]) for tag, _ in page.found if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_text_from_files_and_runs_is_shown_not_obeyed(bench: Any) -> None:
    name = grid(bench, (EVIL, 'b" onclick="x'))
    bench.trial(bench.digest("demo", f"row={EVIL}", 0), state="failed", error=f"{EVIL} & more")
    bench.client.set_tag(bench.trial(bench.digest("demo", 'row=b" onclick="x', 0), DEFAULT), "sweeps.machine", EVIL)
    html = made(bench, name).html
    page = Page(html)
    assert EVIL not in html
    assert len(page.all("script")) == 1  # the page's own
    assert not page.values("onclick")
    mine = Page(section(html, "tiny-grid")).text
    assert mine.count(EVIL) == 5  # label and note in the table, trial and cause among failures, machine
    assert 'b" onclick="x' in mine


DEFAULT = {"best/test/acc1_pct": 9.5}


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ("93.50", "93.5"),
        ("9", "9.0"),
        ("\N{MINUS SIGN}0.40", "-0.4"),
        ("+0.40", "0.4"),
        ("1e-05", "1e-05"),
        ("–", ""),
        ("", ""),
        ("nan", ""),
        ("reproduced", None),
        ("1/5", None),
    ],
)
def test_sort_key(value: str, key: str | None) -> None:
    assert sort_key(value) == key


def test_cells_carry_keys_marks_and_links_to_their_notes() -> None:
    rows = [
        ("2.5", [Entry("9.50", "0.71", mark="second"), Entry("–", note=1)]),
        ("b", [Entry("93.50", mark="best"), Entry("no")]),
    ]
    table = Table("T", "c.", "row", ["x", "y"], [Block("part", rows)], ["failed: NaN"], ["R."], marked="column")
    html = table_html(table, "t")
    assert '<th scope="row" data-sort="2.5">2.5</th><td data-sort="9.5"><u>9.50</u> ± 0.71</td>' in html
    assert '<td data-sort="">– <sup><a href="#t-note-1">[1]</a></sup></td>' in html
    assert '<li id="t-note-1">failed: NaN</li>' in html
    assert '<th scope="row">b</th><td data-sort="93.5"><strong>93.50</strong></td><td>no</td>' in html
    assert "Marked in each column: <strong>best</strong>, <u>second</u>.</caption>" in html
    assert '<p class="remark">R.</p>' in html


def test_failures_name_cell_cause_and_log(bench: Any) -> None:
    name = grid(bench, ("a", "b", "c"), seeds=[0, 1])
    bench.fill(name, skip=["row=a", "row=b"])
    bench.trial(bench.digest("demo", "row=a", 0), DEFAULT)
    failed = bench.digest("demo", "row=a", 1)
    run = bench.trial(failed, state="failed", error="loss is NaN in /home/me/data/x.npy")
    bench.client.set_tag(run, "sweeps.log", f"{failed[:2]}/{failed}/attempts/3/log.txt")
    bench.trial(bench.digest("demo", "row=b", 0), state="stopped")
    (part,) = made(bench, name).parts
    assert part.counts == Counts(done=1, missing=1, failed=1)
    cause = "loss is NaN in …/x.npy"
    assert part.failures == (Failure("row=a seed=1", cause, f"{failed[:2]}/{failed}/attempts/3/log.txt"),)
    html = section(made(bench, name).html, "tiny-grid")
    assert f'<td class="word">{cause}</td>' in html
    assert "/home/me" not in html
    assert (
        "<p>3 cells: 1 done, 1 missing, 1 failed. <code>sweep run grid.toml --profile demo</code> goes on.</p>" in html
    )


def test_failed_teacher_is_listed_with_the_trials_that_wait(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a", "b"]))
    parent = bench.plan(name)
    run = bench.trial("e" * 64, state="failed", error="disk is full")
    mine = bench.trial(bench.digest("demo", "row=a", 0), DEFAULT)
    links = {"teacher resnet14 seed=0": run, "row=a seed=0": mine}
    bench.client.log_text(parent, json.dumps(links), "runs.json")
    (part,) = made(bench, name).parts
    log = f"ee/{'e' * 64}/attempts"
    assert part.failures == (Failure("teacher resnet14 seed=0", "disk is full", log, waiting=1),)
    assert part.counts == Counts(done=1, missing=1)


def test_comparison_has_the_verdicts_where_the_scale_is_the_papers(bench: Any) -> None:
    bench.plan("cudfkd/fig9", comparable=True)
    bench.fill("cudfkd/fig9")
    html = section(made(bench, "cudfkd/fig9").html, "cudfkd-fig9")
    compared = html.split("<h3>Comparison with the paper</h3>")[1].split("<h3>")[0]
    assert '<th scope="col">verdict</th>' in compared
    assert "too few seeds to tell" in compared
    assert 'href="#cudfkd-fig9-diff-note-1"' in compared


def test_search_and_words_have_their_own_sections(bench: Any) -> None:
    space = '\n[search]\ntrials = 2\nspace = [ { path = "hparams.alpha", low = 0.0, high = 1.0 } ]\n'
    name = bench.write("", name="search", more=space)
    bench.trial("c" * 64, {"best/val/acc1_pct": 91.0, "best/test/acc1_pct": 90.0})
    bench.trial("d" * 64, state="failed", error="NaN")
    suggestions = [
        {"number": 0, "params": {"hparams.alpha": 0.25}, "state": "complete", "value": 91.0, "trials": {"0": "c" * 64}},
        {"number": 1, "params": {"hparams.alpha": 0.5}, "state": "failed", "value": None, "trials": {"0": "d" * 64}},
    ]
    search = {"schema": 1, "metric": "best/val/acc1_pct", "direction": "maximize", "importances": {}}
    bench.plan(name, search=search | {"cells": [{"labels": {}, "suggestions": suggestions}]})
    bench.plan("cudfkd/table1", edit=declare)
    found = made(bench, name, "cudfkd/table1")
    searched, words = found.parts
    assert (searched.counts, searched.note) == (Counts(done=1), "suggestions: 1 complete, 1 failed")
    assert searched.failures == (Failure("all suggestion=1 seed=0", "NaN", f"dd/{'d' * 64}/attempts"),)
    assert "A search has no printed values." in section(found.html, "tiny-search")
    assert words.counts.done == len(words.result.cells) / len(words.result.metrics)  # type: ignore[union-attr]
    assert '<th scope="col">difference</th>' in section(found.html, "cudfkd-table1")


def declare(plan: dict[str, Any]) -> None:
    for cell in plan["cells"]:
        if cell["status"] == "declared":
            cell["declared"] = {name: "Yes" for name in ("Target", "Noise", "Generator", "Student", "Dynamic")}


def test_one_fault_loses_no_other_experiment(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    name = grid(bench)
    bench.fill(name)
    (bench.folder / "bad.toml").write_text("title = 1\n")
    twice = bench.write(bench.axis("row", ["a"]), name="twice")
    bench.plan(twice, edit=lambda plan: plan["cells"].append({"labels": {"row": "a"}, "trials": {"0": "b" * 64}}))
    assert cli.main(["report", str(bench.folder / "bad.toml"), twice, name, "--profile", "demo"]) == 2
    out, err = capsys.readouterr()
    html = Path(out.strip()).read_text()
    assert "<p>2 cells: 2 done.</p>" in section(html, "tiny-grid")
    assert "bad.toml: title" in section(html, "bad-toml")
    assert "has two configurations in the last plan" in section(html, "tiny-twice")
    assert "cannot be shown" in html.split("</nav>")[0]
    assert str(bench.folder) not in html
    assert all(line.startswith(("error: ", "missing: ")) for line in err.splitlines())


def test_two_experiments_of_one_name_have_two_anchors(bench: Any) -> None:
    html = made(bench, grid(bench), "grid.toml").html
    assert '<section id="tiny-grid"' in html
    assert '<section id="tiny-grid-2"' in html


def test_provenance_says_what_runs_record(bench: Any) -> None:
    name = bench.write(bench.axis("row", ["a", "b", "c"]))
    bench.client.set_tag(bench.plan(name), "sweeps.commit", "abc+dirty")
    for label, commit in (("a", "abc"), ("b", "abc"), ("c", "")):
        run = bench.trial(bench.digest("demo", f"row={label}", 0), DEFAULT)
        for tag, value in (("commit", commit), ("versions", "python==3.11.7"), ("device", "cpu"), ("gpu", "H1")):
            bench.client.set_tag(run, f"sweeps.{tag}", value)
    (part,) = made(bench, name).parts
    found = dict(part.provenance)
    assert found["planned at commit"] == ("abc+dirty",)
    assert found["commit"] == ("abc (2 runs)", "not recorded (1 run)")
    assert found["packages"] == ("python==3.11.7",)
    assert (found["device"], found["gpu"]) == (("cpu",), ("H1",))
    assert found["store"] == ("sqlite: mlflow.db",)
    assert found["experiment file"][0].startswith("SHA-256 ")
    again = made(bench, name).parts[0]  # from the cache
    assert again.provenance == part.provenance
    path = bench.folder / "grid.toml"
    path.write_text(path.read_text() + "\n# another comment\n")
    assert dict(made(bench, name).parts[0].provenance)["experiment file"][0].endswith("(the file has changed since)")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sqlite:////a/b/mlflow.db: cannot be read", "sqlite: mlflow.db: cannot be read"),
        ("no file '/a/b/c.npy'", "no file '…/c.npy'"),
        ("see https://host/a/b/c and 1/5, CIFAR/10", "see https://host/a/b/c and 1/5, CIFAR/10"),
        ("ResNet34 / ResNet18", "ResNet34 / ResNet18"),
    ],
)
def test_places_on_this_machine_are_not_told(text: str, expected: str) -> None:
    assert Scrub("sqlite:////a/b/mlflow.db")(text) == expected


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://host:5000", "http://host:5000"),
        ("postgresql://user:***@host/db", "postgresql://user:***@host/db"),
        ("sqlite:////a/b/c.db", "sqlite: c.db"),
    ],
)
def test_store_is_named_without_a_folder(address: str, shown: str) -> None:
    assert Scrub(address).store == shown


def test_same_runs_same_bytes_from_another_folder_and_at_another_time(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.plan("cudfkd/fig9")
    bench.fill("cudfkd/fig9", skip=["pair=ResNet34 / ResNet18 k_begin=1/4 k_end=3/4"])
    first = made(bench, "cudfkd/fig9", "cudfkd/fig10").html
    for file in (bench.folder / ".sweeps" / "cache").iterdir():
        file.unlink()
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1e8)
    elsewhere = tmp_path / "deep" / "folder"
    elsewhere.mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    assert cli.main(["report", "cudfkd/fig9", "cudfkd/fig10", "--profile", "demo"]) == 1
    path = Path(capsys.readouterr().out.strip())
    assert path == tmp_path / "paper" / "report-demo.html"
    assert path.read_text() == first
    assert str(tmp_path) not in first
    assert time.strftime("%Y-") not in first


def test_command_prints_the_path_or_json(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    name = grid(bench)
    bench.fill(name)
    assert cli.main(["report", name, "--profile", "demo", "--out", "here/page.html"]) == 0
    assert capsys.readouterr().out == "here/page.html\n"
    assert Path("here/page.html").read_text().startswith("<!doctype html>")
    assert cli.main(["report", name, "cudfkd/fig10", "--profile", "demo", "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["experiments"] == [
        {"experiment": "tiny/grid", "state": "complete", "done": 2, "missing": 0, "failed": 0, "left_out": 0},
        {"experiment": "cudfkd/fig10", "state": "never swept", "done": 0, "missing": 8, "failed": 0, "left_out": 0},
    ]
    assert err == "missing: 8 cells have no value, or not all of theirs\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cudfkd/fig99"], "error: unknown experiment 'cudfkd/fig99';"),
        (["cudfkd/fig9", "--profile", "dem"], "error: unknown profile 'dem'; did you mean 'demo'?"),
        (["cudfkd/fig9", "--profile", "demo", "--out", "."], "error: .: is a folder; --out takes the name of a file"),
        (
            ["cudfkd/fig10", "--profile", "demo", "--out", ".sweeps/mlflow.db/x"],
            "error: .sweeps/mlflow.db/x: cannot be",
        ),
    ],
)
def test_bad_usage_writes_nothing(
    bench: Any, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert cli.main(["report", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(message)
    assert not (bench.folder / "paper").exists()


def test_example_of_the_help_works(bench: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["report", "--help"])
    text = capsys.readouterr().out
    example = text.split("example:\n")[1].splitlines()[0].split()
    assert example == ["paper", "report", "--profile", "demo"]
    assert cli.main(example[1:]) == 1
    html = Path(capsys.readouterr().out.strip()).read_text()
    names = re.findall(r'<section id="((?:cudfkd|pckd)-[a-z0-9]+)"', html)
    assert len(names) == len(set(names)) >= 30
    assert html.count("Never swept with this profile") == len(names)
    assert 'id="claims-cudfkd"' in html and 'id="claims-pckd"' in html


def test_report_imports_no_torch_ray_or_optuna(bench: Any) -> None:
    code = (
        "import sys; from analysis import cli; cli.main(['report', 'cudfkd/fig10', '--profile', 'demo'])\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'ray', 'optuna', 'trainers')))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("report-demo.html")
