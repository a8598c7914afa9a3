"""The file name is the registry: methods, data sets and networks are found by listing a folder."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import sys
from functools import cache
from types import ModuleType

from trainers.errors import ConfigError


@cache
def names(package: str) -> tuple[str, ...]:
    """Names of the public modules of `trainers.<package>`, sorted; files that start with `_` are helpers."""
    folder = importlib.import_module(f"trainers.{package}")
    return tuple(sorted(m.name for m in pkgutil.iter_modules(folder.__path__) if not m.name.startswith("_")))


_OWN: set[str] = set()


def own_modules() -> tuple[str, ...]:
    """Dotted names of the user's own modules that this process has loaded, sorted."""
    return tuple(sorted(_OWN & sys.modules.keys()))


def load(package: str, name: str) -> ModuleType:
    """The module `trainers.<package>.<name>`, or the user's own module when `name` has a dot.

    Raises:
        ConfigError: no such file, or the user's module cannot be imported.
    """
    if "." in name:
        try:
            found = importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(f"cannot import module {name!r}: {error}") from error
        _OWN.add(name)
        return found
    return _ours(package, name)


@cache
def _ours(package: str, name: str) -> ModuleType:
    """A file of ours; `import_module` alone would take a fifth of the time in which a large plan is made."""
    if name not in names(package):
        raise ConfigError(unknown(package.rstrip("s") if package != "data" else "data set", name, names(package)))
    return importlib.import_module(f"trainers.{package}.{name}")


def unknown(noun: str, name: str, known: tuple[str, ...] | list[str]) -> str:
    """One message for an unknown name: what it was, what is meant, what is known."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return (
        f"unknown {noun} {name!r}{hint} known: {', '.join(known)}"
        if hint
        else f"unknown {noun} {name!r}; known: {', '.join(known)}"
    )
