"""Cells about finished weights: the teacher itself, measurements, probes on other data, imported files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sweeps import plan, resolve, spec
from sweeps.errors import SpecError
from sweeps.spec import Profile
from trainers import checkpoint, models
from trainers.config import Trial

PAPER = spec.load_profile("paper")
DEMO = spec.load_profile("demo")

FILE = """
title = "Kinds"
paper = "tiny"
protocol = "cifar100-240"
teacher_protocol = "cifar100-240"
seeds = [0]

[report]
kind = "table"
metrics = ["test/acc1_pct"]
rows = "row"

[base]
data = "digits"
teacher = "resnet14"
student = "resnet8"
method = "kd"

[[axes]]
name = "row"
values = [
    {rows}
]
"""


def trials(tmp_path: Path, *rows: str, profile: Profile = PAPER) -> list[Trial]:
    file = tmp_path / "kinds.toml"
    file.write_text(FILE.replace("{rows}", ",\n    ".join(rows)))
    experiment = spec.load(str(file), profile)
    return [resolve.resolve(experiment, profile, cell, 0, tmp_path)[0] for cell in experiment.cells]


def faults(tmp_path: Path, *rows: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        trials(tmp_path, *rows)
    return [fault.split("kinds.toml: ", 1)[1] for fault in caught.value.faults]


def test_the_teacher_of_a_cell_is_the_trial_that_others_distil(tmp_path: Path) -> None:
    kd, teacher, seeded = trials(
        tmp_path,
        '{ label = "KD" }',
        '{ label = "Teacher", train = "teacher" }',
        '{ label = "Another", train = "teacher", teacher_seed = 3 }',
    )
    assert kd.teacher is not None and kd.teacher.trial == teacher
    assert (teacher.method, teacher.student, seeded.seed) == ("ce", "resnet14", 3)


def test_a_measurement_has_a_method_and_settings_of_its_own(tmp_path: Path) -> None:
    kd, drawn, centres = trials(
        tmp_path,
        '{ label = "KD" }',
        '{ label = "drawn", evaluate = { method = "embedding", hparams = { classes = 4 } } }',
        '{ label = "centres", train = "teacher", evaluate = { method = "centres" } }',
    )
    assert (drawn.kind, drawn.method, drawn.hparams["classes"], drawn.teacher) == ("evaluate", "embedding", 4, None)
    assert drawn.subject is not None and drawn.subject.trial == kd
    assert centres.subject is not None and kd.teacher is not None
    assert centres.subject.name == kd.teacher.name
    assert centres.student == "resnet14"


def test_a_probe_trains_on_the_target_and_depends_on_the_student(tmp_path: Path) -> None:
    kd, probe = trials(
        tmp_path,
        '{ label = "KD" }',
        '{ label = "moved", transfer = { data = "digits_turned", protocol = "probe-100" } }',
    )
    assert (probe.kind, probe.method, probe.data.name, probe.protocol.name) == (
        "probe",
        "linear_probe",
        "digits_turned",
        "probe-100",
    )
    assert probe.upstreams() == (kd,)


def test_a_probe_is_priced_and_named_like_any_trial(tmp_path: Path) -> None:
    made = plan.make("pckd/table4", DEMO, tmp_path / "state", tmp_path, only={"method": ["KD", "Teacher"]})
    probes = [trial for trial in made.trials.values() if trial.kind == "probe"]
    assert len(probes) == 4
    assert {trial.data.name for trial in probes} == {"digits_turned"}
    assert (
        sum(trial.kind == "distill" for trial in made.trials.values()) == 2
    )  # KD's student and the teacher, for both sets


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{ label = "x", train = "techer" }', "train: unknown role 'techer'; did you mean 'teacher'?"),
        (
            '{ label = "x", evaluate = { method = "kd" } }',
            "evaluate.method: 'kd' is a method of kind 'distill'",
        ),
        (
            '{ label = "x", evaluate = { method = "embedding", hparams = { clases = 3 } } }',
            "hparams: unknown hyper-parameter of method embedding 'clases'; did you mean 'classes'?",
        ),
        ('{ label = "x", evaluate = { metod = "centres" } }', "evaluate: unknown key 'metod'; did you mean 'method'?"),
        (
            '{ label = "x", transfer = { data = "cifar10", protocol = "probe-100" } }',
            "transfer.data: cifar10 has 3 colour channels, digits, which resnet8 is trained on, has 1; take another set",
        ),
        ('{ label = "x", transfer = { data = "digits_turned" } }', "protocol: is missing"),
        (
            '{ label = "x", transfer = { data = "digits_turned", protocol = "probe-100", lr = 1 } }',
            "transfer: unknown key 'lr'",
        ),
        (
            '{ label = "x", transfer = { data = "digits_turned" }, evaluate = { teacher_seed = 1 } }',
            "evaluate and transfer: a cell has one of them; remove the other",
        ),
        ('{ label = "x", teacher_weights = { file = "a.pth" } }', "teacher_weights: sha256: is missing"),
        (
            '{ label = "x", teacher_weights = { file = "a.pth", sha256 = "00000000" } }',
            "teacher_weights: {root}/weights/a.pth is not there; put it there, or give its url",
        ),
    ],
)
def test_faults_are_named_before_anything_starts(tmp_path: Path, row: str, message: str) -> None:
    assert any(fault.startswith(message.replace("{root}", str(tmp_path))) for fault in faults(tmp_path, row))


# --- imported weights ------------------------------------------------------------------------------------------------


def weights_file(tmp_path: Path, network: str) -> str:
    file = tmp_path / "weights" / f"{network}.pth"
    file.parent.mkdir(exist_ok=True)
    torch.save(models.build(network, classes=10, channels=1, size=8, seed=0).state_dict(), file)
    return f'{{ file = "{file.name}", sha256 = "{checkpoint.file_sha256(file)[:8]}" }}'


def test_imported_weights_teach_are_measured_and_name_the_digest(tmp_path: Path) -> None:
    weights = weights_file(tmp_path, "resnet14")
    kd, teacher, student = trials(
        tmp_path,
        f'{{ label = "KD", teacher_weights = {weights} }}',
        f'{{ label = "Teacher", train = "teacher", teacher_weights = {weights} }}',
        f'{{ label = "Student", student = "resnet14", student_weights = {weights} }}',
    )
    assert kd.teacher is not None and kd.teacher.trial is None
    assert kd.upstreams() == ()
    assert kd.teacher.name.startswith("sha256:")
    assert (teacher.kind, teacher.method) == ("evaluate", "accuracy")
    assert teacher.digest() == student.digest()  # the same file, measured on the same data
    moved = kd.model_copy(update={"teacher": kd.teacher.model_copy(update={"weights": "elsewhere.pth", "url": "x"})})
    assert moved.digest() == kd.digest()


def test_weights_of_another_network_are_refused_with_the_pair(tmp_path: Path) -> None:
    weights = weights_file(tmp_path, "resnet20")
    (fault,) = faults(tmp_path, f'{{ label = "x", teacher_weights = {weights} }}')
    assert fault.startswith("teacher_weights: ")
    assert "does not hold weights of resnet14: it has also" in fault


def test_where_a_profile_has_another_network_a_teacher_is_trained(tmp_path: Path) -> None:
    weights = weights_file(tmp_path, "resnet14")
    mapped = PAPER.model_copy(update={"networks": {"resnet14": "resnet20"}})
    (kd,) = trials(tmp_path, f'{{ label = "KD", teacher_weights = {weights} }}', profile=mapped)
    assert kd.teacher is not None and kd.teacher.trial is not None
    assert kd.teacher.network == "resnet20"


# --- pairs and recipes that a method cannot serve ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('method = "fsp", teacher = "resnet14", student = "wrn_10_2"', ("fsp", "resnet14", "wrn_10_2")),
        ('method = "reviewkd", teacher = "resnet14", student = "vgg8_small"', ("reviewkd", "resnet14", "vgg8_small")),
        (
            'method = "pckd", teacher = "resnet14x2"',
            ("pckd", "class centres of shapes (10, 128) and (10, 64)", "beta_ca to 0"),
        ),
        ('method = "pckd", "protocol.batch_size" = 1', ("pckd", "batch_size is 1")),
        ('method = "sskd", "protocol.batch_size" = 1', ("sskd", "batch_size 1 leaves")),
        ('method = "cudfkd", protocol = { name = "demo-cudfkd", optimizer = "dot" }', ("'dot'", "data-free", "cudfkd")),
    ],
)
def test_what_a_method_cannot_serve_is_refused_with_pair_and_reason(
    tmp_path: Path, row: str, words: tuple[str, ...]
) -> None:
    found = faults(tmp_path, f'{{ label = "x", {row} }}')
    assert len(found) == 1
    assert all(word in found[0] for word in words), found[0]


# --- profiles --------------------------------------------------------------------------------------------------------


def test_a_papers_own_names_come_before_those_of_all_papers() -> None:
    own = DEMO.of("pckd")
    assert own.networks["wrn_40_2"] == "wrn_16_2"
    assert DEMO.of("cudfkd").networks["wrn_40_2"] == DEMO.networks["wrn_40_2"] == "wrn_16_1"
    assert own.networks["resnet34"] == DEMO.networks["resnet34"]  # what the paper does not name stays


def test_demo_keeps_equal_and_unequal_widths_of_the_papers_pairs() -> None:
    networks = DEMO.of("pckd").networks
    for teacher, student in (
        ("wrn_40_2", "wrn_16_2"),
        ("wrn_40_2", "wrn_40_1"),
        ("resnet110", "resnet20"),
        ("resnet32x4", "resnet8x4"),
        ("vgg13", "vgg8"),
        ("vgg13", "mobilenetv2"),
        ("resnet50", "vgg8"),
        ("wrn_40_2", "shufflev1"),
        ("resnet34_imagenet", "resnet18_imagenet"),
    ):
        paper = [models.shapes(name, classes=10, channels=3, size=32).pooled for name in (teacher, student)]
        small = [models.shapes(networks[name], classes=10, channels=1, size=8).pooled for name in (teacher, student)]
        assert (paper[0] == paper[1]) == (small[0] == small[1]), (teacher, student)
        stages = [
            [len(models.shapes(name, classes=10, channels=1, size=32).stages) for name in names]
            for names in ((teacher, student), (networks[teacher], networks[student]))
        ]
        if "imagenet" not in teacher:
            assert stages[0] == stages[1], (teacher, student)
