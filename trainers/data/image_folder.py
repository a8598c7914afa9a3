"""Images in folders: `train/`, `test/` and optionally `val/`, one folder a class; decoded once, then read from a cache.

    <data root>/<folder>/{train,test,val}/<class>/<image>
    <data root>/.cache/image_folder/<folder>/{index.json, <content>.pt, lock}

Classes are numbered by name. Hidden files and files without an image's ending are left out.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainers import _decode
from trainers.config import DataSpec
from trainers.data import DataSet, Info, Split, _files, _split
from trainers.errors import ConfigError, DataError

log = logging.getLogger(__name__)

FORMAT = 1  # of the cache
ENDINGS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
NAMED_FILES = 20  # faults that name a file, at most; one broken copy can break every file
PROGRESS_S = 2.0  # between two lines of progress


@dataclass(frozen=True)
class _Listing:
    """The image files of a folder, as far as it can be told without opening one.

    Attributes:
        path: of the folder.
        files: split, class, file name, and what tells an old file from a new one; sorted.
        classes: of train, sorted.
        faults: of the layout.
    """

    path: Path
    files: tuple[tuple[str, str, str, str], ...]
    classes: tuple[str, ...]
    faults: tuple[str, ...]

    def digest(self) -> str:
        """SHA-256 of names, sizes and times: as long as it stays, the files are not read again."""
        text = "\n".join(["\0".join(file) for file in self.files])
        header = f"{FORMAT} {' '.join(Info.__match_args__)}"  # an index with other fields is not read
        return hashlib.sha256(f"{header}\n{text}".encode(errors="surrogateescape")).hexdigest()


@dataclass(frozen=True)
class _Index:
    """What is known of a folder once it has been read."""

    listing: str
    content: str
    info: Info


def info(spec: DataSpec, root: Path) -> Info:
    """Classes, size and colour constants; reads every image the first time and none after that.

    Raises:
        ConfigError: no folder named, a folder outside the root, or `holdout_images` beside a `val/`.
        DataError: every fault of the folder, or content that is not the one the trial was planned with.
    """
    return _open(spec, root)[0].info


def content(spec: DataSpec, root: Path) -> str:
    """SHA-256 over the sorted relative paths of the images and the SHA-256 of each file; read once as in `info`.

    Raises:
        ConfigError, DataError: as in `info`.
    """
    return _open(spec, root)[0].content


def load(spec: DataSpec, root: Path) -> DataSet:
    """All images as uint8.

    Raises:
        ConfigError, DataError: as in `info`; also more images asked for than there are.
    """
    index, pixels = _open(spec, root)
    tensors = pixels if pixels is not None else _read_pixels(_cache(spec, root) / f"{index.content}.pt")
    if tensors is None:  # the cache lost it since
        index, tensors = _build(_list(_folder(spec, root)))
    splits = {
        name: Split(tensors[f"{name}_images"], tensors[f"{name}_labels"])
        for name in ("train", "test", "val")
        if f"{name}_labels" in tensors
    }
    return _split.finish(spec, index.info, splits["train"], splits["test"], splits.get("val"))


def _folder(spec: DataSpec, root: Path) -> Path:
    if spec.folder is None:
        raise ConfigError("data.folder: missing; image_folder needs the name of a folder under the data root")
    parts = PurePosixPath(spec.folder)
    if parts.is_absolute() or ".." in parts.parts or not parts.parts:
        raise ConfigError(f"data.folder: {spec.folder!r}; allowed are names of folders below the data root")
    return root / parts


def _cache(spec: DataSpec, root: Path) -> Path:
    return root / ".cache" / "image_folder" / str(spec.folder)


def _open(spec: DataSpec, root: Path) -> tuple[_Index, dict[str, Tensor] | None]:
    """What is known of the folder, and its pixels if they had to be decoded just now."""
    listing = _list(_folder(spec, root))
    index, pixels = _known_or_built(listing, _cache(spec, root))
    if spec.content is not None and spec.content != index.content:
        raise DataError(
            f"{listing.path}: the images have changed since the trial was planned: content {index.content}, "
            f"planned {spec.content}; remedy: bring the old images back, or plan again"
        )
    if index.info.has_val and spec.holdout_images:
        raise ConfigError(f"data.holdout_images: {spec.holdout_images}, but {listing.path} has a `val/`; allowed is 0")
    has_val = index.info.has_val or spec.holdout_images > 0
    return replace(index, info=replace(index.info, has_val=has_val)), pixels


def _known_or_built(listing: _Listing, cache: Path) -> tuple[_Index, dict[str, Tensor] | None]:
    if listing.faults:
        return _build(listing)  # raises, with the faults of single images too
    digest = listing.digest()
    known = _read_index(cache, digest)
    if known is not None:
        return known, None
    with ExitStack() as held:
        try:
            held.enter_context(_files.one_at_a_time(cache / "lock"))
        except OSError as error:
            log.warning("folder=%s cache=off reason=%r", listing.path, str(error))
            return _build(listing)
        known = _read_index(cache, digest)  # another process may have built it while this one waited
        if known is not None:
            return known, None
        index, pixels = _build(listing)
        try:
            _write(cache, index, pixels)
        except OSError as error:
            log.warning("folder=%s cache='not written' reason=%r", listing.path, str(error))
        return index, pixels


def _list(folder: Path) -> _Listing:
    """List the folder; what is wrong with its layout is collected, not raised."""
    if not folder.is_dir():
        return _Listing(folder, (), (), (f"{folder}: no such folder",))
    files: list[tuple[str, str, str, str]] = []
    faults = []
    classes: dict[str, set[str]] = {}
    for split in ("train", "test", "val"):
        if not (folder / split).is_dir():
            if split != "val":
                faults.append(f"{folder}: no `{split}/`; expected are train/<class>/<image> and test/<class>/<image>")
            continue
        classes[split] = {entry.name for entry in _visible(folder / split) if entry.is_dir()}
        if not classes[split]:
            faults.append(f"{folder / split}: no class folders; expected is {split}/<class>/<image>")
        for label in sorted(classes[split]):
            images = []
            for entry in _visible(folder / split / label):
                if os.path.splitext(entry.name)[1].lower() in ENDINGS and entry.is_file():
                    status = entry.stat()
                    stamp = f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"
                    images.append((split, label, entry.name, stamp))
            if not images:
                faults.append(f"{folder / split / label}: no images; image endings are {' '.join(sorted(ENDINGS))}")
            files += sorted(images)
    for split in ("test", "val"):
        if "train" in classes and split in classes and classes[split] != classes["train"]:
            missing, extra = classes["train"] - classes[split], classes[split] - classes["train"]
            parts = [
                f"{len(names)} {what}: {_some(names)}"
                for what, names in (("missing", missing), ("unknown to train", extra))
                if names
            ]
            counts = f"{len(classes[split])} classes, train has {len(classes['train'])}"
            faults.append(f"{folder / split}: {counts}; {'; '.join(parts)}")
    return _Listing(folder, tuple(files), tuple(sorted(classes.get("train", ()))), tuple(faults))


def _visible(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if not entry.name.startswith("."))


def _some(names: set[str]) -> str:
    first = sorted(names)[:5]
    return ", ".join(first) + (", ..." if len(names) > len(first) else "")


def _build(listing: _Listing) -> tuple[_Index, dict[str, Tensor]]:
    """Decode every image.

    Raises:
        DataError: every fault of layout and images.
    """
    names = ["/".join(file[:3]) for file in listing.files]
    hashes = [""] * len(names)
    unreadable: dict[int, str] = {}
    sizes: dict[tuple[int, int], list[int]] = {}
    coloured = False
    pixels: NDArray[np.uint8] | None = None
    done, told = 0, time.monotonic()
    for chunk in _decode.decode_all([str(listing.path / name) for name in names]):
        for position, image in chunk:
            hashes[position] = image.sha256
            if image.pixels is None:
                unreadable[position] = image.fault
                continue
            size = image.pixels.shape[0], image.pixels.shape[1]
            sizes.setdefault(size, []).append(position)
            coloured = coloured or image.pixels.ndim == 3
            if pixels is None:
                pixels = np.zeros((len(names), *size, 3), np.uint8)
            if size == pixels.shape[1:3]:
                pixels[position] = image.pixels if image.pixels.ndim == 3 else image.pixels[:, :, None]
        done += len(chunk)
        if time.monotonic() - told > PROGRESS_S:
            told = time.monotonic()
            log.info("folder=%s decoded=%d of=%d", listing.path, done, len(names))

    faults = [*listing.faults, *_unreadable_faults(names, unreadable), *_size_faults(names, sizes)]
    if pixels is None or faults:
        raise DataError("\n".join(faults))
    channels = 3 if coloured else 1
    tensors: dict[str, Tensor] = {}
    labels = {name: label for label, name in enumerate(listing.classes)}
    for split in ("train", "test", "val"):
        rows = [row for row, file in enumerate(listing.files) if file[0] == split]
        if rows:  # they follow each other
            part = pixels[rows[0] : rows[-1] + 1, ..., :channels]
            tensors[f"{split}_images"] = torch.from_numpy(part.transpose(0, 3, 1, 2).copy())
            tensors[f"{split}_labels"] = torch.tensor([labels[listing.files[row][1]] for row in rows])
    mean, std = _constants(tensors["train_images"])
    if 0.0 in std:
        raise DataError(f"{listing.path}/train: a channel has one value everywhere (std {std}): cannot be standardised")
    pixels_wide = pixels.shape[1]
    known = Info(
        classes=len(listing.classes),
        channels=channels,
        size=pixels_wide,
        mean=mean,
        std=std,
        crop_padding=4 if pixels_wide >= 32 else 1,
        flip=True,
        has_val="val_labels" in tensors,
    )
    lines = sorted(f"{name}\0{digest}\n" for name, digest in zip(names, hashes, strict=True))
    whole = hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()
    return _Index(listing.digest(), whole, known), tensors


def _unreadable_faults(names: list[str], unreadable: dict[int, str]) -> list[str]:
    positions = sorted(unreadable)
    faults = [
        f"{names[position]}: not a readable image: {unreadable[position]}" for position in positions[:NAMED_FILES]
    ]
    if len(positions) > NAMED_FILES:
        faults.append(f"and {len(positions) - NAMED_FILES} more unreadable images")
    return faults


def _size_faults(names: list[str], sizes: dict[tuple[int, int], list[int]]) -> list[str]:
    """One line for images of different sizes, one for images that are not square."""
    by_count = sorted(sizes.items(), key=lambda item: (-len(item[1]), min(item[1])))
    shown = [f"{names[min(rows)]} is {width}x{height}" for (height, width), rows in by_count]
    if len(by_count) > 1:
        others = sum(len(rows) for _, rows in by_count[1:])
        return [
            f"images differ in size: {shown[0]}, {shown[1]} ({others} of {len(names)} differ from the most frequent)"
        ]
    if by_count and by_count[0][0][0] != by_count[0][0][1]:
        return [f"images are not square: {shown[0]}"]
    return []


def _constants(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population std per channel of images scaled to [0, 1], from exact integer sums."""
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in range(images.shape[1]):
        shares = torch.bincount(images[:, channel].flatten(), minlength=256).double() / images[:, channel].numel()
        mean.append(float((shares * levels).sum()))
        std.append(float((shares * (levels - mean[-1]).square()).sum().sqrt()))
    return tuple(mean), tuple(std)


def _read_index(cache: Path, listing: str) -> _Index | None:
    """The index, if it is of this listing and its pixels are there."""
    try:
        stored = json.loads((cache / "index.json").read_text())
    except (OSError, ValueError):
        return None
    if stored.get("listing") != listing or not (cache / f"{stored['content']}.pt").is_file():
        return None
    fields = stored["info"] | {name: tuple(stored["info"][name]) for name in ("mean", "std")}
    return _Index(stored["listing"], stored["content"], Info(**fields))


def _read_pixels(path: Path) -> dict[str, Tensor] | None:
    try:
        tensors: dict[str, Tensor] = torch.load(path, weights_only=True)
    except Exception as error:  # a damaged file raises whatever its bytes lead to; all of it can be made again
        log.warning("cache=%s state=unreadable reason=%r action='decode again'", path, error)
        return None
    return tensors


def _write(cache: Path, index: _Index, pixels: dict[str, Tensor]) -> None:
    """Pixels first, because the index says that they are there; then what an older content left behind goes."""
    _files.write_atomically(cache / f"{index.content}.pt", lambda file: torch.save(pixels, file))
    text = json.dumps(asdict(index), indent=1).encode()
    _files.write_atomically(cache / "index.json", lambda file: file.write(text))
    for old in cache.glob("*.pt"):
        if old.name != f"{index.content}.pt":
            old.unlink(missing_ok=True)
