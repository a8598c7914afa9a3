"""Images in folders: `train/`, `test/` and optionally `val/`, one folder a class; decoded once, then read from a cache.

    <data root>/<folder>/{train,test,val}/<class>/<image>
    <data root>/.cache/image_folder/<folder>/{index.json, <content>.pt, lock}

Classes are numbered by name. Hidden files and files without an image's ending are left out.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from trainers.config import DataSpec
from trainers.data import DataSet, Info, Split, _images, _split
from trainers.data._images import PROGRESS_S
from trainers.errors import ConfigError, DataError

ENDINGS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
NAMED_FILES = 20  # faults that name a file, at most; one broken copy can break every file


@dataclass(frozen=True)
class _Listing:
    """The image files of a folder, as far as it can be told without opening one.

    Attributes:
        path: of the folder.
        files: split, class, file name and stamp; sorted.
        classes: of train, sorted.
        faults: of the layout.
    """

    path: Path
    files: tuple[_images.File, ...]
    classes: tuple[str, ...]
    faults: tuple[str, ...]


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
    tensors = pixels if pixels is not None else _images.read_pixels(_cache(spec, root), index)
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


def _open(spec: DataSpec, root: Path) -> tuple[_images.Index, _images.Tensors | None]:
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


def _known_or_built(listing: _Listing, cache: Path) -> tuple[_images.Index, _images.Tensors | None]:
    if listing.faults:
        return _build(listing)  # raises, with the faults of single images too
    return _images.known_or_built(listing.path, _images.listing_digest(listing.files), cache, lambda: _build(listing))


def _list(folder: Path) -> _Listing:
    """List the folder; what is wrong with its layout is collected, not raised."""
    if not folder.is_dir():
        return _Listing(folder, (), (), (f"{folder}: no such folder",))
    files: list[_images.File] = []
    faults = []
    classes: dict[str, set[str]] = {}
    for split in ("train", "test", "val"):
        if not (folder / split).is_dir():
            if split != "val":
                faults.append(f"{folder}: no `{split}/`; expected are train/<class>/<image> and test/<class>/<image>")
            continue
        classes[split] = {entry.name for entry in _images.visible(folder / split) if entry.is_dir()}
        if not classes[split]:
            faults.append(f"{folder / split}: no class folders; expected is {split}/<class>/<image>")
        for label in sorted(classes[split]):
            images = []
            for entry in _images.visible(folder / split / label):
                if os.path.splitext(entry.name)[1].lower() in ENDINGS and entry.is_file():
                    images.append((split, label, entry.name, _images.stamp(entry)))
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


def _some(names: set[str]) -> str:
    first = sorted(names)[:5]
    return ", ".join(first) + (", ..." if len(names) > len(first) else "")


def _build(listing: _Listing) -> tuple[_images.Index, _images.Tensors]:
    """Decode every image.

    Raises:
        DataError: every fault of layout and images.
    """
    names = ["/".join(file[:3]) for file in listing.files]
    found = _images.decode(listing.path, names, progress_s=PROGRESS_S)
    faults = [*listing.faults, *_unreadable_faults(names, found.unreadable), *_size_faults(names, found.sizes)]
    if found.pixels is None or faults:
        raise DataError("\n".join(faults))
    channels = 3 if found.coloured else 1
    labels = {name: label for label, name in enumerate(listing.classes)}
    tensors = _images.tensors(listing.files, found.pixels[..., :channels], labels)
    mean, std = _constants(tensors["train_images"])
    if 0.0 in std:
        raise DataError(f"{listing.path}/train: a channel has one value everywhere (std {std}): cannot be standardised")
    pixels_wide = found.pixels.shape[1]
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
    whole = _images.content_digest(names, found.hashes)
    return _images.Index(_images.listing_digest(listing.files), whole, known), tensors


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
