"""Records the arithmetic of method and loop files, by hand: `python tests/record_arithmetic.py [--no-arithmetic-change NAME ...]`.

A trial's digest holds the VERSION of its method and of its loop. When such a file, or a helper it computes with, changes
under the same VERSION, finished results may no longer be what the code gives. So the change has to be one of two:

- numbers change: raise VERSION in the file, then run this command;
- numbers stay (a renamed variable, a moved line): run it with `--no-arithmetic-change methods/kd.py`.

example:
  python tests/record_arithmetic.py --no-arithmetic-change methods/kd.py loops/distill.py
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "trainers"
RECORD = REPOSITORY / "tests" / "trainers" / "arithmetic.json"
LOOPS = ("distill", "datafree", "evaluate", "probe")
HELPERS = (
    "trainers.methods.",
    "trainers.synthesis.",
    "trainers.data._augment",
    "trainers.data._strong",
    "trainers.data._views",
    "trainers.dot",
    "trainers.feed",
    "trainers.passes",
    "trainers.updates",
    "trainers.seeding",
)
"""A file's arithmetic includes that of the modules with these names that it imports."""

Record = dict[str, dict[str, Any]]


def names() -> dict[str, Path]:
    """Every guarded file by its name in the record."""
    found = {f"loops/{loop}.py": PACKAGE / f"{loop}.py" for loop in LOOPS}
    found |= {
        f"methods/{file.name}": file
        for file in sorted((PACKAGE / "methods").glob("*.py"))
        if not file.name.startswith("_")
    }
    return found


def current() -> Record:
    """Version and hash of every guarded file as it is now."""
    return {name: {"version": version(file), "hash": arithmetic_hash(file)} for name, file in sorted(names().items())}


def version(file: Path) -> int:
    """The VERSION a file assigns."""
    for statement in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == "VERSION" for t in statement.targets
        ):
            return int(ast.literal_eval(statement.value))
    raise SystemExit(f"{file}: no VERSION")


def arithmetic_hash(file: Path) -> str:
    """Hash of the file and of the helpers it imports, without docstrings, comments and layout."""
    pending, seen = [file], set()
    while pending:
        each = pending.pop()
        if each not in seen:
            seen.add(each)
            pending += helpers(each)
    bodies = {each.relative_to(PACKAGE).as_posix(): body(each.read_text(encoding="utf-8")) for each in seen}
    return hashlib.sha256(json.dumps(bodies, sort_keys=True).encode()).hexdigest()[:16]


def helpers(file: Path) -> list[Path]:
    """Files of helper modules that `file` imports."""
    modules = imported(file.read_text(encoding="utf-8"))
    files = [
        REPOSITORY / Path(*module.split(".")).with_suffix(".py") for module in modules if module.startswith(HELPERS)
    ]
    return [each for each in files if each.is_file()]


@lru_cache
def imported(source: str) -> list[str]:
    """Every module that a source imports, and every name it imports from one, with dots."""
    modules: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return modules


@lru_cache
def body(source: str) -> str:
    """A module's statements as text that is the same for every Python version."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [each for each in node.body if not _is_text(each)]
    return _canonical(tree)


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _canonical(value: object) -> str:
    """Like ast.dump, which differs between versions in what it shows of empty fields."""
    if isinstance(value, ast.AST):
        fields = [
            f"{name}={_canonical(each)}"
            for name, each in ast.iter_fields(value)
            if each not in (None, []) or isinstance(value, ast.Constant)
        ]
        return f"{type(value).__name__}({', '.join(fields)})"
    if isinstance(value, list):
        return f"[{', '.join(_canonical(each) for each in value)}]"
    return repr(value)


def faults(recorded: Record, now: Record) -> list[str]:
    """What does not fit the record, each with what to do."""
    found = [f"{name} is gone; run: python tests/record_arithmetic.py" for name in recorded if name not in now]
    for name, entry in now.items():
        known = recorded.get(name)
        if known is None:
            found.append(f"{name} is new; run: python tests/record_arithmetic.py")
        elif entry["version"] < known["version"]:
            found.append(
                f"{name}: VERSION went down from {known['version']} to {entry['version']}; results of both would share digests"
            )
        elif entry["version"] > known["version"]:
            found.append(f"{name}: VERSION was raised to {entry['version']}; run: python tests/record_arithmetic.py")
        elif entry["hash"] not in known["hashes"][-1:]:
            found.append(
                f"{name} (or a helper it computes with) changed under VERSION {entry['version']}. If its numbers change, raise VERSION in it and "
                f"run: python tests/record_arithmetic.py. If not, run: python tests/record_arithmetic.py --no-arithmetic-change {name}"
            )
    return found


def updated(recorded: Record, now: Record, unchanged: Iterable[str]) -> Record:
    """The record with new files, raised versions and the named harmless changes taken in; other entries stay."""
    result: Record = {}
    for name, entry in now.items():
        known = recorded.get(name)
        if known is None or entry["version"] > known["version"]:
            result[name] = {"version": entry["version"], "hashes": [entry["hash"]]}
        elif name in unchanged and entry["version"] == known["version"] and entry["hash"] != known["hashes"][-1]:
            result[name] = {**known, "hashes": [*known["hashes"], entry["hash"]]}
        else:
            result[name] = known
    return result


def read() -> Record:
    """The record as it lies in the repository."""
    content: Record = json.loads(RECORD.read_text(encoding="utf-8"))
    return content


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 1 where something still does not fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--no-arithmetic-change",
        nargs="+",
        default=[],
        metavar="NAME",
        help="files whose change leaves every number as it was",
    )
    unchanged = parser.parse_args(argv).no_arithmetic_change
    now = current()
    unknown: Mapping[str, None] = dict.fromkeys(name for name in unchanged if name not in now)
    if unknown:
        parser.error(f"unknown file {', '.join(unknown)}; known: {', '.join(now)}")
    recorded = updated(read() if RECORD.exists() else {}, now, unchanged)
    RECORD.write_text(json.dumps(recorded, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    left = faults(recorded, now)
    sys.stderr.write("".join(f"{fault}\n" for fault in left))
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
