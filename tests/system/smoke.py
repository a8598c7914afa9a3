"""The services of docker/ under a submitted sweep, one of each killed in its middle: `docker/smoke`, or `make smoke`.

Prints the time from nothing to the first finished trial, and the end state; exit 0 when nothing is wrong with it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.system.browser import chromium
from tests.system.servers import HOST, descendants
from tests.system.stack import CLEAN, Stack
from trainers import attempts
from trainers.attempts import State

EXPERIMENT = ("cudfkd/fig8", "--profile", "demo")
SHORT = ("--only", "lambda_0=2.2")
"""A student measured against both teachers: two teachers, a student and a measurement."""
MOST_FIRST_S = 300
"""From nothing to the first finished trial, on two cores that have nothing else to do."""
DECOYS = {
    "MLFLOW_TRACKING_PASSWORD": "laptop-decoy-mlflow-5d1f",
    "AWS_SECRET_ACCESS_KEY": "laptop-decoy-aws-77ab",
    "SWEEPS_STUDY_URL": "postgresql://me:laptop-decoy-url-9c02@db/studies",
    "PGPASSWORD": "laptop-decoy-pg-41ee",
}
"""What a laptop's environment may hold: none of it may get anywhere."""


class Laptop:
    """A machine that is no part of the cluster: it has the dashboard's address and the token, and a folder of its own.

    Attributes:
        state: the cluster's state root, which a laptop cannot see; for looking at what came of it.
    """

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.folder = Path(tempfile.mkdtemp(prefix="sweeps-laptop-", dir=stack.folder))
        address = f"http://{HOST}:{stack.places['RAY_DASHBOARD_PORT']}"
        self.environment = {**CLEAN, **DECOYS, "RAY_ADDRESS": address, "RAY_AUTH_TOKEN": stack.env["RAY_AUTH_TOKEN"]}
        self.state = stack.shared / "state"

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "sweeps.cli", *words],
            cwd=self.folder, env={**self.environment, **environment}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def sweep(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """One command to its end."""
        process = self.start(*words, **environment)
        out, err = process.communicate(timeout=1800)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def submit(self, *words: str) -> str:
        """Submits a sweep; its id."""
        done = self.sweep("submit", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.split()[1].rstrip(":")

    def planned(self, *words: str) -> list[str]:
        """Digests of a sweep's trials as planned here, where the cluster's state root is not seen."""
        done = self.sweep("plan", *words, "--json")
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout)["plans"][0]["names"])

    def job(self, job: str) -> dict[str, Any]:
        """`sweep status JOB --json`."""
        done = self.sweep("status", job, "--json")
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout)[0])

    def finished(self) -> int:
        """Trials of the state root that have a result."""
        return len(list(self.state.glob("*/*/result.json")))

    def wait_for(self, condition: Callable[[], bool], job: str, timeout_s: float = 1500) -> None:
        """Waits for something that happens while a job runs."""
        end, look = time.monotonic() + timeout_s, 0.0
        while not condition():
            assert time.monotonic() < end, self.sweep("logs", job).stdout
            if time.monotonic() > look:
                row = self.job(job)
                assert row["state"] in ("PENDING", "RUNNING") or condition(), (row, self.sweep("logs", job).stdout)
                look = time.monotonic() + 60
            time.sleep(0.2)


def look_at_mlflow(stack: Stack, folder: Path) -> list[str]:
    """Opens the run list in a browser, without and with the generated login; returns what is wrong with it."""
    page, name = f"{HOST}:{stack.places['MLFLOW_PORT']}", stack.env["MLFLOW_TRACKING_USERNAME"]
    found = []
    with chromium(folder / "profile") as browser:
        browser.get(f"http://{page}/")
        if "mlflow" in browser.title.lower():
            found.append("MLflow shows its page without a login")
        browser.get(f"http://{name}:{stack.env['MLFLOW_TRACKING_PASSWORD']}@{page}/")  # what its login box would send
        browser.get(f"http://{page}/#/experiments")
        end = time.monotonic() + 120
        while "cudfkd-demo" not in browser.find_element("tag name", "body").text:
            if time.monotonic() > end:
                found.append(f"MLflow's page shows no experiment: {browser.title!r}")
                break
            time.sleep(0.5)
        browser.save_screenshot(str(folder / "mlflow.png"))
    return found


def training_worker(stack: Stack) -> Any:
    """The node that trains at this moment; any where none does."""
    for worker in stack.workers:
        for pid in descendants(worker._process.pid) if worker._process else []:
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:  # it ended meanwhile
                continue
            if b"ray::" in line and (b"Trainable" in line or b"TrialRunner" in line):
                return worker
    return stack.workers[0]


def state_faults(laptop: Laptop, digests: list[str]) -> list[str]:
    """Trials that are not done, or were finished twice."""
    found = []
    for digest in digests:
        status = attempts.read_status(laptop.state, digest)
        entries = sorted((attempts.trial_folder(laptop.state, digest) / "attempts").glob("[0-9]*/claim.json"))
        kinds = Counter(json.loads(file.read_text())["kind"] for file in entries)
        if status.state is not State.DONE or kinds["done"] != 1:
            found.append(f"{digest[:12]}: {status.state.value}, {dict(kinds)}")
    return found


def runs_of(stack: Stack, role: str) -> list[Any]:
    """Runs in MLflow, asked for with the generated login."""
    from mlflow.tracking import MlflowClient

    os.environ |= {k: stack.env[k] for k in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")}
    client = MlflowClient(tracking_uri=f"http://{HOST}:{stack.places['MLFLOW_PORT']}")
    ids = [each.experiment_id for each in client.search_experiments()]
    return list(client.search_runs(ids, f"tags.`sweeps.role` = '{role}'", max_results=1000))


def run_faults(stack: Stack, laptop: Laptop, digests: list[str]) -> list[str]:
    """Trials without exactly one finished run, and runs whose accuracy by epoch is not their journal's."""
    from mlflow.tracking import MlflowClient

    runs = {run.data.tags["sweeps.digest"]: run for run in runs_of(stack, "trial")}
    client = MlflowClient(tracking_uri=f"http://{HOST}:{stack.places['MLFLOW_PORT']}")
    shown = Counter(run.data.tags["sweeps.digest"] for run in runs_of(stack, "trial"))
    found = [f"{digest[:12]}: {shown[digest]} runs" for digest in digests if shown[digest] != 1]
    for digest in filter(runs.__contains__, digests):
        run, key = runs[digest], "test/acc1_pct"
        if run.info.status != "FINISHED":
            found.append(f"{digest[:12]}: its run is {run.info.status}")
        rows = [row for row in attempts.rows(attempts.read_status(laptop.state, digest)) if key in row]
        points = sorted((each.step, each.value) for each in client.get_metric_history(run.info.run_id, key))
        if points != [(int(row["epoch"]), row[key]) for row in rows]:
            found.append(f"{digest[:12]}: MLflow has {points} of {key}")
    found += [f"a parent run is {run.info.status}" for run in runs_of(stack, "parent") if run.info.status != "FINISHED"]
    return found


def leaks(stack: Stack, laptop: Laptop) -> list[str]:
    """Places where a secret of the cluster's or of the laptop's shows."""
    secrets = {**stack.secrets(), **{f"laptop's {name}": value for name, value in DECOYS.items()}}
    told = {f"command line of {pid}": line.encode() for pid, line in stack.processes().items()}
    request = urllib.request.Request(
        f"http://{HOST}:{stack.places['RAY_DASHBOARD_PORT']}/api/jobs/",
        headers={"Authorization": f"Bearer {stack.env['RAY_AUTH_TOKEN']}"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        told["jobs"] = answer.read()
    for run in [*runs_of(stack, "trial"), *runs_of(stack, "parent")]:
        told[f"run {run.info.run_name}"] = json.dumps(run.to_dictionary()).encode()
    for folder in (stack.ray_folder, stack.shared, laptop.folder):
        for file in folder.rglob("*"):
            if file.is_file() and not file.is_symlink() and "profile" not in file.parts:
                told[str(file)] = file.read_bytes()
    for log in stack.folder.glob("*.log"):
        told[log.name] = log.read_bytes()
    return [
        f"{name} shows in {place}" for place, text in told.items() for name, v in secrets.items() if v.encode() in text
    ]


def disturbed_sweep(stack: Stack, laptop: Laptop, words: tuple[str, ...], began: float) -> tuple[float, list[str]]:
    """A sweep whose worker and MLflow server are killed once its first trial is done, and come back.

    Returns:
        Seconds from `began` to the first finished trial, and all that is wrong in the end.
    """
    digests = laptop.planned(*words)
    job = laptop.submit(*words)
    laptop.wait_for(lambda: laptop.finished() >= 1, job)
    first_s = time.monotonic() - began
    say(f"{first_s:.0f} s from nothing to the first finished trial of {len(digests)}")
    mlflow = next(service for service in stack.started if service.name == "mlflow")
    worker = training_worker(stack)
    for service in (worker, mlflow):
        service.kill9()
    say(f"killed {worker.log_name} and MLflow with {laptop.finished()} trials done")
    row = laptop.job(job)
    found = [] if row["state"] == "RUNNING" else [f"the job is {row['state']} after the kills"]
    for service in (mlflow, worker):
        service.start()
    say(f"both are back, {row['progress']}")
    seen = look_at_mlflow(stack, laptop.folder)
    say("; ".join(seen) or "MLflow's page asks for the login and shows the experiment")
    found += seen
    followed = laptop.sweep("logs", job, "--follow")
    if followed.returncode:
        found.append(f"the sweep ended with {followed.returncode}: {followed.stdout[-3000:]}{followed.stderr}")
    found += state_faults(laptop, digests) + run_faults(stack, laptop, digests)
    table = stack.shared / "paper" / "cudfkd" / "fig8" / "demo" / "table.md"
    if not table.is_file() or "2.2" not in table.read_text():
        found.append(f"no table at {table}")
    claims = len(list(laptop.state.glob("*/*/attempts/[0-9]*/claim.json"))) - laptop.finished()
    say(f"{laptop.finished()} of {len(digests)} trials done after {claims} claims, {len(runs_of(stack, 'trial'))} runs")
    return first_s, found


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(argv: list[str] | None = None) -> int:
    """Starts everything, disturbs a sweep, and prints what came of it."""
    parser = argparse.ArgumentParser(prog="docker/smoke", description="Everything that compose starts, under a sweep.")
    parser.add_argument("--short", action="store_true", help="4 trials instead of 18")
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started ends too
    began = time.monotonic()
    stack = Stack()
    try:
        stack.all(workers=2)
        say(f"{time.monotonic() - began:.0f} s to PostgreSQL, MLflow, Ray's head and {len(stack.workers)} workers")
        laptop = Laptop(stack)
        first_s, found = disturbed_sweep(stack, laptop, (*EXPERIMENT, *(SHORT if arguments.short else ())), began)
        found += leaks(stack, laptop)
        if first_s > MOST_FIRST_S:
            found.append(f"{first_s:.0f} s to the first finished trial, at most {MOST_FIRST_S} s are allowed")
        say("\n".join(found) or f"nothing wrong after {time.monotonic() - began:.0f} s")
    finally:
        stack.close()
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
