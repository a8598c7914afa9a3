"""What CIFAR-10 and CIFAR-100 share: the original archive, read and downloaded by torchvision."""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path
from typing import Literal

import torch

from trainers.config import DataSpec
from trainers.data import DataSet, Info, Split, _files, _split
from trainers.errors import DataError


def check(spec: DataSpec) -> None:
    """Refuse fields that have no meaning for CIFAR.

    Raises:
        ConfigError: `folder` or `content` is set.
    """
    one_archive = "which is one archive; `image_folder` reads folders"
    _split.reject(spec, {"folder": one_archive, "content": one_archive})


def load(spec: DataSpec, root: Path, info: Info, name: Literal["CIFAR10", "CIFAR100"]) -> DataSet:
    """Both splits as uint8, downloaded into `root` when they are not there; one process downloads, others wait.

    Raises:
        ConfigError: more images asked for than there are.
        DataError: not there, and the download failed.
    """
    from trainers import _torchvision  # takes seconds to import; other data sets do without

    source = getattr(_torchvision.datasets, name)

    def read(train: bool, download: bool) -> Split:
        split = source(root, train=train, download=download)
        images = torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous()  # torchvision has (N, H, W, C)
        return Split(images, torch.tensor(split.targets, dtype=torch.int64))

    try:
        train = read(train=True, download=False)  # needs no lock and no right to write
    except RuntimeError:  # torchvision's way of saying that a file is missing or has another MD5
        try:
            with _files.one_at_a_time(root / f".{source.filename}.lock"):
                train = read(train=True, download=True)
        except (OSError, RuntimeError, HTTPException) as error:
            raise DataError(
                f"{name} is not in {root} and cannot be downloaded from {source.url}: {error}; remedy: where "
                f"there is a network, download {source.url} (MD5 {source.tgz_md5}), put it as {source.filename} into "
                f"{root}, and run the same command again"
            ) from error
    return _split.finish(spec, info, train, read(train=False, download=False), None)
