"""Pydantic's faults in our words; what is faulty is left out, so that the rest of the file is checked all the same."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from sweeps.spec._names import unknown

Model = TypeVar("Model", bound=BaseModel)

NEUTRAL: Mapping[str, Any] = {
    "title": "?",
    "paper": "unknown",
    "seeds": [0],
    "kind": "table",
    "metrics": ["?"],
    "reason": "?",
    "file": "?",
    "origin": "printed",
    "trials": 1,
}
"""Stand-ins for required keys that are missing or faulty, so that the rest of the file is checked all the same."""


def validate(kind: type[Model], raw: dict[str, Any], place: str) -> tuple[Model | None, list[str]]:
    """The model and its faults; faulty keys are dropped and the rest validated again, so that later checks see it."""
    faults: list[str] = []
    rest: Any = copy.deepcopy(raw)
    seen: list[tuple[str | int, ...]] = []
    while True:
        try:
            return kind.model_validate(rest), faults
        except ValidationError as error:
            for detail in sorted(error.errors(), key=lambda detail: -len(detail["loc"])):
                loc = detail["loc"]
                if not any(old[: len(loc)] == loc for old in seen):  # else only a consequence of what was dropped
                    faults.append(message(detail, kind, place))
                seen.append(loc)
            if not any([drop(rest, detail["loc"]) or stand_in(rest, detail) for detail in error.errors()]):
                return None, faults


def message(detail: Any, kind: type[BaseModel], place: str) -> str:
    """One fault of a pydantic validation: file, key, value and what is allowed."""
    loc = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        owner = kind if len(detail["loc"]) == 1 else None
        known = sorted(owner.model_fields) if owner else fields_at(kind, detail["loc"][:-1])
        return f"{place}: {loc}: {unknown('key', str(detail['loc'][-1]), known)}"
    if detail["type"] == "missing":
        return f"{place}: {loc}: is missing"
    text = str(detail["msg"]).removeprefix("Value error, ")
    value = detail["input"]
    shown = "" if isinstance(value, dict) else f" (got {value!r})"
    return f"{place}: {loc}: {text}{shown}"


def fields_at(kind: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    """Names of the keys allowed in the table at `loc`."""
    current: Any = kind
    for part in loc:
        if isinstance(part, str) and isinstance(current, type) and issubclass(current, BaseModel):
            models = [m for m in models_in(current.model_fields[part].annotation) if issubclass(m, BaseModel)]
            current = models[0] if models else current
    return sorted(current.model_fields)


def models_in(annotation: Any) -> list[type]:
    """Model classes inside an annotation such as `tuple[Axis, ...]` or `Search | None`."""
    if isinstance(annotation, type) and not get_args(annotation):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for part in get_args(annotation) for model in models_in(part)]


def drop(raw: Any, loc: Sequence[str | int]) -> bool:
    """Removes the entry at `loc`, or the list it stands in; False where it is not there."""
    while loc and isinstance(loc[-1], int):
        loc = loc[:-1]
    for part in loc[:-1]:
        try:
            raw = raw[part]
        except (KeyError, IndexError, TypeError):
            return False
    if isinstance(raw, dict) and loc and loc[-1] in raw:
        del raw[loc[-1]]
        return True
    return False


def stand_in(raw: Any, detail: Any) -> bool:
    """Gives a missing key its neutral value; False where there is none."""
    loc = detail["loc"]
    if detail["type"] != "missing" or loc[-1] not in NEUTRAL:
        return False
    for part in loc[:-1]:
        raw = raw[part]
    raw[loc[-1]] = NEUTRAL[loc[-1]]
    return True
