"""Runs a finished trial again, elsewhere, and compares every row and every weight with what was recorded."""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from sweeps.errors import SetupError
from trainers import attempts, checkpoint, provenance
from trainers.attempts import State, Status
from trainers.config import Execution, Trial
from trainers.errors import ConfigError, DataError
from trainers.run import run_trial
from trainers.train import Epoch, require_runnable, trial_folder

MEASURED = ("time/", "train/images_per_s", "train/peak_memory_mib")
"""Metrics of the machine, not of the trial: no two runs agree in them."""
SHORTEST = 4
"""Digits that a digest must be given with."""


@dataclass(frozen=True)
class Report:
    """What a replay found.

    Attributes:
        difference: the first one in words; empty where rows and weights are the same.
        epochs, metrics, tensors: how many were compared.
        changes: one line for each version, device or content that is another than the recorded one.
        notes: what could not be compared.
    """

    name: str
    device: str
    difference: str
    epochs: int
    metrics: int
    tensors: int
    changes: tuple[str, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.name} again on {self.device}"]
        lines += [f"  changed since: {change}" for change in self.changes] or [
            "  versions, code, device and data as recorded"
        ]
        lines += [f"  note: {note}" for note in self.notes]
        compared = f"{self.epochs} epochs of {self.metrics} metrics and {self.tensors} tensors of weights"
        lines.append(f"different: {self.difference}" if self.difference else f"same, bit for bit: {compared}")
        return "\n".join(lines)


def replay(prefix: str, state_root: Path, data_root: Path, *, device: str | None = None) -> Report:
    """Runs the finished trial whose digest starts with `prefix` in a scratch state root, up to the first difference.

    Upstream weights are those of the state root as they are. Threads are those of the first claim.

    Args:
        device: "cpu" or "cuda"; by default the recorded one. Equal bits are promised on a CPU of the recorded kind.

    Raises:
        SetupError: no such trial, several, one that is not done, or one that cannot be run here; nothing was run.
    """
    digest = find(prefix, state_root)
    status = attempts.read_status(state_root, digest)
    if status.state is not State.DONE:
        remedy = "`sweep why` tells" if status.state is State.FAILED else "let it end first"
        raise SetupError(f"trial {digest[:12]} is {status.state.value}; only a finished one can be compared: {remedy}")
    trial, execution = _recorded(state_root, digest)
    made = provenance.read(status.folder)
    place = device or str(made.get("device", "cpu"))
    if place == "cuda" and not torch.cuda.is_available():
        raise SetupError(
            f"trial {digest[:12]} ran on {made.get('device_name', 'a GPU')}, and this machine has no GPU; "
            f"give --device cpu to compare all the same, or run it where there is one"
        )
    try:
        require_runnable(trial)
    except ConfigError as error:
        commit = made.get("commit") or "an unknown commit"
        raise SetupError(*(f"trial {digest[:12]}, made with {commit}: {fault}" for fault in error.faults)) from error
    with tempfile.TemporaryDirectory(prefix="sweep-replay-") as scratch:
        return _compared(trial, execution, status, made, Path(scratch), state_root, data_root, place)


def find(prefix: str, state_root: Path) -> str:
    """The digest that starts with `prefix`.

    Raises:
        SetupError: none or several do.
    """
    if len(prefix) < SHORTEST or set(prefix) - set("0123456789abcdef"):
        raise SetupError(
            f"{prefix!r} is no digest: give at least {SHORTEST} of its 64 digits 0-9 a-f (`sweep plan --json` has them)"
        )
    known = sorted(folder.parent.name for folder in state_root.glob(f"{prefix[:2]}/*/attempts"))
    found = [digest for digest in known if digest.startswith(prefix)]
    if not found:
        raise SetupError(
            f"no trial {prefix!r} in the state root {state_root}; `sweep plan --json` lists digests, SWEEPS_STATE names the root"
        )
    if len(found) > 1:
        raise SetupError(
            f"{len(found)} trials start with {prefix!r}: {', '.join(each[:16] for each in found)}; give more digits"
        )
    return found[0]


def _recorded(state_root: Path, digest: str) -> tuple[Trial, Execution]:
    file = trial_folder(state_root, digest) / "trial.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        trial, execution = Trial.model_validate(content["trial"]), Execution.model_validate(content["execution"])
    except (OSError, ValueError, KeyError) as error:
        raise SetupError(
            f"{file} cannot be read: {error}; it may be of another version, see the run's commit"
        ) from error
    if trial.digest() != digest:
        raise SetupError(
            f"{file} describes trial {trial.digest()[:12]}, not {digest[:12]}: the file was changed, or digests are made in "
            f"another way since; check out the run's commit"
        )
    return trial, execution


def _compared(
    trial: Trial,
    execution: Execution,
    status: Status,
    made: Mapping[str, Any],
    scratch: Path,
    state_root: Path,
    data_root: Path,
    device: str,
) -> Report:
    digest = trial.digest()
    link_upstreams(trial, state_root, scratch)
    old, notes, metrics, tensors = attempts.rows(status), [], 0, 0
    difference, epoch = "", 0
    try:
        with closing(_rows(run_trial(trial, scratch, data_root, device=device, execution=execution))) as fresh:
            for number, row in fresh:
                difference = row_difference(number, old[number] if number < len(old) else None, row)
                epoch, metrics = number + 1, len(_compared_names(row))
                if difference:
                    break
        if not difference and epoch != len(old):
            difference = f"{epoch} epochs, recorded are {len(old)}"
    except DataError as error:
        raise SetupError(*(f"trial {digest[:12]}: {line}" for line in str(error).splitlines())) from error
    except Exception as error:  # whatever a trial may fail by: it did not when it was recorded
        difference = f"it failed after {epoch} epochs: {error}"
    here = attempts.read_status(scratch, digest)
    if not difference:
        recorded = trial_folder(state_root, digest) / "weights.pt"
        if recorded.exists():
            ours = checkpoint.load(trial_folder(scratch, digest) / "weights.pt")["state"]
            theirs = checkpoint.load(recorded)["state"]
            difference, tensors = weights_difference(theirs, ours), len(theirs)
        else:
            notes.append(f"{recorded} is gone: only rows were compared")
    if not made:
        notes.append("the run recorded no versions; it was made before they were")
    found = changes(made, provenance.read(here.folder)) if made else []
    name = f"trial {digest[:12]} ({trial.method} {trial.student} seed {trial.seed})"
    return Report(name, device, difference, epoch, metrics, tensors, tuple(found), tuple(notes))


def link_upstreams(trial: Trial, state_root: Path, scratch: Path) -> None:
    """Lets the scratch root see the weights of upstream trials where they are.

    Raises:
        SetupError: they are gone.
    """
    for upstream in trial.upstreams():
        attempts.heal(state_root, upstream.digest())
        file = trial_folder(state_root, upstream.digest()) / "weights.pt"
        if not file.exists():
            raise SetupError(
                f"weights of upstream trial {upstream.digest()[:12]} ({upstream.student}) are gone: {file}; run that trial first"
            )
        target = trial_folder(scratch, upstream.digest()) / "weights.pt"
        target.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(file.absolute(), target)


def _rows(epochs: Iterator[Epoch]) -> Generator[tuple[int, dict[str, float]], None, None]:
    """Number and row of each epoch, values as a journal would hold them; closed early, it ends the trial."""
    with closing(cast(Generator[Epoch, None, None], epochs)) as running:
        for epoch in running:
            yield epoch.number, json.loads(json.dumps(epoch.row))


def _compared_names(row: Mapping[str, float]) -> list[str]:
    return sorted(name for name in row if name not in ("epoch", "timestamp_ms") and not name.startswith(MEASURED))


def row_difference(epoch: int, recorded: Mapping[str, float] | None, ours: Mapping[str, float]) -> str:
    """The first metric, by name, in which two rows differ, with both values; empty where they do not."""
    if recorded is None:
        return f"epoch {epoch} was not recorded"
    for name in sorted({*_compared_names(recorded), *_compared_names(ours)}):
        old, new = recorded.get(name), ours.get(name)
        if old == new or (old is not None and new is not None and math.isnan(old) and math.isnan(new)):
            continue
        return f"epoch {epoch}, {name}: recorded {_shown(old)}, now {_shown(new)}"
    return ""


def _shown(value: float | None) -> str:
    return "nothing" if value is None else repr(value)


def weights_difference(recorded: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> str:
    """The first value, by tensor in the recorded order, whose bits differ; empty where none does."""
    if list(recorded) != list(ours):
        odd = sorted(set(recorded) ^ set(ours))
        return f"weights: {'their order' if not odd else ', '.join(odd[:3])} differs"
    for name, old in recorded.items():
        new = ours[name]
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            return f"weights, {name}: recorded {tuple(old.shape)} {old.dtype}, now {tuple(new.shape)} {new.dtype}"
        differs = (_bits(old) != _bits(new)).any(dim=1).nonzero()
        if len(differs):
            at = int(differs[0])
            values = repr(old.flatten()[at].item()), repr(new.flatten()[at].item())
            return f"weights, {name}[{at}]: recorded {values[0]}, now {values[1]}"
    return ""


def _bits(values: Tensor) -> Tensor:
    """Bytes of each element, shape (N, bytes)."""
    flat = values.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).reshape(len(flat), flat.element_size())


def changes(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What the recorded run was made with and this one was not, each as `torch 2.12.0 -> 2.13.0`."""
    if not here:
        return []
    old, new = dict(recorded["versions"]), dict(here["versions"])
    found = [
        f"{name} {old.get(name, 'absent')} -> {new.get(name, 'absent')}"
        for name in {**old, **new}
        if old.get(name) != new.get(name)
    ]
    for key, what in (
        ("commit", "commit"),
        ("patch", "uncommitted code"),
        ("device_name", "device"),
        ("data_sha256", "images"),
    ):
        if recorded[key] != here[key]:
            found.append(f"{what} {_brief(recorded[key])} -> {_brief(here[key])}")
    there, now = ("; ".join(made.get("stayed_eager", ())) or "none" for made in (recorded, here))
    if there != now:
        found.append(f"networks that were not compiled: {there} -> {now}")
    return found


def _brief(value: str) -> str:
    return re.sub(r"([0-9a-f]{12})[0-9a-f]{28,52}", r"\1", value) or "none"
