"""What finished networks say to images that are always shown alike: computed once, kept beside the trials, read by all others."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainers import checkpoint, provenance
from trainers.config import Execution, Upstream, canonical_json
from trainers.data import DataSet, Split
from trainers.errors import TrialError

logger = logging.getLogger(__name__)

FOLDER = "answers"
"""Of the state root; whatever lies there can be deleted at any time."""
LIMIT_BYTES = 4 * 2**30
"""Beyond it those that nobody has read for longest go."""


class Answers:
    """Logits and features of frozen networks on whole splits, without augmentation, on disk.

    A file is named by the SHA-256 of all that decides its bits: weights, pixels, what is computed and by which version, device,
    PyTorch, threads and memory format. So a trial that reads one goes on with the bits that it would have computed.

    Args:
        folder: None keeps nothing.
        conditions: what decides bits beside weights, images and the computation itself.
    """

    def __init__(self, folder: Path | None = None, conditions: Mapping[str, Any] | None = None) -> None:
        self._folder = folder
        self._conditions = dict(conditions or {})

    @classmethod
    def of(cls, state_root: Path, execution: Execution, device: torch.device, images_sha256: str) -> Answers:
        """Those of one state root, under the conditions of one trial.

        Of its `Execution` only threads and memory format count: whole splits are shown to the network itself, eagerly.

        Args:
            images_sha256: of the content of its data set; empty where that is not known for sure, and nothing is kept.
        """
        conditions = {
            "execution": execution.model_dump(mode="json", include={"threads", "memory_format"}),
            "device": provenance.device_name(device),
            "torch": str(torch.__version__),
            "images": images_sha256,
        }
        return cls(state_root / FOLDER if images_sha256 else None, conditions)

    def once(
        self, what: Mapping[str, Any], network: Upstream, images: DataSet, split: Split, make: Callable[[], Tensor]
    ) -> Tensor:
        """What `make` gives, read from disk where somebody has made it before.

        Args:
            what: names the computation, with its version.
            network: whose answer it is.
            images: the data set that `split` is a part of; both in memory.
            split: all of it, in its order.
            make: (N, ...) float32, on the device of the split's labels.
        """
        named = {name: part for name, part in (("train", images.train), ("val", images.val), ("test", images.test))}
        name = next(name for name, part in named.items() if part is split)
        if self._folder is None or not isinstance(split.images, Tensor):
            return make()
        parts = {
            **self._conditions,
            "what": dict(what),
            "weights": network.name,
            "network": network.network,
            "split": name,
        }
        file = self._folder / f"{hashlib.sha256(canonical_json(parts).encode()).hexdigest()}.pt"
        known = _read(file, split)
        if known is not None:
            return known
        made = make()
        try:
            checkpoint.save(file, {"answer": made.cpu(), "of": parts})
            _make_room(self._folder)
        except OSError as error:  # such as a full disk: the trial itself is none the worse
            logger.warning("%s: cannot be kept: %s", file, error.strerror)
        return made


def _read(file: Path, split: Split) -> Tensor | None:
    """None where there is none, or it cannot be used."""
    try:
        answer: Any = checkpoint.load(file, split.labels.device).get("answer")
        os.utime(file)
    except FileNotFoundError:
        return None
    except (OSError, TrialError) as error:
        logger.warning("%s; it is computed again", error)
        return None
    fits = isinstance(answer, Tensor) and len(answer) == len(split)
    return answer if fits else None


def _make_room(folder: Path) -> None:
    """Deletes what was read longest ago until the rest fits; others may do the same at the same time."""
    found = []
    for file in folder.glob("*.pt"):
        with suppress(FileNotFoundError):
            state = file.stat()
            found.append((state.st_mtime, state.st_size, file))
    excess = sum(size for _, size, _ in found) - LIMIT_BYTES
    for _, size, file in sorted(found):
        if excess <= 0:
            return
        file.unlink(missing_ok=True)
        excess -= size
