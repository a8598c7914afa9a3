"""Answers of finished networks: computed once, of equal bits, never wrong, never in the way."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from trainers import answers, checkpoint, data, metrics, probe
from trainers.answers import FOLDER, Answers
from trainers.config import DataSpec, Execution, Trial, Upstream
from trainers.data import DataSet
from trainers.run import run_trial
from trainers.train import trial_folder

UPSTREAM = Upstream(weights="w.pt", sha256="a" * 64, network="resnet8")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images() -> DataSet:
    return data.load(DataSpec(name="digits", train_per_class=2), Path())


class Count:
    """Gives rising numbers, one for each image, and knows how often it was asked."""

    def __init__(self, size: int) -> None:
        self.size, self.calls = size, 0

    def __call__(self) -> Tensor:
        self.calls += 1
        return torch.arange(self.size, dtype=torch.float32).view(-1, 1) + self.calls


def of(root: Path, content: str = "c" * 64, threads: int = 1) -> Answers:
    return Answers.of(root, Execution.of_new(threads), CPU, content)


def run(trial: Trial, root: Path) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """Metrics that are not times, and the weights."""
    rows = [
        {name: value for name, value in epoch.row.items() if name.startswith(("test/", "train/loss"))}
        for epoch in run_trial(trial, root, root)
    ]
    return rows, torch.load(trial_folder(root, trial.digest()) / "weights.pt", weights_only=True)["state"]


def test_an_answer_is_computed_once_for_all_who_ask_alike(tmp_path: Path, images: DataSet) -> None:
    made = Count(len(images.test))
    first = of(tmp_path).once({"what": "x"}, UPSTREAM, images, images.test, made)
    again = of(tmp_path).once({"what": "x"}, UPSTREAM, images, images.test, made)
    assert torch.equal(first, again) and made.calls == 1


def test_whatever_changes_bits_is_another_answer(tmp_path: Path, images: DataSet) -> None:
    made = Count(len(images.test))
    other = UPSTREAM.model_copy(update={"sha256": "b" * 64})
    of(tmp_path).once({"what": "x"}, UPSTREAM, images, images.test, made)
    of(tmp_path).once({"what": "y"}, UPSTREAM, images, images.test, made)
    of(tmp_path).once({"what": "x"}, other, images, images.test, made)
    of(tmp_path, content="d" * 64).once({"what": "x"}, UPSTREAM, images, images.test, made)
    of(tmp_path, threads=2).once({"what": "x"}, UPSTREAM, images, images.test, made)
    assert made.calls == 5
    train = Count(len(images.train))
    assert len(of(tmp_path).once({"what": "x"}, UPSTREAM, images, images.train, train)) == len(images.train)
    assert train.calls == 1


def test_a_broken_file_is_made_again(tmp_path: Path, images: DataSet) -> None:
    made = Count(len(images.test))
    of(tmp_path).once({"what": "x"}, UPSTREAM, images, images.test, made)
    (file,) = (tmp_path / FOLDER).iterdir()
    for content in (b"", file.read_bytes()[:-100], b"nothing"):
        file.write_bytes(content)
        of(tmp_path).once({"what": "x"}, UPSTREAM, images, images.test, made)
        assert len(checkpoint.load(file)["answer"]) == len(images.test)
    assert made.calls == 4


def test_of_images_that_stay_in_their_files_nothing_is_kept(tmp_path: Path, images: DataSet) -> None:
    made = Count(len(images.test))
    for _ in range(2):
        Answers().once({"what": "x"}, UPSTREAM, images, images.test, made)
        of(tmp_path, content="").once({"what": "x"}, UPSTREAM, images, images.test, made)
    assert made.calls == 4 and not (tmp_path / FOLDER).exists()


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path, images: DataSet) -> None:
    (tmp_path / FOLDER).touch()
    made = Count(len(images.test))
    found = of(tmp_path).once({"what": "x"}, UPSTREAM, images, images.test, made)
    assert len(found) == len(images.test)


def test_those_that_were_read_longest_ago_make_room(
    tmp_path: Path, images: DataSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Count(len(images.test))
    for number in range(2):
        of(tmp_path).once({"what": number}, UPSTREAM, images, images.test, made)
    kept = sorted((tmp_path / FOLDER).iterdir(), key=lambda file: file.stat().st_mtime_ns)
    for age, file in zip((300, 200), kept, strict=True):
        os.utime(file, (1e9 - age, 1e9 - age))
    of(tmp_path).once({"what": 0}, UPSTREAM, images, images.test, made)  # read: now the newest
    monkeypatch.setattr(answers, "LIMIT_BYTES", 2 * kept[0].stat().st_size + 100)
    of(tmp_path).once({"what": 2}, UPSTREAM, images, images.test, made)
    assert made.calls == 3
    of(tmp_path).once({"what": 0}, UPSTREAM, images, images.test, made)
    assert made.calls == 3
    assert sum(1 for _ in (tmp_path / FOLDER).iterdir()) == 2


def test_probes_of_one_student_compute_its_features_once_and_give_the_same_bits(
    tiny: Any, new_root: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    compute = probe.trunk_features
    monkeypatch.setattr(probe, "trunk_features", lambda *a: (calls.append(1), compute(*a))[1])
    root, alone = new_root(), new_root()
    one, two = (tiny.probe(tiny.teacher(), epochs=2, lr=lr) for lr in (0.1, 0.2))
    run(one, root)
    made = len(calls)
    kept = run(two, root)
    assert made == 3 and len(calls) == made  # train, val and test
    computed = run(two, alone)
    assert len(calls) == 2 * made
    assert kept[0] == computed[0]
    assert all(torch.equal(kept[1][name], computed[1][name]) for name in computed[1])


def test_trials_of_one_teacher_ask_it_for_its_test_answers_once(
    tiny: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    predict = metrics.predict
    monkeypatch.setattr(metrics, "predict", lambda *a: (seen.append(1), predict(*a))[1])
    first = run(tiny.kd(epochs=1), root)
    assert len(seen) == 2 + 1  # teacher, and student on test and val
    run(tiny.kd({"temperature": 2.0}, epochs=1), root)
    assert len(seen) == 3 + 2
    assert "test/agree1_pct" in first[0][0]
