"""What would make trials fail that can be seen before any starts: places, images, weights, disk, memory, devices."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sweeps import cost
from sweeps.errors import SetupError
from sweeps.plan import Plan
from sweeps.settings import Settings
from trainers import attempts, data, methods, models
from trainers.attempts import State
from trainers.config import DataSpec, Trial
from trainers.data import Info
from trainers.data._views import VIEWS
from trainers.errors import TrainerError
from trainers.methods._inversion import InversionConfig, synthesis_batch
from trainers.models._outline import Outline
from trainers.synthesis import pool
from trainers.train import trial_folder

GIB, MIB = 2**30, 2**20
SMALL = 1 * MIB
"""Rows, log and samples of a trial; demo's take 0.1 to 0.6 MiB."""
DOWNLOADS = {
    "cifar10": ("cifar-10-batches-py", 0.35),
    "cifar100": ("cifar-100-python", 0.35),
    "tiny_imagenet": ("tiny-imagenet-200", 2.2),
    "stl10": ("stl10_binary", 3.0),
}
"""Folder under the data root, and GiB that archive, unpacked files and cache take, of sets that are fetched on first use."""


def faults(plans: Sequence[Plan], settings: Settings, *, retry_failed: bool = False) -> list[str]:
    """Every fault that can be seen now, each with value, place and remedy; nothing is written, and no image is read twice.

    Args:
        retry_failed: whether trials that failed by their own fault are to run again.
    """
    to_run = _to_run(plans, settings.state, retry_failed)
    found = _state_faults(settings.state)
    concerned = {id(plan) for plan, _ in to_run}
    found += _data_faults([plan for plan in plans if plan.probes or id(plan) in concerned], settings)
    if settings.state.is_dir():
        found += _upstream_faults([trial for _, trial in to_run], plans, settings.state)
    to_run += [(plan, trial) for plan in plans for trial in plan.probes]
    found += _device_faults(to_run, settings)
    found += _memory_faults(to_run, settings)
    found += _disk_faults(to_run, settings)
    return list(dict.fromkeys(found))


def require(plans: Sequence[Plan], settings: Settings, *, retry_failed: bool = False) -> None:
    """As `faults`, and a file is written into the state root to see that it can be.

    Raises:
        SetupError: all of them.
    """
    found = faults(plans, settings, retry_failed=retry_failed)
    if not found:
        try:
            settings.state.mkdir(parents=True, exist_ok=True)
            trace = settings.state / f".probe-{os.getpid()}"
            trace.write_text("")
            trace.unlink()
        except OSError as error:
            found = [_not_writable(settings.state, str(error.strerror))]
    if found:
        raise SetupError(*found)


def _to_run(plans: Iterable[Plan], state_root: Path, retry_failed: bool) -> list[tuple[Plan, Trial]]:
    """Distinct trials that a launch would start, each with the first plan that wants it."""
    found: dict[str, tuple[Plan, Trial]] = {}
    for plan in plans:
        for digest, trial in plan.trials.items():
            state = plan.states.get(digest, State.NEW)
            if state is not State.DONE and (state is not State.FAILED or retry_failed):
                found.setdefault(digest, (plan, trial))
    return list(found.values())


# --- places ----------------------------------------------------------------------------------------------------------


def _state_faults(state: Path) -> list[str]:
    there = _nearest(state)
    if not there.is_dir():
        return [_not_writable(state, f"{there} is a file")]
    if not os.access(there, os.W_OK | os.X_OK):
        return [_not_writable(state, f"no right to write into {there}")]
    return []


def _nearest(path: Path) -> Path:
    """The path itself or the nearest folder above it that exists."""
    return next(each for each in (path, *path.parents) if each.exists())


def _not_writable(state: Path, reason: str) -> str:
    return f"the state root {state} cannot be written: {reason}; set SWEEPS_STATE to a folder of yours"


# --- images and weights ----------------------------------------------------------------------------------------------


def _data_faults(plans: Iterable[Plan], settings: Settings) -> list[str]:
    found = []
    for spec in dict.fromkeys(spec for plan in plans for spec in plan.data):
        try:
            data.info(spec, settings.data)
            missing = data.missing(spec, settings.data)
        except TrainerError as error:
            found += [f"data {spec.name}: {line}" for line in str(error).splitlines()]
            continue
        found += [f"data {spec.name}: {fault}" for fault in missing]
        found += _download_faults(spec, settings.data)
    return found


def _download_faults(spec: DataSpec, root: Path) -> list[str]:
    """Whether a set that is fetched on first use could be put where it belongs."""
    folder, gib = DOWNLOADS.get(spec.name, ("", 0.0))
    if not folder or (root / folder).exists():
        return []
    there = _nearest(root)
    remedy = "set SWEEPS_DATA to a folder with room, or to one that holds the set"
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        return [f"data {spec.name}: is not in {root}, and {there} cannot be written to fetch it; {remedy}"]
    free = shutil.disk_usage(there).free / GIB
    if free < gib:
        return [
            f"data {spec.name}: is not in {root}, and to fetch it takes {gib:g} GiB where {free:.2f} GiB are free; {remedy}"
        ]
    return []


def _upstream_faults(trials: Sequence[Trial], plans: Sequence[Plan], state_root: Path) -> list[str]:
    """Weights of finished trials that others wait for: there, and readable as a file of weights."""
    names = {digest: name for plan in plans for digest, name in plan.names.items()}
    found = []
    for upstream in {up.digest(): up for trial in trials for up in trial.upstreams()}.values():
        digest = upstream.digest()
        status = attempts.read_status(state_root, digest)
        if status.state is not State.DONE or status.folder is None:
            continue
        file = trial_folder(state_root, digest) / "weights.pt"
        places = (file, status.folder / "weights.pt")  # the second where its owner was killed before it published them
        there = next((place for place in places if place.exists()), None)
        what = f"weights of {names.get(digest, upstream.student)} ({digest[:12]})"
        if there is None:
            remedy = f"put the file back, or remove the folder {file.parent} so that the trial is trained again"
            found.append(f"{what} are gone: {file}; {remedy}")
        elif not zipfile.is_zipfile(there):
            found.append(
                f"{what} cannot be read: {there}; remove the folder {file.parent} so that the trial is trained again"
            )
    return found


# --- devices ---------------------------------------------------------------------------------------------------------


def _device_faults(to_run: Sequence[tuple[Plan, Trial]], settings: Settings) -> list[str]:
    """What no trial could ever get on this machine; a cluster's nodes are asked once it is joined (`sweeps.launch`)."""
    if settings.ray_address is not None:
        return []
    have = {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}
    found = []
    for plan in {id(plan): plan for plan, _ in to_run}.values():
        for name, amount in (("CPU", plan.resources.cpu), ("GPU", plan.resources.gpu)):
            if amount > have[name]:
                found.append(
                    f"{plan.title}: a trial needs {amount:g} {name}, but this machine has {have[name]:g}; "
                    f"join a cluster with RAY_ADDRESS, or choose a profile that needs less (resources)"
                )
    return found


def _memory_faults(to_run: Sequence[tuple[Plan, Trial]], settings: Settings) -> list[str]:
    """Trials that need more of a GPU than their share of it, or a pool of images that memory has no room for; one for each plan."""
    if settings.ray_address is not None:
        return []
    gpus = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    found = []
    for plan in {id(plan): plan for plan, _ in to_run}.values():
        sized = [
            (trial, info) for own, trial in to_run if own is plan and (info := _info(trial, settings.data)) is not None
        ]
        if plan.resources.gpu and gpus:
            largest = max(gpus, key=lambda gpu: int(gpu.total_memory))
            share = min(1.0, plan.resources.gpu)
            have = largest.total_memory * share
            device, remedy = f"{share:g} of {largest.name}", "lower protocol.batch_size, or raise resources.gpu"
            needs = [(gpu_bytes(trial, info), trial) for trial, info in sized]
        elif not plan.resources.gpu:
            have = pool.free_gib(torch.device("cpu")) * GIB
            device, remedy = "this machine", "use fewer epochs, a smaller synthesis_batch, or a larger machine"
            needs = [(float(pool_bytes(trial, info)), trial) for trial, info in sized]
        else:
            continue
        over = sorted((need for need in needs if need[0] > have), key=lambda need: -need[0])
        if over:
            need, trial = over[0]
            what = "on the GPU" if plan.resources.gpu else "of memory for its pool of images"
            found.append(
                f"{plan.title}: {trial.method} {trial.student} with batches of {trial.protocol.batch_size} takes at least "
                f"{_size(need)} {what}, and {device} has {_size(have)}; {remedy} ({len(over)} of {len(sized)} trials)"
            )
    return found


# --- disk ------------------------------------------------------------------------------------------------------------


def _disk_faults(to_run: Sequence[tuple[Plan, Trial]], settings: Settings) -> list[str]:
    """Weights stay; checkpoints (old and new while one is replaced) and pools are there while a trial runs."""
    weights, passing = 0.0, []
    for plan, trial in to_run:
        info = _info(trial, settings.data)
        search = plan.experiment.file.search
        times = 1 if search is None or trial not in plan.probes else search.trials * len(plan.seeds)
        if info is None or trial.kind == "evaluate":
            weights += SMALL * times
            continue
        own = weights_bytes(trial.student, info)
        weights += (own + SMALL) * times
        passing += [(2 * checkpoint_bytes(trial, own) + pool_bytes(trial, info), plan)] * times
    passing.sort(key=lambda each: each[0], reverse=True)
    running = sum(size for size, _ in passing[: _at_once(to_run, settings)])
    there = _nearest(settings.state)
    free = shutil.disk_usage(there).free
    if not to_run or weights + running <= free:
        return []
    return [
        f"the state root {settings.state} has {_size(free)} free, and {len(to_run)} trials take about {_size(weights + running)} "
        f"(weights {_size(weights)}, checkpoints and pools of those that run {_size(running)}); free space (`sweep gc` lists what "
        f"can go), or set SWEEPS_STATE to a larger disk"
    ]


def _at_once(to_run: Sequence[tuple[Plan, Trial]], settings: Settings) -> int:
    """Trials that may run at once: all of them on a cluster, whose size is not known yet."""
    if settings.ray_address is not None:
        return len(to_run)
    return int(max(((os.cpu_count() or 1) / plan.resources.cpu for plan, _ in to_run), default=1)) or 1


def _size(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.0f} MiB"


def device_bytes() -> float | None:
    """Memory of this machine's smallest GPU; None where it has none."""
    sizes = [torch.cuda.get_device_properties(number).total_memory for number in range(torch.cuda.device_count())]
    return float(min(sizes)) if sizes else None


# --- sizes -----------------------------------------------------------------------------------------------------------


def weights_bytes(network: str, info: Info) -> int:
    """Size of a network's weights and buffers."""
    return _state_bytes(network, info.classes, info.channels, info.size)


def checkpoint_bytes(trial: Trial, weights: int) -> int:
    """Student, the optimiser's state, and the best weights where they are kept; modules of the method are left out."""
    buffers = {"sgd": int(trial.protocol.momentum > 0), "adam": 2, "dot": 2}[trial.protocol.optimizer]
    return weights * (1 + buffers + int(trial.protocol.keep == "best"))


def pool_bytes(trial: Trial, info: Info) -> int:
    """Images that an inverting method keeps, as 8-bit pixels; 0 for others."""
    config = methods.config_type(trial.method).model_validate(dict(trial.hparams))
    if not isinstance(config, InversionConfig):
        return 0
    return trial.protocol.epochs * synthesis_batch(config, trial.protocol) * info.channels * info.size**2


def gpu_bytes(trial: Trial, info: Info) -> float:
    """Memory that a trial takes on a GPU at the least.

    Weights of both networks, the teacher's a second time with BatchNorm folded in; of the student also gradients, the optimiser's state, and half of what its layers put out for
    a batch of all views (the other half is taken to be changed in place). Workspaces and the teacher's pass come on top.
    """
    student = weights_bytes(trial.student, info)
    if trial.kind not in ("distill", "datafree"):
        return float(student)
    teacher = 0 if trial.teacher is None else weights_bytes(trial.teacher.network, info)
    views = 1
    if trial.kind == "distill":
        config = methods.config_type(trial.method).model_validate(dict(trial.hparams))
        views = VIEWS[methods.views(trial.method, config)].count
    outputs = _output_bytes(trial.student, info.classes, info.channels, info.size)
    activations = outputs / 2 * trial.protocol.batch_size * views / (2 if trial.precision == "bf16" else 1)
    return checkpoint_bytes(trial, student) + student + 2 * teacher + activations + pool_bytes(trial, info)


@lru_cache(maxsize=256)
def _state_bytes(network: str, classes: int, channels: int, size: int) -> int:
    """Of a network's weights and buffers; none is allocated."""
    built = cost.sketch(network, classes, channels, size)
    return sum(value.numel() * value.element_size() for value in built.state_dict().values())


@lru_cache(maxsize=256)
def _output_bytes(network: str, classes: int, channels: int, size: int) -> int:
    """Of all layers' outputs for one image; nothing is allocated."""
    outputs = 0

    def add(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal outputs
        outputs += output.numel() * output.element_size() if isinstance(output, torch.Tensor) else 0

    with torch.device("meta"), Outline(), torch.no_grad():
        built = models.build(network, classes=classes, channels=channels, size=size).eval()
        for module in _leaves(built):
            module.register_forward_hook(add)
        built(torch.empty(1, channels, size, size))
    return outputs


def _leaves(network: nn.Module) -> Iterator[nn.Module]:
    return (module for module in network.modules() if not list(module.children()))


def _info(trial: Trial, root: Path) -> Info | None:
    """Shape of a trial's images; None where they cannot be read, which is a fault of its own."""
    try:
        return data.info(trial.data.model_copy(update={"content": None}), root)
    except TrainerError:
        return None
