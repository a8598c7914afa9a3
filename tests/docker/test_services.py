"""docker/services.toml and its reader: one place for flags, and each service given no more than it needs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

DOCKER = Path(__file__).resolve().parent.parent.parent / "docker"
NAMES = {"postgres", "mlflow", "mlflow-login", "ray-head", "ray-worker", "driver"}


def test_the_services_are_known(services: Any) -> None:
    assert set(services.services) == NAMES


def test_placeholders_are_filled_from_places_or_from_what_is_given(services: Any) -> None:
    assert services.command("ray-worker") == [
        "ray", "start", "--block", "--address", "ray-head:6379", "--disable-usage-stats",
    ]  # fmt: skip
    assert "head2:7000" in services.command("ray-worker", {"RAY_HEAD": "head2", "RAY_PORT": "7000"})
    for name in NAMES:
        words = [*services.command(name), *services.health(name)]
        assert not [word for word in words if "$" in word], name


def test_a_native_start_runs_the_files_themselves(services: Any) -> None:
    assert services.health("mlflow", native=True) == [sys.executable, str(DOCKER / "health"), "mlflow"]
    assert services.command("driver", native=True) == ["/bin/sh", str(DOCKER / "driver")]
    assert services.command("mlflow", native=True)[0] == "mlflow"


def test_no_secret_is_on_a_command_line_or_in_a_fixed_value(services: Any, env: dict[str, str]) -> None:
    secret = {name for service in services.services.values() for name in service.secrets.values()}
    for service in services.services.values():
        text = " ".join([*service.command, *service.health, *service.environment.values()])
        assert not [name for name in secret if "${" + name in text], service.name


def test_a_worker_knows_the_cluster_s_token_and_nothing_else(services: Any, env: dict[str, str]) -> None:
    found = services.environment("ray-worker", env)
    assert [name for name, value in found.items() if value in env.values()] == ["RAY_AUTH_TOKEN"]


def test_the_administrator_is_known_to_the_server_and_to_the_login_s_maker_alone(services: Any) -> None:
    knows = {n for n, service in services.services.items() if "MLFLOW_AUTH_ADMIN_PASSWORD" in service.secrets.values()}
    assert knows == {"mlflow", "mlflow-login"}


def test_what_init_writes_is_what_services_take(services: Any, env: dict[str, str], env_file: Path) -> None:
    known = services.services.values()
    taken = {name for service in known for name in (*service.secrets.values(), *service.settings, *service.optional)}
    published = {"PUBLISH_ADDRESS", "MLFLOW_PUBLISHED_PORT", "RAY_PUBLISHED_PORT"}  # compose's own
    offered = {name for name in taken if f"\n# {name}=" in env_file.read_text()}
    assert offered == {"MLFLOW_S3_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert set(env) == taken - offered | published


def test_the_health_check_s_name_is_one_that_the_host_check_lets_in(services: Any, env: dict[str, str]) -> None:
    found = services.environment("mlflow", env)
    assert found["MLFLOW_HEALTH_HOST"] in found["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    uri = services.environment("driver", env)["MLFLOW_TRACKING_URI"]
    assert uri == f"http://{found['MLFLOW_HEALTH_HOST']}"


def test_an_empty_setting_is_left_out(services: Any, env: dict[str, str]) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "MLFLOW_S3_ENDPOINT_URL"):
        assert name not in services.environment("mlflow", env)
        assert name not in services.environment("mlflow", {**env, name: ""})
    given = services.environment("mlflow", {**env, "AWS_ACCESS_KEY_ID": "key", "MLFLOW_S3_ENDPOINT_URL": "https://s3"})
    assert given["AWS_ACCESS_KEY_ID"] == "key" and given["MLFLOW_S3_ENDPOINT_URL"] == "https://s3"


def test_missing_secrets_are_named_together(services: Any, reader: ModuleType, env: dict[str, str]) -> None:
    poor = {name: value for name, value in env.items() if name not in ("RAY_AUTH_TOKEN", "STUDY_DB_PASSWORD")}
    with pytest.raises(reader.ServicesError, match=r"ray-head: RAY_AUTH_TOKEN, STUDY_DB_PASSWORD missing.*docker/init"):
        services.environment("ray-head", poor)


def test_faulty_lines_of_an_environment_file_are_named_together(reader: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("# comment\nA=1\nB\nC='quoted'\n")
    with pytest.raises(reader.ServicesError) as raised:
        reader.read_env(file)
    assert f"{file}:3:" in str(raised.value) and f"{file}:4:" in str(raised.value)


def test_kubernetes_secrets_hold_each_service_s_own_and_no_empty_one(reader: ModuleType, env_file: Path) -> None:
    done = subprocess.run(
        [sys.executable, DOCKER / "services.py", "secrets", env_file], capture_output=True, text=True, check=True
    )
    made = {item["metadata"]["name"]: set(item["stringData"]) for item in json.loads(done.stdout)["items"]}
    assert made == {
        "sweeps-postgres": {"POSTGRES_PASSWORD", "MLFLOW_DB_PASSWORD", "STUDY_DB_PASSWORD"},
        "sweeps-mlflow": {"PGPASSWORD", "MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY"},
        "sweeps-mlflow-login": {"MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"},
        "sweeps-ray-head": {"RAY_AUTH_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "PGPASSWORD"},
        "sweeps-ray-worker": {"RAY_AUTH_TOKEN"},
        "sweeps-driver": {"RAY_AUTH_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "PGPASSWORD"},
        "sweeps-ray-token": {"auth_token"},
    }


def test_an_unknown_service_is_named_with_the_known_ones() -> None:
    done = subprocess.run([sys.executable, DOCKER / "services.py", "command", "mlfow"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "'mlfow'" in done.stderr and "ray-worker" in done.stderr
