"""Shell of docker/ passes shellcheck; Python of docker/ starts on the standard library alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DOCKER = Path(__file__).resolve().parent.parent.parent / "docker"


def scripts(*shebangs: str) -> list[Path]:
    files = [path for path in DOCKER.rglob("*") if path.is_file() and path.suffix not in (".pyc", ".toml", ".yaml")]
    return sorted(path for path in files if path.read_bytes().startswith(tuple(line.encode() for line in shebangs)))


def test_shellcheck_finds_nothing() -> None:
    found = scripts("#!/bin/sh", "#!/bin/bash")
    assert {path.name for path in found} >= {"init", "driver", "smoke", "sweep.sbatch"}
    done = subprocess.run([Path(sys.executable).parent / "shellcheck", *found], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_scripts_may_be_executed() -> None:
    found = scripts("#!")
    assert len(found) >= 6
    assert [path.name for path in found if not path.stat().st_mode & 0o111] == []


@pytest.mark.parametrize("name", ["services.py", "health", "login"])
def test_python_that_runs_outside_our_environment_needs_only_the_standard_library(name: str) -> None:
    code = f"import runpy, sys; sys.argv = [{name!r}]; runpy.run_path({str(DOCKER / name)!r}, run_name='checked')"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_docker_is_no_package() -> None:
    assert not list(DOCKER.rglob("__init__.py"))  # it would hide the package docker, which mlflow imports
