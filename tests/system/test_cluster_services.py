"""The services of docker/services.toml, started natively with its flags: they come up, run sweeps, and turn strangers away."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator

import pytest

from sweeps import jobs
from tests.system.conftest import MINI
from tests.system.exactly_once import Work, trial_faults
from tests.system.servers import HOST
from tests.system.smoke import EXPERIMENT, SHORT, Laptop, disturbed_sweep, leaks
from tests.system.stack import CLEAN, Stack
from trainers import attempts, provenance

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    made = Stack()
    try:
        made.all(workers=2)
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def laptop(stack: Stack) -> Laptop:
    return Laptop(stack)


def status(url: str, *, data: bytes | None = None, **headers: str) -> int:
    """Status of one request."""
    request = urllib.request.Request(url, data=data, headers={k.replace("_", "-"): v for k, v in headers.items()})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def basic(name: str, password: str) -> str:
    return "Basic " + b64encode(f"{name}:{password}".encode()).decode()


def test_mlflow_answers_to_its_name_and_a_login_alone(stack: Stack) -> None:
    page = f"http://{HOST}:{stack.places['MLFLOW_PORT']}"
    search = f"{page}/api/2.0/mlflow/experiments/search?max_results=1"
    user = basic(stack.env["MLFLOW_TRACKING_USERNAME"], stack.env["MLFLOW_TRACKING_PASSWORD"])
    assert status(search, Authorization=user) == 200
    assert status(search) == 401
    assert status(page) == 401
    assert status(search, Authorization=basic("admin", "password1234")) == 401
    assert status(search, Authorization=user, Host="attacker.example.org") == 403
    assert status(search, Authorization=user, Host=f"localhost:{stack.places['MLFLOW_PORT']}") == 403
    assert status(f"{page}/api/2.0/mlflow-artifacts/artifacts/0/x", Host=f"{HOST}:{stack.places['MLFLOW_PORT']}") == 401


def test_the_login_of_sweeps_administers_nothing(stack: Stack) -> None:
    user = basic(stack.env["MLFLOW_TRACKING_USERNAME"], stack.env["MLFLOW_TRACKING_PASSWORD"])
    make = f"http://{HOST}:{stack.places['MLFLOW_PORT']}/api/2.0/mlflow/users/create"
    body = b'{"username": "mallory", "password": "mallory-mallory"}'
    assert status(make, data=body, Authorization=user, Content_Type="application/json") == 403
    foreign = b'{"name": "x"}'
    made = f"http://{HOST}:{stack.places['MLFLOW_PORT']}/api/2.0/mlflow/experiments/create"
    assert status(made, data=foreign, Authorization=user, Content_Type="application/json") == 200
    evil = {"Origin": "http://attacker.example.org", "Content_Type": "application/json"}
    assert status(made, data=b'{"name": "y"}', Authorization=user, **evil) == 403


def test_each_role_opens_its_own_databases(stack: Stack) -> None:
    roles = {"mlflow": "MLFLOW_DB_PASSWORD", "optuna": "STUDY_DB_PASSWORD"}
    opened = {
        (role, database)
        for role, password in roles.items()
        for database in ("postgres", "mlflow", "mlflow_auth", "optuna")
        if stack.sql(role, password, database, "--command", "SELECT 1").returncode == 0
    }
    assert opened == {("mlflow", "mlflow"), ("mlflow", "mlflow_auth"), ("optuna", "optuna")}
    assert stack.sql("mlflow", "STUDY_DB_PASSWORD", "mlflow", "--command", "SELECT 1").returncode != 0


def test_ray_s_jobs_are_for_those_with_the_token(stack: Stack) -> None:
    jobs = f"http://{HOST}:{stack.places['RAY_DASHBOARD_PORT']}/api/jobs/"
    assert status(jobs, Authorization=f"Bearer {stack.env['RAY_AUTH_TOKEN']}") == 200
    assert status(jobs) == 401
    assert status(jobs, Authorization=f"Bearer {'0' * 64}") == 403
    submit = b'{"entrypoint": "true"}'
    assert status(jobs, data=submit, Content_Type="application/json") == 401


def test_a_driver_needs_the_token_and_finds_a_node_for_trials(stack: Stack) -> None:
    code = "import ray; ray.init(address='auto', log_to_driver=False); print(ray.cluster_resources().get('CPU'))"
    known = {**CLEAN, "RAY_ADDRESS": f"{HOST}:{stack.places['RAY_PORT']}", "RAY_AUTH_MODE": "token"}
    code = code.replace("'auto'", f"'{known['RAY_ADDRESS']}'")

    def driver(token: str) -> subprocess.CompletedProcess[str]:
        environment = {**known, "RAY_AUTH_TOKEN": token}
        return subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
        )

    good = driver(stack.env["RAY_AUTH_TOKEN"])
    assert good.stdout.split()[-1:] == ["2.0"], good.stderr  # the workers'; the head offers none
    assert driver("0" * 64).returncode != 0


# --- sweeps ----------------------------------------------------------------------------------------------------------


def test_a_submitted_sweep_survives_the_loss_of_a_worker_and_of_mlflow(stack: Stack, laptop: Laptop) -> None:
    _, wrong = disturbed_sweep(stack, laptop, (*EXPERIMENT, *SHORT), time.monotonic())
    assert wrong == []


OWN_METHOD = """
import os

from trainers import provenance
from trainers.methods.cudfkd import *
from trainers.methods.cudfkd import Config as _Config

VERSION = 1
if os.environ.get("RAY_JOB_STOP_SIGNAL"):  # on the cluster, it is the code that was sent along
    assert provenance.SENT.is_file(), provenance.__file__


class Config(_Config):
    pass
"""


@pytest.fixture
def grid(laptop: Laptop) -> str:
    """A small grid of a user's own method, in a folder of the laptop's."""
    text = MINI.format(alphas='{ label = "0.1", value = 0.1 }', epochs=8, updates=60)
    assert text.count('method = "cudfkd"') == 1
    (laptop.folder / "own.toml").write_text(
        text.replace('method = "cudfkd"', 'method = { module = "my_pkg.my_method" }')
    )
    (laptop.folder / "my_pkg").mkdir()
    (laptop.folder / "my_pkg" / "__init__.py").write_text("")
    (laptop.folder / "my_pkg" / "my_method.py").write_text(OWN_METHOD)
    return "own.toml"


def epochs_of(laptop: Laptop, digest: str) -> int:
    file = attempts.trial_folder(laptop.state, digest) / "trial.json"
    return int(json.loads(file.read_text())["trial"]["protocol"]["epochs"])


def test_a_cancelled_sweep_goes_on_from_its_checkpoints_when_submitted_again(
    stack: Stack, laptop: Laptop, grid: str
) -> None:
    digests = laptop.planned(grid, "--profile", "demo")
    teacher, *students = digests
    job = laptop.submit(grid, "--profile", "demo")

    def begun() -> bool:
        return any(2 <= len(attempts.rows(attempts.read_status(laptop.state, each))) <= 6 for each in students)

    laptop.wait_for(begun, job)
    cancelled = laptop.sweep("cancel", job)
    assert cancelled.returncode == 0, cancelled.stdout + cancelled.stderr
    assert "stopped" in cancelled.stdout and "goes on from the last checkpoints" in cancelled.stdout
    assert laptop.job(job)["state"] == "STOPPED"
    states = {each: attempts.read_status(laptop.state, each).state.value for each in digests}
    assert states[teacher] == "done" and "partial" in states.values(), states
    kept = {each: len(attempts.rows(attempts.read_status(laptop.state, each))) for each in students}
    time.sleep(3)
    assert kept == {each: len(attempts.rows(attempts.read_status(laptop.state, each))) for each in students}

    again = laptop.sweep("submit", grid, "--profile", "demo", "--wait")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "3 trials: 3 done" in again.stdout
    work, wrong = Work(), []
    for each in digests:
        wrong += trial_faults(laptop.state, each, epochs_of(laptop, each), work)
    assert wrong == []
    assert (work.trials, work.epochs_again) == (3, 0)
    assert work.epochs_trained == work.epochs_needed
    made = json.loads(
        (attempts.trial_folder(laptop.state, students[0]) / "attempts" / "1" / "made_with.json").read_text()
    )
    assert made["commit"] == provenance.commit() != ""
    listed = laptop.sweep("status", "--jobs").stdout
    assert listed.count("own [demo]") == 2 and "succeeded (exit code 0)" in listed


@pytest.mark.parametrize("token", ["0" * 64, ""])
def test_without_the_token_nothing_is_sent(stack: Stack, laptop: Laptop, token: str) -> None:
    before = laptop.sweep("status", "--jobs", "--json").stdout
    alone = {"HOME": str(laptop.folder), "RAY_AUTH_TOKEN": token}  # a token may be in ~/.ray
    for words in (["submit", *EXPERIMENT], ["status", "--jobs"], ["logs", "sweep-20260131-120000-3f9a1c07"]):
        done = laptop.sweep(*words, **alone)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert done.stderr.count("error: ") == 1 and "token" in done.stderr and "Traceback" not in done.stderr
        assert not token or token not in done.stderr
    assert laptop.sweep("status", "--jobs", "--json").stdout == before


def test_a_name_cannot_climb_out_of_the_jobs_log_folder(stack: Stack, laptop: Laptop) -> None:
    url = f"http://{HOST}:{stack.places['RAY_DASHBOARD_PORT']}/api/jobs/"
    token = f"Bearer {stack.env['RAY_AUTH_TOKEN']}"
    for name in ("..%2f..%2f..%2fetc%2fpasswd", "x%2f..%2f..%2fraylet.out"):
        assert status(f"{url}{name}/logs", Authorization=token) == 404
    for name in ("../../etc/passwd", "x/../../raylet.out"):
        assert not jobs.JOB.fullmatch(name)
        done = laptop.sweep("logs", name)
        assert (done.returncode, done.stdout) == (2, "") and "is no id of a job" in done.stderr


def test_no_secret_shows_anywhere(stack: Stack, laptop: Laptop) -> None:
    """Not in process lists, logs, jobs, runs, the state root, or what was sent; neither the cluster's nor the laptop's."""
    assert len(stack.secrets()) == 7
    assert len(stack.processes()) > 15
    assert len([path for path in stack.ray_folder.rglob("*") if path.is_file()]) > 10
    assert len(list(stack.shared.rglob("*.json"))) > 10
    assert leaks(stack, laptop) == []
    planted = stack.shared / "planted"
    planted.write_text(f"token={stack.env['RAY_AUTH_TOKEN']}")
    assert leaks(stack, laptop) == [f"RAY_AUTH_TOKEN shows in {planted}"]
    planted.unlink()
