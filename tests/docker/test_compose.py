"""compose.yaml says what services.toml says, and publishes two pages to this machine alone."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

DOCKER = Path(__file__).resolve().parent.parent.parent / "docker"
SERVICE_OF = {"ray-worker-gpu": "ray-worker"}  # in compose -> in services.toml, where the names differ


def test_every_service_is_composed_and_no_other(compose: dict[str, Any], services: Any) -> None:
    assert {SERVICE_OF.get(name, name) for name in compose["services"]} == set(services.services)


def test_commands_and_health_checks_are_the_shared_ones(compose: dict[str, Any], services: Any) -> None:
    for name, service in compose["services"].items():
        known = SERVICE_OF.get(name, name)
        # the driver's is its image's entrypoint, which takes the words of `run`
        assert service.get("command", ["sweeps-driver"]) == services.command(known), name
        health = services.health(known)
        assert service["healthcheck"] == {"disable": True} if not health else True
        if health:
            assert service["healthcheck"]["test"] == ["CMD", *health], name


def test_variables_are_the_shared_ones_and_none_besides(
    compose: dict[str, Any], services: Any, env: dict[str, str]
) -> None:
    for name, service in compose["services"].items():
        known = services.services[SERVICE_OF.get(name, name)]
        given = {variable: value for variable, value in service["environment"].items() if value}
        assert given == services.environment(known.name, env), name
        assert set(service["environment"]) == {*known.environment, *known.settings, *known.optional, *known.secrets}, (
            name
        )


def test_no_password_is_written_down_nor_has_a_default() -> None:
    text = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    lines = re.findall(r"^\s*(\w*(?:PASSWORD|TOKEN|SECRET_KEY)): *(.*)$", text, re.MULTILINE)
    assert len(lines) >= 12
    for variable, value in lines:
        assert re.fullmatch(r"\$\{\w+:\?run docker/init first\}", value), variable


def test_two_pages_are_published_on_loopback(compose: dict[str, Any]) -> None:
    ports = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert ports == {"mlflow": ["127.0.0.1:5000:5000"], "ray-head": ["127.0.0.1:8265:8265"]}
    raw = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))["services"]
    for name in ports:
        assert raw[name]["ports"][0].startswith("${PUBLISH_ADDRESS:-127.0.0.1}:")


def test_the_database_is_seen_by_those_who_use_it(compose: dict[str, Any]) -> None:
    assert compose["networks"]["database"] == {"internal": True}
    near = {name for name, service in compose["services"].items() if "database" in service["networks"]}
    assert near == {"postgres", "mlflow", "ray-head", "driver"}
    assert compose["services"]["postgres"]["networks"] == ["database"]


def test_nobody_may_gain_rights(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "network_mode", "pid", "cap_add", "devices"} & set(service), name
        assert "docker.sock" not in str(service.get("volumes")), name


def test_trials_share_one_state_root(compose: dict[str, Any], services: Any) -> None:
    for name in ("ray-head", "ray-worker", "ray-worker-gpu", "driver"):
        assert compose["services"][name]["volumes"] == [f"state:{services.places['STATE']}"], name


def test_gpus_are_asked_for_under_their_profile_alone(compose: dict[str, Any]) -> None:
    with_gpu = {name: service for name, service in compose["services"].items() if "deploy" in service}
    assert list(with_gpu) == ["ray-worker-gpu"]
    assert with_gpu["ray-worker-gpu"]["profiles"] == ["gpu"]
    devices = with_gpu["ray-worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]


def test_images_are_pinned(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert re.search(r":\d+\.\d+(\.\d+)?(-bookworm)?$", service["image"]), name


def compose_config(*words: str | Path) -> subprocess.CompletedProcess[str]:
    known = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    return subprocess.run(
        ["docker-compose", "-f", DOCKER / "compose.yaml", *words], capture_output=True, text=True, env=known, cwd="/"
    )


@pytest.mark.system
def test_docker_compose_takes_the_file(compose: dict[str, Any], env_file: Path) -> None:
    done = compose_config("--env-file", env_file, "config")
    assert done.returncode == 0, done.stderr
    read = yaml.safe_load(done.stdout)
    assert set(read["services"]) == set(compose["services"])
    for name, service in compose["services"].items():
        assert read["services"][name].get("command") == service.get("command"), name
        told = {variable: str(value).lower() for variable, value in read["services"][name]["environment"].items()}
        assert told == {variable: str(value).lower() for variable, value in service["environment"].items()}, name


@pytest.mark.system
def test_an_s3_store_is_handed_on_where_it_is_set(env_file: Path, tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text(env_file.read_text() + "MLFLOW_S3_ENDPOINT_URL=https://s3.example.org\nAWS_ACCESS_KEY_ID=key\n")
    read = yaml.safe_load(compose_config("--env-file", file, "config").stdout)["services"]["mlflow"]["environment"]
    assert (read["MLFLOW_S3_ENDPOINT_URL"], read["AWS_ACCESS_KEY_ID"]) == ("https://s3.example.org", "key")
    assert read["AWS_DEFAULT_REGION"] is None  # left out of the container


@pytest.mark.system
def test_without_an_environment_file_compose_says_what_to_run(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("")
    done = compose_config("--env-file", tmp_path / "empty", "config")
    assert done.returncode != 0 and "run docker/init first" in done.stderr
