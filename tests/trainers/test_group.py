"""Trials that share a teacher pass: the bits of each are those it has alone, and nothing that happens to one touches another."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from trainers import attempts, checkpoint, feed, models, passes
from trainers.attempts import State, read_status
from trainers.config import Execution, Trial
from trainers.errors import ConfigError
from trainers.group import Ended, Stopwatch, run_group
from trainers.methods import config_type
from trainers.run import run_trial
from trainers.train import Epoch, trial_folder

MEASURED = ("time/", "train/images_per_s", "train/peak_memory_mib", "timestamp_ms")
EXECUTIONS = pytest.mark.parametrize("execution", [Execution(), Execution.of_new(1)], ids=["plain", "new"])
METHODS = {
    "kd": {},
    "dkd": {},
    "crd": {"negatives": 16},
    "fitnet": {},
    "reviewkd": {},
    "ofd": {},
}


def trial_of(tiny: Any, method: str, hparams: dict[str, Any], **recipe: Any) -> Trial:
    return tiny._trial(method, hparams, {"epochs": 2, **recipe}, None, with_teacher=True)  # type: ignore[no-any-return]


def weights(trial: Trial, root: Path) -> bytes:
    state = checkpoint.load(trial_folder(root, trial.digest()) / "weights.pt")["state"]
    return b"".join(tensor.numpy().tobytes() for tensor in state.values())


def rows(trial: Trial, root: Path) -> list[dict[str, float]]:
    found = attempts.rows(read_status(root, trial.digest()))
    return [{name: value for name, value in row.items() if not name.startswith(MEASURED)} for row in found]


def ends(events: Iterator[tuple[int, Epoch | Ended]]) -> dict[int, Exception | None]:
    return {index: event.error for index, event in events if isinstance(event, Ended)}


def require_same_bits(trials: list[Trial], alone: Path, together: Path) -> None:
    for trial in trials:
        assert rows(trial, alone) == rows(trial, together), trial.method
        assert weights(trial, alone) == weights(trial, together), trial.method


@EXECUTIONS
def test_every_trial_of_a_group_has_the_bits_it_has_alone(
    execution: Execution, tiny: Any, new_root: Callable[[], Path]
) -> None:
    trials = [trial_of(tiny, name, hparams) for name, hparams in METHODS.items()]
    trials.append(trial_of(tiny, "kd", {}, epochs=3, lr=0.01))  # another recipe for the student, the same images
    alone, together = new_root(), new_root()
    for trial in trials:
        list(run_trial(trial, alone, alone, execution=execution))
    assert ends(run_group(trials, together, together, execution=execution)) == dict.fromkeys(range(len(trials)))
    require_same_bits(trials, alone, together)


@EXECUTIONS
def test_methods_that_turn_their_images_form_a_group(
    execution: Execution, tiny: Any, new_root: Callable[[], Path]
) -> None:
    trials = [trial_of(tiny, "pckd", {"beta_cc": value}) for value in (0.05, 0.1)]
    alone, together = new_root(), new_root()
    for trial in trials:
        list(run_trial(trial, alone, alone, execution=execution))
    assert ends(run_group(trials, together, together, execution=execution)) == {0: None, 1: None}
    require_same_bits(trials, alone, together)


def test_one_teacher_pass_for_each_batch(
    tiny: Any, new_root: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    real = feed.Feed._taught
    monkeypatch.setattr(feed.Feed, "_taught", lambda self, images: passes.append(1) or real(self, images))
    trials = [trial_of(tiny, name, METHODS[name]) for name in ("kd", "dkd", "crd")]
    root = new_root()
    assert ends(run_group(trials, root, root)) == dict.fromkeys(range(3))
    assert len(passes) == 2 * (80 // 16)


def test_logits_have_the_same_bits_with_maps() -> None:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for name in ("resnet8", "wrn_16_2", "vgg8", "mobilenetv2_small", "shufflev1", "resnet8x4"):
        network = models.build(name, classes=10, channels=3, size=32, seed=0, role="teacher").eval()
        with torch.no_grad():
            assert torch.equal(passes.eager(network, images, False).logits, passes.eager(network, images, True).logits)


def test_a_continued_trial_waits_for_the_others(tiny: Any, new_root: Callable[[], Path]) -> None:
    ahead, behind = trial_of(tiny, "kd", {}, epochs=3), trial_of(tiny, "dkd", {}, epochs=3)
    alone, together = new_root(), new_root()
    for trial in (ahead, behind):
        list(run_trial(trial, alone, alone))
    started = run_trial(ahead, together, together)
    next(started)
    started.close()
    order = [(index, event.number) for index, event in run_group([ahead, behind], together, together)
             if isinstance(event, Epoch)]  # fmt: skip
    assert order == [(1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]
    require_same_bits([ahead, behind], alone, together)


@EXECUTIONS
def test_a_group_that_is_broken_off_can_be_continued(
    execution: Execution, tiny: Any, new_root: Callable[[], Path]
) -> None:
    trials = [trial_of(tiny, name, METHODS[name], epochs=3) for name in ("kd", "crd")]
    alone, together = new_root(), new_root()
    for trial in trials:
        list(run_trial(trial, alone, alone, execution=execution))
    broken = run_group(trials, together, together, execution=execution)
    for _ in range(3):
        next(broken)
    broken.close()
    assert {read_status(together, trial.digest()).state for trial in trials} == {State.PARTIAL}
    assert ends(run_group(trials, together, together)) == {0: None, 1: None}
    require_same_bits(trials, alone, together)


def test_one_that_fails_leaves_the_others_as_they_are(tiny: Any, new_root: Callable[[], Path]) -> None:
    bad = trial_of(tiny, "kd", {}, lr=1e30, epochs=3)
    good = trial_of(tiny, "dkd", {}, epochs=3)
    alone, together = new_root(), new_root()
    list(run_trial(good, alone, alone))
    found = ends(run_group([bad, good], together, together))
    assert found[1] is None
    assert "not finite" in str(found[0])
    assert read_status(together, bad.digest()).state is State.FAILED
    require_same_bits([good], alone, together)


def test_one_that_somebody_else_has_is_left_to_them(tiny: Any, new_root: Callable[[], Path]) -> None:
    mine, theirs = trial_of(tiny, "kd", {}), trial_of(tiny, "dkd", {})
    root = new_root()
    other = run_trial(theirs, root, root)
    next(other)
    found = ends(run_group([mine, theirs], root, root))
    assert found[0] is None
    assert isinstance(found[1], attempts.Busy)
    assert [epoch.number for epoch in other] == [1]


def test_each_log_tells_of_its_own_trial(tiny: Any, new_root: Callable[[], Path]) -> None:
    trials = [trial_of(tiny, name, METHODS[name]) for name in ("kd", "dkd")]
    root = new_root()
    list(run_group(trials, root, root))
    for trial in trials:
        log = (trial_folder(root, trial.digest()) / "attempts" / "1" / "log.txt").read_text()
        assert log.count("epoch=0 ") == log.count("epoch=1 ") == 1
        assert log.count("trial=") == 1


def test_trials_that_see_something_else_are_refused(tiny: Any, new_root: Callable[[], Path]) -> None:
    root = new_root()
    strangers = {
        "seed": trial_of(tiny, "kd", {}).model_copy(update={"seed": 1}),
        "batch": trial_of(tiny, "kd", {}, batch_size=8),
        "views": trial_of(tiny, "pckd", {}),
        "teacher": tiny.ce(),
    }
    for what, stranger in strangers.items():
        with pytest.raises(ConfigError) as caught:
            list(run_group([trial_of(tiny, "kd", {}), stranger], root, root))
        assert stranger.digest()[:12] in str(caught.value), what


def test_hyper_parameters_and_student_do_not_part_a_group(tiny: Any) -> None:
    one = trial_of(tiny, "kd", {})
    others = [
        trial_of(tiny, "kd", {"kd_weight": 0.5}),
        one.model_copy(update={"student": "resnet14"}),
        trial_of(tiny, "crd", {"negatives": 8}, epochs=9),
    ]
    assert {feed.key(trial) for trial in (one, *others)} == {feed.key(one)}
    assert config_type("kd")().model_dump() != {"kd_weight": 0.5}


def test_waiting_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr("trainers.group.time.perf_counter", lambda: now[0])
    watch = Stopwatch()
    with watch:
        now[0] += 2.0
        assert watch() == 2.0
    now[0] += 50.0
    assert watch() == 2.0
    with watch:
        now[0] += 1.0
    assert watch() == 3.0


def test_a_batch_that_cannot_be_read_leaves_the_feed_whole(
    tiny: Any, new_root: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One trial's fault while it makes the common batch: the next one makes it anew and gets the bits it gets alone."""
    trials = [trial_of(tiny, name, METHODS[name]) for name in ("kd", "dkd")]
    alone, together = new_root(), new_root()
    list(run_trial(trials[1], alone, alone))
    real, calls = feed.Feed._taught, []

    def out_of_memory_once(self: feed.Feed, images: torch.Tensor) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError("seeded")
        return real(self, images)

    monkeypatch.setattr(feed.Feed, "_taught", out_of_memory_once)
    found = ends(run_group(trials, together, together))
    assert isinstance(found[0], MemoryError)
    assert found[1] is None
    assert json.loads((trial_folder(together, trials[1].digest()) / "result.json").read_text())
    require_same_bits(trials[1:], alone, together)
