"""Files that are whole or absent: atomic writes, and loading that runs no code from the file."""

from __future__ import annotations

import hashlib
import io
import os
import uuid
import zipfile
from pathlib import Path
from typing import Any

import torch

from trainers.errors import TrialError


def replace_bytes(path: Path, content: bytes) -> None:
    """Writes `path` so that a reader sees the old content or the new, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def save(path: Path, state: dict[str, Any]) -> None:
    """Atomically writes tensors and plain values."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    replace_bytes(path, buffer.getvalue())


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """What `save` wrote. Only tensors and plain values are accepted (`weights_only=True`).

    Raises:
        TrialError: corrupt, or holds anything else.
        OSError: cannot be read.
    """
    content = path.read_bytes()
    try:
        _require_intact(content)
        state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # whatever a reader meets in a broken file: OSError, IndexError, KeyError were seen
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TrialError(f"{path.name} in {path.parent} is corrupt or not a checkpoint: {first}") from error
    if not isinstance(state, dict):
        raise TrialError(f"{path.name} in {path.parent} is not a checkpoint: it holds a {type(state).__name__}")
    return state


def _require_intact(content: bytes) -> None:
    """Compares the checksums of the archive, which torch stores but does not look at: a flipped bit would become a weight."""
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            bad = archive.testzip()
        if bad is not None:
            raise zipfile.BadZipFile(f"wrong checksum of {bad}")


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
