"""The training loop that everyone copies, as the baseline of `benchmarks/train.py`.

A `DataLoader` with per-image transforms, float32 in NCHW order, both networks run whole with hooks that keep every stage's
map, `.item()` on every number of every step. Nothing in it is slow on purpose. The terms of a method beyond KD come from the
method's own file, so that what differs is the loop alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trainers import _torchvision
from trainers.data import Info, Split
from trainers.data._views import VIEWS
from trainers.methods import Batch, DistillMethod, Output
from trainers.models import Network
from trainers.synthesis.bn_statistics import BNStatistics

assert _torchvision.datasets  # that import lets the next one pass beside a torch without CUDA
from torchvision import transforms  # noqa: E402


class Pictures(Dataset[tuple[Tensor, int, int]]):
    """One image at a time through the usual transforms."""

    def __init__(self, split: Split, info: Info) -> None:
        assert isinstance(split.images, Tensor)
        self.images = split.images.permute(0, 2, 3, 1).numpy()
        self.labels = split.labels.tolist()
        steps = [transforms.ToPILImage(), transforms.RandomCrop(info.size, padding=info.crop_padding)]
        if info.flip:
            steps.append(transforms.RandomHorizontalFlip())
        self.transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(info.mean, info.std)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int, int]:
        return self.transform(self.images[row]), self.labels[row], row


@contextmanager
def hooked(network: Network) -> Iterator[dict[str, Tensor]]:
    """The outputs of all children of the network, as a hook per layer keeps them."""
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        return lambda module, inputs, output: kept.__setitem__(name, output)

    handles = [child.register_forward_hook(keep(name)) for name, child in network.named_children()]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


class Meter:
    """A running mean of numbers that were read from the device one by one."""

    def __init__(self) -> None:
        self.sum, self.count = 0.0, 0

    def update(self, value: float, count: int) -> None:
        self.sum, self.count = self.sum + value * count, self.count + count


def kd_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 4.0) -> Tensor:
    """0.1 CE + 0.9 T^2 KL, as RepDistiller's script for KD weighs them."""
    soft = F.kl_div(F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1), reduction="batchmean")
    return 0.1 * F.cross_entropy(student, labels) + 0.9 * temperature**2 * soft


def accuracy(logits: Tensor, labels: Tensor, most: int) -> Tensor:
    """Share of labels among the `most` largest logits, in percent."""
    best = logits.topk(min(most, logits.shape[1]), 1).indices
    return 100 * (best == labels[:, None]).any(1).float().mean()


def loader(split: Split, info: Info, batch: int, workers: int) -> DataLoader[tuple[Tensor, int, int]]:
    """Shuffled batches of `split`, as the usual scripts make them."""
    return DataLoader(Pictures(split, info), batch, shuffle=True, num_workers=workers, drop_last=False)


def distill_epoch(
    batches: Iterable[Any],
    student: Network,
    teacher: Network,
    optimizer: torch.optim.Optimizer,
    method: DistillMethod | None,
    device: torch.device,
) -> None:
    """One epoch.

    Args:
        method: gives the terms; None for KD, which is written out here.
    """
    student.train()
    meters = [Meter() for _ in range(3)]
    count = 1 if method is None else VIEWS[method.views].count
    for shown, labels, rows in batches:
        images, labels, rows = shown.float().to(device), labels.to(device), rows.to(device)
        if count > 1:
            images = torch.stack([torch.rot90(images, turns, dims=(2, 3)) for turns in range(count)], 1).flatten(0, 1)
        if method is None:
            with hooked(student), hooked(teacher):
                logits = student(images)
                with torch.no_grad():
                    taught = teacher(images)
            loss = kd_loss(logits, taught, labels)
        else:
            found = student.features(images)
            with torch.no_grad():
                known = teacher.features(images)
            answers = Output(found.logits, found), Output(known.logits, known)
            loss = torch.stack(list(method.terms(Batch(rows, labels, *answers, count)).values())).sum()
            logits = found.logits[::count]
        meters[0].update(loss.item(), len(labels))
        meters[1].update(accuracy(logits, labels, 1).item(), len(labels))
        meters[2].update(accuracy(logits, labels, 5).item(), len(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def datafree_epoch(
    updates: int, student: Network, teacher: Network, optimizer: torch.optim.Optimizer, method: Any
) -> None:
    """One epoch of a data-free method as the usual scripts run it: both networks keep their gradients switched on while images
    are shaped, and the hooks on the teacher's BatchNorm layers, once registered, answer to every forward pass."""
    method.start_epoch(0)
    meter, watch = Meter(), BNStatistics(teacher)
    for first in range(0, updates, method.student_steps):
        student.eval()
        for value in method.synthesise().values():
            meter.update(value.item(), 1)
        student.train()
        for _ in range(min(method.student_steps, updates - first)):
            images = method.images()
            with hooked(teacher), watch, torch.no_grad():
                taught = teacher(images)
            with hooked(student):
                logits = student(images)
            terms, logged = method.student_terms(Output(logits), Output(taught))
            loss = torch.stack(list(terms.values())).sum()
            for value in (loss, *terms.values(), *logged.values()):
                meter.update(value.item(), len(images))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            method.after_student_update()
