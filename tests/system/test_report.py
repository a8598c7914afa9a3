"""The report as a reader opens it: from disk, in Chromium, without a network."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
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
