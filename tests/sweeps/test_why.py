"""Causes of failure, the first one first, with what waits for each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sweeps import why
from trainers import attempts
from trainers.attempts import read_status
from trainers.config import Execution, Trial


def named(plan: Any) -> dict[str, Trial]:
    return {plan.names[digest]: trial for digest, trial in plan.trials.items()}


def test_a_failed_teacher_is_the_cause_of_all_that_waits_for_it(place: Any) -> None:
    plan = place.plan(place.write())
    trials = named(plan)
    place.train(trials["teacher resnet14 seed=0"], end="failed", cause="epoch 3: train/loss = nan")
    (cause,) = why.causes([plan], place.state)
    assert cause.trials == ("tiny/grid [paper] teacher resnet14 seed=0",)
    assert cause.waiting == tuple(f"tiny/grid [paper] pair=A temperature={t} seed=0" for t in (2, 4))
    assert str(cause).splitlines()[:3] == [
        "1 failed: epoch 3: train/loss = nan",
        "    tiny/grid [paper] teacher resnet14 seed=0",
        "    2 waiting for it:",
    ]
    status = read_status(place.state, trials["teacher resnet14 seed=0"].digest())
    assert status.folder is not None
    assert cause.log == str(status.folder / "log.txt")
    assert cause.log == str(cause).rsplit("log: ", 1)[1]


def test_waiting_goes_down_the_whole_chain(place: Any) -> None:
    plan = place.plan("cudfkd/fig8", "demo", **{"measured against": "clean teacher", "lambda_0": "2"})
    (teacher,) = [trial for trial in plan.trials.values() if trial.protocol.stop_at_acc1_pct is not None]
    place.train(teacher, end="failed", cause="never reached 80 %")
    (cause,) = why.causes([plan], place.state)
    assert len(cause.waiting) == 2  # the student, and the evaluation that measures it


def test_causes_that_differ_in_epoch_value_or_path_are_one_and_the_first_comes_first(place: Any) -> None:
    plan = place.plan(place.write())
    students = [trial for trial in plan.trials.values() if trial.method == "kd"]
    digests = [trial.digest() for trial in students]
    texts = (
        "epoch 7: train/loss_kd = 1.5e+38: the loss is not finite",
        "epoch 12: train/loss_kd = 3e+38: the loss is not finite",
        *(
            f"cannot go on from /s/{d[:2]}/{d}/attempts/{n}/checkpoint.pt: corrupt"
            for n, d in enumerate(digests[2:], 1)
        ),
    )
    for trial, text in zip(students, texts, strict=True):
        place.train(trial, end="failed", cause=text)
    loss, corrupt = why.causes([plan], place.state)
    assert (loss.cause, len(loss.trials)) == (texts[0], 2)
    assert (corrupt.cause, len(corrupt.trials)) == (texts[2], 2)
    assert loss.since_ms <= corrupt.since_ms


def test_names_of_terms_and_methods_keep_causes_apart(place: Any) -> None:
    plan = place.plan(place.write())
    students = [trial for trial in plan.trials.values() if trial.method == "kd"]
    for trial, text in zip(
        students, ("loss_a = nan", "loss_b = nan", "resnet8 is bad", "resnet14 is bad"), strict=True
    ):
        place.train(trial, end="failed", cause=text)
    assert len(why.causes([plan], place.state)) == 4


def test_a_trial_that_two_experiments_need_fails_once(place: Any) -> None:
    one, other = place.plan(place.write()), place.plan(place.write(name="other.toml", swap={"Small grid": "Other"}))
    place.train(next(iter(one.trials.values())), end="failed")
    (cause,) = why.causes([one, other], place.state)
    assert len(cause.trials) == 1


def test_faults_of_the_machine_are_told_from_those_of_the_trial(place: Any) -> None:
    plan = place.plan(place.write())
    trials = named(plan)
    with attempts.claim(trials["teacher resnet14 seed=0"], place.state, Execution(), lease_s=0.1) as attempt:
        attempt.note_machine_fault("CUDA out of memory", "device_memory")
    place.train(trials["teacher resnet20 seed=0"], end="failed", cause="CUDA out of memory")
    machine, own = why.causes([plan], place.state)
    assert (machine.kind, own.kind) == ("machine", "trial")
    assert len(machine.waiting) == len(own.waiting) == 2
    assert "1 ended by the machine, to be tried again by the next run: CUDA out of memory" in str(machine)


def test_a_long_list_is_cut_and_json_is_whole(place: Any) -> None:
    plan = place.plan(place.write(), seeds=range(4))
    place.train(named(plan)["teacher resnet14 seed=0"], end="failed")
    (cause,) = why.causes([plan], place.state)
    assert "... and 3 more" in str(cause)
    assert len(json.loads(json.dumps(cause.as_json()))["waiting"]) == 8


def test_no_failure_has_no_cause(place: Any) -> None:
    plan = place.plan(place.write())
    place.train(next(iter(plan.trials.values())), end=None)
    assert why.causes([plan], place.state) == []
    assert not Path(place.state / "patches").exists()
