"""What a submitted sweep takes along: our three packages, the user's files and modules; and how it starts on the cluster.

    code.json               commit and changes of the code, as the sender's machine records them
    trainers/ sweeps/ ...   the packages
    given/<n>/<name>.toml   experiment and profile files of the user's own
    modules/<package>/      what those name as `module`

Ray unpacks it on every node and puts it first on Python's path, so that driver and trials run the sender's code.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

from sweeps.errors import SetupError

ROOT = Path(__file__).resolve().parent.parent
"""Where the packages are that run now: on a cluster, the unpacked parcel."""
PACKAGES = ("trainers", "sweeps", "analysis")
CODE, GIVEN, MODULES = "code.json", "given", "modules"
MOST_MIB = 32
"""Of the user's modules: code is small, and data belongs into the cluster's data root."""


# --- on the sender's machine -----------------------------------------------------------------------------------------


def pack(folder: Path, files: Sequence[str], modules: Sequence[str]) -> dict[str, str]:
    """Fills `folder`. Hidden files, such as `.env`, stay behind.

    Args:
        files: paths of experiment and profile files.
        modules: dotted names that those files use.

    Returns:
        Each of `files` -> its name in the parcel.

    Raises:
        SetupError: the modules are too large, or a link in them leads elsewhere.
    """
    from trainers import provenance

    for name in PACKAGES:
        _copy(ROOT / name, folder / name)
    sent = {"commit": provenance.commit(), "patch": provenance.patch()}
    (folder / CODE).write_text(json.dumps(sent), encoding="utf-8")
    for top, place in sorted(_packages_of(modules).items()):
        _copy(place, folder / MODULES / top)
    _require_small(folder / MODULES)
    names: dict[str, str] = {}
    for number, file in enumerate(dict.fromkeys(files)):
        names[file] = f"{GIVEN}/{number}/{Path(file).name}"
        target = folder / names[file]
        target.parent.mkdir(parents=True)
        shutil.copyfile(file, target)
    return names


def _packages_of(modules: Sequence[str]) -> dict[str, Path]:
    """The user's own packages by name: those that hold `modules`, and what was loaded from beside them.

    What is installed is left out: the cluster has to have it, as it has torch.
    """
    found = {top: place for top in _tops(modules) if (place := _own_place(sys.modules[top])) is not None}
    beside = {place.parent for place in found.values()}
    for name, module in list(sys.modules.items()):
        place = None if "." in name or name in (*PACKAGES, "__main__") else _own_place(module)
        if place is not None and place.parent in beside:
            found[name] = place
    return found


def _tops(modules: Iterable[str]) -> set[str]:
    return {name.split(".")[0] for name in modules} - set(PACKAGES)


def _own_place(module: ModuleType) -> Path | None:
    """Folder or file of a module; None for one that is installed or built in."""
    paths = [*getattr(module, "__path__", ())] or [getattr(module, "__file__", None) or ""]
    place = Path(paths[0]).resolve()
    standard = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib")}
    installed = {"site-packages", "dist-packages"} & set(place.parts)
    own = bool(paths[0]) and not installed and not any(place.is_relative_to(folder) for folder in standard)
    return place if own and place.exists() else None


def _copy(source: Path, target: Path) -> None:
    """A file, or a folder's files without hidden and compiled ones."""
    if source.is_file():
        target = target.with_suffix(source.suffix)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        return
    for folder, folders, files in os.walk(source):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__pycache__")
        here = Path(folder)
        for name in sorted(files):
            file = here / name
            if name.startswith(".") or file.suffix == ".pyc":
                continue
            if not file.resolve().is_relative_to(source):
                raise SetupError(f"{file} is a link that leads out of {source}; put a copy there, or remove it")
            if file.is_file():
                copy = target / file.relative_to(source)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, copy)


def _require_small(folder: Path) -> None:
    sizes = {file: file.stat().st_size for file in folder.rglob("*") if file.is_file()}
    if sum(sizes.values()) > MOST_MIB * 2**20:
        largest = max(sizes, key=lambda file: sizes[file])
        raise SetupError(
            f"your modules hold {sum(sizes.values()) / 2**20:.0f} MiB, allowed are {MOST_MIB}; the largest file is "
            f"{largest.relative_to(folder)} with {sizes[largest] / 2**20:.0f} MiB; data belongs into the cluster's SWEEPS_DATA"
        )


# --- on the cluster --------------------------------------------------------------------------------------------------


def add_modules() -> None:
    """Puts the user's modules that came along, if any did, at the end of Python's path, so that they hide nothing."""
    folder = str(ROOT / MODULES)
    if os.path.isdir(folder) and folder not in sys.path:
        sys.path.append(folder)


def place(environment: Mapping[str, str]) -> Path:
    """Where a submitted sweep works: beside the cluster's state root, which outlives the job.

    Raises:
        SetupError: the cluster names no state root.
    """
    state = environment.get("SWEEPS_STATE")
    if not state:
        raise SetupError(
            "SWEEPS_STATE is not set on the cluster's head: results would be lost with the job; "
            "start Ray there with SWEEPS_STATE on a folder that all nodes share"
        )
    return Path(state).absolute().parent


def main(words: Sequence[str]) -> int:
    """Runs `sweep` with `words` as the job's entrypoint; a job that is stopped ends as by Ctrl-C."""
    from sweeps import cli

    signal.signal(signal.SIGINT, signal.default_int_handler)  # Ray's processes may have it ignored
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    words = [str(ROOT / word) if (ROOT / GIVEN) in (ROOT / word).parents else word for word in words]
    add_modules()
    try:
        folder = place(os.environ)
        folder.mkdir(parents=True, exist_ok=True)
    except (SetupError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    with contextlib.chdir(folder):
        return cli.main([*words])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
