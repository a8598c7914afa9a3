"""`python -m trainers`: what it prints, what it returns, and that its examples work."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainers import attempts, registry
from trainers.__main__ import main
from trainers.attempts import State, read_status
from trainers.config import Trial
from trainers.methods import config_type, presets

VERBS = ("run", "models", "methods")


def written(trial: Trial, folder: Path) -> Path:
    file = folder / "trial.json"
    file.write_text(trial.model_dump_json())
    return file


def run(trial: Path, root: Path, *more: str) -> int:
    return main(["run", str(trial), "--state", str(root), "--data", str(root), *more])


def test_models_with_their_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--classes", "100", "--json"]) == 0
    counts = {row["name"]: row["parameters"] for row in json.loads(capsys.readouterr().out)}
    printed = {
        "resnet18": 11_220_132, "resnet34": 21_328_292, "vgg11": 9_277_284, "wrn_40_2": 2_255_156, "wrn_40_1": 569_780,
        "wrn_16_2": 703_284, "wrn_16_1": 180_916, "resnet20": 278_324, "resnet8x4": 1_233_540,
    }  # fmt: skip
    assert {name: counts[name] for name in printed} == printed
    assert main(["models", "--classes", "10", "--json"]) == 0
    assert {row["name"]: row["parameters"] for row in json.loads(capsys.readouterr().out)}["resnet18"] == 11_173_962


def test_models_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    assert "resnet18        11220132" in capsys.readouterr().out


def test_methods_with_bounds_and_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["methods", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert tuple(rows) == registry.names("methods")
    for name, row in rows.items():
        assert set(row["hparams"]) == set(config_type(name).model_fields)
        assert set(row["presets"]) == set(presets(name))
        assert row["summary"]
        assert row["version"] >= 1
    alpha = rows["cudfkd"]["hparams"]["alpha"]
    assert (alpha["minimum"], alpha["default"]) == (0, 0.5)
    assert "Fig. 10" in alpha["description"]
    assert rows["cudfkd"]["hparams"]["curriculum"]["enum"] == ["none", "hard", "soft", "log"]
    assert rows["cudfkd"]["hparams"]["k_begin"]["exclusiveMaximum"] == 1
    assert {"exclusiveMinimum": 0, "type": "number"} in [
        {key: each[key] for key in ("exclusiveMinimum", "type") if key in each}
        for each in rows["cudfkd"]["hparams"]["balance_temperature"]["anyOf"]
    ]
    assert main(["methods"]) == 0
    assert "    temperature = 4.0: T, the same for teacher and student" in capsys.readouterr().out


def test_run_trains_the_upstream_first_and_prints_the_result(
    tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = tiny.kd(epochs=1)
    trial = tiny.evaluate(subject)
    root = tmp_path / "state"
    order: list[str] = []
    real = attempts.Attempt.finish
    monkeypatch.setattr(
        attempts.Attempt, "finish", lambda self, *rest: (order.append(self.trial_dir.name), real(self, *rest))
    )
    assert run(written(trial, tmp_path), root) == 0
    assert order == [each.digest() for each in (tiny.teacher(), subject, trial)]  # the shared teacher once
    result = json.loads(capsys.readouterr().out)
    assert result == read_status(root, trial.digest()).result
    assert "last/test/agree1_pct" in result
    assert run(written(trial, tmp_path), root) == 0  # again: nothing is trained, the same is printed
    assert json.loads(capsys.readouterr().out) == result
    assert len(order) == 3


def test_run_takes_the_trial_json_of_a_directory(
    tiny: Any, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trial = tiny.kd(epochs=1)
    (tmp_path / "trial.json").write_text(
        json.dumps({"trial": trial.model_dump(mode="json"), "execution": {"threads": 1}})
    )
    assert run(tmp_path / "trial.json", root) == 0
    assert read_status(root, trial.digest()).state is State.DONE


BAD = {
    "absent": None,
    "empty": b"",
    "no JSON": b"{",
    "not text": b"\xff\xfe\x00",
    "a list": b"[]",
    "a number": b"3",
    "nothing in it": b"{}",
    "unknown key": lambda trial: {**trial, "sead": 1},
    "unknown method": lambda trial: {**trial, "method": "kdd"},
    "unknown hyper-parameter": lambda trial: {**trial, "hparams": {"tau": 4}},
    "hyper-parameter out of bounds": lambda trial: {**trial, "hparams": {"temperature": 0}},
    "other version": lambda trial: {**trial, "versions": {"method": 99, "loop": 1}},
    "no teacher": lambda trial: {**trial, "teacher": None},
    "wrong kind": lambda trial: {**trial, "kind": "datafree"},
}


@pytest.mark.parametrize("name", BAD)
def test_bad_file_starts_nothing(name: str, tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content, file = BAD[name], tmp_path / "trial.json"
    if callable(content):
        content = json.dumps(content(tiny.kd().model_dump(mode="json"))).encode()
    if content is not None:
        file.write_bytes(content)
    assert run(file, tmp_path / "state") == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.out == ""
    assert not (tmp_path / "state").exists()


def test_failed_and_busy_trials_give_1(
    tiny: Any, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = tiny.ce(epochs=1, stop_at_acc1_pct=100.0)
    assert run(written(trial, tmp_path), root) == 1
    assert "never reached 100 %" in capsys.readouterr().err
    monkeypatch.setattr(attempts, "BEAT_S", 0.02)
    with attempts.claim(tiny.kd(), root, attempts.Execution(threads=1)):
        assert run(written(tiny.kd(), tmp_path), root) == 1
    assert "is alive" in capsys.readouterr().err


def test_full_disk_gives_1(
    tiny: Any, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trainers.checkpoint.save", full)
    assert run(written(tiny.kd(), tmp_path), root) == 1
    assert "No space left on device" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["trian"], ["run"], ["models", "--classes", "many"]])
def test_bad_usage_gives_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def example(verb: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    *_, title, command = capsys.readouterr().out.rstrip().splitlines()
    assert title == "example:"
    words = shlex.split(command)
    assert words[:4] == ["python", "-m", "trainers", verb]
    return words[3:]


@pytest.mark.parametrize("verb", VERBS)
def test_help_ends_with_an_example_that_works(
    verb: str,
    tiny: Any,
    new_root: Callable[[], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".sweeps").mkdir()
    (tmp_path / ".sweeps" / "state").symlink_to(new_root())
    written(tiny.kd(epochs=1), tmp_path)
    assert main(example(verb, capsys)) == 0
    json.loads(capsys.readouterr().out)


def test_every_verb_is_known_here(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "{" + ",".join(VERBS) + "}" in capsys.readouterr().out


def test_as_a_command() -> None:
    repository = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run(
        [sys.executable, "-m", "trainers", "methods", "--json"],
        capture_output=True,
        check=True,
        timeout=120,
        env=environment,
        cwd="/",
    )
    assert [row["name"] for row in json.loads(done.stdout)] == list(registry.names("methods"))
