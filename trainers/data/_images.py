"""Image files decoded once and then read from a cache: what the data sets that come as folders share.

<cache>/{index.json, <content>.pt, lock}
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers import _decode
from trainers.data import Info, _files

log = logging.getLogger(__name__)

FORMAT = 1  # of the cache
PROGRESS_S = 2.0  # between two lines of progress

File = tuple[str, str, str, str]
"""Split, class, name, and what tells an old file from a new one (`stamp`)."""
Tensors = dict[str, Tensor]
"""`<split>_images` (N, C, H, W) uint8 and `<split>_labels` (N,) int64 for each split there is."""


@dataclass(frozen=True)
class Index:
    """What is known of a folder once it has been read.

    Attributes:
        listing: digest of the files as listed.
        content: digest of their names and bytes; names the cached pixels.
        info: of the data set.
    """

    listing: str
    content: str
    info: Info


@dataclass
class Decoded:
    """Images of a folder, and what is wrong with them; all by position in the list of names.

    Attributes:
        hashes: SHA-256 of each file.
        unreadable: why an image could not be read.
        sizes: which images have which (height, width).
        coloured: whether any image is.
        pixels: (N, H, W, 3), grey ones repeated; zeros where an image is unreadable or of another size than (H, W).
    """

    hashes: list[str]
    unreadable: dict[int, str] = field(default_factory=dict)
    sizes: dict[tuple[int, int], list[int]] = field(default_factory=dict)
    coloured: bool = False
    pixels: NDArray[np.uint8] | None = None


def visible(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Entries of a folder that are not hidden.

    Raises:
        OSError: it cannot be read.
    """
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if not entry.name.startswith("."))


def stamp(entry: os.DirEntry[str] | Path) -> str:
    """Size and times: as long as they stay, a file is taken to have its old bytes."""
    status = entry.stat()
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def listing_digest(files: Sequence[File]) -> str:
    """SHA-256 of names, classes and stamps: as long as it stays, the files are not read again."""
    text = "\n".join(["\0".join(file) for file in files])
    header = f"{FORMAT} {' '.join(Info.__match_args__)}"  # an index with other fields is not read
    return hashlib.sha256(f"{header}\n{text}".encode(errors="surrogateescape")).hexdigest()


def content_digest(names: Sequence[str], hashes: Sequence[str]) -> str:
    """SHA-256 over the sorted names and the SHA-256 of each file's bytes."""
    lines = sorted(f"{name}\0{digest}\n" for name, digest in zip(names, hashes, strict=True))
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def decode(
    folder: Path, names: Sequence[str], size: tuple[int, int] | None = None, progress_s: float = PROGRESS_S
) -> Decoded:
    """Decode the files `names` of `folder`; faults are collected, not raised.

    Args:
        folder: what the names are relative to.
        names: paths.
        size: height and width that `pixels` is for; None for those of the first image decoded.
        progress_s: between two lines of progress.

    Raises:
        RuntimeError: a helper process died.
    """
    found = Decoded([""] * len(names))
    done, told = 0, time.monotonic()
    for chunk in _decode.decode_all([str(folder / name) for name in names]):
        for position, image in chunk:
            found.hashes[position] = image.sha256
            if image.pixels is None:
                found.unreadable[position] = image.fault
                continue
            shape = image.pixels.shape[0], image.pixels.shape[1]
            found.sizes.setdefault(shape, []).append(position)
            found.coloured = found.coloured or image.pixels.ndim == 3
            if found.pixels is None:
                found.pixels = np.zeros((len(names), *(size or shape), 3), np.uint8)
            if shape == found.pixels.shape[1:3]:
                found.pixels[position] = image.pixels if image.pixels.ndim == 3 else image.pixels[:, :, None]
        done += len(chunk)
        if time.monotonic() - told > progress_s:
            told = time.monotonic()
            log.info("folder=%s decoded=%d of=%d", folder, done, len(names))
    return found


def tensors(files: Sequence[File], pixels: NDArray[np.uint8], labels: Mapping[str, int]) -> Tensors:
    """Images and labels of each split.

    Args:
        files: the files of a split follow each other.
        pixels: (N, H, W, C) of the files.
        labels: number of each class.
    """
    result: Tensors = {}
    for split in ("train", "test", "val"):
        rows = [row for row, file in enumerate(files) if file[0] == split]
        if rows:
            part = pixels[rows[0] : rows[-1] + 1]
            result[f"{split}_images"] = torch.from_numpy(part.transpose(0, 3, 1, 2).copy())
            result[f"{split}_labels"] = torch.tensor([labels[files[row][1]] for row in rows])
    return result


def known_or_built(
    folder: Path, listing: str, cache: Path, build: Callable[[], tuple[Index, Tensors]]
) -> tuple[Index, Tensors | None]:
    """What is known of the folder, and its pixels if they had to be decoded just now; one process decodes, others wait.

    Args:
        folder: named in log lines.
        listing: digest of the files as they are.
        cache: folder for the result; where it cannot be written, that is logged and nothing is kept.
        build: decodes the folder.
    """
    known = _read_index(cache, listing)
    if known is not None:
        return known, None
    with ExitStack() as held:
        try:
            held.enter_context(_files.one_at_a_time(cache / "lock"))
        except OSError as error:
            log.warning("folder=%s cache=off reason=%r", folder, str(error))
            return build()
        known = _read_index(cache, listing)  # another process may have built it while this one waited
        if known is not None:
            return known, None
        index, pixels = build()
        try:
            _write(cache, index, pixels)
        except OSError as error:
            log.warning("folder=%s cache='not written' reason=%r", folder, str(error))
        return index, pixels


def read_pixels(cache: Path, index: Index) -> Tensors | None:
    """The cached pixels; None when they are lost or damaged, and have to be made again."""
    path = cache / f"{index.content}.pt"
    try:
        found: Tensors = torch.load(path, weights_only=True)
    except Exception as error:  # a damaged file raises whatever its bytes lead to; all of it can be made again
        log.warning("cache=%s state=unreadable reason=%r action='decode again'", path, error)
        return None
    return found


def _read_index(cache: Path, listing: str) -> Index | None:
    """The index, if it is of this listing and its pixels are there."""
    try:
        stored = json.loads((cache / "index.json").read_text())
    except (OSError, ValueError):
        return None
    if stored.get("listing") != listing or not (cache / f"{stored['content']}.pt").is_file():
        return None
    fields = stored["info"] | {name: tuple(stored["info"][name]) for name in ("mean", "std")}
    return Index(stored["listing"], stored["content"], Info(**fields))


def _write(cache: Path, index: Index, pixels: Tensors) -> None:
    """Pixels first, because the index says that they are there; then what an older content left behind goes."""
    _files.write_atomically(cache / f"{index.content}.pt", lambda file: torch.save(pixels, file))
    text = json.dumps(asdict(index), indent=1).encode()
    _files.write_atomically(cache / "index.json", lambda file: file.write(text))
    for old in cache.glob("*.pt"):
        if old.name != f"{index.content}.pt":
            old.unlink(missing_ok=True)
