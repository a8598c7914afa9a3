"""Named training recipes, each with its source; a profile maps the papers' names to shorter ones."""

from __future__ import annotations

import math
from collections.abc import Mapping

from trainers import registry
from trainers.config import Protocol
from trainers.errors import ConfigError

_SCRATCH = "CMI authors' benchmark and CuDFKD's code: SGD .1 / .9 / 1e-4, batch 256, 200 epochs, x.1 at 120, 150, 180, best epoch kept"
_CUDFKD = "CuDFKD's official scripts: SGD .1 / .9 / 1e-4, cosine to 0 per epoch, 400 student updates an epoch"


def _datafree(name: str, row: str, *, epochs: int, batch: int) -> Protocol:
    """A row of the scripts' settings; epochs 0, 10, 80, 150 and the last keep samples and histograms (Fig. 5)."""
    return Protocol(
        name=name, source=f"{_CUDFKD}; {row}", epochs=epochs, batch_size=batch, lr=0.1, weight_decay=1e-4,
        augment=False, updates_per_epoch=400, stats_from_epoch=80, artifact_epochs=(0, 10, 80, 150),
    )  # fmt: skip


_ALL = (
    Protocol(
        name="scratch-200", source=_SCRATCH, epochs=200, batch_size=256, lr=0.1, weight_decay=1e-4,
        schedule="step", milestones=(120, 150, 180), keep="best",
    ),
    Protocol(
        name="scratch-200-noisy", source=f"{_SCRATCH}; CuDFKD Sec. V-D: stopped at the first epoch at or above 94.07 %",
        epochs=200, batch_size=256, lr=0.1, weight_decay=1e-4, schedule="step", milestones=(120, 150, 180), stop_at_acc1_pct=94.07,
    ),
    Protocol(
        name="scratch-tiny", source="CuDFKD's script for Tiny-ImageNet: SGD .1 / .9 / 1e-4, batch 512, 200 epochs, x.1 at 120, 150, 180, best epoch kept",
        epochs=200, batch_size=512, lr=0.1, weight_decay=1e-4, schedule="step", milestones=(120, 150, 180), keep="best",
    ),
    _datafree("cudfkd-cifar10", "CIFAR-10 ResNet34 -> ResNet18: batch 512, 250 epochs", epochs=250, batch=512),
    _datafree("cudfkd-cifar10-noisy", "CIFAR-10 ResNet34 -> ResNet18 'agg', noisy teacher: batch 768, 250 epochs", epochs=250, batch=768),
    _datafree("cudfkd-cifar10-b256", "batch 256 (Table V; CMI, DFQ and DFAD scripts), 250 epochs", epochs=250, batch=256),
    _datafree("cudfkd-cifar10-b1024", "CIFAR-10 VGG11 and WRN rows, DAFL and ADI scripts: batch 1024, 250 epochs", epochs=250, batch=1024),
    _datafree("cudfkd-cifar100", "CIFAR-100: batch 768 (Fig. 9), 300 epochs", epochs=300, batch=768),
    _datafree("cudfkd-cifar100-b256", "batch 256 (Table V; CMI, DFQ and DFAD scripts), 300 epochs", epochs=300, batch=256),
    _datafree("cudfkd-cifar100-b1024", "CIFAR-100 WRN rows, DAFL and ADI scripts: batch 1024, 300 epochs", epochs=300, batch=1024),
    _datafree("cudfkd-tiny", "Tiny-ImageNet: 400 epochs; batch 256 on one device for the scripts' 512 split over two", epochs=400, batch=256),
    Protocol(
        name="gpu-scratch", source="this project: scratch-200 shortened to minutes on one data-centre GPU", epochs=30, batch_size=256, lr=0.1,
        weight_decay=5e-4, schedule="cosine", keep="best",
    ),
    Protocol(
        name="gpu-datafree", source="this project: CuDFKD's scripts shortened to minutes on one data-centre GPU", epochs=20, batch_size=256, lr=0.1,
        weight_decay=1e-4, augment=False, updates_per_epoch=400, stats_from_epoch=6, stats_drop_last=1,
    ),
    Protocol(
        name="cpu-scratch", source="this project: real images on a CPU, minutes", epochs=8, batch_size=128, lr=0.1, weight_decay=5e-4,
        schedule="cosine", keep="best",
    ),
    Protocol(
        name="cpu-datafree", source="this project: real images on a CPU, minutes", epochs=8, batch_size=64, lr=0.1, weight_decay=1e-4, augment=False,
        updates_per_epoch=100, stats_from_epoch=2, stats_drop_last=1,
    ),
    Protocol(
        name="demo-scratch", source="this project: handwritten digits on a CPU", epochs=20, batch_size=64, lr=0.1, weight_decay=5e-4,
        schedule="cosine", keep="best",
    ),
    Protocol(
        name="demo-scratch-noisy", source="this project: as demo-scratch, stopped at the first epoch at or above 93 %", epochs=20, batch_size=64,
        lr=0.02, weight_decay=5e-4, schedule="cosine", stop_at_acc1_pct=93.0,
    ),
    Protocol(
        name="demo-cudfkd", source="this project: CuDFKD's scripts shortened for handwritten digits on a CPU", epochs=20, batch_size=64,
        lr=0.1, weight_decay=1e-4, augment=False, updates_per_epoch=48, stats_from_epoch=6, stats_drop_last=1, artifact_epochs=(0, 5, 10),
    ),
)  # fmt: skip

PROTOCOLS: Mapping[str, Protocol] = {protocol.name: protocol for protocol in _ALL}


def get(name: str) -> Protocol:
    """The recipe `name`.

    Raises:
        ConfigError: unknown name.
    """
    if name not in PROTOCOLS:
        raise ConfigError(registry.unknown("protocol", name, sorted(PROTOCOLS)))
    return PROTOCOLS[name]


def learning_rate(protocol: Protocol, epoch: int) -> float:
    """Learning rate during epoch `epoch` (from 0); a pure function, so a continued trial needs no scheduler state.

    cosine: lr_min + (lr - lr_min) (1 + cos(pi e / N)) / 2;  step: lr * gamma^(milestones <= e);
    the first `warmup_epochs` epochs are scaled by (e + 1) / warmup_epochs.
    """
    if protocol.schedule == "cosine":
        share = (1 + math.cos(math.pi * epoch / max(protocol.epochs, 1))) / 2
        rate = protocol.lr_min + (protocol.lr - protocol.lr_min) * share
    elif protocol.schedule == "step":
        rate = protocol.lr * protocol.gamma ** sum(epoch >= milestone for milestone in protocol.milestones)
    else:
        rate = protocol.lr
    return rate * min(1.0, (epoch + 1) / protocol.warmup_epochs) if protocol.warmup_epochs else rate
