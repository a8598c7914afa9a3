"""Prices by source and their intervals: by hand, by simulation, and as the command line shows them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweeps import cost, prices
from sweeps.prices import Hours
from sweeps.queue import Queue
from trainers import provenance
from trainers.config import DataSpec, Trial


def priced(place: Any, *plans: Any, **options: Any) -> prices.Price:
    return prices.price(plans, place.state, place.settings.data, **options)


def named(plan: Any) -> dict[str, Trial]:
    return {plan.names[digest]: trial for digest, trial in plan.trials.items()}


# --- the interval ----------------------------------------------------------------------------------------------------


def test_predicted_sum_by_hand() -> None:
    # m = 12, W = 3, n = 2: variance in units of r^2 is 144 (3 + 9 / 2) = 1080
    # r^2 = (2 * 0.2^2 + 2 * (2 / 12)^2) / (2 + 1) = 0.045185; t_{0.9, 3} = 1.637744
    centre, half = prices.predicted_sum([((10.0, 14.0), (1.0, 1.0, 1.0))])
    assert centre == pytest.approx(36.0)
    assert half == pytest.approx(1.637744 * (0.0451852 * 1080) ** 0.5, rel=1e-5)


def test_predicted_sum_of_two_keys_and_of_a_part() -> None:
    # one record each: r = 0.2, t_{0.9, 2} = 1.885618; variance 10^2 (1 + 1) + 20^2 (1/4 + 1/4)
    centre, half = prices.predicted_sum([((10.0,), (1.0,)), ((20.0,), (0.5,))])
    assert centre == pytest.approx(20.0)
    assert half == pytest.approx(1.885618 * 0.2 * (200 + 200) ** 0.5, rel=1e-5)


def test_nothing_to_come_has_no_interval() -> None:
    assert prices.predicted_sum([]) == (0.0, 0.0)


@pytest.mark.parametrize(("records", "to_come"), [(3, 9), (8, 2), (20, 20)])
def test_the_interval_covers_four_sums_of_five(records: int, to_come: int) -> None:
    draw = np.random.default_rng(0)
    inside = 0
    for _ in range(1000):
        times = draw.normal(100.0, 20.0, records + to_come)
        centre, half = prices.predicted_sum([(list(times[:records]), [1.0] * to_come)])
        inside += abs(times[records:].sum() - centre) <= half
    assert inside / 1000 == pytest.approx(
        prices.COVERAGE, abs=0.06
    )  # few records: t is wide, and r0 happens to be right


@pytest.mark.parametrize(
    ("hours", "text"),
    [
        (Hours(0.2, 0.15, 0.25), "9 to 15 min"),
        (Hours(0.02, 0.01, 0.03), "0.6 to 1.8 min"),
        (Hours(2.0, 1.5, 2.5), "1.5 to 2.5 h"),
        (Hours(900, 300, 2700), "300 to 2,700 h"),
    ],
)
def test_interval_as_text(hours: Hours, text: str) -> None:
    assert hours.interval() == text


# --- sources ---------------------------------------------------------------------------------------------------------


def test_records_come_first_then_a_probe_then_operations(place: Any) -> None:
    plan = place.plan(place.write())
    trials = named(plan)
    place.train(trials["teacher resnet14 seed=0"], result={"time/total_s": 360.0})
    place.train(trials["pair=A temperature=2 seed=0"], result={"time/total_s": 720.0})
    plan = place.plan("grid.toml")
    teacher = trials["teacher resnet20 seed=0"]
    probed = {prices.cost_key(teacher, "cpu", 1): 1800.0}
    price = priced(place, plan, probed=probed)
    # left: A/4 costs as A/2; the teacher resnet20 was probed, its two students are worked out
    assert (price.known, price.probed, price.computed, price.unknown) == (1, 1, 2, 0)
    student = cost.seconds(trials["pair=B temperature=2 seed=0"], place.settings.data, threads=1)
    assert student is not None
    own, half = prices.predicted_sum([((720.0,), (1.0,))])
    assert price.trial.mean * 3600 == pytest.approx(own + 1800 + 2 * student)
    assert price.trial.low * 3600 == pytest.approx(own - half + 1800 / 1.5 + 2 * student / 3)
    assert price.trial.high * 3600 == pytest.approx(own + half + 1800 * 1.5 + 2 * student * 3)
    for part in ("1 from finished trials", "1 from a probe", "2 from operations"):
        assert part in str(price)


def test_gpu_hours_weigh_the_same_times(place: Any) -> None:
    plan = place.plan(place.write(swap={"seeds = [0]": "seeds = [0]\nresources = { cpu = 1, gpu = 0.5 }"}), pair="A")
    trials = named(plan)
    place.train(trials["teacher resnet14 seed=0"], result={"time/total_s": 360.0})
    place.train(trials["pair=A temperature=2 seed=0"], result={"time/total_s": 7200.0})
    price = priced(place, place.plan("grid.toml", pair="A"))
    assert (price.trial.mean, price.gpu.mean) == (pytest.approx(2.0), pytest.approx(1.0))
    assert price.gpu.high - price.gpu.low == pytest.approx((price.trial.high - price.trial.low) / 2)
    assert "1 GPU-hours (80 %: " in str(price)


def test_records_are_averaged_and_a_shared_trial_counts_once(place: Any) -> None:
    trials = named(place.plan(place.write(), seeds=(0, 1, 2)))
    for name, seconds in (("teacher resnet14 seed=0", 60.0), ("pair=A temperature=2 seed=0", 3600.0)):
        place.train(trials[name], result={"time/total_s": seconds})
    place.train(trials["pair=A temperature=2 seed=1"], result={"time/total_s": 7200.0})
    plan = place.plan("grid.toml", seeds=(0, 1, 2), pair="A")
    price = priced(place, plan, plan)
    assert (price.known, price.computed) == (4, 0)
    assert price.trial.mean == pytest.approx(4 * 1.5)


def test_trials_of_a_group_are_charged_their_part_of_the_teachers_passes(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # t = s: alone 2 t, one of two 1.5 t, so a group's member that took 1.5 h would have taken 2 h alone
    monkeypatch.setattr(cost, "teacher_share", lambda *_, **__: 0.5)
    plan = place.plan(place.write(), pair="A", seeds=(0, 1))
    trials = named(plan)
    place.train(trials["teacher resnet14 seed=0"], result={"time/total_s": 60.0})
    attempt = place.train(trials["pair=A temperature=2 seed=0"], result={"time/total_s": 1.5 * 3600})
    made = {"device": "cpu", "together": 2}
    (attempt.folder / provenance.FILE).write_text(json.dumps(made))
    plan = place.plan("grid.toml", pair="A", seeds=(0, 1))
    alone = priced(place, plan)
    assert (alone.known, alone.trial.mean) == (3, pytest.approx(3 * 2.0))
    pair = [trials[f"pair=A temperature={number} seed=1"].digest() for number in (2, 4)]
    together = priced(place, plan, members=dict.fromkeys(pair, 2))
    assert together.trial.mean == pytest.approx(2.0 + 2 * 1.5)
    monkeypatch.setattr(prices.os, "cpu_count", lambda: 4)
    assert priced(place, plan, members=dict.fromkeys(pair, 2), local=True).wall_hours == pytest.approx(2 * 1.5)


def test_what_is_left_of_a_partial_trial_costs_its_share(place: Any) -> None:
    trials = named(place.plan(place.write(), pair="A"))
    place.train(trials["teacher resnet14 seed=0"], result={"time/total_s": 60.0})
    place.train(trials["pair=A temperature=2 seed=0"], result={"time/total_s": 3600.0})
    place.train(trials["pair=A temperature=4 seed=0"], [50.0] * 5, end=None)  # of 20 epochs
    assert priced(place, place.plan("grid.toml", pair="A")).trial.mean == pytest.approx(0.75)


def test_a_set_of_unknown_size_has_no_price_and_says_what_helps(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cost.TRAIN_IMAGES, "digits", None)
    price = priced(place, place.plan(place.write()), local=True)
    assert (price.priced, price.unknown, price.wall_hours) == (0, 6, None)
    assert str(price).startswith("no estimate yet for 6 trials")
    assert "--probe" in str(price)


def test_nothing_costs_nothing(place: Any) -> None:
    place.train_all(place.plan(place.write()))
    price = priced(place, place.plan("grid.toml"))
    assert (str(price), price.trial.mean) == ("nothing to run", 0.0)


def test_directories_that_cannot_be_read_do_not_inform(place: Any) -> None:
    place.train(next(iter(place.plan(place.write()).trials.values())))
    (result,) = place.state.glob("*/*/result.json")
    result.write_text("{")
    assert priced(place, place.plan("grid.toml")).known == 0


def test_times_from_another_device_or_of_other_threads_do_not_count(place: Any) -> None:
    trials = named(place.plan(place.write(), pair="A"))
    place.train(trials["teacher resnet14 seed=0"])
    attempt = place.train(trials["pair=A temperature=2 seed=0"])
    for made, known in (("cpu", 1), ("cuda", 0)):
        (attempt.folder / "made_with.json").write_text(json.dumps({"device": made}))
        assert priced(place, place.plan("grid.toml", pair="A")).known == known
    (attempt.folder / "made_with.json").write_text(json.dumps({"device": "cpu"}))
    two = place.write(swap={"seeds = [0]": "seeds = [0]\nresources = { cpu = 2 }"})
    assert priced(place, place.plan(two, pair="A")).known == 0


def test_the_key_holds_what_costs_time_and_nothing_else(place: Any) -> None:
    plan = place.plan("cudfkd/table2", "demo")
    by_method = {trial.method: trial for trial in plan.trials.values()}

    def key(method: str, **hparams: Any) -> str:
        trial = by_method[method]
        return prices.cost_key(trial.model_copy(update={"hparams": {**trial.hparams, **hparams}}), "cpu", 1)

    assert key("adi", iterations=50) != key("adi", iterations=25)
    assert key("cudfkd", alpha=0.3) == key("cudfkd", alpha=0.4)
    seeded = by_method["cudfkd"].model_copy(update={"seed": 9})
    assert prices.cost_key(seeded, "cpu", 1) == prices.cost_key(seeded, "cpu", 1, "eager") == key("cudfkd")
    assert prices.cost_key(seeded, "cpu", 1, "compiled") != key("cudfkd")


def test_a_search_is_priced_by_its_first_suggestion_times_what_is_wanted(place: Any, search_text: str) -> None:
    plan = place.plan(place.write(search_text))
    teacher, student = (
        cost.seconds(each, place.settings.data, threads=1) or 0.0
        for each in (plan.probes[0].upstreams()[0], plan.probes[0])
    )
    price = priced(place, plan)
    assert price.computed == 8 + 1
    assert price.trial.mean * 3600 == pytest.approx(teacher + 8 * student)
    assert priced(place, plan, to_come={plan.title: 2}).computed == 2 + 1
    assert str(priced(place, plan, to_come={plan.title: 0})) == "nothing to run"


def test_time_on_the_wall_is_the_longest_chain_where_that_is_longer(
    place: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = named(place.plan(place.write(), seeds=(0, 1)))
    for seed in (0, 1):
        place.train(trials[f"pair=A temperature=2 seed={seed}"], result={"time/total_s": 3600.0})
    plan = place.plan("grid.toml", seeds=(0, 1), pair="A")
    teacher = trials["teacher resnet14 seed=0"]
    probed = {prices.cost_key(teacher, "cpu", 1): 7200.0}
    for cpus, hours in ((1, 2 + 2 * 1.0), (2, 2 + 1.0), (64, 2 + 1.0)):  # two students are left
        monkeypatch.setattr("os.cpu_count", lambda cpus=cpus: cpus)
        assert priced(place, plan, probed=probed, local=True).wall_hours == pytest.approx(hours)
    assert priced(place, plan, probed=probed).wall_hours is None


# --- probes ----------------------------------------------------------------------------------------------------------


def test_a_probe_times_one_trial_of_each_key_that_has_no_record(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def probe_s(trial: Trial, data_root: Path, **options: Any) -> float:
        asked.append(f"{trial.method} {trial.student}")
        assert (options["device"], options["execution"].threads) == ("cpu", 1)
        return 60.0

    monkeypatch.setattr("trainers.timing.probe_s", probe_s)
    place.train(next(iter(place.plan(place.write()).trials.values())))
    plan = place.plan("grid.toml")
    probed, problems = prices.probe([plan], place.state, place.settings.data)
    assert sorted(asked) == [
        "ce resnet20",
        "kd resnet8",
        "kd resnet8",
    ]  # one kd for each teacher, whatever the temperature
    assert problems == []
    assert priced(place, plan, probed=probed).probed == 5


def test_a_probe_that_cannot_be_made_says_why_and_leaves_operations(place: Any) -> None:
    text = place.write(swap={"seeds = [0]": "seeds = [0]\nresources = { cpu = 1, gpu = 1 }"})
    plan = place.plan(text, pair="A")
    probed, problems = prices.probe([plan], place.state, place.settings.data)
    if not probed:  # on a machine with a GPU they are timed
        assert problems == [
            f"{name}: is trained on a GPU, and this machine has none to time it on"
            for name in ("ce resnet14", "kd resnet8")
        ]
    assert priced(place, plan, probed=probed).unknown == 0


# --- planned and actual ----------------------------------------------------------------------------------------------


def test_a_bill_counts_what_this_launch_added(place: Any) -> None:
    trials = named(place.plan(place.write(), pair="A"))
    place.train(trials["teacher resnet14 seed=0"])
    place.train(trials["pair=A temperature=2 seed=0"], [50.0] * 20)
    place.train(trials["pair=A temperature=4 seed=0"], [50.0] * 10, end=None)
    plan = place.plan("grid.toml", pair="A")
    bill = prices.Bill(priced(place, plan), Queue([plan], [], place.state), place.state)
    place.train(trials["pair=A temperature=4 seed=0"], [50.0] * 10)  # 15 s more
    assert (
        str(bill) == "price: planned 0.25 min (80 %: 0.12 to 0.38 min), took 0.25 min of training: within the interval"
    )


@pytest.mark.parametrize(("took", "word"), [(0.1, "below"), (0.2, "within"), (0.3, "above")])
def test_comparison_says_where_the_actual_cost_lies(took: float, word: str) -> None:
    planned = prices.Price(Hours(0.2, 0.15, 0.25), Hours(0.1, 0.07, 0.12), None, 3, 0, 0, 0)
    told = prices.comparison(planned, took, took / 2)
    assert told.endswith(f"{word} the interval")
    assert f"planned 12 min (80 %: 9 to 15 min), took {round(took * 60)} min of training, " in told
    assert "GPU-hours" in told


def test_a_plan_without_an_estimate_is_no_comparison() -> None:
    planned = prices.Price(Hours(0, 0, 0), Hours(0, 0, 0), None, 0, 0, 0, 3)
    assert prices.comparison(planned, 0.5, 0.0) == "price: planned without an estimate, took 30 min of training"


def test_a_key_survives_json_and_data_without_content(place: Any) -> None:
    trial = next(iter(place.plan(place.write()).trials.values()))
    other = trial.model_copy(update={"data": DataSpec(name="digits", train_per_class=5)})
    assert prices.cost_key(Trial.model_validate_json(trial.model_dump_json()), "", 0) == prices.cost_key(trial, "", 0)
    assert prices.cost_key(other, "", 0) != prices.cost_key(trial, "", 0)
