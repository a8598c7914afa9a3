"""The digest covers what changes the result and nothing else; nothing unknown or not finite gets in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from trainers.config import DataSpec, Execution, Protocol, Trial, Upstream, canonical_json
from trainers.methods.cudfkd import Config

PROTOCOL: dict[str, Any] = {
    "name": "p",
    "source": "s",
    "epochs": 4,
    "batch_size": 16,
    "lr": 0.1,
    "updates_per_epoch": 8,
}
TEACHER: dict[str, Any] = {
    "kind": "distill",
    "method": "ce",
    "hparams": {},
    "versions": {"method": 1, "loop": 1},
    "data": {"name": "digits"},
    "student": "resnet8",
    "protocol": {**PROTOCOL, "schedule": "step", "milestones": [2, 3], "keep": "best"},
    "seed": 0,
}
FULL: dict[str, Any] = {
    "kind": "datafree",
    "method": "cudfkd",
    "hparams": {"alpha": 0.5, "curriculum": "log", "latent_dim": 64},
    "versions": {"method": 1, "loop": 1},
    "data": {"name": "digits"},
    "student": "resnet8",
    "teacher": {"trial": TEACHER, "network": "resnet8"},
    "protocol": {**PROTOCOL, "weight_decay": 1e-4, "stats_from_epoch": 2, "artifact_epochs": [0]},
    "seed": 10,
}
GOLDEN = "a6a192c69703b3b205ff581a0a474745de1bbd4743f7c167b190c4b519cfee16"
"""Digest of FULL. A change here makes every finished trial of every user look new: raise a VERSION instead, or give the
new field a neutral value that `identity` leaves out."""


def digest(content: dict[str, Any]) -> str:
    return Trial.model_validate(content).digest()


def changed(*path: str, value: Any, of: dict[str, Any] | None = None) -> str:
    content: dict[str, Any] = json.loads(json.dumps(FULL if of is None else of))
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return digest(content)


def test_golden_digest() -> None:
    assert digest(FULL) == GOLDEN


def test_digest_survives_json() -> None:
    trial = Trial.model_validate(FULL)
    assert Trial.model_validate_json(trial.model_dump_json()) == trial
    assert Trial.model_validate_json(trial.model_dump_json()).digest() == GOLDEN


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("hparams", "alpha"), 0.6),
        (("hparams", "curriculum"), "hard"),
        (("versions", "method"), 2),
        (("versions", "loop"), 2),
        (("data", "name"), "cifar10"),
        (("data", "holdout_images"), 10),
        (("data", "folder"), "birds"),
        (("data", "content"), "ab"),
        (("student",), "resnet14"),
        (("teacher", "network"), "resnet14"),
        (("teacher", "trial", "seed"), 1),
        (("teacher", "trial", "protocol", "milestones"), [1, 3]),
        (("teacher", "trial", "data", "train_per_class"), 5),
        (("protocol", "epochs"), 5),
        (("protocol", "batch_size"), 32),
        (("protocol", "lr"), 0.2),
        (("protocol", "momentum"), 0.8),
        (("protocol", "weight_decay"), 0.0),
        (("protocol", "nesterov"), True),
        (("protocol", "schedule"), "constant"),
        (("protocol", "lr_min"), 0.01),
        (("protocol", "warmup_epochs"), 1),
        (("protocol", "updates_per_epoch"), 9),
        (("protocol", "keep"), "best"),
        (("protocol", "stop_at_acc1_pct"), 50.0),
        (("seed",), 11),
        (("precision",), "bf16"),
    ],
)
def test_what_changes_the_result_changes_the_digest(path: tuple[str, ...], value: Any) -> None:
    assert changed(*path, value=value) != GOLDEN


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("protocol", "name"), "other"),
        (("protocol", "source"), "other"),
        (("protocol", "stats_from_epoch"), 0),
        (("protocol", "stats_drop_last"), 1),
        (("protocol", "artifact_epochs"), []),
        (("teacher", "trial", "protocol", "name"), "other"),
        (("data", "holdout_images"), 0),
        (("data", "folder"), None),
        (("precision",), "fp32"),
    ],
)
def test_labels_and_neutral_values_do_not(path: tuple[str, ...], value: Any) -> None:
    assert changed(*path, value=value) == GOLDEN


def test_fields_without_effect_on_a_kind_do_not() -> None:
    assert changed("data", "train_per_class", value=5) == GOLDEN  # no image is seen
    assert changed("protocol", "augment", value=False) == GOLDEN
    assert (
        changed("protocol", "milestones", value=[1]) == changed("protocol", "gamma", value=0.5) == GOLDEN
    )  # the schedule is cosine
    assert changed("protocol", "updates_per_epoch", value=99, of=TEACHER) == digest(
        TEACHER
    )  # an epoch is a pass over the images
    assert changed("protocol", "lr_min", value=0.01, of=TEACHER) == digest(TEACHER)  # the schedule is step
    assert changed("protocol", "augment", value=False, of=TEACHER) != digest(TEACHER)
    assert changed("data", "train_per_class", value=5, of=TEACHER) != digest(TEACHER)


def test_measurement_has_neither_recipe_nor_seed() -> None:
    content = {
        **FULL, "kind": "evaluate", "method": "evaluate", "hparams": {}, "subject": {"trial": FULL, "network": "resnet8"}
    }  # fmt: skip
    assert changed("protocol", "epochs", value=9, of=content) == changed("seed", value=3, of=content) == digest(content)
    assert changed("subject", "trial", "seed", value=3, of=content) != digest(content)
    assert changed("teacher", "trial", "seed", value=3, of=content) != digest(content)


def test_8_is_8_point_0() -> None:
    assert changed("protocol", "lr", value=1) == changed("protocol", "lr", value=1.0)
    assert changed("hparams", "latent_dim", value=64.0) == GOLDEN  # hyper-parameters are untyped here
    assert canonical_json({"b": [8.0, (2.5,)], "a": True, "c": None}) == '{"a":true,"b":[8,[2.5]],"c":null}'
    assert canonical_json({"a": -0.0, "b": 1e300, "c": 0.1}) == canonical_json({"c": 0.1, "b": int(1e300), "a": 0})


def test_order_of_names_does_not_matter() -> None:
    assert digest({**FULL, "hparams": dict(reversed(FULL["hparams"].items()))}) == GOLDEN


def test_imported_weights_count_by_content_not_by_place() -> None:
    at = [
        changed("teacher", value={"weights": path, "sha256": sha, "network": "resnet8"})
        for path, sha in (("/a", "0" * 8), ("/b", "0" * 8), ("/a", "1" * 8))
    ]
    assert at[0] == at[1] != at[2]
    assert Upstream(weights="/a", sha256="00000000", url="u", network="n").name == "sha256:00000000"


def test_threads_and_paths_are_not_part_of_a_trial() -> None:
    assert set(Execution.model_fields) == {"threads", "memory_format", "folded_teacher", "fused_optimizer", "passes"}
    assert not {"threads", "device", "data_root", "workers", "label", "experiment"} & set(Trial.model_fields)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("sead",), 1, "Extra inputs are not permitted"),
        (("protocol", "epoch"), 1, "Extra inputs are not permitted"),
        (("data", "nam"), "x", "Extra inputs are not permitted"),
        (("protocol", "lr"), float("nan"), "finite"),
        (("protocol", "lr"), float("inf"), "finite"),
        (("hparams", "alpha"), float("nan"), "finite"),
        (("protocol", "lr"), 0, "greater than 0"),
        (("protocol", "epochs"), -1, "greater than or equal to 0"),
        (("protocol", "batch_size"), 0, "greater than 0"),
        (("protocol", "momentum"), 1.0, "less than 1"),
        (("protocol", "stop_at_acc1_pct"), 101, "less than or equal to 100"),
        (("protocol", "milestones"), [3, 2], "milestones must rise strictly, got"),
        (("protocol", "milestones"), [2, 2], "milestones must rise strictly, got"),
        (("protocol", "schedule"), "linear", "'cosine', 'step' or 'constant'"),
        (("seed",), -1, "greater than or equal to 0"),
        (("precision",), "fp16", "'fp32' or 'bf16'"),
        (("kind",), "distil", "'distill', 'datafree', 'evaluate' or 'probe'"),
        (("teacher",), {"network": "resnet8"}, "either a trial or an imported weights file"),
        (
            ("teacher",),
            {"network": "r", "trial": TEACHER, "weights": "/a", "sha256": "0" * 8},
            "either a trial or an imported",
        ),
        (("teacher",), {"network": "resnet8", "weights": "/a"}, "imported weights need their sha256"),
        (("data", "train_per_class"), 0, "greater than 0"),
    ],
)
def test_bad_values_are_refused(path: tuple[str, ...], value: Any, message: str) -> None:
    content: dict[str, Any] = json.loads(json.dumps(FULL))
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(ValidationError, match=message):
        Trial.model_validate(content)


def test_trials_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Trial.model_validate(FULL).seed = 3  # type: ignore[misc]


def test_upstreams_are_named_teacher_first() -> None:
    other = {**TEACHER, "seed": 5}
    content = {**FULL, "kind": "evaluate", "method": "evaluate", "subject": {"trial": other, "network": "resnet8"}}
    assert [trial.seed for trial in Trial.model_validate(content).upstreams()] == [0, 5]
    assert Trial.model_validate(TEACHER).upstreams() == ()


def test_inactive_hyperparameters_leave_the_digest() -> None:
    one, two = Config(curriculum="none", lambda_0=3.0), Config(curriculum="none", lambda_0=9.0)
    assert "lambda_0" not in one.active()
    assert changed("hparams", value=one.active()) == changed("hparams", value=two.active())
    assert "lambda_0" in Config().active()


def test_data_spec_and_protocol_reject_unknown_names() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        DataSpec.model_validate({"name": "digits", "root": "/data"})
    with pytest.raises(ValidationError, match="Extra inputs"):
        Protocol.model_validate({**PROTOCOL, "optimiser": "adam"})


def test_a_changed_copy_has_a_digest_of_its_own() -> None:
    trial = Trial.model_validate(FULL)
    before = trial.digest()
    other = trial.model_copy(update={"seed": 7})
    assert other.digest() == digest(FULL | {"seed": 7}) != before
    assert trial == Trial.model_validate(FULL)  # which has not worked its digest out
    assert trial.model_dump() == Trial.model_validate(FULL).model_dump()
