"""Finds and reads experiment and profile files, and tells every fault of one in one go."""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sweeps.errors import SpecError
from sweeps.spec._cells import Experiment
from sweeps.spec._checks import keep_faults, race_faults, repeated_cells, setting_faults, structure_faults
from sweeps.spec._models import ExperimentFile, Profile
from sweeps.spec._names import experiment_names, package_folder, profile_names, unknown
from sweeps.spec._validation import validate


def find(patterns: Sequence[str]) -> list[str]:
    """Experiment names for names, globs, `all` and paths of the user's own files; globs and `all` leave searches out.

    Raises:
        SpecError: a pattern that matches nothing.
    """
    known = experiment_names()
    found: list[str] = []
    faults = []
    for pattern in patterns:
        if pattern.endswith(".toml") or pattern in known:
            hits = [pattern]
        else:
            glob = "*" if pattern == "all" else pattern
            hits = [name for name in known if fnmatch.fnmatchcase(name, glob) and load(name).file.search is None]
        if not hits:
            faults.append(unknown("experiment", pattern, known))
        found += [hit for hit in hits if hit not in found]
    if faults:
        raise SpecError(*faults)
    return found


def load_profile(name: str) -> Profile:
    """The profile file `name`, or the one at a path that ends in .toml.

    Raises:
        SpecError: unknown profile, or any fault in its file.
    """
    path = Path(name) if name.endswith(".toml") else package_folder("profiles") / f"{name}.toml"
    if not path.is_file():
        raise SpecError(
            not_a_file(path, "profile") if name.endswith(".toml") else unknown("profile", name, profile_names())
        )
    place = name if name.endswith(".toml") else f"profiles/{name}.toml"
    raw = read_toml(path, place)
    model, faults = validate(Profile, raw, place)
    if model is None or faults:
        raise SpecError(*faults)
    faults += [fault for rule in model.when for fault in setting_faults(rule.set, f"{place}: when.set")]
    if faults:
        raise SpecError(*faults)
    return model.model_copy(update={"name": path.stem, "given": name})


def load(name: str, profile: Profile | None = None) -> Experiment:
    """The experiment `paper/figure`, or the file at a path that ends in .toml, with what `profile` keeps of it.

    Raises:
        SpecError: unknown experiment, or every fault of its file.
    """
    experiment, faults = read(name, profile)
    if experiment is None or faults:
        raise SpecError(*faults)
    return experiment


def read(name: str, profile: Profile | None = None) -> tuple[Experiment | None, list[str]]:
    """As `load`, but returns what could be understood beside the faults, so that later checks can add theirs."""
    own = name.endswith(".toml")
    path = Path(name) if own else package_folder("experiments") / f"{name}.toml"
    place = name if own else f"{name}.toml"
    if not path.is_file():
        return None, [not_a_file(path, "experiment") if own else unknown("experiment", name, experiment_names())]
    try:
        raw = read_toml(path, place)
    except SpecError as error:
        return None, list(error.faults)
    model, faults = validate(ExperimentFile, raw, place)
    if model is None:
        return None, faults
    faults += structure_faults(model, place)
    kept: dict[str, list[str]] = {}
    named = f"{model.paper}/{path.stem}" if own else name
    if profile is not None:
        kept = dict(profile.keep.get(named, {}))
        faults += keep_faults(model, kept, f"{profile.place}: keep {named}")
        if model.search is not None:
            scaled = model.search.model_copy(update=profile.search.model_dump(exclude_none=True))
            model = model.model_copy(update={"search": scaled})
    text = path.read_text(encoding="utf-8")
    experiment = Experiment(named, model, text, str(path), kept)
    if not faults:
        faults += repeated_cells(experiment, place)
        for seeds in dict.fromkeys(cell.seeds for cell in experiment.cells if cell.seeds is not None):
            faults += race_faults(model.search, seeds, f"{place}: seeds of a cell")
    return experiment, faults


def not_a_file(path: Path, noun: str) -> str:
    """Message for the path of one's own file that is none."""
    return f"{path}: {f'is a folder, not a {noun} file' if path.is_dir() else f'no such {noun} file'}"


def read_toml(path: Path, place: str) -> dict[str, Any]:
    """The parsed file.

    Raises:
        SpecError: unreadable, or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{place}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{place}: is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"{place}: not valid TOML: {error}") from error
