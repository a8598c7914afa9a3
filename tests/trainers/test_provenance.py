"""What a trial is made with, in a repository made for the test and on real trials."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from trainers import provenance
from trainers.attempts import read_status
from trainers.config import Execution
from trainers.data import DataSet, Info, Split
from trainers.group import run_group
from trainers.run import run_trial

INFO = Info(2, 1, 2, (0.5,), (0.5,), 0, False)


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repository whose package `trainers` is taken for ours."""
    folder = tmp_path / "repository"
    (folder / "trainers").mkdir(parents=True)
    (folder / "trainers" / "__init__.py").write_text("")
    (folder / "trainers" / "loop.py").write_text("RATE = 1\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    monkeypatch.setattr(provenance, "HERE", folder / "trainers")
    forget()
    yield folder
    forget()


def forget() -> None:
    provenance.commit.cache_clear()
    provenance.patch.cache_clear()


def test_a_clean_repository_has_its_commit_and_no_patch(repository: Path) -> None:
    assert provenance.commit() == git(repository, "rev-parse", "HEAD").strip()
    assert provenance.patch() == ""


def test_the_patch_brings_a_fresh_clone_to_the_same_code(repository: Path, tmp_path: Path) -> None:
    (repository / "trainers" / "loop.py").write_text("RATE = 2\n")
    (repository / "trainers" / "new.py").write_text("one = 1\ntwo = 2")  # no newline at the end
    (repository / "trainers" / "empty.py").write_text("")
    (repository / "trainers" / "ü.py").write_text("x = 'ß'\n", encoding="utf-8")
    (repository / "notes.txt").write_text("not code\n")
    (repository / ".gitignore").write_text("secret.py\n")
    (repository / "secret.py").write_text("PASSWORD = 1\n")
    assert provenance.commit().endswith("+dirty")
    text = provenance.patch()
    assert "PASSWORD" not in text
    assert "not code" not in text
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(repository), str(clone))
    (tmp_path / "code.patch").write_text(text, encoding="utf-8")
    git(clone, "apply", str(tmp_path / "code.patch"))
    code = {path.name: path.read_bytes() for path in (repository / "trainers").iterdir()}
    assert {path.name: path.read_bytes() for path in (clone / "trainers").iterdir()} == code


def test_only_new_files_are_changes_too(repository: Path) -> None:
    (repository / "trainers" / "new.py").write_text("one = 1\n")
    assert provenance.commit().endswith("+dirty")


def test_somebody_elses_repository_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the package is installed in a virtual environment inside a user's own repository."""
    git(tmp_path, "init", "-q")
    (tmp_path / "own.py").write_text("")
    git(tmp_path, "add", "own.py")
    git(tmp_path, "commit", "-qm", "theirs")
    (tmp_path / "venv" / "trainers").mkdir(parents=True)
    (tmp_path / "venv" / "trainers" / "__init__.py").write_text("")
    monkeypatch.setattr(provenance, "HERE", tmp_path / "venv" / "trainers")
    forget()
    assert (provenance.commit(), provenance.patch()) == ("", "")
    forget()


def test_versions_are_those_of_the_packages_that_run() -> None:
    found = provenance.versions()
    assert found["torch"] == torch.__version__
    assert {"python", "torchvision", "numpy", "pillow", "scikit-learn"} <= set(found)
    assert "pytest" not in found


def images(shade: int = 0, label: int = 0, count: int = 3) -> DataSet:
    split = Split(torch.full((count, 1, 2, 2), shade, dtype=torch.uint8), torch.full((count,), label))
    test = Split(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64))
    return DataSet(INFO, split, test)


def test_content_changes_with_every_pixel_label_and_split() -> None:
    base = images()
    assert provenance.content_sha256(images()) == provenance.content_sha256(base)
    moved = DataSet(INFO, base.train, base.test, val=base.test)
    variants = [images(shade=1), images(label=1), images(count=4), moved]
    assert len({provenance.content_sha256(each) for each in (base, *variants)}) == 5


def test_every_attempt_of_a_trial_records_what_it_is_made_with(tiny: Any, root: Path, repository: Path) -> None:
    (repository / "trainers" / "loop.py").write_text("RATE = 3\n")
    trial = tiny.kd()
    first = run_trial(trial, root, root)
    next(first)
    first.close()  # type: ignore[attr-defined]
    list(run_trial(trial, root, root))
    status = read_status(root, trial.digest())
    assert status.folder is not None
    assert status.folder.name == "2"
    made = [provenance.read(status.folder.parent / number) for number in ("1", "2")]
    assert made[0] == made[1]
    assert made[0]["commit"] == provenance.commit()
    assert (made[0]["device"], len(made[0]["data_sha256"])) == ("cpu", 64)
    assert provenance.patch_file(root, made[0]["patch"]).read_text() == provenance.patch()
    assert len(list((root / provenance.PATCHES).iterdir())) == 1


def test_networks_that_stayed_eager_are_noted_once_they_are_known(
    tiny: Any, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their causes are in the record of the attempt beside what it had before."""

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no working compiler")

    monkeypatch.setattr(torch, "compile", broken)
    trials = [tiny.kd(epochs=1), tiny.kd({"temperature": 2.0}, epochs=1, optimizer="dot")]
    list(run_group(trials, root, root, execution=Execution.of_new(1, "compiled")))
    own = {
        "kd": "ResNetCifar in training mode: no working compiler",
        "dot": "ResNetCifar: optimizer 'dot' goes through its graph twice",
    }
    for trial, cause in zip(trials, own.values(), strict=True):
        attempt = read_status(root, trial.digest()).folder
        assert attempt is not None
        made = provenance.read(attempt)
        assert made["stayed_eager"] == ["ResNetCifar in eval mode: no working compiler", cause]
        assert made["commit"] == provenance.commit()
        said = (attempt / "log.txt").read_text()
        assert [said.count(f"passes=compiled: stays eager: {line}") for line in made["stayed_eager"]] == [1, 1]


def test_an_attempt_without_a_record_has_none(tmp_path: Path) -> None:
    assert provenance.read(None) == {}
    assert provenance.read(tmp_path) == {}
    (tmp_path / provenance.FILE).write_text("{")
    assert provenance.read(tmp_path) == {}
    (tmp_path / provenance.FILE).write_text(json.dumps({"commit": "a"}))
    assert provenance.read(tmp_path) == {"commit": "a"}
