"""docker/README.md: the four ways in, each with what to look at when it fails, and nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
TEXT = (ROOT / "docker" / "README.md").read_text(encoding="utf-8")


def test_each_way_in_has_commands_and_a_table_of_what_to_look_at() -> None:
    sections = re.split(r"^## ", TEXT, flags=re.MULTILINE)
    ways = [section for section in sections if re.match(r"\d\. ", section)]
    assert len(ways) == 4
    for way in ways:
        assert "```" in way and "When it does not come up" in way
        table = way.partition("When it does not come up")[2]
        assert len(re.findall(r"^\| (?!seen|---)", table, re.MULTILINE)) >= 4, way[:30]


def test_every_file_it_names_is_there() -> None:
    named = set(re.findall(r"\bdocker/[\w./-]*[\w]", TEXT)) - {"docker/.env"}
    named |= {f"docker/{link}" for link in re.findall(r"\]\(([\w./-]+)\)", TEXT)}
    assert len(named) >= 9
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_what_it_says_of_variables_holds(services: Any, env: dict[str, str]) -> None:
    own = {"SWEEPS_VENV", "SWEEPS_HEAD_IP", "SWEEPS_REQUEUE", "RAY_ADDRESS"}  # sweep.sbatch's, and a laptop's
    named = set(re.findall(r"`(?:export )?((?:SWEEPS|MLFLOW|RAY|POSTGRES|TORCH)_[A-Z_]+)\b", TEXT))
    used = {name for s in services.services.values() for name in (*s.environment, *s.settings, *s.secrets, *s.optional)}
    script = (ROOT / "docker" / "slurm" / "sweep.sbatch").read_text(encoding="utf-8")
    script += (ROOT / "sweeps" / "jobs.py").read_text(encoding="utf-8")
    assert named and named <= used | set(env) | {name for name in own if name in script} | {"TORCH_CUDA"}
