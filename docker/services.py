#!/usr/bin/env python3
"""Reads services.toml: command, environment and secrets of each service, for tests, native starts and Kubernetes' Secrets.

    python docker/services.py command mlflow
    python docker/services.py secrets docker/.env | kubectl apply -f -

Needs the standard library only (Python 3.11 or later).
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import Any

FOLDER = Path(__file__).resolve().parent
NAMESPACE = "distill-sweeps"
NATIVE = {"sweeps-health": "health", "sweeps-login": "login", "sweeps-driver": "driver"}


class ServicesError(ValueError):
    """A faulty environment file or an unknown name; the message says which and what to do."""


@dataclass(frozen=True)
class Service:
    """One service as services.toml declares it.

    Attributes:
        name: of the table, which is the service's name in compose and Kubernetes.
        command: what runs, placeholders not filled.
        health: exits 0 when the service is well; empty for one that ends by itself.
        environment: variables with a value, placeholders not filled.
        settings: variables taken from the environment file, where they are set there.
        secrets: variable in the service -> name in the environment file.
        optional: secrets under their own name, where they are set in the environment file.
    """

    name: str
    command: tuple[str, ...]
    health: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    secrets: Mapping[str, str] = field(default_factory=dict)
    optional: tuple[str, ...] = ()


@dataclass(frozen=True)
class Services:
    """All services and the places they find each other at.

    Attributes:
        places: default value of each placeholder.
        services: by name.
    """

    places: Mapping[str, str]
    services: Mapping[str, Service]

    def command(self, name: str, places: Mapping[str, str] | None = None, *, native: bool = False) -> list[str]:
        """Command line of a service; `places` replaces defaults, `native` names our own programs by their file."""
        return self._filled(self.services[name].command, places, native)

    def health(self, name: str, places: Mapping[str, str] | None = None, *, native: bool = False) -> list[str]:
        """Command line of a service's health check, as `command`."""
        return self._filled(self.services[name].health, places, native)

    def environment(
        self, name: str, file: Mapping[str, str], places: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """Variables of a service with their values, secrets included.

        Args:
            name: the service.
            file: the environment file's content (`read_env`).
            places: replace defaults of `places`.

        Raises:
            ServicesError: secrets that the file lacks, all of them in one message.
        """
        service = self.services[name]
        known = {**self.places, **(places or {})}
        found = {variable: Template(value).substitute(known) for variable, value in service.environment.items()}
        found |= {variable: file[variable] for variable in (*service.settings, *service.optional) if file.get(variable)}
        missing = [source for source in service.secrets.values() if not file.get(source)]
        if missing:
            raise ServicesError(
                f"{name}: {', '.join(missing)} missing in the environment file; make one with docker/init"
            )
        return found | {variable: file[source] for variable, source in service.secrets.items()}

    def _filled(self, words: tuple[str, ...], places: Mapping[str, str] | None, native: bool) -> list[str]:
        known = {**self.places, **(places or {})}
        filled = [Template(word).substitute(known) for word in words]
        if native and filled and filled[0] in NATIVE:
            file = FOLDER / NATIVE[filled[0]]
            shell = file.read_text(encoding="utf-8").startswith("#!/bin/sh")
            filled[0:1] = ["/bin/sh" if shell else sys.executable, str(file)]
        return filled


def load(file: Path = FOLDER / "services.toml") -> Services:
    """Reads the table of services."""
    tables: dict[str, dict[str, Any]] = tomllib.loads(file.read_text(encoding="utf-8"))
    places = tables.pop("places")
    services = {
        name: Service(
            name=name,
            command=tuple(table["command"]),
            health=tuple(table.get("health", ())),
            environment=table.get("environment", {}),
            settings=tuple(table.get("settings", ())),
            secrets=table.get("secrets", {}),
            optional=tuple(table.get("optional", ())),
        )
        for name, table in tables.items()
    }
    return Services(places, services)


def read_env(file: Path) -> dict[str, str]:
    """Content of an environment file as docker/init writes it: NAME=value, one a line, no quotes; # starts a comment line.

    Raises:
        ServicesError: a line of another form, each named with its number.
    """
    values: dict[str, str] = {}
    faults = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.isidentifier() or value[:1] in ("'", '"'):
            faults.append(f"{file}:{number}: must be NAME=value without quotes")
        values[name] = value
    if faults:
        raise ServicesError("; ".join(faults))
    return values


def secrets(services: Services, file: Mapping[str, str], namespace: str = NAMESPACE) -> dict[str, Any]:
    """Kubernetes Secrets `sweeps-<service>`, each with the variables of its service and no others.

    KubeRay reads the cluster's token from a Secret of its own, `sweeps-ray-token`, under the key `auth_token`.
    """
    contents: dict[str, dict[str, str]] = {}
    for service in services.services.values():
        if service.secrets:
            values = services.environment(service.name, file)
            named = (*service.secrets, *service.optional)
            contents[f"sweeps-{service.name}"] = {name: values[name] for name in named if name in values}
    contents["sweeps-ray-token"] = {"auth_token": file["RAY_AUTH_TOKEN"]}
    items = [
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace},
            "type": "Opaque",
            "stringData": content,
        }
        for name, content in contents.items()
    ]
    return {"apiVersion": "v1", "kind": "List", "items": items}


def main(argv: list[str] | None = None) -> int:
    """Prints what was asked for; exit 2 on a fault."""
    parser = argparse.ArgumentParser(prog="services.py", description="What services.toml says of a service.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, text in (("command", "its command line"), ("health", "its health check")):
        verbs.add_parser(verb, help=text).add_argument("service")
    kubernetes = verbs.add_parser("secrets", help="Kubernetes Secrets, for `kubectl apply -f -`")
    kubernetes.add_argument("file", type=Path, help="environment file that docker/init wrote")
    arguments = parser.parse_args(argv)
    services = load()
    try:
        if arguments.verb == "secrets":
            text = json.dumps(secrets(services, read_env(arguments.file)), indent=1)
        elif arguments.service not in services.services:
            known = ", ".join(sorted(services.services))
            raise ServicesError(f"unknown service {arguments.service!r}; known: {known}")
        else:
            made = services.command if arguments.verb == "command" else services.health
            text = shlex.join(made(arguments.service))
    except (ServicesError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
