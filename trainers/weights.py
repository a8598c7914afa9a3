"""Imported weights: files of finished networks that somebody else trained, named by their SHA-256."""

from __future__ import annotations

import logging
import shutil
import urllib.request
from http.client import HTTPException
from pathlib import Path

import torch

from trainers import checkpoint, models
from trainers.config import Upstream
from trainers.data import Info, _files
from trainers.errors import ConfigError, TrialError

log = logging.getLogger(__name__)

FOLDER = "weights"  # under the data root
STALL_S = 60  # without a byte, until a download is given up


def place(upstream: Upstream, data_root: Path) -> Path:
    """Where an imported file is, or has to be put; a relative path is one under `weights/` in the data root."""
    return data_root / FOLDER / str(upstream.weights)  # an absolute path stays one


def find(upstream: Upstream, data_root: Path) -> Path:
    """The imported file, downloaded when it is not there; it is the one that is named.

    Raises:
        TrialError: not there and not to be had, or another file.
    """
    file = place(upstream, data_root)
    if not file.exists():
        _download(upstream, file)
    found = checkpoint.file_sha256(file)
    if not found.startswith(str(upstream.sha256)):
        raise TrialError(f"{file} is not the file the trial names (sha256 {found[:12]}..., not {upstream.sha256})")
    return file


def faults(upstream: Upstream, info: Info, data_root: Path) -> list[str]:
    """What is wrong with an imported file before anything starts: not to be had, another file, weights of another network."""
    file = place(upstream, data_root)
    if not file.exists():
        return [] if upstream.url else [f"{file} is not there; put it there, or give its url"]
    try:
        content = checkpoint.load(find(upstream, data_root))
    except (TrialError, OSError) as error:
        return [str(error)]
    try:
        with torch.device("meta"):
            network = models.build(upstream.network, classes=info.classes, channels=info.channels, size=info.size)
    except ConfigError as error:
        return list(error.faults)
    return mismatches(network, content, str(file), upstream.network)


def mismatches(network: torch.nn.Module, content: dict[str, object], file: str, name: str) -> list[str]:
    """Names and shapes in which a state and a network differ, as one sentence; empty where the weights fit."""
    wanted = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in content.items() if isinstance(value, torch.Tensor)}
    optional = {key for key in wanted if key.endswith("num_batches_tracked")}  # older files lack them
    missing = sorted(wanted.keys() - found.keys() - optional)
    extra = sorted(found.keys() - wanted.keys())
    shapes = sorted(key for key in wanted.keys() & found.keys() if wanted[key] != found[key])
    parts = [f"lacks {_some(missing)}"] if missing else []
    parts += [f"has also {_some(extra)}"] if extra else []
    parts += [f"{key} is {found[key]}, not {wanted[key]}" for key in shapes[:3]]
    return [f"{file} does not hold weights of {name}: it {'; '.join(parts)}"] if parts else []


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _download(upstream: Upstream, file: Path) -> None:
    """Fetches the file; one process does, others wait.

    Raises:
        TrialError: it cannot be had, or is another file.
    """
    if upstream.url is None:
        raise TrialError(f"weights of {upstream.network} are missing: {file}; put the file there")
    try:
        with _files.one_at_a_time(file.with_name(f".{file.name}.lock")):
            if file.exists():
                return
            log.info("downloading=%s to=%s", upstream.url, file)
            with urllib.request.urlopen(upstream.url, timeout=STALL_S) as answer:
                _files.write_atomically(file, lambda out: shutil.copyfileobj(answer, out))
            if not checkpoint.file_sha256(file).startswith(str(upstream.sha256)):
                file.unlink()  # it would be in the way of the right one
                raise TrialError(f"{upstream.url} is not the file the trial names (sha256 {upstream.sha256}...)")
    except (OSError, HTTPException) as error:
        raise TrialError(
            f"weights of {upstream.network} cannot be fetched from {upstream.url}: {error}; put the file at {file} by hand"
        ) from error
