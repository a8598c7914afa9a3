"""What every method file must keep, found by listing the folder: no method can be added without passing here."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import itertools
import re
import shutil
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from trainers import checkpoint, datafree, distill, models, registry
from trainers.config import DataSpec, Execution, MethodConfig, Protocol, Trial, Upstream, canonical_json
from trainers.data import DataSet, Split
from trainers.data.digits import INFO
from trainers.methods import config_type, freeze, module, presets
from trainers.train import Setup, make_ready

METHODS = registry.names("methods")
TRAINED = [name for name in METHODS if module(name).KIND not in ("evaluate", "probe")]
GENERATOR = {"latent_dim": 8, "generator_width": 4, "generator_depth": 1, "student_steps": 1}
SMALL: dict[str, dict[str, Any]] = {
    "cudfkd": GENERATOR,
    "dafl": GENERATOR,
    "zskt": {
        "latent_dim": 8,
        "generator_width": 4,
        "generator_depth": 1,
        "student_steps": 1,
        "generator_clip_norm": 1e-3,  # binds
    },
    "dfq": GENERATOR,
    "dfad": GENERATOR,
    "predfkd": {"latent_dim": 8, "generator_width": 4, "student_steps": 1, "vae_steps": 1},
    "mbdfkd": {"latent_dim": 8, "generator_width": 4, "student_steps": 1, "memory_slots": 1, "push_every": 1},
    "adi": {"iterations": 3},
    "cmi": {"latent_dim": 8, "generator_width": 4, "iterations": 3, "bank_images": 16, "negatives": 8, "head_dim": 8},
    "fitnet": {"hint_stage": 1},  # twice it exists, too
    "ab": {"first_stage_epochs": 3},  # the epochs that tests visit lie on either side of it
    "ft": {"first_stage_epochs": 3},
    "fsp": {"first_stage_epochs": 3},
    "reviewkd": {"max_mid_channels": 8},  # binds
    "crd": {"negatives": 8, "dims": 8},
    "sskd": {"head_epochs": 3, "head_step_1": 1, "head_step_2": 2},
    "pckd": {"hidden_factor": 1},
}
"""Where a method's defaults are too slow for this test."""
SCRATCH = tempfile.TemporaryDirectory()
"""Pools of the loops that are built here."""
EPOCHS = 8
VISITED = (0, 7)
"""Of 8 epochs, those that are run: the beginning and the end of every schedule."""
ALSO_VISITED: dict[str, tuple[int, ...]] = {"mbdfkd": (5,), "cmi": (3,), "sskd": (1, 2)}
"""Epochs between them that a method's period, or its bank, needs."""
STUDENT_IN_TRAIN_MODE = {"predfkd", "mbdfkd"}
"""Methods whose synthesis moves the running statistics of the student, and nothing else of it."""
REPLAYED = {"predfkd": 2}
"""Images that a first batch holds besides the batch size."""


def test_every_method_is_seen() -> None:
    assert len(METHODS) >= 4
    assert {"ce", "kd", "cudfkd", "dafl", "zskt", "dfq", "dfad", "predfkd", "mbdfkd", "adi", "cmi", "evaluate"} <= set(
        METHODS
    )
    assert {"ab", "ft", "fsp", "ofd", "reviewkd", "crd"} <= set(METHODS)
    assert {"dkd", "mld", "logit_std", "sskd", "pckd", "ce_preview"} <= set(METHODS)
    assert {"fitnet", "at", "sp", "cc", "vid", "rkd", "pkt", "nst", "ickd", "kdsvd"} <= set(METHODS)
    assert set(SMALL) <= set(METHODS)


# ---- what is run: a loop of the real kind on random 8x8 images ----


def digits_like() -> DataSet:
    generator = torch.Generator().manual_seed(0)

    def split(n: int) -> Split:
        images = torch.randint(0, 256, (n, 1, 8, 8), dtype=torch.uint8, generator=generator)
        return Split(images, torch.randint(0, 10, (n,), generator=generator))

    return DataSet(INFO, split(32), split(8))


IMAGES = digits_like()


def trial_of(name: str, hparams: dict[str, Any], precision: str = "fp32", **changes: Any) -> Trial:
    file = module(name)
    recipe = {"name": "p", "source": "test", "epochs": EPOCHS, "batch_size": 16, "lr": 0.05, "updates_per_epoch": 2}
    recipe |= changes
    return Trial(
        kind=file.KIND,
        method=name,
        hparams=hparams,
        versions={"method": file.VERSION, "loop": 1},
        data=DataSpec(name="digits"),
        student="resnet8",
        teacher=Upstream(weights="/t", sha256="0" * 8, network="resnet8") if file.NEEDS_TEACHER else None,
        protocol=Protocol.model_validate(recipe),
        precision=precision,
        seed=0,
    )


@lru_cache(maxsize=1)
def networks() -> tuple[models.Network, models.Network]:
    """A teacher that knows grey images, and a student that decides like it on some of them, over all classes."""
    student, teacher = (
        models.build("resnet8", classes=10, channels=1, size=8, seed=0, role=role) for role in ("student", "teacher")
    )
    grey = (
        0.05 * torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(1)) + 0.5
    )  # what a fresh generator makes
    with torch.no_grad():
        for _ in range(30):
            teacher.train()(grey)
        teacher.classifier.bias -= teacher.eval()(grey).mean(0)
        for mine, other in zip(student.parameters(), teacher.parameters(), strict=True):
            mine.copy_(other + 0.1 * (mine - other))
        for mine, other in zip(student.buffers(), teacher.buffers(), strict=True):
            mine.copy_(other)
    freeze(teacher)
    return student, teacher


def loop_of(name: str, hparams: dict[str, Any], execution: Execution | None = None, **changes: Any) -> Any:
    """`changes` of the recipe, and `precision`."""
    folder = Path(tempfile.mkdtemp(dir=SCRATCH.name)) / "pool"
    trial = trial_of(name, hparams, **changes)
    student, teacher = copy.deepcopy(networks())
    setup = Setup(trial, IMAGES, student, teacher if module(name).NEEDS_TEACHER else None, torch.device("cpu"), folder)
    if execution is not None:
        setup = make_ready(setup, execution)
    return (datafree.DataFreeLoop if trial.kind == "datafree" else distill.DistillLoop)(setup)


def result(name: str, hparams: dict[str, Any]) -> str:
    """Hash of the student's bytes and the reported losses after a few short epochs."""
    loop = loop_of(name, hparams)
    rows = [loop.run_epoch(epoch) for epoch in sorted({*VISITED, *ALSO_VISITED.get(name, ())})]
    losses = [{key: value for key, value in row.items() if key.startswith("train/loss")} for row in rows]
    return hashlib.sha256(b"".join(bits(loop.student).values()) + canonical_json(losses).encode()).hexdigest()


# ---- other values of a hyper-parameter, derived from its type and bounds ----


def others(config: MethodConfig, field: str) -> Iterator[Any]:
    """Values that differ from the present one, in the order in which they are worth trying."""
    annotation, value = type(config).model_fields[field].annotation, getattr(config, field)
    kinds = [
        kind
        for kind in (get_args(annotation) if get_origin(annotation) is not Literal else (annotation,))
        if kind is not type(None)
    ]
    kind = kinds[0] if kinds else annotation
    if get_origin(kind) is Literal:
        yield from (each for each in get_args(kind) if each != value)
    elif kind is bool:
        yield not value
    elif kind is int:
        yield from (each for each in (2 * (value or 1), (value or 1) // 2, (value or 0) + 1) if each != value)
    elif kind is float:
        yield from (each for each in (2.0 * (value or 0), (value or 0) / 2, (value or 0) + 0.5, 1.0) if each != value)
    else:
        raise AssertionError(f"{field}: this test knows no other value of type {annotation}")


def with_other(config: MethodConfig, field: str) -> MethodConfig:
    for value in others(config, field):
        try:
            return type(config).model_validate({**config.model_dump(), field: value})
        except ValidationError:
            continue
    raise AssertionError(f"{field}: no other value is allowed beside {config!r}")


def bases(name: str) -> list[MethodConfig]:
    """The defaults and every preset, made small."""
    return [
        config_type(name).model_validate({**fields, **SMALL.get(name, {})}) for fields in ({}, *presets(name).values())
    ]


def switches(config: MethodConfig) -> Iterator[tuple[str, Any]]:
    """Settings that may turn others off: other choices, flags, and weights of 0."""
    for field in type(config).model_fields:
        for value in (0.0, *others(config, field)):
            if isinstance(value, str | bool) or value == 0.0 or getattr(config, field) is None:
                yield field, value


def inactive_cases(name: str) -> list[MethodConfig]:
    """Configurations in which something is declared inactive, each for a reason of its own (one or two switches)."""
    cases: dict[frozenset[str], MethodConfig] = {}
    default = bases(name)[0]
    single = list(switches(default))
    for chosen in (*((each,) for each in single), *itertools.combinations(single, 2)):
        try:
            config = config_type(name).model_validate({**default.model_dump(), **dict(chosen)})
        except ValidationError:
            continue
        off = config.inactive()
        known = [each for each in cases if each <= off]
        if off and frozenset().union(*known) != off:
            cases[off] = config
    return list(cases.values())


@pytest.mark.parametrize("name", METHODS)
def test_file_has_what_a_method_needs(name: str) -> None:
    file = module(name)
    assert file.KIND in ("distill", "datafree", "evaluate", "probe")
    assert isinstance(file.VERSION, int)
    assert file.VERSION >= 1
    assert issubclass(file.Config, MethodConfig)
    assert (file.__doc__ or "").strip()
    assert file.KIND == "probe" or hasattr(file, "Method")
    for preset, fields in presets(name).items():
        file.Config.model_validate(dict(fields)), preset


@pytest.mark.parametrize("name", METHODS)
def test_config_survives_json(name: str) -> None:
    for config in bases(name):
        kind = type(config)
        assert kind.model_validate_json(config.model_dump_json()) == config
        # What is left out is inactive also under its default, so nothing changes on the way through the digest.
        assert kind.model_validate(config.active()).active() == config.active()


@pytest.mark.parametrize("name", METHODS)
def test_config_rejects_unknown_names_and_is_frozen(name: str) -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        config_type(name).model_validate({"no_such_hyper_parameter": 1})
    assert config_type(name).model_config["frozen"] is True


@pytest.mark.parametrize("name", METHODS)
def test_every_field_has_a_description_with_its_origin_and_bounds(name: str) -> None:
    schema = config_type(name).model_json_schema().get("properties", {})
    assert set(schema) == set(config_type(name).model_fields)
    for field, content in schema.items():
        assert re.search(r"\(.+\)|Eq\.|Table|Fig\.|Sec\.", content.get("description", "")), f"{field}: no origin"
        for kind in content.get("anyOf", [content]):
            if kind["type"] in ("number", "integer"):
                assert {"minimum", "exclusiveMinimum"} & set(kind), f"{field}: no lower bound"
            assert kind["type"] != "string" or "enum" in kind, f"{field}: any text is allowed"


@pytest.mark.parametrize(
    ("name", "field"), [(name, field) for name in TRAINED for field in config_type(name).model_fields]
)
def test_each_hyperparameter_changes_the_result(name: str, field: str, defaults: dict[str, str]) -> None:
    base = next((config for config in bases(name) if field not in config.inactive()), None)
    assert base is not None, f"{field} is inactive under the defaults and every preset"
    before = defaults[name] if base == bases(name)[0] else result(name, base.model_dump())
    other = with_other(base, field)
    assert result(name, other.model_dump()) != before, f"{field} = {getattr(other, field)!r} changes nothing"
    assert trial_of(name, other.active()).digest() != trial_of(name, base.active()).digest()


@pytest.fixture(scope="module")
def defaults() -> dict[str, str]:
    """What the defaults give."""
    return {name: result(name, bases(name)[0].model_dump()) for name in TRAINED}


@pytest.mark.parametrize("name", TRAINED)
def test_same_trial_same_bits(name: str, defaults: dict[str, str]) -> None:
    assert result(name, bases(name)[0].active()) == defaults[name]


@pytest.mark.parametrize("name", TRAINED)
def test_inactive_hyperparameters_change_neither_result_nor_digest(name: str) -> None:
    cases = inactive_cases(name)
    assert len(cases) >= {"kd": 1, "cudfkd": 6}.get(name, 0)
    for config in cases:
        changed = config
        for field in sorted(config.inactive()):
            changed = with_other(changed, field)
            assert field in changed.inactive()
        assert trial_of(name, changed.active()).digest() == trial_of(name, config.active()).digest()
        before = result(name, config.model_dump())
        assert result(name, changed.model_dump()) == before, (
            f"{sorted(config.inactive())} are not inactive in {config!r}"
        )
        restored = type(config).model_validate(config.active())
        assert {
            field for field in restored.model_dump() if getattr(restored, field) != getattr(config, field)
        } <= config.inactive()


def bits(network: torch.nn.Module) -> dict[str, bytes]:
    return {key: tensor.numpy().tobytes() for key, tensor in network.state_dict().items()}


def adversarial(name: str) -> dict[str, Any]:
    """A configuration in which the student also shapes the images."""
    hparams = bases(name)[0].model_dump()
    return {**hparams, "adv_init": 1.0} if "adv_init" in hparams else hparams


@pytest.mark.parametrize("name", TRAINED)
def test_gradient_reaches_the_student_and_never_the_teacher(name: str) -> None:
    loop = loop_of(name, adversarial(name))
    teacher = loop.setup.teacher
    before, teacher_before = bits(loop.student), None if teacher is None else bits(teacher)
    loop.run_epoch(loop.first_epochs)  # a first stage need not train the student
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in loop.student.parameters())
    after = bits(loop.student)
    assert all(after[key] != before[key] for key in after)  # BatchNorm statistics and counts too
    if teacher is not None:
        assert bits(teacher) == teacher_before
        assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
        assert not teacher.training


@pytest.mark.parametrize("name", [name for name in TRAINED if module(name).KIND == "datafree"])
def test_synthesis_changes_the_generator_alone(name: str) -> None:
    loop = loop_of(name, adversarial(name))
    loop.method.start_epoch(0)
    loop.student.eval().requires_grad_(False)
    before, teacher = bits(loop.student), bits(loop.teacher)
    state = {key: value.clone() for key, value in tensors(loop.method.state_dict())}
    terms = loop.method.synthesise()
    assert terms
    assert not any(value.requires_grad for value in terms.values())
    after = bits(loop.student)
    moved = {key for key, _ in loop.student.named_buffers()} if name in STUDENT_IN_TRAIN_MODE else set()
    assert {key for key in after if after[key] != before[key]} == moved
    assert bits(loop.teacher) == teacher
    state_after = dict(tensors(loop.method.state_dict()))
    assert any(key not in state or not torch.equal(value, state[key]) for key, value in state_after.items())
    images = loop.method.images()
    assert images.shape == (16 + REPLAYED.get(name, 0), 1, 8, 8)
    assert not images.requires_grad
    assert not torch.equal(images, loop.method.images())  # fresh ones for every update


def tensors(state: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(state, Tensor):
        yield prefix, state
    elif isinstance(state, dict):
        for key, value in state.items():
            yield from tensors(value, f"{prefix}/{key}")
    elif isinstance(state, int | float):  # such as how many images a pool has
        yield prefix, torch.tensor(state)


@pytest.mark.parametrize("name", TRAINED)
def test_checkpoint_holds_everything(name: str, tmp_path: Path) -> None:
    hparams = bases(name)[0].model_dump()
    unbroken, continued = loop_of(name, hparams), loop_of(name, hparams)
    unbroken.run_epoch(2)
    checkpoint.save(tmp_path / "c.pt", unbroken.state_dict())
    if unbroken.setup.pool_folder.exists():
        shutil.copytree(unbroken.setup.pool_folder, continued.setup.pool_folder)
    continued.load_state_dict(checkpoint.load(tmp_path / "c.pt"))
    rows = [loop.run_epoch(3) for loop in (unbroken, continued)]
    for row in rows:
        del row["train/images_per_s"]
    assert rows[0] == rows[1]
    assert bits(unbroken.student) == bits(continued.student)
    states = [dict(tensors(loop.state_dict())) for loop in (unbroken, continued)]
    assert set(states[0]) == set(states[1])
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


@pytest.mark.parametrize("name", [name for name in TRAINED if module(name).KIND == "datafree"])
def test_artifacts_leave_no_trace_in_the_training(name: str, tmp_path: Path) -> None:
    one, two = (loop_of(name, bases(name)[0].model_dump()) for _ in range(2))
    for loop in (one, two):
        loop.run_epoch(0)
    one.write_artifacts(tmp_path, 0)
    assert any(tmp_path.iterdir())
    for loop in (one, two):
        loop.run_epoch(1)
    assert bits(one.student) == bits(two.student)


def test_generator_without_any_term_is_left_alone() -> None:
    hparams = {**SMALL["cudfkd"], "bn": 0.0, "one_hot": 0.0, "balance": 0.0, "ramp": "off"}
    loop = loop_of("cudfkd", hparams)
    before = loop.method.generator.project.weight.detach().clone()
    assert "train/loss" in loop.run_epoch(0)
    assert torch.equal(loop.method.generator.project.weight, before)


# ---- VERSION guard ----


def recorder() -> ModuleType:
    file = Path(__file__).parents[2] / "record_arithmetic.py"
    spec = importlib.util.spec_from_file_location("record_arithmetic", file)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_arithmetic_is_the_recorded_one() -> None:
    record = recorder()
    now = record.current()
    assert set(now) == {f"methods/{name}.py" for name in METHODS} | {
        f"loops/{name}.py" for name in ("distill", "datafree", "evaluate", "probe")
    }
    faults = record.faults(record.read(), now)
    assert not faults, "\n".join(faults)


def test_guard_sees_arithmetic_and_not_words() -> None:
    body = recorder().body
    source = 'def f(x):\n    """Doc."""\n    return 2 * x  # why\n'
    assert body(source) == body("def f(x):\n\n    return (2 *\n  x)\n")
    for name, arguments, value in (
        ("f", "x", "3 * x"),
        ("f", "x", "x * 2"),
        ("g", "x", "2 * x"),
        ("f", "x=None", "2 * x"),
    ):
        assert body(source) != body(f"def {name}({arguments}):\n    return {value}\n")


def test_guard_follows_helpers() -> None:
    record = recorder()
    direct = record.helpers(record.PACKAGE / "methods" / "cudfkd.py")
    files = {file.name for each in direct for file in (each, *record.helpers(each))}
    assert {"_losses.py", "generator.py", "bn_statistics.py", "_augment.py", "seeding.py"} <= files


def test_guard_says_what_to_do() -> None:
    record = recorder()
    old = {"methods/kd.py": {"version": 2, "hashes": ["a"]}, "methods/gone.py": {"version": 1, "hashes": ["g"]}}
    assert record.faults(old, {"methods/kd.py": {"version": 2, "hash": "a"}}) == [
        "methods/gone.py is gone; run: python tests/record_arithmetic.py"
    ]

    def only(version: int, value: str) -> str:
        (found,) = record.faults(
            {"methods/kd.py": old["methods/kd.py"]}, {"methods/kd.py": {"version": version, "hash": value}}
        )
        return str(found)

    assert "changed under VERSION 2" in only(2, "b")
    assert "--no-arithmetic-change methods/kd.py" in only(2, "b")
    assert "was raised to 3" in only(3, "b")
    assert "went down from 2 to 1" in only(1, "a")
    assert record.faults({}, {"methods/new.py": {"version": 1, "hash": "x"}}) == [
        "methods/new.py is new; run: python tests/record_arithmetic.py"
    ]


def test_recording_takes_in_only_what_was_said() -> None:
    record = recorder()
    old = {f"methods/{name}.py": {"version": 1, "hashes": ["1"]} for name in "abc"}
    now = {name: {"version": 2 if name == "methods/c.py" else 1, "hash": "2"} for name in old}
    new = record.updated(old, now, ["methods/b.py"])
    assert new == {
        "methods/a.py": {"version": 1, "hashes": ["1"]},
        "methods/b.py": {"version": 1, "hashes": ["1", "2"]},
        "methods/c.py": {"version": 2, "hashes": ["2"]},
    }
    assert [fault.split()[0] for fault in record.faults(new, now)] == ["methods/a.py"]
