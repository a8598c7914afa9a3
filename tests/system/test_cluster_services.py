"""The services of docker/services.toml, started natively with its flags: they come up, and turn strangers away."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator

import pytest

from tests.system.servers import HOST
from tests.system.stack import CLEAN, Stack

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    made = Stack()
    try:
        made.all()
        yield made
    finally:
        made.close()


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
    assert good.stdout.split()[-1:] == ["1.0"], good.stderr  # the worker's; the head offers none
    assert driver("0" * 64).returncode != 0


def test_no_secret_shows_in_process_lists_or_logs(stack: Stack) -> None:
    time.sleep(2)
    secret = stack.secrets()
    assert len(secret) == 7
    lines = stack.processes().values()
    assert len(lines) > 10
    assert [name for name, value in secret.items() if any(value in line for line in lines)] == []
    logs = [*stack.folder.glob("*.log"), *(path for path in stack.ray_folder.rglob("*") if path.is_file())]
    assert len(logs) > 10
    told = [(name, path.name) for path in logs for name, value in secret.items() if value.encode() in path.read_bytes()]
    assert told == []
