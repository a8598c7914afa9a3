"""Methods with pools and banks: killed and taken over, they give the bits of a run that nobody broke."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from trainers import attempts, checkpoint
from trainers.attempts import State, read_status
from trainers.config import Trial
from trainers.errors import TrialError
from trainers.run import run_trial
from trainers.train import trial_folder

SMALL = {
    "adi": {"iterations": 3, "synthesis_batch": 8},
    "cmi": {
        "iterations": 3, "synthesis_batch": 8, "latent_dim": 8, "generator_width": 4, "bank_images": 16, "negatives": 8, "head_dim": 8,
    },
}  # fmt: skip
EPOCHS = 4  # the bank is full after two, and has forgotten its first batch after three
FILES = {
    "adi": {f"{number:05d}.pt" for number in range(EPOCHS)},
    "cmi": {f"{kind}{number:05d}.pt" for number in range(EPOCHS) for kind in ("", "bank_")},
}


def trial_of(name: str, tiny: Any) -> Trial:
    recipe = {"epochs": EPOCHS, "augment": False, "updates_per_epoch": 3, "artifact_epochs": (1,)}
    trial: Trial = tiny._trial(name, SMALL[name], recipe, None, with_teacher=True)
    return trial


def run(trial: Trial, root: Path) -> list[int]:
    return [epoch.number for epoch in run_trial(trial, root, root)]


def results(trial: Trial, root: Path) -> tuple[dict[str, bytes], list[dict[str, float]]]:
    """Bytes of the student and the rows, but for what a clock or the machine says."""
    state: dict[str, Tensor] = checkpoint.load(trial_folder(root, trial.digest()) / "weights.pt")["state"]
    measured = ("time/", "train/images_per_s", "train/peak_memory_mib", "timestamp_ms")
    rows = [
        {key: value for key, value in row.items() if not key.startswith(measured)}
        for row in attempts.rows(read_status(root, trial.digest()))
    ]
    return {key: tensor.numpy().tobytes() for key, tensor in state.items()}, rows


def pool(trial: Trial, root: Path) -> Path:
    folder = read_status(root, trial.digest()).folder
    assert folder is not None
    return folder / attempts.POOL


@pytest.mark.parametrize("name", sorted(SMALL))
def test_broken_after_each_epoch_gives_the_same_bits(name: str, tiny: Any, new_root: Callable[[], Path]) -> None:
    trial, whole, broken = trial_of(name, tiny), new_root(), new_root()
    assert run(trial, whole) == list(range(EPOCHS))
    for number in range(EPOCHS):
        epochs = run_trial(trial, broken, broken)
        assert next(epochs).number == number
        epochs.close()
        assert read_status(broken, trial.digest()).state is State.PARTIAL
        files = {file.name for file in pool(trial, broken).iterdir()}
        assert files == {each for each in FILES[name] if int(each[-8:-3]) <= number}  # the earlier ones have followed
    assert run(trial, broken) == []  # only the seal was missing
    assert results(trial, whole) == results(trial, broken)
    for root in (whole, broken):
        assert not list(trial_folder(root, trial.digest()).rglob(attempts.POOL))  # a done trial needs none


class Killed(BaseException):
    """Stands for a kill: nothing in the code may catch it."""


@pytest.mark.parametrize("name", sorted(SMALL))
def test_killed_between_pool_and_checkpoint_makes_that_epoch_again(
    name: str, tiny: Any, new_root: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    trial, whole, broken = trial_of(name, tiny), new_root(), new_root()
    save = checkpoint.save

    def die_before_the_checkpoint(path: Path, state: dict[str, Any]) -> None:
        if path.name == "checkpoint.pt" and len(state["rows"]) == 3:
            raise Killed
        save(path, state)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", die_before_the_checkpoint)
        with pytest.raises(Killed):
            run(trial, broken)
    left = pool(trial, broken)
    assert {file.name for file in left.iterdir()} == {each for each in FILES[name] if int(each[-8:-3]) <= 2}
    orphan = left / "00002.pt"
    before = orphan.stat()
    epochs = run_trial(trial, broken, broken)
    assert next(epochs).number == 2
    assert (orphan.stat().st_ino, orphan.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)  # its owner's stays
    assert [epoch.number for epoch in epochs] == [3]
    assert run(trial, whole) == list(range(EPOCHS))
    assert results(trial, whole) == results(trial, broken)


def test_a_pool_file_that_is_gone_ends_the_trial_with_its_name(tiny: Any, root: Path) -> None:
    trial = trial_of("cmi", tiny)
    epochs = run_trial(trial, root, root)
    next(epochs)
    epochs.close()
    (pool(trial, root) / "bank_00000.pt").unlink()
    with pytest.raises(TrialError, match=r"bank_00000\.pt is missing: the checkpoint refers to 1 files of features"):
        run(trial, root)
    assert read_status(root, trial.digest()).state is State.FAILED
    assert run(trial, root) == list(range(EPOCHS))  # asked for again, it starts over
