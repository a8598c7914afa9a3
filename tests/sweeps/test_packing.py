"""Shares of a GPU: values worked out by hand, what must hold for any sizes, and where a trial's need comes from."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from sweeps import packing
from sweeps.packing import CONTEXT_MIB, GUESS, MARGIN, MOST, Packer, fraction
from sweeps.queue import Queue
from trainers import checkpoint, provenance

GPU = {"seeds = [0]": "seeds = [0]\nresources = { cpu = 1, gpu = 1 }"}


@pytest.mark.parametrize(
    ("need_mib", "share"),
    [
        (4_000, 0.35),  # (1.25 * 4000 + 600) / 16000
        (100, 0.125),  # eight of them, though memory would hold twenty
        (6_000.1, 0.5063),  # 0.506258 rounded up to what Ray counts in
        (20_000, 1.0),  # does not fit, but more than the device there is not
    ],
)
def test_shares_by_hand(need_mib: float, share: float) -> None:
    assert fraction(need_mib, 16_000) == pytest.approx(share)


def test_trials_that_ray_puts_on_one_device_fit_into_its_memory() -> None:
    draw = random.Random(0)
    for _ in range(200):
        device = draw.uniform(8_000, 140_000)
        free, used = 1.0, 0.0
        for _ in range(50):
            need = draw.uniform(10, 0.7 * device)
            share = fraction(need, device)
            assert 1 / MOST <= share <= 1
            if share <= free + 1e-9 and MARGIN * need + CONTEXT_MIB <= device:
                free, used = free - share, used + MARGIN * need + CONTEXT_MIB
        assert used <= device * (1 + 1e-6)


def record(place: Any, trial: Any, peaks: list[float], **made: Any) -> None:
    """A finished trial with these peaks, made with this."""
    attempt = place.train(trial, [50.0] * len(peaks))
    lines = (attempt.folder / "journal.jsonl").read_text().splitlines()
    rows = [json.loads(line) | {"train/peak_memory_mib": peak} for line, peak in zip(lines, peaks, strict=True)]
    checkpoint.replace_bytes(attempt.folder / "journal.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    (attempt.folder / provenance.FILE).write_text(json.dumps(made))


def test_records_are_the_largest_peaks_of_trials_that_were_alone_on_a_gpu(place: Any) -> None:
    plan = place.plan(place.write(), seeds=(0, 1, 2), pair="A")
    trials = {plan.names[digest]: trial for digest, trial in plan.trials.items()}
    record(place, trials["pair=A temperature=2 seed=0"], [900.0, 1000.0], device="cuda", together=1)
    record(place, trials["pair=A temperature=4 seed=0"], [800.0, 1100.0], device="cuda")
    record(place, trials["pair=A temperature=2 seed=1"], [9000.0], device="cuda", together=4)
    record(place, trials["pair=A temperature=4 seed=1"], [5000.0], device="cpu", together=1)
    student = trials["pair=A temperature=2 seed=2"]
    assert packing.records(place.state) == {packing.key(student): 1100.0}
    assert packing.key(student, "cuda_graphs") != packing.key(student)


def test_a_trial_without_a_record_gets_a_guess_and_one_of_unknown_images_a_device(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = list(place.plan(place.write(), pair="A").trials.values())[-1]
    monkeypatch.setattr(packing.preflight, "gpu_bytes", lambda trial, info: 1000.0 * packing.MIB)
    size = 16_000.0 * packing.MIB
    assert Packer({packing.key(student): 4000.0}, size, place.settings.data)(student) == pytest.approx(0.35)
    assert Packer({}, size, place.settings.data)(student) == fraction(GUESS * 1000.0, 16_000.0)
    elsewhere = student.model_copy(update={"data": student.data.model_copy(update={"name": "no_such_set"})})
    assert Packer({}, size, place.settings.data)(elsewhere) == 1.0


def test_only_trials_on_a_gpu_are_packed(place: Any) -> None:
    on_gpu = Queue([place.plan(place.write(swap=GPU), pair="A")], [], place.state)
    on_cpu = Queue([place.plan(place.write(), pair="A")], [], place.state)
    for queue, share in ((on_gpu, 0.25), (on_cpu, 0.0)):
        digest = queue.next()
        assert digest is not None
        before = queue.resources(digest)
        queue.pack(lambda trial, passes: 0.25)
        assert queue.resources(digest).gpu == share
        assert queue.resources(digest).cpu == before.cpu
