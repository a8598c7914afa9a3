"""A few updates for real, timed by a clock of the test's own."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trainers import data, timing
from trainers.config import Execution
from trainers.errors import ConfigError, TrialError
from trainers.passes import Passes


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Every look at the clock is `step` seconds after the one before."""

    def set_step(step: float) -> None:
        ticks = itertools.count()
        monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: next(ticks) * step))

    return set_step


@pytest.mark.parametrize(
    ("began", "ends", "cycle", "per_update"),
    [
        (0.0, [5.0, 6.0, 7.0], 1, 1.0),  # the first, slow one is left out
        (0.0, [5.0], 1, 5.0),
        (0.0, [9.0, 10.0, 13.0, 14.0], 2, 2.0),  # one cycle of two after the first: (14 - 10) / 2
        (0.0, [9.0, 10.0, 13.0, 14.0, 17.0], 2, 2.0),  # what is left over of a cycle does not count
        (1.0, [3.0, 4.0], 2, 1.5),
    ],
)
def test_seconds_of_an_update(began: float, ends: list[float], cycle: int, per_update: float) -> None:
    assert timing.per_update_s(began, ends, cycle) == pytest.approx(per_update)


def test_a_trial_on_images_by_hand(tiny: Any, root: Path, clock: Any) -> None:
    clock(1.0)
    trial = tiny.kd()
    # 80 images in batches of 16: 5 updates of 1 s; a part of the evaluation took 1 s
    images = data.load(trial.data, root)
    part = min(timing.EVALUATED, len(images.test))
    held_out = 0 if images.val is None else len(images.val)
    evaluation = (len(images.test) + held_out) / part
    assert timing.probe_s(trial, root) == pytest.approx(3 * (5 * 1.0 + evaluation))


def test_no_upstream_is_needed_and_nothing_is_left(tiny: Any, tmp_path: Path) -> None:
    assert timing.probe_s(tiny.kd(), tmp_path) > 0
    assert list(tmp_path.iterdir()) == []


def test_a_data_free_trial_is_timed_too(tiny: Any, tmp_path: Path) -> None:
    assert timing.probe_s(tiny.cudfkd(), tmp_path) > 0


def test_what_takes_too_long_before_its_updates_is_given_up(tiny: Any, tmp_path: Path, clock: Any) -> None:
    clock(20.0)
    with pytest.raises(TrialError, match="take over 30 s, too long to be timed"):
        timing.probe_s(tiny.cudfkd(), tmp_path)


def test_a_trial_that_cannot_be_run_is_refused(tiny: Any, tmp_path: Path) -> None:
    trial = tiny.kd()
    with pytest.raises(ConfigError, match="versions"):
        timing.probe_s(trial.model_copy(update={"versions": {"method": 99, "loop": 1}}), tmp_path)


def test_memory_is_known_after_two_updates(tiny: Any, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    honest = timing.per_update_s
    monkeypatch.setattr(
        timing, "per_update_s", lambda began, ends, cycle: seen.append(len(ends)) or honest(began, ends, cycle)
    )
    found = timing.probe(tiny.kd(), root, most_s=0.0)
    assert seen == [2]
    assert found.seconds > 0
    assert found.peak_memory_mib > 50  # a process that has imported torch


def test_compiling_is_counted_once_and_not_for_each_epoch(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where an epoch has but one cycle of updates, so that the first one counts."""
    trial = tiny.cudfkd(epochs=100, updates_per_epoch=2)
    monkeypatch.setattr(Passes, "_compiled", lambda *_: time.sleep(0.5))
    assert 2 * 0.5 < timing.probe_s(trial, tmp_path, execution=Execution.of_new(1, "compiled")) < 100 * 0.5
    monkeypatch.setattr(timing, "LONGEST_S", 0.9)  # of which compiling is no part
    assert timing.probe_s(trial, tmp_path, execution=Execution.of_new(1, "compiled")) > 2 * 0.5
