"""Which part of the training images a trial sees: fixed stratified choices that depend on nothing but the labels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from trainers.config import DataSpec
from trainers.data import DataSet, Info, Split
from trainers.errors import ConfigError


def reject(spec: DataSpec, fields: Mapping[str, str]) -> None:
    """Refuse fields that mean nothing for this data set; `fields` maps each to the reason.

    Raises:
        ConfigError: one fault for each that is set.
    """
    faults = [
        f"data.{field}: {getattr(spec, field)!r} has no meaning for {spec.name!r}, {why}"
        for field, why in fields.items()
        if getattr(spec, field) != DataSpec.model_fields[field].default
    ]
    if faults:
        raise ConfigError(*faults)


def holdout(labels: Tensor, images: int) -> tuple[Tensor, Tensor]:
    """Two groups of rows in which every class has its share: the kept ones and `images` held-out ones.

    A class of n_c among n images holds out images * n_c / n, rounded so that the sum is exact (largest remainders
    first, ties to the lower class).

    Args:
        labels: (N,) int64.
        images: how many to hold out.

    Returns:
        Rows kept and rows held out, both rising.

    Raises:
        ConfigError: some class would keep no image.
    """
    counts = torch.bincount(labels)
    total = len(labels)
    shares = [divmod(images * int(count), total) for count in counts]
    quotas = [whole for whole, _ in shares]
    by_remainder = sorted(range(len(shares)), key=lambda label: (-shares[label][1], label))
    for label in by_remainder[: images - sum(quotas)]:
        quotas[label] += 1
    if images >= total or any(quota >= int(count) for quota, count in zip(quotas, counts, strict=True)):
        raise ConfigError(
            f"data.holdout_images: {images} of {total} training images would leave a class without any; "
            f"the largest possible number is below {total - len(counts)}"
        )
    held = torch.zeros(total, dtype=torch.bool)
    for rows, quota in zip(_classes(labels), quotas, strict=True):
        held[rows[:quota]] = True
    return (~held).nonzero()[:, 0], held.nonzero()[:, 0]


def per_class(labels: Tensor, limit: int) -> Tensor:
    """Rows of the first `limit` images of each class in a fixed order, rising; a smaller limit gives a subset.

    Raises:
        ConfigError: a class has fewer.
    """
    classes = _classes(labels)
    fewest = min(range(len(classes)), key=lambda label: len(classes[label]))
    if len(classes[fewest]) < limit:
        raise ConfigError(
            f"data.train_per_class: {limit}, but class {fewest} has {len(classes[fewest])} training images; "
            "allowed are 1 to that number, or none for all"
        )
    return torch.cat([rows[:limit] for rows in classes]).sort().values


def finish(spec: DataSpec, info: Info, train: Split, test: Split, val: Split | None) -> DataSet:
    """Apply `holdout_images`, then `train_per_class`.

    Raises:
        ConfigError: more images asked for than there are.
    """
    if spec.holdout_images:
        kept, held = holdout(train.labels, spec.holdout_images)
        train, val = train.take(kept), train.take(held)
    if spec.train_per_class is not None:
        train = train.take(per_class(train.labels, spec.train_per_class))
    return DataSet(info, train, test, val)


def _classes(labels: Tensor) -> list[Tensor]:
    """Rows of each class, in one fixed random order of all rows."""
    # RandomState, because NumPy keeps its numbers the same in every version (NEP 19): the split must never move.
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(labels)).astype(np.int64))
    return [order[labels[order] == label] for label in range(int(labels.max()) + 1)]
