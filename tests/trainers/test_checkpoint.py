"""Files are whole or absent, run no code, and a flipped bit is noticed."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch

from trainers import checkpoint
from trainers.errors import TrialError

STATE = {"a": torch.arange(2000.0), "rows": [{"x": 1.5}], "best": -float("inf"), "kept": None}


def same(state: object) -> bool:
    return (
        isinstance(state, dict)
        and set(state) == set(STATE)
        and torch.equal(state["a"], STATE["a"])
        and state["rows"] == STATE["rows"]
    )


def test_round_trip_leaves_one_file(tmp_path: Path) -> None:
    file = tmp_path / "new" / "c.pt"
    checkpoint.save(file, STATE)
    checkpoint.save(file, STATE)
    assert same(checkpoint.load(file))
    assert os.listdir(file.parent) == ["c.pt"]


def test_no_change_to_a_file_is_taken_for_data(tmp_path: Path) -> None:
    """Every truncation and every flipped bit is refused, unless it lies in padding and the content is the same."""
    file = tmp_path / "c.pt"
    checkpoint.save(file, STATE)
    good, refused, said = file.read_bytes(), 0, 0
    choice = random.Random(0)
    for trial in range(300):
        bad = bytearray(good)
        if trial % 2:
            bad = bad[: choice.randrange(len(bad))]
        else:
            bad[choice.randrange(len(bad))] ^= 1 << choice.randrange(8)
        file.write_bytes(bytes(bad))
        try:
            state = checkpoint.load(file)
        except TrialError as error:
            said += "is corrupt or not a checkpoint" in str(error)
            refused += 1
        else:
            assert same(state)
    assert said == refused > 250


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"not a checkpoint"])
def test_garbage_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(TrialError, match="corrupt"):
        checkpoint.load(tmp_path / "c.pt")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("evil",)


def test_pickled_object_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"rows": Evil()}, tmp_path / "c.pt")
    with pytest.raises(TrialError, match="corrupt or not a checkpoint"):
        checkpoint.load(tmp_path / "c.pt")
    assert os.listdir(tmp_path) == ["c.pt"]


def test_tensor_alone_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save(torch.zeros(3), tmp_path / "c.pt")
    with pytest.raises(TrialError, match="it holds a Tensor"):
        checkpoint.load(tmp_path / "c.pt")


def test_missing_file_is_no_corrupt_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "c.pt")


def test_failed_write_leaves_the_old_content_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.replace_bytes(tmp_path / "f", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.replace_bytes(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    assert checkpoint.file_sha256(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
