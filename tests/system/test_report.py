"""The report as a reader opens it: from disk, in Chromium, without a network; and everything made again on another day."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest

from analysis import cli

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

_spec = importlib.util.spec_from_file_location(
    "tests_analysis_bench", Path(__file__).parents[1] / "analysis" / "conftest.py"
)
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _module  # its data classes look themselves up there
_spec.loader.exec_module(_module)
bench, empty_store = _module.bench, _module.empty_store

VALUES = {"plain": 9.5, "<script>document.title = 'broken'</script>": 93.5, "none": None, "Plain too": 10.25}
ROWS = (
    "return [...document.querySelectorAll('#tiny-grid tbody tr:not([hidden]) th[scope=row]')].map(e => e.textContent)"
)


@pytest.fixture
def opened(bench: Any, browser: Any) -> Any:
    """The browser with a report of three experiments: one with numbers and a hole, a real one, one never swept."""
    name = bench.write(bench.axis("row", list(VALUES)))
    bench.plan(name)
    for label, value in VALUES.items():
        if value is not None:
            bench.trial(bench.digest("demo", f"row={label}", 0), {"best/test/acc1_pct": value})
    bench.plan("cudfkd/fig9", comparable=True)
    bench.fill("cudfkd/fig9")
    assert cli.main(["report", name, "cudfkd/fig9", "cudfkd/fig10", "--profile", "demo", "--out", "report.html"]) == 1
    browser.get((bench.folder / "report.html").as_uri())
    return browser


def _click(driver: Any, column: int) -> str:
    """Presses the heading of a column as the keyboard does; returns its state."""
    head = driver.find_elements("css selector", "#tiny-grid table.sortable thead th")[column]
    button = head.find_element("tag name", "button")
    button.send_keys("\ue007")  # Enter
    return str(head.get_attribute("aria-sort"))


def test_the_report_sorts_filters_and_fetches_nothing(opened: Any) -> None:
    inside, evil, hole, too = list(VALUES)
    assert opened.execute_script(ROWS) == [inside, evil, hole, too]
    assert opened.title == "Report, profile demo"

    assert _click(opened, 1) == "ascending"
    assert opened.execute_script(ROWS) == [inside, too, evil, hole]  # 9.50 before 10.25, as numbers; the hole last
    assert _click(opened, 1) == "descending"
    assert opened.execute_script(ROWS) == [evil, too, inside, hole]
    assert _click(opened, 0) == "ascending"
    states = "return [...document.querySelectorAll('#tiny-grid table.sortable thead th')].map(e => e.ariaSort)"
    assert opened.execute_script(states) == ["ascending", "none"]
    _click(opened, 0)
    assert _click(opened, 0) == "none"
    assert opened.execute_script(ROWS) == [inside, evil, hole, too]

    field = opened.find_element("css selector", "#tiny-grid .filter input")
    field.send_keys("PLAIN")
    assert opened.execute_script(ROWS) == [inside, too]
    assert opened.find_element("css selector", "#tiny-grid .filter output").text == "2 of 4 rows"
    field.clear()
    field.send_keys("nobody")
    assert opened.execute_script(ROWS) == []

    broken = (
        "return [...document.querySelectorAll('a[href^=\"#\"]')].map(e => e.getAttribute('href'))"
        ".filter(href => !document.getElementById(href.slice(1)))"
    )
    assert opened.execute_script(broken) == []
    assert opened.execute_script("return document.querySelectorAll('a[href^=\"#\"]').length") > 10
    assert opened.execute_script("return [...document.images].every(i => i.complete && i.naturalWidth > 200)")
    assert opened.execute_script("return document.images.length") == 1

    asked = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    sent = [each["params"] for each in asked if each["method"] == "Network.requestWillBeSent"]
    page = opened.current_url.split("#")[0]
    addresses = [
        each["request"]["url"] for each in sent if each["documentURL"] == page
    ]  # else Chromium's own first page
    assert page in addresses
    assert not [address for address in addresses if address != page and not address.startswith("data:")]
    assert opened.get_log("browser") == []


def test_the_page_fits_wide_and_narrow_windows(opened: Any, tmp_path: Path) -> None:
    pictures = Path(os.environ.get("SWEEPS_TEST_PICTURES", tmp_path / "pictures"))
    pictures.mkdir(parents=True, exist_ok=True)
    root = "document.documentElement"
    for width in (1280, 400):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        assert opened.execute_script("return innerWidth") == width
        assert opened.execute_script(f"return {root}.scrollWidth - {root}.clientWidth") == 0
        opened.save_screenshot(str(pictures / f"report-{width}.png"))


COMMANDS = (
    ("table", "cudfkd/fig9", "search.toml", "--siunitx", "--standalone", "--links"),
    ("figure", "cudfkd/fig9", "search.toml", "curve.toml"),
    ("figure", "cudfkd/fig9", "curve.toml", "--size", "talk"),
    ("report", "cudfkd/fig9", "cudfkd/fig10", "search.toml", "curve.toml", "--out", "report.html"),
)
SPACE = '\n[search]\ntrials = 2\nspace = [ { path = "hparams.alpha", low = 0.0, high = 1.0 } ]\n'
DATE = re.compile(rb"20[2-9]\d-[01]\d-[0-3]\d|D:20\d\d|tIME|\b(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d")


def _everything(bench: Any, folder: Path, *front: str, **environment: str) -> dict[str, bytes]:
    """All that the commands write and print, run in a folder below the store's."""
    folder.mkdir(parents=True)
    for name in ("search.toml", "curve.toml"):
        shutil.copy(bench.folder / name, folder)
    source = str(Path(cli.__file__).parents[1])
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": source, "HOME": str(folder), **environment}
    made = {}
    for command in COMMANDS:
        full = [*front, sys.executable, "-m", "analysis.cli", *command, "--profile", "demo"]
        full += [] if "--out" in command else ["--out", "out"]
        done = subprocess.run(full, cwd=folder, env=variables, capture_output=True)
        assert done.returncode in (0, 1), done.stderr.decode()  # cells are missing
        made[f"printed by {' '.join(command)}"] = done.stdout
    files = [
        path for path in folder.rglob("*") if path.suffix in (".md", ".tex", ".csv", ".html", ".png", ".pdf", ".svg")
    ]
    return made | {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_everything_is_the_same_on_another_day_and_from_another_folder(bench: Any, tmp_path: Path) -> None:
    bench.plan("cudfkd/fig9")
    bench.fill("cudfkd/fig9", skip=["pair=ResNet34 / ResNet18 k_begin=1/4 k_end=3/4"])
    curve = bench.write(bench.axis("row", ["1", "2", "3"]), name="curve", kind="curve", seeds=[0, 7])
    bench.plan(curve)
    bench.fill(curve)
    search = bench.write("", name="search", more=SPACE)
    bench.trial("c" * 64, {"best/val/acc1_pct": 91.0, "best/test/acc1_pct": 90.0})
    suggestion = {"number": 0, "params": {"hparams.alpha": 0.25}, "state": "complete", "value": 91.0}
    cells = [{"labels": {}, "suggestions": [suggestion | {"trials": {"0": "c" * 64}}]}]
    found = {"schema": 1, "metric": "best/val/acc1_pct", "direction": "maximize", "importances": {}, "cells": cells}
    bench.plan(search, search=found)
    first = _everything(bench, tmp_path / "one", LANG="C.UTF-8", TZ="UTC", PYTHONHASHSEED="1")
    shutil.rmtree(bench.folder / ".sweeps" / "cache")
    again = _everything(
        bench, tmp_path / "deep" / "folder", "faketime", "2031-03-05 07:08:09", TZ="Asia/Tokyo", PYTHONHASHSEED="7"
    )
    assert sum(name.endswith((".png", ".pdf", ".svg")) for name in first) == 15
    assert sum(name.startswith("printed by ") for name in first) == 4
    assert sum(name.endswith((".md", ".tex", ".csv")) for name in first) == 6
    assert sum(name.endswith(".html") and " " not in name for name in first) == 3  # two tables and the report
    assert first.keys() == again.keys()
    assert [name for name in first if first[name] != again[name]] == []
    for name, content in first.items():
        streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", content, re.DOTALL) if name.endswith(".pdf") else []
        for part in (content, *(zlib.decompressobj().decompress(stream) for stream in streams)):
            assert DATE.search(part) is None, name
