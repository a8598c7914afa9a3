"""Names of the files that come with the package, and what is said of one that nobody knows."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Literal


def unknown(noun: str, name: str, known: Sequence[str]) -> str:
    """One message for an unknown name: what it was, what is probably meant, what is known."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" did you mean {close[0]!r}?" if close else ""
    return f"unknown {noun} {name!r};{hint} known: {', '.join(known)}"


def package_folder(kind: Literal["experiments", "profiles"]) -> Path:
    """Where the files that come with the package lie."""
    return Path(str(resources.files("sweeps"))) / kind


def experiment_names() -> list[str]:
    """Every experiment that comes with the package, in the order of the papers' numbering."""
    folder = package_folder("experiments")
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob("*/*.toml")]
    return sorted(names, key=natural_key)


def profile_names() -> list[str]:
    return sorted(path.stem for path in package_folder("profiles").glob("*.toml"))


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Sort key that puts fig9 before fig10."""
    parts = ["".join(group) for _, group in itertools.groupby(name, str.isdigit)]
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]
