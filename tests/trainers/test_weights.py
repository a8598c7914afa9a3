"""Imported weights: found, fetched or refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainers import checkpoint, models, weights
from trainers.config import Upstream
from trainers.data import Info
from trainers.errors import TrialError

INFO = Info(classes=10, channels=1, size=8, mean=(0.5,), std=(0.5,), crop_padding=0, flip=False)


def file_of(network: str, folder: Path, name: str = "net.pth") -> Path:
    file = folder / "weights" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(models.build(network, classes=10, channels=1, size=8, seed=0).state_dict(), file)
    return file


def named(file: Path, digits: int = 64, **changes: str) -> Upstream:
    return Upstream(weights=file.name, sha256=checkpoint.file_sha256(file)[:digits], network="resnet8").model_copy(
        update=changes
    )


def test_a_name_is_looked_up_under_the_data_root_and_a_path_stays(tmp_path: Path) -> None:
    upstream = Upstream(weights="net.pth", sha256="0" * 8, network="resnet8")
    assert weights.place(upstream, tmp_path) == tmp_path / "weights" / "net.pth"
    elsewhere = upstream.model_copy(update={"weights": str(tmp_path / "own.pt")})
    assert weights.place(elsewhere, Path("data")) == tmp_path / "own.pt"


def test_the_first_digits_of_the_sum_name_a_file(tmp_path: Path) -> None:
    file = file_of("resnet8", tmp_path)
    assert weights.find(named(file, 8), tmp_path) == file
    assert weights.faults(named(file, 8), INFO, tmp_path) == []
    other = named(file).model_copy(update={"sha256": "0" * 8})
    with pytest.raises(TrialError, match=r"is not the file the trial names \(sha256 \w{12}\.\.\., not 00000000\)"):
        weights.find(other, tmp_path)


def test_a_missing_file_is_fetched_once_and_checked(tmp_path: Path) -> None:
    file = file_of("resnet8", tmp_path / "server")
    upstream = named(file, url=file.as_uri())
    assert weights.faults(upstream, INFO, tmp_path) == []  # it can be had
    found = weights.find(upstream, tmp_path)
    assert found == tmp_path / "weights" / "net.pth"
    file.unlink()
    assert weights.find(upstream, tmp_path) == found
    wrong = upstream.model_copy(update={"weights": "second.pth", "url": found.as_uri(), "sha256": "0" * 64})
    with pytest.raises(TrialError, match="is not the file the trial names"):
        weights.find(wrong, tmp_path)
    assert not (tmp_path / "weights" / "second.pth").exists()  # or it would be in the way of the right one


def test_what_cannot_be_had_says_where_to_put_it(tmp_path: Path) -> None:
    upstream = Upstream(weights="net.pth", sha256="0" * 8, network="resnet8")
    (fault,) = weights.faults(upstream, INFO, tmp_path)
    assert fault == f"{tmp_path / 'weights' / 'net.pth'} is not there; put it there, or give its url"
    away = upstream.model_copy(update={"url": (tmp_path / "nowhere.pth").as_uri()})
    with pytest.raises(TrialError, match=r"cannot be fetched from .*; put the file at .*net\.pth by hand"):
        weights.find(away, tmp_path)


def test_weights_of_another_network_are_a_fault_before_anything_starts(tmp_path: Path) -> None:
    file = file_of("resnet14", tmp_path)
    (fault,) = weights.faults(named(file), INFO, tmp_path)
    assert "does not hold weights of resnet8: it has also stages.0.1" in fault
    (fault,) = weights.faults(named(file_of("resnet8", tmp_path)), Info(7, 1, 8, (0.5,), (0.5,), 0, False), tmp_path)
    assert "classifier.weight is (10, 64), not (7, 64)" in fault


def test_a_file_that_is_no_checkpoint_is_a_fault(tmp_path: Path) -> None:
    file = tmp_path / "weights" / "net.pth"
    file.parent.mkdir()
    file.write_text("<html>not found</html>")
    (fault,) = weights.faults(named(file), INFO, tmp_path)
    assert "is corrupt or not a checkpoint" in fault
