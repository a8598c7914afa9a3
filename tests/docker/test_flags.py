"""Flags and variables of every start line exist in the installed Ray and MLflow; the launcher's file is one that Ray takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]  # imports all of Ray's and MLflow's command lines

DOCKER = Path(__file__).resolve().parent.parent.parent / "docker"


@pytest.fixture(scope="module")
def ray_start() -> set[str]:
    """Options of `ray start`."""
    from ray.scripts.scripts import start

    return {name for parameter in start.params for name in parameter.opts}


def launcher() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DOCKER / "ray-cluster.yaml").read_text(encoding="utf-8"))
    return found


def starts() -> dict[str, list[str]]:
    """Every `ray start` outside services.toml, as words."""
    config = launcher()
    lines = {
        "launcher head": config["head_start_ray_commands"][-1],
        "launcher worker": config["worker_start_ray_commands"][-1],
    }
    script = (DOCKER / "slurm" / "sweep.sbatch").read_text(encoding="utf-8").replace("\\\n", " ")
    common = re.search(r"^common=\((.*)\)$", script, re.MULTILINE)
    head = re.search(r"^head=\((ray start --head .*)\)$", script, re.MULTILINE)
    worker = re.search(r"exec (ray start).*?ray (--address.*?) &$", script, re.MULTILINE | re.DOTALL)
    driver = re.search(r"^  (ray start .*) >&2$", (DOCKER / "driver").read_text(encoding="utf-8"), re.MULTILINE)
    assert common and head and worker and driver
    lines |= {"slurm common": f"ray start {common[1]}", "slurm head": head[1]}
    lines |= {"slurm worker": f"{worker[1]} {worker[2]}", "driver": driver[1]}
    return {name: shlex.split(line[line.index("ray start") :]) for name, line in lines.items()}


def test_every_flag_of_ray_start_exists(services: Any, ray_start: set[str]) -> None:
    commands = starts() | {name: services.command(name) for name in ("ray-head", "ray-worker")}
    assert len(commands) == 8
    for name, words in commands.items():
        assert words[:2] == ["ray", "start"], name
        flags = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert flags and flags <= ray_start, name


def test_every_ray_start_keeps_usage_to_itself(services: Any) -> None:
    commands = {name: services.command(name) for name in ("ray-head", "ray-worker")} | starts()
    without = {name for name, words in commands.items() if "--disable-usage-stats" not in words}
    assert without == {"slurm head", "slurm worker"}  # these add "${common[@]}", which has it


def test_every_start_of_ray_is_behind_a_token(services: Any) -> None:
    for name in ("ray-head", "ray-worker", "driver"):
        assert services.services[name].environment["RAY_AUTH_MODE"] == "token"
    config = launcher()
    for kind in ("head", "worker"):
        assert "export RAY_AUTH_MODE=token" in config[f"{kind}_start_ray_commands"][-1]
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "export RAY_AUTH_TOKEN RAY_AUTH_MODE=token" in (DOCKER / "slurm" / "sweep.sbatch").read_text()


def test_every_option_and_variable_of_mlflow_exists(services: Any) -> None:
    from mlflow import environment_variables
    from mlflow.cli import server

    flags = {name for parameter in server.params for name in parameter.opts}
    words = services.command("mlflow")
    assert words[:2] == ["mlflow", "server"]
    assert {word for word in words if word.startswith("--")} <= flags
    known = {str(parameter.envvar) for parameter in server.params} | set(vars(environment_variables))
    service = services.services["mlflow"]
    own = {"MLFLOW_HEALTH_HOST"}  # docker/health's
    used = {n for n in (*service.environment, *service.settings, *service.secrets) if n.startswith("MLFLOW_")} - own
    assert len(used) > 10
    assert used <= known


def test_ray_takes_the_launcher_s_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(launcher())
    validate_config(config)
    assert len(config["provider"]["worker_ips"]) == launcher()["max_workers"] == launcher()["min_workers"]


def test_no_secret_travels_with_the_code() -> None:
    assert {"docker/.env", ".git", ".sweeps"} <= set(launcher()["rsync_exclude"])
