"""Named training recipes, each with its source; a profile maps the papers' names to shorter ones."""

from __future__ import annotations

import math
from collections.abc import Mapping

from trainers import registry
from trainers.config import Protocol
from trainers.errors import ConfigError

_SCRATCH = "CMI authors' benchmark and CuDFKD's code: SGD .1 / .9 / 1e-4, batch 256, 200 epochs, x.1 at 120, 150, 180, best epoch kept"
_CUDFKD = "CuDFKD's official scripts: SGD .1 / .9 / 1e-4, cosine to 0 per epoch, 400 student updates an epoch"

_REFERENCE = "CRD's and mdistiller's CIFAR-100 recipe, PCKD Sec. IV-A: SGD .05 / .9 / 5e-4 on all parameters, batch 64, x.1 from the 151st, 181st and 211th epoch"
_IMAGENET = "mdistiller's ImageNet recipe: SGD .9 / 1e-4, 100 epochs, x.1 from the 31st, 61st and 91st epoch"


def _datafree(name: str, row: str, *, epochs: int, batch: int) -> Protocol:
    """A row of the scripts' settings; epochs 0, 10, 80, 150 and the last keep samples and histograms (Fig. 5)."""
    return Protocol(
        name=name, source=f"{_CUDFKD}; {row}", epochs=epochs, batch_size=batch, lr=0.1, weight_decay=1e-4,
        augment=False, updates_per_epoch=400, stats_from_epoch=80, artifact_epochs=(0, 10, 80, 150),
    )  # fmt: skip


def _reference(name: str, more: str = "", *, epochs: int = 240, lr: float = 0.05) -> Protocol:
    """The reference recipe of distillation with data; the 50th epoch keeps its easiest and hardest images (PCKD Fig. 7)."""
    return Protocol(
        name=name, source=f"{_REFERENCE}{more}", epochs=epochs, batch_size=64, lr=lr, weight_decay=5e-4,
        schedule="step", milestones=(150, 180, 210), artifact_epochs=(49,),
    )  # fmt: skip


def _imagenet(name: str, row: str, *, batch: int, lr: float) -> Protocol:
    return Protocol(
        name=name, source=f"{_IMAGENET}; {row}", epochs=100, batch_size=batch, lr=lr, weight_decay=1e-4,
        schedule="step", milestones=(30, 60, 90),
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
    _reference("cifar100-240"),
    _reference("cifar100-240-light", "; lr .01 for MobileNetV2 and ShuffleNet students, as in every public code", lr=0.01),
    _reference("cifar100-mld-480", "; MLD's scripts: 480 epochs at .01 without later steps", epochs=480, lr=0.01),
    _reference("cifar100-mld-960", "; MLD's scripts: 960 epochs at .01 without later steps", epochs=960, lr=0.01),
    _imagenet("imagenet-100-b256", "batch 256, lr .1 (CRD, ReviewKD)", batch=256, lr=0.1),
    _imagenet("imagenet-100-b512", "batch 512, lr .2 (KD, AT, DKD)", batch=512, lr=0.2),
    Protocol(
        name="imagenet-120", source="PCKD Sec. IV-A: SGD .4 / .9 / 1e-4, batch 1024 (16 x 64), 120 epochs, 5 of warm-up (taken as linear), x.1 at 40, 70, 100, 110",
        epochs=120, batch_size=1024, lr=0.4, weight_decay=1e-4, schedule="step", milestones=(40, 70, 100, 110), warmup_epochs=5,
    ),
    Protocol(
        name="probe-100", source="PCKD Sec. IV-A: a linear layer on frozen features, SGD .1 / .9 / 1e-4, batch 64, 100 epochs, x.1 at 30, 60, 90; augmentation not stated, none taken",
        epochs=100, batch_size=64, lr=0.1, weight_decay=1e-4, schedule="step", milestones=(30, 60, 90), augment=False,
    ),
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
        name="gpu-kd", source="this project: cifar100-240 shortened to minutes on one data-centre GPU", epochs=30, batch_size=64, lr=0.05,
        weight_decay=5e-4, schedule="step", milestones=(19, 23, 26), artifact_epochs=(6,),
    ),
    Protocol(
        name="cpu-kd", source="this project: cifar100-240 shortened to minutes on a CPU, real images", epochs=4, batch_size=64, lr=0.05,
        weight_decay=5e-4, schedule="step", milestones=(2, 3),
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
    Protocol(
        name="demo-kd", source="this project: cifar100-240 shortened for few handwritten digits on a CPU, teachers and students alike",
        epochs=30, batch_size=32, lr=0.05, weight_decay=5e-4, schedule="step", milestones=(19, 23, 26),
    ),
    Protocol(
        name="demo-kd-light", source="this project: demo-kd for the small MobileNetV2 and ShuffleNets, which learn more slowly; the losses "
        "of DKD and MLD, ten times larger than those of KD, need the clipped gradient", epochs=60,
        batch_size=32, lr=0.01, weight_decay=5e-4, schedule="step", milestones=(37, 45, 53), clip_norm=5.0,
    ),
    Protocol(
        name="demo-probe", source="this project: probe-100 shortened for digits on a CPU", epochs=20, batch_size=64, lr=0.1, weight_decay=1e-4,
        schedule="step", milestones=(6, 12, 18), augment=False,
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
