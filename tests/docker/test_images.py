"""The Dockerfile and what its builds get to see."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import docker.utils as docker_build  # comes with mlflow; our folder of that name must not hide it
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
DOCKERFILE = ROOT / "docker" / "Dockerfile"


def instructions() -> dict[str, list[tuple[str, str]]]:
    """Instructions of each stage, in order, continued lines joined; a stage's own FROM is the first."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    stages: dict[str, list[tuple[str, str]]] = {}
    for line in filter(str.strip, text.splitlines()):
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            stage = rest.split(" AS ")[1]
            stages[stage] = []
        stages[stage].append((word, rest.strip()))
    return stages


def lineage(stage: str) -> list[tuple[str, str]]:
    """All instructions that make a stage's image, those of the stages it is built from first."""
    stages = instructions()
    found = stages[stage]
    base = found[0][1].split(" AS ")[0]
    return (lineage(base) if base in stages else []) + found


FINAL = ["worker", "driver", "mlflow"]


def test_hadolint_finds_nothing() -> None:
    program = Path(sys.executable).parent / "hadolint"
    done = subprocess.run([program, "--no-color", DOCKERFILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_all_targets_are_there() -> None:
    assert set(FINAL) <= set(instructions())


def test_bases_are_pinned_by_a_full_version() -> None:
    stages = instructions()
    bases = {lines[0][1].split(" AS ")[0] for lines in stages.values()} - set(stages)
    assert bases == {"python:3.11.14-slim-bookworm"}


@pytest.mark.parametrize("stage", FINAL)
def test_a_final_image_runs_as_a_number_that_is_not_root(stage: str) -> None:
    users = [rest for word, rest in lineage(stage) if word == "USER"]
    assert users and re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[-1])


@pytest.mark.parametrize("stage", FINAL)
def test_a_final_image_installs_nothing_itself(stage: str) -> None:
    runs = " ".join(rest for word, rest in lineage(stage) if word == "RUN")
    assert not re.search(r"\b(pip|apt-get|apk|curl|wget|gcc|git)\b", runs)
    copied = [rest for word, rest in lineage(stage) if word == "COPY" and "--from=" in rest]
    assert [rest.split()[1:] for rest in copied] == [["/opt/venv", "/opt/venv"]]


@pytest.mark.parametrize("stage", FINAL)
def test_no_secret_is_built_in(stage: str) -> None:
    words = [rest for word, rest in lineage(stage) if word in ("ENV", "ARG", "LABEL")]
    assert not re.search(r"PASSWORD|TOKEN|SECRET|ACCESS_KEY", " ".join(words))


@pytest.mark.parametrize("stage", FINAL)
def test_labels_say_what_an_image_is_and_of_which_code(stage: str) -> None:
    labels = " ".join(rest for word, rest in lineage(stage) if word == "LABEL")
    for name in ("title", "description", "version", "revision"):
        assert f"org.opencontainers.image.{name}=" in labels
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None and ("ARG", f"VERSION={version[1]}") in lineage(stage)


@pytest.mark.parametrize(("stage", "service"), [("worker", "ray-worker"), ("mlflow", "mlflow"), ("driver", "driver")])
def test_an_image_starts_and_is_judged_as_its_service(services: Any, stage: str, service: str) -> None:
    last = dict(lineage(stage))
    started = json.loads(last["ENTRYPOINT"] if stage == "driver" else last["CMD"])
    assert started == services.command(service)
    check = last["HEALTHCHECK"].partition("CMD ")[2]
    assert json.loads(check) == services.health(service)


def test_versions_are_those_of_the_constraints() -> None:
    installs = [
        rest for lines in instructions().values() for word, rest in lines if word == "RUN" and "pip install" in rest
    ]
    assert len(installs) == 4
    for rest in installs:
        assert "-c constraints.txt" in rest or "--no-deps" in rest
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().split()}
    wanted = re.findall(r"^([\w-]+)", (ROOT / "docker/mlflow/requirements.txt").read_text(), re.MULTILINE)
    assert {"mlflow", "psycopg", "boto3"} == set(wanted) and set(wanted) <= pinned


def context(root: Path) -> set[str]:
    """Files that a build of `root` sends, by Docker's own reading of .dockerignore."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    found = docker_build.exclude_paths(str(root), patterns, dockerfile="docker/Dockerfile")
    return {name for name in found if (root / name).is_file()}


def test_everything_that_is_copied_is_in_the_context_and_it_is_small() -> None:
    sent = context(ROOT)
    copies = [
        rest for lines in instructions().values() for word, rest in lines if word == "COPY" and "--from" not in rest
    ]
    sources = [source for rest in copies for source in re.sub(r"--\w+=\S+ ", "", rest).split()[:-1]]
    assert len(sources) >= 9
    for source in sources:
        assert [name for name in sent if name == source or name.startswith(f"{source}/")], source
    assert sum((ROOT / name).stat().st_size for name in sent) < 5_000_000


def test_secrets_history_and_results_stay_out_of_the_context(tmp_path: Path) -> None:
    kept = [
        "constraints.txt",
        "trainers/a.py",
        "sweeps/experiments/p/x.toml",
        "docker/health",
        "docker/mlflow/basic_auth.ini",
    ]
    left = [
        "docker/.env", ".env", "docker/mlflow/.env.old", "sweeps/.env", ".git/config", ".sweeps/state/x", "trainers/.sweeps/x",
        "paper/t.md", "tests/t.py", "docker/compose.yaml", "docker/init", "trainers/__pycache__/a.pyc", "my-data/x.png",
    ]  # fmt: skip
    for name in (*kept, *left):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert context(tmp_path) == set(kept)
