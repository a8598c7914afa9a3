"""Tiny-ImageNet (Stanford CS231n): 100,000 train and 10,000 validation images, 64x64, 200 classes of ImageNet.

    <data root>/tiny-imagenet-200/wnids.txt                                       one class id a line
    <data root>/tiny-imagenet-200/train/<wnid>/images/<wnid>_<n>.JPEG             500 a class
    <data root>/tiny-imagenet-200/train/<wnid>/<wnid>_boxes.txt                   names and boxes of these images
    <data root>/tiny-imagenet-200/val/images/val_<n>.JPEG                         50 a class
    <data root>/tiny-imagenet-200/val/val_annotations.txt                         name, wnid, box; tabs between them
    <data root>/.cache/tiny_imagenet/{index.json, <content>.pt, lock}

The validation images are the `test` split, as in the papers; the archive's own test images have no labels and are not
read. A class's number is its id's position in sorted order, which is torchvision's ImageFolder's, not that of wnids.txt.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO

from trainers.config import DataSpec
from trainers.data import DataSet, Info, Split, _files, _images, _split
from trainers.errors import DataError

log = logging.getLogger(__name__)

NAME = "tiny-imagenet-200"
SHOWN = 10  # items of one kind of fault, at most
STALL_S = 60  # without a byte, until a download is given up
BLOCK = 1 << 20  # bytes

# Mean and std of the public code behind the data-free papers (zju-vipa/DataFree, registry.py).
INFO = Info(
    classes=200,
    channels=3,
    size=64,
    mean=(0.4802, 0.4481, 0.3975),
    std=(0.2302, 0.2265, 0.2262),
    crop_padding=4,
    flip=True,
)


@dataclass(frozen=True)
class Archive:
    """Where the archive is, and what a complete one holds.

    Attributes:
        url, md5: of the zip file; the sum that its public readers agree on.
        classes: how many.
        train_per_class, val_per_class: images of every class.
    """

    url: str
    md5: str
    classes: int
    train_per_class: int
    val_per_class: int


ARCHIVE = Archive(
    url=f"http://cs231n.stanford.edu/{NAME}.zip",
    md5="90528d7ca1a48142e341f4ef8d21d0de",
    classes=INFO.classes,
    train_per_class=500,
    val_per_class=50,
)


@dataclass(frozen=True)
class _Listing:
    """The image files, as far as it can be told without opening one.

    Attributes:
        files: split, class, path below the folder, and stamp; train before test, each sorted.
        classes: sorted.
        faults: of the layout.
    """

    files: tuple[_images.File, ...]
    classes: tuple[str, ...]
    faults: tuple[str, ...]


def info(spec: DataSpec, root: Path) -> Info:
    """What is known without reading an image.

    Raises:
        ConfigError: a field that has no meaning here.
    """
    one_archive = "which is one archive; `image_folder` reads folders"
    _split.reject(spec, {"folder": one_archive, "content": one_archive})
    return replace(INFO, has_val=spec.holdout_images > 0)


def content(spec: DataSpec, root: Path) -> None:
    """None: the archive is fixed."""


def load(spec: DataSpec, root: Path) -> DataSet:
    """Both splits as uint8, from the folder, else from the zip file in `root`, which is downloaded on demand.

    Decoded once, then read from a cache. One process unpacks or decodes, others wait.

    Raises:
        ConfigError: a field that has no meaning here, or more images asked for than there are.
        DataError: not there, and the download failed; an archive that is not the published one; every fault of the tree.
    """
    known = info(spec, root)
    train, test = read(_found(root, ARCHIVE), root / ".cache" / "tiny_imagenet", ARCHIVE)
    return _split.finish(spec, known, train, test, None)


def read(folder: Path, cache: Path, archive: Archive) -> tuple[Split, Split]:
    """Train and test images of the unpacked tree `folder`.

    Args:
        folder: holds wnids.txt, train/ and val/.
        cache: folder for the decoded images.
        archive: what the tree has to hold.

    Raises:
        DataError: every fault of layout, counts and images.
    """

    def build() -> tuple[_images.Index, _images.Tensors]:
        return _build(folder, listing, archive)

    try:
        listing = _list(folder, archive)
        if listing.faults:
            build()  # raises, with the faults of single images too
        index, tensors = _images.known_or_built(folder, _images.listing_digest(listing.files), cache, build)
        tensors = tensors or _images.read_pixels(cache, index) or build()[1]  # the cache may have lost it since
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error}; remedy: give this user the right to read it") from error
    return (
        Split(tensors["train_images"], tensors["train_labels"]),
        Split(tensors["test_images"], tensors["test_labels"]),
    )


def _found(root: Path, archive: Archive) -> Path:
    """The folder, unpacked or downloaded and unpacked when it is not there.

    Raises:
        DataError: that failed.
    """
    folder, packed = root / NAME, root / f"{NAME}.zip"
    if folder.is_dir():  # needs no lock and no right to write
        return folder
    try:
        with _files.one_at_a_time(root / f".{NAME}.lock"):
            if not folder.is_dir():  # another process may have made it while this one waited
                if not packed.is_file():
                    _download(archive, packed)
                _unpack(archive, packed, folder)
    except (OSError, HTTPException, zipfile.BadZipFile) as error:
        if packed.is_file():
            raise DataError(
                f"{packed} cannot be unpacked: {error}; remedy: make room and give this user the right to write in "
                f"{root}, or unpack it there by hand"
            ) from error
        raise DataError(
            f"{NAME} is not in {root} and cannot be downloaded from {archive.url}: {error}; remedy: where there is a "
            f"network, download {archive.url} (MD5 {archive.md5}), put it as {packed.name} into {root}, and run the same "
            "command again"
        ) from error
    return folder


def _download(archive: Archive, packed: Path) -> None:
    """Put the archive at `packed`, whole or not at all.

    Raises:
        OSError, HTTPException: no network, no such file, no room.
        DataError: what came is not the archive.
    """

    def write(file: IO[bytes]) -> None:
        digest, done, told = hashlib.md5(usedforsecurity=False), 0, time.monotonic()
        with urllib.request.urlopen(archive.url, timeout=STALL_S) as response:
            while block := response.read(BLOCK):
                file.write(block)
                digest.update(block)
                done += len(block)
                if time.monotonic() - told > _images.PROGRESS_S:
                    told = time.monotonic()
                    log.info("url=%s bytes=%d of=%s", archive.url, done, response.headers.get("Content-Length"))
        if digest.hexdigest() != archive.md5:
            raise DataError(
                f"{archive.url}: {done} bytes with MD5 {digest.hexdigest()} came, expected is {archive.md5}; nothing was "
                f"kept; remedy: run the same command again, or put a good copy as {packed.name} into {packed.parent}"
            )

    _files.write_atomically(packed, write)


def _unpack(archive: Archive, packed: Path, folder: Path) -> None:
    """Put what `packed` holds at `folder`, whole or not at all.

    Raises:
        OSError, BadZipFile: no room, no right to write, a damaged file.
        DataError: not the published archive, or one that would write outside the folder.
    """
    with packed.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if digest != archive.md5:
        raise DataError(
            f"{packed}: MD5 {digest}, expected is {archive.md5} of {archive.url}; remedy: delete it and run the same "
            f"command again, or unpack it by hand as {folder} if it is a copy of your own"
        )
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    try:
        with zipfile.ZipFile(packed) as zipped:
            paths = [(name, PurePosixPath(name)) for name in zipped.namelist()]
            outside = [name for name, path in paths if path.is_absolute() or ".." in path.parts]
            if outside:
                raise DataError(
                    f"{packed}: members outside the archive's folder: {_some(outside)}; nothing was unpacked"
                )
            log.info("unpacking=%s into=%s", packed, folder)
            zipped.extractall(partial)
        os.replace(partial / NAME, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _list(folder: Path, archive: Archive) -> _Listing:
    """List the tree; what is wrong with its layout is collected, not raised.

    Raises:
        OSError: a folder cannot be read.
    """
    faults: list[str] = []
    add = faults.append
    train = {entry.name for entry in _entries(folder / "train") if entry.is_dir()}
    ids = _lines(folder / "wnids.txt")
    if ids is None:
        add(f"{folder / 'wnids.txt'}: no such file; expected are {archive.classes} class ids, one a line")
        ids = sorted(train)
    elif len(ids) != archive.classes or len(set(ids)) != len(ids):
        twice = [wnid for wnid, count in Counter(ids).items() if count > 1]
        more = f", repeated are {_some(twice)}" if twice else ""
        add(f"{folder / 'wnids.txt'}: {len(ids)} class ids, expected are {archive.classes} different ones{more}")
    classes = sorted(set(ids))
    files = [*_train(folder, classes, train, archive.train_per_class, add), *_val(folder, classes, archive, add)]
    return _Listing(tuple(files), tuple(classes), tuple(faults))


def _train(
    folder: Path, classes: Sequence[str], present: Collection[str], expected: int, add: Callable[[str], None]
) -> list[_images.File]:
    """Training images by class and name."""
    train = folder / "train"
    _tell(add, f"{train}: class folders missing", [wnid for wnid in classes if wnid not in present], len(classes))
    _tell(add, f"{train}: folders that wnids.txt does not name", sorted(set(present) - set(classes)), len(present))
    files: list[_images.File] = []
    counts: dict[str, int] = {}
    unlisted, absent, listed = [], [], 0
    for wnid in classes:
        if wnid not in present:
            continue
        images = _jpegs(train / wnid / "images")
        counts[wnid] = len(images)
        files += [("train", wnid, f"train/{wnid}/images/{name}", stamp) for name, stamp in sorted(images.items())]
        boxes = _lines(train / wnid / f"{wnid}_boxes.txt")
        if boxes is None:
            unlisted.append(f"{wnid}/{wnid}_boxes.txt")
            continue
        names = [line.split("\t")[0] for line in boxes]
        listed += len(names)
        absent += [f"{wnid}/images/{name}" for name in names if name not in images]
    _tell(add, f"{train}: lists of images missing", unlisted, len(counts))
    _tell(add, f"{train}: images listed in a <wnid>_boxes.txt but absent", absent, listed)
    _uneven(add, f"{train}: classes without {expected} images", counts, expected)
    return files


def _val(folder: Path, classes: Sequence[str], archive: Archive, add: Callable[[str], None]) -> list[_images.File]:
    """Validation images by class and name."""
    annotations = folder / "val" / "val_annotations.txt"
    images = _jpegs(folder / "val" / "images")
    lines = _lines(annotations)
    if lines is None:
        expected = archive.classes * archive.val_per_class
        add(f"{annotations}: no such file, so {len(images)} images have no class; expected are {expected} lines")
        return []
    known = set(classes)
    labels: dict[str, str] = {}
    malformed, strange, repeated = [], [], []
    for number, line in enumerate(lines, 1):
        name, *rest = line.split("\t")
        if not rest:
            malformed.append(f"line {number} {line[:40]!r}")
        elif name in labels:
            repeated.append(f"{name} in line {number}")
        else:
            labels[name] = rest[0]
            if rest[0] not in known:
                strange.append(f"{rest[0]!r} in line {number}")
    _tell(add, f"{annotations}: lines without a name, a tab and a class id", malformed, len(lines))
    _tell(add, f"{annotations}: images named twice", repeated, len(lines))
    _tell(add, f"{annotations}: class ids that wnids.txt does not name", strange, len(lines))
    absent = [name for name in labels if name not in images]
    _tell(add, f"{folder / 'val' / 'images'}: images listed in val_annotations.txt but absent", absent, len(labels))
    counts = Counter(labels.values())
    _uneven(
        add,
        f"{annotations}: classes without {archive.val_per_class} images",
        {wnid: counts[wnid] for wnid in classes},
        archive.val_per_class,
    )
    found = sorted((wnid, name) for name, wnid in labels.items() if name in images and wnid in known)
    return [("test", wnid, f"val/images/{name}", images[name]) for wnid, name in found]


def _build(folder: Path, listing: _Listing, archive: Archive) -> tuple[_images.Index, _images.Tensors]:
    """Decode every image.

    Raises:
        DataError: every fault of layout and images.
    """
    size = INFO.size, INFO.size
    names = [file[2] for file in listing.files]
    found = _images.decode(folder, names, size)
    faults = list(listing.faults)
    unreadable = [f"{names[position]} ({fault})" for position, fault in sorted(found.unreadable.items())]
    _tell(faults.append, f"{folder}: images not readable", unreadable, len(names))
    strange = sorted(
        (position, f"{names[position]} is {width}x{height}")
        for (height, width), positions in found.sizes.items()
        if (height, width) != size
        for position in positions
    )
    _tell(faults.append, f"{folder}: images not {INFO.size}x{INFO.size}", [text for _, text in strange], len(names))
    if faults:
        faults.append(
            f"remedy: delete {folder} and run the same command again, which unpacks {NAME}.zip beside it or downloads "
            f"{archive.url}"
        )
        raise DataError("\n".join(faults))
    assert found.pixels is not None
    tensors = _images.tensors(listing.files, found.pixels, {wnid: label for label, wnid in enumerate(listing.classes)})
    whole = _images.content_digest(["/".join(file[:3]) for file in listing.files], found.hashes)
    return _images.Index(_images.listing_digest(listing.files), whole, INFO), tensors


def _jpegs(folder: Path) -> dict[str, str]:
    """Name and stamp of each image; none where there is no such folder."""
    return {
        entry.name: _images.stamp(entry)
        for entry in _entries(folder)
        if entry.name.endswith(".JPEG") and entry.is_file()
    }


def _entries(folder: Path) -> Iterable[os.DirEntry[str]]:
    """Visible entries; none where there is no such folder."""
    return _images.visible(folder) if folder.is_dir() else ()


def _lines(path: Path) -> list[str] | None:
    """Lines that are not blank; None where there is no such file."""
    if not path.is_file():
        return None
    return [line.rstrip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]


def _tell(add: Callable[[str], None], what: str, items: Sequence[str], total: int) -> None:
    """Add one fault that counts all items and names the first ones; none without items."""
    if items:
        add(f"{what}: {len(items)} of {total}: {_some(items)}")


def _uneven(add: Callable[[str], None], what: str, counts: Mapping[str, int], expected: int) -> None:
    """Add one fault for the classes that have another number of images than expected."""
    _tell(add, what, [f"{wnid} has {count}" for wnid, count in counts.items() if count != expected], len(counts))


def _some(items: Sequence[str]) -> str:
    more = f", and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more
