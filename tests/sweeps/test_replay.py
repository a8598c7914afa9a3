"""A finished trial again: equal bits, the first difference, and what has changed since."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeps import replay
from trainers import attempts, checkpoint, provenance
from trainers.config import Trial
from trainers.methods import kd
from trainers.run import run_trial
from trainers.train import trial_folder

Run = Callable[..., tuple[int, str, str]]

SMALL = {
    '[base]\ndata = "digits"': '[base]\n"protocol.epochs" = 3\n"teacher_protocol.epochs" = 1\ndata = { name = "digits", train_per_class = 8 }',
    'teacher = "resnet14"': 'teacher = "resnet8"',
}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A state root with a student of three epochs and its teacher, really trained; filled by the first test that asks."""
    return {"root": tmp_path_factory.mktemp("replayed")}


@pytest.fixture
def student(place: Any, trained: dict[str, Any]) -> Trial:
    """The finished student in a copy of that root."""
    plan = place.plan(place.write(swap=SMALL), pair="A", temperature="4")
    teacher, found = plan.trials.values()
    for trial in (teacher, found):
        if attempts.read_status(trained["root"], trial.digest()).state is not attempts.State.DONE:
            for _ in run_trial(trial, trained["root"], place.settings.data):
                pass
    shutil.copytree(trained["root"], place.state)
    return found  # type: ignore[no-any-return]


def folder_of(place: Any, trial: Trial) -> Path:
    folder = attempts.read_status(place.state, trial.digest()).folder
    assert folder is not None
    return folder


def test_a_replay_has_the_same_bits_and_touches_nothing(
    place: Any, student: Trial, run_sweep: Run, snapshot: Any
) -> None:
    before = snapshot(place.state)
    code, out, _ = run_sweep("replay", student.digest()[:8])
    assert code == 0
    first, second, last = out.splitlines()
    assert first == f"trial {student.digest()[:12]} (kd resnet8 seed 0) again on cpu"
    assert second == "  versions, code, device and data as recorded"
    tensors = len(checkpoint.load(trial_folder(place.state, student.digest()) / "weights.pt")["state"])
    assert last.startswith("same, bit for bit: 3 epochs of ")
    assert last.endswith(f"metrics and {tensors} tensors of weights")
    assert snapshot(place.state) == before


def test_the_first_metric_that_differs_is_named_with_both_values(place: Any, student: Trial, run_sweep: Run) -> None:
    journal = folder_of(place, student) / "journal.jsonl"
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    now = rows[1]["test/acc1_pct"]
    for row in rows[1:]:
        row["test/acc1_pct"] += 1.0
        row["time/total_s"] += 9.0  # the machine's, never compared
    journal.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, _ = run_sweep("replay", student.digest())
    assert code == 1
    assert out.splitlines()[-1] == f"different: epoch 1, test/acc1_pct: recorded {now + 1.0!r}, now {now!r}"


def test_a_flipped_bit_of_a_weight_is_found(place: Any, student: Trial, run_sweep: Run) -> None:
    file = trial_folder(place.state, student.digest()) / "weights.pt"
    content = checkpoint.load(file)
    bias = content["state"]["classifier.bias"]
    bits = bias.view(torch.int32)
    now = bias[3].item()
    bits[3] ^= 1
    checkpoint.save(file, content)
    code, out, _ = run_sweep("replay", student.digest()[:12])
    assert code == 1
    assert out.splitlines()[-1] == (f"different: weights, classifier.bias[3]: recorded {bias[3].item()!r}, now {now!r}")


def test_what_changed_since_is_named(place: Any, student: Trial, run_sweep: Run) -> None:
    file = folder_of(place, student) / provenance.FILE
    made = json.loads(file.read_text())
    made["versions"]["torch"], made["commit"] = "1.0.0", "0123456789" * 4
    made["data_sha256"] = "f" * 64
    made["stayed_eager"] = ["VGG in eval mode: no compiler"]
    file.write_text(json.dumps(made))
    code, out, _ = run_sweep("replay", student.digest()[:12])
    assert code == 0
    assert f"changed since: torch 1.0.0 -> {torch.__version__}" in out
    assert "changed since: commit 012345678901 -> " in out
    assert "changed since: images ffffffffffff -> " in out
    assert "changed since: networks that were not compiled: VGG in eval mode: no compiler -> none" in out


def test_a_trial_without_weights_or_record_is_compared_by_its_rows(place: Any, student: Trial, run_sweep: Run) -> None:
    (trial_folder(place.state, student.digest()) / "weights.pt").unlink()
    (folder_of(place, student) / provenance.FILE).unlink()
    code, out, _ = run_sweep("replay", student.digest()[:12])
    assert code == 0
    assert "note: the run recorded no versions" in out
    assert "weights.pt is gone: only rows were compared" in out
    assert "and 0 tensors" in out


# --- what cannot be replayed -----------------------------------------------------------------------------------------


@pytest.fixture
def refused(run_sweep: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Demands exit 2 with one message, and that nothing is trained."""

    def run(*argv: str) -> str:
        def train(*arguments: object, **options: object) -> None:
            raise AssertionError("it was trained")

        with monkeypatch.context() as patch:
            patch.setattr(replay, "run_trial", train)
            code, out, err = run_sweep("replay", *argv)
        (line,) = err.splitlines()
        assert (code, out) == (2, "")
        return line

    return run


def test_unknown_digest(place: Any, refused: Callable[..., str]) -> None:
    line = refused("abcd1234")
    for part in ("'abcd1234'", str(place.state), "sweep plan --json", "SWEEPS_STATE"):
        assert part in line


@pytest.mark.parametrize("text", ["abc", "xyz123", "../../etc", "ABCD"])
def test_what_is_no_digest(text: str, place: Any, refused: Callable[..., str]) -> None:
    assert f"{text!r} is no digest" in refused(text)


def test_prefix_of_several(place: Any, refused: Callable[..., str]) -> None:
    for tail in "01":
        (place.state / "ab" / ("abcd" + tail * 60) / "attempts").mkdir(parents=True)
    line = refused("abcd")
    assert "2 trials start with 'abcd'" in line
    assert f"abcd{'0' * 12}, abcd{'1' * 12}" in line


@pytest.mark.parametrize(("end", "word"), [(None, "partial"), ("failed", "failed"), ("stopped", "stopped")])
def test_trial_that_is_not_done(end: str | None, word: str, place: Any, refused: Callable[..., str]) -> None:
    trial = next(iter(place.plan(place.write()).trials.values()))
    place.train(trial, end=end)
    assert f"is {word}; only a finished one" in refused(trial.digest()[:12])


def test_arithmetic_of_another_version(
    place: Any, student: Trial, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kd, "VERSION", 99)
    line = refused(student.digest()[:12])
    assert "made with " in line
    assert "99" in line


def test_changed_trial_file(place: Any, student: Trial, refused: Callable[..., str]) -> None:
    file = trial_folder(place.state, student.digest()) / "trial.json"
    content = json.loads(file.read_text())
    content["trial"]["seed"] = 5
    file.write_text(json.dumps(content))
    assert "the file was changed" in refused(student.digest()[:12])


def test_upstream_whose_weights_are_gone(place: Any, student: Trial, refused: Callable[..., str]) -> None:
    (trial_folder(place.state, student.upstreams()[0].digest()) / "weights.pt").unlink()
    line = refused(student.digest()[:12])
    assert "weights of upstream trial" in line
    assert "run that trial first" in line


def test_gpu_that_is_not_here(
    place: Any, student: Trial, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    file = folder_of(place, student) / provenance.FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), "device": "cuda", "device_name": "NVIDIA H200"}))
    line = refused(student.digest()[:12])
    assert "NVIDIA H200" in line
    assert "--device cpu" in line


# --- comparing -------------------------------------------------------------------------------------------------------


def test_rows_are_compared_by_value_and_name() -> None:
    old = {"epoch": 0, "timestamp_ms": 5, "a": 1.0, "b": 2.0, "time/train_s": 3.0}
    assert replay.row_difference(0, old, {"b": 2.0, "a": 1.0, "time/train_s": 4.0}) == ""
    assert replay.row_difference(4, old, {"a": 1.0, "b": 2.0000000000000004}) == (
        "epoch 4, b: recorded 2.0, now 2.0000000000000004"
    )
    assert replay.row_difference(0, old, {"a": 1.0}) == "epoch 0, b: recorded 2.0, now nothing"
    assert replay.row_difference(0, {"a": math.nan}, {"a": math.nan}) == ""
    assert replay.row_difference(7, None, {"a": 1.0}) == "epoch 7 was not recorded"


def test_weights_are_compared_by_their_bits() -> None:
    old = {"w": torch.tensor([1.0, math.nan]), "n": torch.tensor(3), "e": torch.empty(0)}
    assert replay.weights_difference(old, {name: value.clone() for name, value in old.items()}) == ""
    assert replay.weights_difference({"w": torch.tensor([0.0])}, {"w": torch.tensor([-0.0])}) == (
        "weights, w[0]: recorded 0.0, now -0.0"
    )
    assert replay.weights_difference(old, {**old, "n": torch.tensor(4)}) == "weights, n[0]: recorded 3, now 4"
    assert "recorded (2,) torch.float32, now (1,)" in replay.weights_difference(old, {**old, "w": torch.ones(1)})
    assert replay.weights_difference(old, {"w": old["w"]}) == "weights: e, n differs"
