"""What a trial is made with: the code's commit and its changes since, package versions, device, content of the images."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import re
import subprocess
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from trainers import checkpoint
from trainers.data import DataSet, Split
from trainers.data._stream import Files

FILE = "made_with.json"
"""Beside the journal of every attempt."""
PATCHES = "patches"
"""Folder of the state root: one file for each state of changed code, named by its SHA-256."""
DISTRIBUTION = "distill-sweeps"
HERE = Path(__file__).resolve().parent
SENT = HERE.parent / "code.json"
"""Beside packages that were sent elsewhere without their repository (`sweep submit`): `commit` and `patch` of the sender."""


def record(state_root: Path, attempt: Path, device: torch.device, images: DataSet, *, together: int = 1) -> str:
    """Writes `made_with.json` into an attempt's folder, and the changed code, where there is any, into the state root once.

    Args:
        together: trials of the group that shares a teacher pass; 1 for a trial that is alone.

    Returns:
        SHA-256 (hex) of the images' content, see `content_sha256`.
    """
    text = patch()
    name = hashlib.sha256(text.encode()).hexdigest() if text else ""
    if text and not patch_file(state_root, name).exists():
        checkpoint.replace_bytes(patch_file(state_root, name), text.encode())
    content: dict[str, Any] = {
        "commit": commit(),
        "patch": name,
        "versions": versions(),
        "device": device.type,
        "device_name": device_name(device),
        "data_sha256": content_sha256(images),
        "together": together,
    }
    checkpoint.replace_bytes(attempt / FILE, json.dumps(content, indent=1).encode())
    return str(content["data_sha256"])


def note_eager(attempt: Path, faults: Sequence[str]) -> None:
    """Adds which networks stayed eager where compiled passes were asked for, and why."""
    content = read(attempt) | {"stayed_eager": list(faults)}
    checkpoint.replace_bytes(attempt / FILE, json.dumps(content, indent=1).encode())


def read(attempt: Path | None) -> dict[str, Any]:
    """What `record` wrote; empty where it never came to it, as in attempts of older versions, or where it cannot have written that."""
    if attempt is None:
        return {}
    try:
        content: dict[str, Any] = json.loads((attempt / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if re.fullmatch(r"([0-9a-f]{64})?", content.get("patch", "")) else {}


def patch_file(state_root: Path, name: str) -> Path:
    """Where the changes with this SHA-256 are kept.

    Raises:
        ValueError: another name, such as one that climbs out of the folder.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", name):
        raise ValueError(f"{name!r} is no SHA-256")
    return state_root / PATCHES / f"{name}.patch"


@cache
def commit() -> str:
    """Commit of the code that is imported, with `+dirty` when files differ; empty outside a repository of its own.

    Code that was sent here has the sender's.
    """
    if SENT.is_file():
        return _sent("commit")
    if _git("ls-files", "--error-unmatch", "__init__.py") is None:  # installed below somebody else's repository
        return ""
    head, dirty = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    return "" if head is None else head.strip() + ("+dirty" if dirty or patch() else "")


@cache
def patch() -> str:
    """Changes of Python and TOML files since the commit as `git apply` takes them, with new Python files; empty where none.

    Read once in a process, when its first trial starts.
    """
    if SENT.is_file():
        return _sent("patch")
    if _git("ls-files", "--error-unmatch", "__init__.py") is None:
        return ""
    top = Path((_git("rev-parse", "--show-toplevel") or "").strip())
    changes = [_git("diff", "HEAD", "--binary", "--", "*.py", "*.toml", folder=top) or ""]
    new = _git("ls-files", "--others", "--exclude-standard", "-z", "--", "*.py", folder=top) or ""
    changes += [_added(top, name) for name in sorted(filter(None, new.split("\0")))]
    return "".join(changes)


def _sent(key: str) -> str:
    return str(json.loads(SENT.read_text(encoding="utf-8"))[key])


def _added(top: Path, name: str) -> str:
    """A new text file as git shows it; empty where it cannot be read."""
    try:
        lines = (top / name).read_bytes().decode().split("\n")
    except (OSError, ValueError):
        return ""
    head = f"diff --git a/{name} b/{name}\nnew file mode 100644\n"
    whole = lines[-1] == ""  # ends in a newline, or is empty
    lines = lines[:-1] if whole else lines
    if not lines:
        return head
    body = "".join(f"+{line}\n" for line in lines) + ("" if whole else "\\ No newline at end of file\n")
    return f"{head}--- /dev/null\n+++ b/{name}\n@@ -0,0 +1,{len(lines)} @@\n{body}"


def _git(*arguments: str, folder: Path | None = None) -> str | None:
    """What git prints in `folder` (default: where this file is); None where it fails or there is none."""
    try:
        done = subprocess.run(["git", "-C", str(folder or HERE), *arguments], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.decode(errors="replace")


@cache
def versions() -> dict[str, str]:
    """Versions of Python, of this distribution and of the packages that it asks for, as installed."""
    names = [DISTRIBUTION, "numpy"]
    with contextlib.suppress(metadata.PackageNotFoundError):
        wanted = [line for line in metadata.requires(DISTRIBUTION) or [] if "extra ==" not in line]
        names += [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in wanted]
    found = {"python": platform.python_version()}
    for name in ("torch", "torchvision", *names):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def device_name(device: torch.device) -> str:
    """The GPU's name, or the processor's with the instructions that torch uses on it, which change bits."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        name = found[1] if found else name
    return f"{name} ({torch.backends.cpu.get_cpu_capability()})"


def content_sha256(images: DataSet) -> str:
    """SHA-256 (hex) over pixels and labels of all splits; over names and labels where images stay in their files."""
    digest = hashlib.sha256()
    for name, split in (("train", images.train), ("val", images.val), ("test", images.test)):
        if split is not None:
            digest.update(f"{name} {len(split)} ".encode())
            _add(digest, split)
    return digest.hexdigest()


def _add(digest: Any, split: Split) -> None:
    digest.update(split.labels.cpu().numpy().tobytes())
    if isinstance(split.images, torch.Tensor):
        digest.update(f"{tuple(split.images.shape)}".encode())
        for part in split.images.split(4096):
            digest.update(part.contiguous().cpu().numpy())
    elif isinstance(split.images, Files):
        digest.update(f"{split.images.size}".encode())
        digest.update(b"\n".join(split.images.names.tolist()))
