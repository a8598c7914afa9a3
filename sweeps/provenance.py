"""Tags of a run that say what it was made with: by the trial's own attempt, where that has written it down."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from trainers import provenance


@cache
def tags() -> dict[str, str]:
    """Of every run that this process makes."""
    return {
        "sweeps.commit": provenance.commit(),
        "sweeps.versions": _joined(provenance.versions()),
        "sweeps.machine": f"{platform.system()} {platform.machine()}",
    }


def tags_of(attempt: Path | None) -> dict[str, str]:
    """What the worker of an attempt wrote down; empty where it wrote nothing."""
    made = provenance.read(attempt)
    if not made:
        return {}
    return {
        "sweeps.commit": made["commit"],
        "sweeps.patch": made["patch"],
        "sweeps.versions": _joined(made["versions"]),
        "sweeps.device": made["device"],
        "sweeps.device_name": made["device_name"],
        "sweeps.data_sha256": made["data_sha256"],
        **({"sweeps.stayed_eager": "\n".join(made["stayed_eager"])} if "stayed_eager" in made else {}),
    }


def stayed_eager(attempt: Path | None) -> list[str]:
    """Networks that were not compiled though that was asked for, and why."""
    return [str(each) for each in provenance.read(attempt).get("stayed_eager", ())]


def patch_of(state_root: Path, attempt: Path | None) -> str:
    """Changes of the code that an attempt ran with, since its commit; empty where there were none."""
    name = provenance.read(attempt).get("patch", "")
    file = provenance.patch_file(state_root, name) if name else None
    return file.read_text(encoding="utf-8") if file is not None and file.exists() else ""


def _joined(versions: Mapping[str, str]) -> str:
    return " ".join(f"{name}=={version}" for name, version in versions.items())
