"""Files in a state root that somebody else wrote: refused without running what they hold, or read as what they are."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from trainers import attempts, provenance
from trainers.attempts import State, read_status
from trainers.config import Upstream
from trainers.errors import TrainerError
from trainers.run import run_trial
from trainers.train import trial_folder


class Evil:
    """Makes a folder where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "code-was-run"


def begun(tiny: Any, root: Path) -> Path:
    """A trial after its first epoch; the folder of its attempt."""
    epochs = run_trial(tiny.kd(), root, root)
    next(epochs)
    epochs.close()  # type: ignore[attr-defined]
    folder = read_status(root, tiny.kd().digest()).folder
    assert folder is not None
    return folder


def test_the_poison_works(mark: Path) -> None:
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.is_dir()


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_poisoned_checkpoint_fails_its_trial_and_runs_nothing(tiny: Any, root: Path, mark: Path, how: str) -> None:
    file = begun(tiny, root) / "checkpoint.pt"
    if how == "torch":
        torch.save({"rows": [], "evil": Evil(mark)}, file)
    else:
        file.write_bytes(pickle.dumps({"rows": [], "evil": Evil(mark)}))
    with pytest.raises(TrainerError, match=r"checkpoint\.pt: it is corrupt"):
        list(run_trial(tiny.kd(), root, root))
    assert read_status(root, tiny.kd().digest()).state is State.FAILED
    assert not mark.exists()


def test_poisoned_weights_of_a_teacher_fail_its_students_and_run_nothing(tiny: Any, root: Path, mark: Path) -> None:
    torch.save(
        {"network": "resnet8", "state": {}, "evil": Evil(mark)},
        trial_folder(root, tiny.teacher().digest()) / "weights.pt",
    )
    with pytest.raises(TrainerError, match=r"weights\.pt.* is corrupt"):
        list(run_trial(tiny.kd(), root, root))
    assert not mark.exists()


def test_a_poisoned_journal_is_text_and_the_trial_goes_on_from_its_checkpoint(
    tiny: Any, root: Path, mark: Path
) -> None:
    file = begun(tiny, root) / "journal.jsonl"
    file.write_bytes(pickle.dumps(Evil(mark)) + b"\n\xff\xfe{\n")
    assert attempts.rows(read_status(root, tiny.kd().digest())) == []
    assert [epoch.number for epoch in run_trial(tiny.kd(), root, root)] == [1, 2]
    assert [row["epoch"] for row in attempts.rows(read_status(root, tiny.kd().digest()))] == [0, 1, 2]
    assert not mark.exists()


def test_a_seal_cannot_point_out_of_its_trial(tiny: Any, root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    list(run_trial(tiny.kd(), root, root))
    status = read_status(root, tiny.kd().digest())
    seal = trial_folder(root, tiny.kd().digest()) / "attempts" / str(status.number) / "claim.json"
    entry = json.loads(seal.read_text())
    seal.write_text(json.dumps({**entry, "attempt": f"../../../../{tmp_path.name}/elsewhere"}))
    with pytest.raises(ValueError, match="invalid literal"):
        read_status(root, tiny.kd().digest())


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a" * 63, "A" * 64, "", "a" * 64 + "\n"])
def test_changes_of_the_code_are_named_by_their_sum_alone(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is no SHA-256"):
        provenance.patch_file(tmp_path, name)
    (tmp_path / provenance.FILE).write_text(json.dumps({"commit": "c0ffee", "patch": name}))
    assert provenance.read(tmp_path) == ({} if name else {"commit": "c0ffee", "patch": ""})


@pytest.mark.parametrize("name", ["../resnet.pth", "a/../../b.pth", "/data/../etc/x.pth"])
def test_a_weights_file_s_name_does_not_climb(name: str) -> None:
    with pytest.raises(ValueError, match=r"without `\.\.`"):
        Upstream(weights=name, sha256="0" * 64, network="resnet8")
    assert Upstream(weights="/data/resnet..pth", sha256="0" * 64, network="resnet8").weights
