"""What a run was made with: commit, package versions, machine."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "torchvision", "ray", "mlflow", "optuna", "pandas", "distill-sweeps")


@cache
def commit() -> str:
    """Commit of the code that is imported, with `+dirty` when files differ; empty outside a repository."""
    folder = Path(__file__).resolve().parent
    try:
        head = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "-C", str(folder), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+dirty" if dirty else "")


@cache
def tags() -> dict[str, str]:
    """Tags of every run."""
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name}=={metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return {
        "sweeps.commit": commit(),
        "sweeps.versions": f"python=={platform.python_version()} " + " ".join(versions),
        "sweeps.machine": f"{platform.system()} {platform.machine()}",
    }
