"""The main job as a user meets it: `sweep run cudfkd/fig9 --profile demo`, again, and the pages that show it."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]


def _outputs(folder: Path) -> dict[str, str]:
    files = sorted(path for path in (folder / "paper").rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_nine_cells_and_one_teacher_reach_their_accuracies(demo_home):
    results = {}
    for file in demo_home.results():
        trial = json.loads((file.parent / "trial.json").read_text())["trial"]
        results[file.parent.name] = (trial["method"], json.loads(file.read_text())["best/test/acc1_pct"])
    teachers = [value for method, value in results.values() if method == "ce"]
    students = [value for method, value in results.values() if method == "cudfkd"]
    assert len(teachers) == 1
    assert len(students) == 9
    assert teachers[0] >= 97
    assert min(students) >= 85
    assert sum(students) / 9 >= 90
    assert set(demo_home.claims().values()) == {1}


def test_the_nine_cells_end_with_nine_different_weights(demo_home):
    hashes = {hashlib.sha256(file.read_bytes()).hexdigest() for file in demo_home.state.glob("*/*/weights.pt")}
    assert len(hashes) == 10


def test_the_run_ends_with_the_table_and_names_the_heatmap(demo_home):
    printed = (demo_home.folder / "first.log").read_text()
    assert "| 1/5" in printed
    heatmaps = [line for line in printed.splitlines() if line.startswith("wrote ") and line.endswith(".png")]
    assert heatmaps
    assert all((demo_home.folder / line.removeprefix("wrote ")).is_file() for line in heatmaps)


def test_mlflow_has_ten_trial_runs_under_one_parent_and_none_running(demo_home):
    from mlflow.tracking import MlflowClient

    runs = demo_home.runs()
    assert len(runs) == 10
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len({run.data.tags["mlflow.parentRunId"] for run in runs}) == 1
    client = MlflowClient(tracking_uri=demo_home.uri)
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    every = client.search_runs(ids, max_results=1000)
    assert not [run.info.run_name for run in every if run.info.status == "RUNNING"]


def test_running_again_starts_nothing_and_writes_the_same_bytes(demo_home):
    before = _outputs(demo_home.folder)
    assert before
    again = demo_home.sweep("run", "cudfkd/fig9", "--profile", "demo")
    assert again.returncode == 0, again.stderr
    assert "nothing to run" in again.stdout
    assert _outputs(demo_home.folder) == before
    assert len(demo_home.runs()) == 10


@pytest.fixture(scope="module")
def page(demo_home):
    """`sweep ui` on a free port, and its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).parent / "sweep"), "ui", "--port", str(port)]
    log = open(demo_home.folder / "ui.log", "w")  # noqa: SIM115 (the server writes to it until the fixture ends)
    process = subprocess.Popen(
        command, cwd=demo_home.folder, env=demo_home.environment, stdout=log, stderr=log, start_new_session=True
    )
    address = f"http://127.0.0.1:{port}"
    end = time.monotonic() + 180
    while True:
        try:
            urllib.request.urlopen(f"{address}/health", timeout=5)
            break
        except OSError:
            assert process.poll() is None, (demo_home.folder / "ui.log").read_text()
            assert time.monotonic() < end, (demo_home.folder / "ui.log").read_text()
            time.sleep(0.5)
    yield address
    os.killpg(process.pid, 15)
    process.wait(30)
    log.close()


def _wait_for_text(driver, text: str, timeout_s: float = 90) -> None:
    end = time.monotonic() + timeout_s
    while text not in driver.execute_script("return document.body.innerText"):
        assert time.monotonic() < end, driver.execute_script("return document.body.innerText")
        time.sleep(0.5)


def test_the_run_list_shows_names_and_metrics(demo_home, page, browser):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=demo_home.uri)
    experiment = client.get_experiment_by_name("cudfkd-demo")
    link = next(
        line for line in (demo_home.folder / "ui.log").read_text().splitlines() if line.startswith("cudfkd-demo: ")
    )
    assert f"/experiments/{experiment.experiment_id}/" in link
    browser.get(link.removeprefix("cudfkd-demo: "))
    _wait_for_text(browser, "fig9")
    for button in (
        "mlflow.assistant.chat_panel.close",
        "mlflow.experiment_page.shared_view.dismiss",
        "runnamecellrenderer",
    ):
        _click(browser, button)  # the page's own side panel and banner, then the plus before fig9
    _wait_for_text(browser, "k_begin=1/5 k_end=3/4 seed=0")
    best = max(
        run.data.metrics["best/test/acc1_pct"] for run in demo_home.runs() if "best/test/agree1_pct" in run.data.metrics
    )
    _wait_for_text(browser, str(best)[:7])  # the page shows every digit
    browser.save_screenshot(str(_pictures(demo_home) / "mlflow-runs.png"))


def test_the_heatmap_is_among_the_parents_artifacts(demo_home, page, browser):
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=demo_home.uri)
    experiment = client.get_experiment_by_name("cudfkd-demo")
    parent = client.search_runs(
        [experiment.experiment_id], "tags.`sweeps.experiment` = 'cudfkd/fig9' and tags.`sweeps.role` = 'parent'"
    )[0]
    names = [file.path for file in client.list_artifacts(parent.info.run_id)]
    heatmap = next(name for name in names if name.endswith(".png"))
    assert {"experiment.toml", "plan.json", "runs.json"} <= set(names)
    browser.get(f"{page}/#/experiments/{experiment.experiment_id}/runs/{parent.info.run_id}/artifacts/{heatmap}")
    _wait_for_text(browser, heatmap)
    end = time.monotonic() + 60
    shown = "return [...document.images].some(i => i.complete && i.naturalWidth > 300)"
    while not browser.execute_script(shown):
        assert time.monotonic() < end, "the heatmap is not shown"
        time.sleep(0.5)
    browser.save_screenshot(str(_pictures(demo_home) / "mlflow-heatmap.png"))


def _click(driver, component: str, timeout_s: float = 60) -> None:
    find = f"return document.querySelector('button[data-component-id*=\"{component}\"]')"
    end = time.monotonic() + timeout_s
    while (button := driver.execute_script(find)) is None:
        assert time.monotonic() < end, f"no button {component}"
        time.sleep(0.5)
    driver.execute_script("arguments[0].click()", button)


def _pictures(demo_home) -> Path:
    folder = Path(os.environ.get("SWEEPS_TEST_PICTURES", demo_home.folder / "pictures"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder
