"""What the checks of docker/ share: its files parsed, an environment file made by docker/init, and services.py as a module."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
DOCKER = ROOT / "docker"


@pytest.fixture(scope="session")
def reader() -> ModuleType:
    """docker/services.py, which is no package."""
    spec = importlib.util.spec_from_file_location("docker_services", DOCKER / "services.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def services(reader: ModuleType) -> Any:
    """What services.toml says."""
    return reader.load()


@pytest.fixture(scope="session")
def env_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment file."""
    file = tmp_path_factory.mktemp("init") / ".env"
    subprocess.run([DOCKER / "init", file], check=True, capture_output=True)
    return file


@pytest.fixture(scope="session")
def env(reader: ModuleType, env_file: Path) -> dict[str, str]:
    """Its content."""
    found: dict[str, str] = reader.read_env(env_file)
    return found


@pytest.fixture(scope="session")
def compose(env: dict[str, str]) -> dict[str, Any]:
    """compose.yaml with its placeholders filled from the environment file."""

    def fill(match: re.Match[str]) -> str:
        name, rule, text = match.groups()
        value = env.get(name, "")
        if rule == "?":
            assert value, f"compose.yaml wants {name}, which docker/init does not write"
        return value or (text if rule == "-" else "")

    text = (DOCKER / "compose.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{(\w+)(?::([?-])([^}]*))?\}", fill, text))
    return found


@pytest.fixture(scope="session")
def manifests() -> list[dict[str, Any]]:
    """All documents of docker/kubernetes."""
    files = sorted((DOCKER / "kubernetes").glob("*.yaml"))
    assert len(files) == 7
    return [document for file in files for document in yaml.safe_load_all(file.read_text(encoding="utf-8"))]


def options(command: list[str]) -> dict[str, str]:
    """Options of a command line by name, without the leading dashes; one without a value maps to `true`."""
    found: dict[str, str] = {}
    words = list(command)
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if not equals:
            value = words.pop(0) if words and not words[0].startswith("-") else "true"
        found[name] = value
    return found
