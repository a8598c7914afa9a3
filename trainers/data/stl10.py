"""STL-10 (Coates et al. 2011): 5,000 train and 8,000 test images with labels, 96x96, 10 classes.

    <data root>/stl10_binary/{train,test}_X.bin    uint8, for each image its red, green and blue plane, column after column
    <data root>/stl10_binary/{train,test}_y.bin    uint8, 1 ... 10
    <data root>/stl10_binary.tar.gz                the original archive, 2.6 GB; its unlabelled images are not unpacked

Addresses and checksums are torchvision's.
"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainers.config import DataSpec
from trainers.data import DataSet, Info, Split, _files, _split
from trainers.errors import DataError

SIZE = 96

# Mean and std are those of CIFAR-100: the set stands beside it as a target of transfer, and the papers name none.
INFO = Info(
    classes=10,
    channels=3,
    size=SIZE,
    mean=(0.5071, 0.4867, 0.4408),
    std=(0.2675, 0.2565, 0.2761),
    crop_padding=4,
    flip=True,
)

Entry = Sequence[str]
"""A file's name in `stl10_binary` and its MD5."""


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
    """Both labelled splits as uint8, downloaded into `root` when they are not there; one process downloads, others wait.

    Raises:
        ConfigError: a field that has no meaning here, or more images asked for than there are.
        DataError: not there, and the download failed.
    """
    known = info(spec, root)
    from trainers import _torchvision  # takes seconds to import; other data sets do without

    source = _torchvision.datasets.STL10
    folder = root / source.base_folder
    entries: list[Entry] = [*source.train_list[:2], *source.test_list]  # the third of train_list is unlabelled
    try:
        found = _read(folder, entries)  # needs no lock and no right to write
        if found is None:
            with _files.one_at_a_time(root / f".{source.filename}.lock"):
                found = _read(folder, entries)  # another process may have made it while this one waited
                if found is None:
                    _torchvision.datasets.utils.download_url(source.url, str(root), source.filename, source.tgz_md5)
                    _unpack(source, root, [name for name, _ in entries])
                    found = _read(folder, entries)
    except (OSError, RuntimeError, HTTPException, tarfile.TarError, EOFError, KeyError, zlib.error) as error:
        raise DataError(
            f"STL10 is not in {root} and cannot be downloaded from {source.url}: {error}; remedy: where there is a "
            f"network, download {source.url} (MD5 {source.tgz_md5}), put it as {source.filename} into {root}, and run "
            "the same command again"
        ) from error
    if found is None:
        raise DataError(
            f"{folder} does not hold the published files, although {root / source.filename} was just unpacked there; "
            "remedy: delete both, check the disk, and run the same command again"
        )
    train_images, train_labels, test_images, test_labels = found
    return _split.finish(spec, known, _made(train_images, train_labels), _made(test_images, test_labels), None)


def _read(folder: Path, entries: Sequence[Entry]) -> list[NDArray[np.uint8]] | None:
    """The bytes of each file; None when one is missing or is not the published one.

    Raises:
        OSError: a file cannot be read.
    """
    found = []
    for name, md5 in entries:
        if not (folder / name).is_file():
            return None
        content = np.fromfile(folder / name, dtype=np.uint8)
        if hashlib.md5(content.data, usedforsecurity=False).hexdigest() != md5:
            return None
        found.append(content)
    return found


def _unpack(source: Any, root: Path, names: Sequence[str]) -> None:
    """Put the files `names` of the archive into their folder, each whole or not at all.

    Raises:
        OSError, TarError, EOFError, KeyError, zlib.error: no room, no right to write, a damaged archive.
    """
    with tarfile.open(root / source.filename, "r:gz") as packed:
        for name in names:
            member = packed.extractfile(f"{source.base_folder}/{name}")
            if member is None:
                raise tarfile.TarError(f"{name} is no file in {source.filename}")

            def copy(file: IO[bytes], member: IO[bytes] = member) -> None:
                shutil.copyfileobj(member, file)

            _files.write_atomically(root / source.base_folder / name, copy)


def _made(images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Split:
    """A split from the bytes of its two files: columns become rows, 1 ... 10 become 0 ... 9."""
    pixels = torch.from_numpy(images).view(-1, INFO.channels, SIZE, SIZE).transpose(2, 3).contiguous()
    return Split(pixels, torch.from_numpy(labels.astype(np.int64)) - 1)
