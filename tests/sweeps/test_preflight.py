"""Thirty-odd seeded faults, each found before anything starts: one message with value, place and remedy, exit 2."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch

from sweeps import preflight, spec
from sweeps.verbs import run
from trainers import checkpoint, data, models
from trainers.config import DataSpec
from trainers.synthesis import pool
from trainers.train import trial_folder

Run = Callable[..., tuple[int, str, str]]
Arrange = Callable[[Any, pytest.MonkeyPatch], None]

DATA_FREE = """
title = "Data-free"
paper = "tiny"
protocol = "demo-cudfkd"
teacher_protocol = "demo-scratch"
seeds = [0]

[report]
kind = "table"
metrics = ["test/acc1_pct"]
rows = "alpha"

[base]
data = "digits"
method = "adi"
teacher = "resnet14"
student = "resnet8"
hparams = { iterations = 5 }

[[axes]]
name = "alpha"
path = "hparams.adversarial"
values = [{ label = "0", value = 0.0 }, { label = "1", value = 1.0 }]
"""
GPU = {"seeds = [0]": "seeds = [0]\nresources = { cpu = 1, gpu = 1 }"}
ON_CIFAR = {'data = "digits"': 'data = "cifar10"'}


class Case(NamedTuple):
    """One fault: what is replaced in a sound file, what is done to the place, and what the message must say."""

    name: str
    says: tuple[str, ...]
    swap: Mapping[str, str] = {}
    arrange: Arrange | None = None
    text: str = "grid"
    argv: tuple[str, ...] = ("--profile", "paper")


def imported(**fields: str) -> dict[str, str]:
    """Weights of the teacher from a file."""
    inner = ", ".join(f'{key} = "{value}"' for key, value in fields.items())
    return {'method = "kd"': f'method = "kd"\nteacher_weights = {{ {inner} }}'}


def on_disk(network: str) -> Arrange:
    def arrange(place: Any, patch: pytest.MonkeyPatch) -> None:
        built = models.build(network, classes=10, channels=1, size=8, seed=0)
        checkpoint.save(place.settings.data / "weights" / "x.pt", dict(built.state_dict()))
        patch.setattr(checkpoint, "file_sha256", lambda path: "0123456789ab" + "0" * 52)

    return arrange


def state_below_a_file(place: Any, patch: pytest.MonkeyPatch) -> None:
    (place.folder / "file").write_text("")
    patch.setenv("SWEEPS_STATE", str(place.folder / "file" / "state"))


def state_without_rights(place: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("os.access", lambda path, mode: False)  # the tests may run as root, who has all rights


def data_below_a_file(place: Any, patch: pytest.MonkeyPatch) -> None:
    (place.folder / "file").write_text("")
    patch.setenv("SWEEPS_DATA", str(place.folder / "file" / "data"))


def disk_of(mib: float) -> Arrange:
    usage = SimpleNamespace(total=2**40, used=0, free=int(mib * 2**20))
    return lambda place, patch: patch.setattr("shutil.disk_usage", lambda path: usage)


def memory_of(mib: float) -> Arrange:
    return lambda place, patch: patch.setattr(pool, "free_gib", lambda device: mib / 1024)


def gpu_of(mib: float) -> Arrange:
    def arrange(place: Any, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        device = SimpleNamespace(name="Small GPU", total_memory=int(mib * 2**20))
        patch.setattr(torch.cuda, "get_device_properties", lambda number: device)

    return arrange


def two_cpus(place: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr("os.cpu_count", lambda: 2)


def no_gpu(place: Any, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.cuda, "device_count", lambda: 0)


def teacher_weights(content: bytes | None) -> Arrange:
    """A finished teacher whose file of weights is another, or gone."""

    def arrange(place: Any, patch: pytest.MonkeyPatch) -> None:
        teacher = next(iter(place.plan("grid.toml").trials.values()))
        place.train(teacher)
        file = trial_folder(place.state, teacher.digest()) / "weights.pt"
        file.unlink()
        if content is not None:
            file.write_bytes(content)

    return arrange


def store_of_text(place: Any, patch: pytest.MonkeyPatch) -> None:
    place.database.write_bytes(b"this is text, and long enough to be seen as a damaged header of a database file")


def store_at(uri: str) -> Arrange:
    return lambda place, patch: patch.setenv("MLFLOW_TRACKING_URI", uri)


CASES = (
    # values
    Case("no TOML", ("grid.toml", "not valid TOML"), {'paper = "tiny"': 'paper = "tiny'}),
    Case("unknown key", ("'sedes'", "did you mean 'seeds'"), {'paper = "tiny"': 'paper = "tiny"\nsedes = [1]'}),
    Case("text for a number", ("hparams.ce_weight", "'much'", "number"), {"ce_weight = 0.25": 'ce_weight = "much"'}),
    Case("value out of bounds", ("hparams.temperature", "-2.0", "greater than 0"), {"value = 2.0": "value = -2.0"}),
    Case("infinite value", ("hparams.ce_weight", "inf"), {"ce_weight = 0.25": "ce_weight = inf"}),
    Case("repeated seed", ("seeds", "[0, 0]", "repeated"), {"seeds = [0]": "seeds = [0, 0]"}),
    Case("repeated cell", ("repeated cell", "pair=A", "pair=B"), {'teacher = "resnet20"': 'teacher = "resnet14"'}),
    # names
    Case("unknown method", ("'kdd'", "did you mean 'kd'"), {'method = "kd"': 'method = "kdd"'}),
    Case("unknown network", ("'resnet9'", "did you mean"), {'teacher = "resnet20"': 'teacher = "resnet9"'}),
    Case("unknown data set", ("'digts'", "did you mean 'digits'"), {'data = "digits"': 'data = "digts"'}),
    Case("unknown recipe", ("'demo-scrach'", "did you mean"), {'\nprotocol = "demo-scratch"': '\nprotocol = "demo-scrach"'}),
    Case("unknown hyper-parameter", ("'ce_wait'", "did you mean 'ce_weight'"), {"ce_weight =": "ce_wait ="}),
    Case("unknown axis in the report", ("'pear'", "did you mean 'pair'"), {'rows = "pair"': 'rows = "pair"\npanels = "pear"'}),
    Case("unknown profile", ("'papr'", "did you mean 'paper'"), argv=("--profile", "papr")),
    Case("unknown label", ("pair=C", "A, B"), argv=("--profile", "paper", "--only", "pair=C")),
    # what a method cannot serve
    Case(
        "pair that a method cannot serve", ("'fsp'", "wrn_16_2 -> resnet8", "equal widths"),
        {'method = "kd"\nhparams = { ce_weight = 0.25 }': 'method = "fsp"', '"hparams.temperature"': '"hparams.fsp_weight"', 'teacher = "resnet20"': 'teacher = "wrn_16_2"'},
    ),
    Case(
        "pool larger than is allowed", ("image pool", "2000000000", "16 GiB", "smaller synthesis batch"),
        {"iterations = 5": "iterations = 5, synthesis_batch = 100000000"}, text="data-free",
    ),
    Case("recipe without updates", ("'demo-scratch'", "updates_per_epoch", "'adi'"), {'protocol = "demo-cudfkd"': 'protocol = "demo-scratch"'}, text="data-free"),
    # images and weights
    Case("missing image folder", ("pets", "no such folder"), {'data = "digits"': 'data = { name = "image_folder", folder = "pets" }'}),
    Case(
        "missing ImageNet", ("data imagenet", "imagenet/train", "no such folder", "image-net.org"),
        {'data = "digits"': 'data = "imagenet"', 'teacher = "resnet14", student = "resnet8"': 'teacher = "resnet34_imagenet", student = "resnet18_imagenet"'},
        argv=("--profile", "paper", "--only", "pair=A"),
    ),
    Case("set that cannot be fetched", ("data cifar10", "cannot be written", "SWEEPS_DATA"), ON_CIFAR, data_below_a_file),
    Case("no room to fetch a set", ("data cifar10", "0.35 GiB", "0.20 GiB are free", "SWEEPS_DATA"), ON_CIFAR, disk_of(200)),
    Case("imported weights that are not there", ("teacher_weights", "weights/x.pt", "is not there", "url"), imported(file="x.pt", sha256="0123456789ab")),
    Case("imported weights that are another file", ("weights/x.pt", "not the file", "fedcba98"), imported(file="x.pt", sha256="fedcba98"), on_disk("resnet14")),
    Case("imported weights of another network", ("weights/x.pt", "does not hold weights of resnet14", "lacks"), {**imported(file="x.pt", sha256="0123456789ab"), 'teacher = "resnet20"': 'teacher = "wrn_16_2"'}, on_disk("wrn_16_2")),
    Case("weights of a finished teacher gone", ("teacher resnet14", "are gone", "weights.pt", "remove the folder"), arrange=teacher_weights(None)),
    Case("weights of a finished teacher corrupt", ("teacher resnet14", "cannot be read", "weights.pt", "remove the folder"), arrange=teacher_weights(b"")),
    # places
    Case("state root below a file", ("file/state", "cannot be", "SWEEPS_STATE"), arrange=state_below_a_file),
    Case("state root without rights", (".sweeps", "no right to write", "SWEEPS_STATE"), arrange=state_without_rights),
    Case("full disk", ("state root", "3 MiB free", "6 trials take about", "weights", "sweep gc", "SWEEPS_STATE"), arrange=disk_of(3)),
    Case("store that is no database", ("mlflow.db", "MLFLOW_TRACKING_URI"), arrange=store_of_text),
    Case("store of an unknown sort", ("nosuch://", "MLFLOW_TRACKING_URI"), arrange=store_at("nosuch://me:s3cret@host/x")),
    Case("store that does not answer", ("http://127.0.0.1:9", "MLFLOW_TRACKING_URI"), arrange=store_at("http://127.0.0.1:9")),
    # machine
    Case("no GPU", ("tiny/grid", "1 GPU", "has 0", "RAY_ADDRESS"), GPU, no_gpu),
    Case("too few processors", ("tiny/grid", "16 CPU", "has 2", "RAY_ADDRESS"), {"seeds = [0]": "seeds = [0]\nresources = { cpu = 16 }"}, two_cpus),
    Case("GPU that is too small", ("tiny/grid", "batches of 64", "on the GPU", "Small GPU has 4 MiB", "batch_size", "of 6 trials"), GPU, gpu_of(4)),
    Case("pool larger than memory", ("tiny/grid", "adi resnet8", "pool of images", "has 0 MiB", "synthesis_batch", "2 of 3 trials"), arrange=memory_of(0.01), text="data-free"),
)  # fmt: skip


@pytest.fixture
def never_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that is not seen must not start Ray here: the test would train."""

    def fit(*arguments: object) -> None:
        raise AssertionError("the launch was started")

    monkeypatch.setattr(run, "_fit", fit)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_seeded_fault(
    case: Case, place: Any, run_sweep: Run, never_started: None, grid_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = {"grid": grid_text, "data-free": DATA_FREE}[case.text]
    place.write(text, swap=case.swap)
    if case.arrange is not None:
        case.arrange(place, monkeypatch)
    before = place.trial_folders()
    code, _, err = run_sweep("run", "grid.toml", *case.argv)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2, err
    assert len(lines) == 1, err
    for part in case.says:
        assert part in lines[0]
    assert "s3cret" not in err
    assert place.trial_folders() == before
    assert not place.database.exists() or case.name.startswith("store that is no database")


def test_there_are_thirty_and_the_files_they_start_from_are_sound(
    place: Any, run_sweep: Run, never_started: None, grid_text: str
) -> None:
    assert len(CASES) >= 30
    assert len({case.name for case in CASES}) == len(CASES)
    for number, text in enumerate((grid_text, DATA_FREE)):
        code, out, err = run_sweep("plan", place.write(text, f"sound{number}.toml"), "--profile", "paper")
        assert (code, err) == (0, "")
        assert "not ready here" not in out


MANY = """
title = 3
paper = "tiny"
protocol = "demo-scrach"
teacher_protocol = "demo-scrtch"
seeds = [0, 0]
sedes = [1]
resources = { cpu = -1, gpus = 2 }

[report]
kind = "table"
metrics = ["test/acc1_pct"]
rows = "pair"
colums = "temperature"
columns = "temprature"
margin = { "test/acc9_pct" = 0.5 }

[base]
data = "digts"
method = "kd"
precision = "fp8"
teacher_seed = -1
hparams = { ce_weight = "much", kd_wait = 1.0 }
optimiser = "sgd"

[[axes]]
name = "pair"
values = [
%s]

[[axes]]
name = "temperature"
path = "hparams.temperature"
values = [{ label = "2", value = 2.0 }, { label = "2", value = -1.0 }, { label = "3" }]

[[when]]
match = { pair = "C" }
set = { student = "resnet14" }

[[when]]
match = { pear = "A" }
set = { studnt = "resnet14" }

[[absent]]
match = { temperature = "9" }
reason = "x"
"""


@pytest.mark.parametrize("verb", ["check", "plan"])
def test_all_faults_of_a_file_come_at_once_and_soon(verb: str, place: Any, run_sweep: Run) -> None:
    pairs = "".join(f'{{ label = "{n}", teacher = "resnet14", student = "resnet{n}" }},\n' for n in (9, 10, 11, 12, 13))
    sound = place.write(name="sound.toml")
    assert run_sweep("check", sound)[0] == 0  # imports are not counted
    name = place.write(MANY % pairs, "many.toml")
    started = time.process_time()
    code, _, err = run_sweep(verb, name, "--profile", "paper")
    took = time.process_time() - started
    faults = err.splitlines()
    assert code == 2
    assert len(faults) == len(set(faults)) >= 20
    assert all(fault.startswith("error: many.toml: ") for fault in faults)
    assert took < 2.0


def test_thirty_faults_in_one_place_come_at_once_and_soon(place: Any, run_sweep: Run) -> None:
    swaps = [
        case.swap
        for case in CASES
        if case.text == "grid" and case.swap and case.arrange is None and len(case.argv) == 2
    ]
    files = [place.write(name=f"f{number}.toml", swap=swap) for number, swap in enumerate(swaps)]
    files += [
        place.write(name=f"g{number}.toml", swap={"value = 2.0": f"value = -{number}.5"})
        for number in range(30 - len(files))
    ]
    assert run_sweep("check", place.write(name="sound.toml"))[0] == 0
    started = time.process_time()
    code, _, err = run_sweep("check", *files)
    took = time.process_time() - started
    assert code == 2
    assert {line.split(":")[1].strip() for line in err.splitlines()} == set(files)
    assert len(files) == len(err.splitlines()) == 30
    assert took < 2.0


# --- plan ------------------------------------------------------------------------------------------------------------


def test_plan_tells_what_is_not_ready_here_and_writes_nothing(
    place: Any, run_sweep: Run, snapshot: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.write(swap=GPU)
    no_gpu(place, monkeypatch)
    disk_of(3)(place, monkeypatch)
    before = snapshot(place.folder)
    code, out, err = run_sweep("plan", "grid.toml")
    assert (code, err) == (0, "")
    told = [line for line in out.splitlines() if line.startswith("not ready here: ")]
    assert len(told) == 2
    assert "1 GPU" in told[0]
    assert "3 MiB free" in told[1]
    assert run_sweep("run", "grid.toml", "--profile", "paper", "--dry-run")[1] == out
    assert snapshot(place.folder) == before


def test_a_state_root_that_is_a_file_is_named(place: Any) -> None:
    plan = place.plan(place.write())
    place.state.write_text("")
    (fault,) = preflight.faults([plan], place.settings)
    assert f"the state root {place.state} cannot be written: {place.state} is a file; set SWEEPS_STATE" in fault


def test_a_cluster_is_asked_when_it_is_joined_not_before(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = place.plan(place.write(swap=GPU))
    no_gpu(place, monkeypatch)
    settings = place.settings
    assert len(preflight.faults([plan], settings)) == 1
    on_cluster = type(settings)(
        settings.home, settings.state, settings.data, settings.tracking_uri, None, "ray://head:1"
    )
    assert preflight.faults([plan], on_cluster) == []


def test_what_is_done_or_failed_for_good_is_not_looked_at(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = place.plan(place.write(), pair="A")
    teacher, done, failed = plan.trials.values()
    for trial in (teacher, done):
        place.train(trial)
    place.train(failed, end="failed")
    (trial_folder(place.state, teacher.digest()) / "weights.pt").unlink()
    disk_of(0)(place, monkeypatch)
    plan = place.plan("grid.toml", pair="A")
    assert preflight.faults([plan], place.settings) == []
    gone, full = preflight.faults([plan], place.settings, retry_failed=True)
    assert "are gone" in gone
    assert "0 MiB free, and 1 trials take" in full


# --- sizes -----------------------------------------------------------------------------------------------------------


def info_of(name: str) -> data.Info:
    return data.info(DataSpec(name=name), Path("nowhere"))


def test_size_of_weights_is_that_of_the_state(tmp_path: Path) -> None:
    built = models.build("resnet8", classes=10, channels=1, size=8)
    counted = preflight.weights_bytes("resnet8", info_of("digits"))
    assert counted == sum(value.numel() * value.element_size() for value in built.state_dict().values())
    checkpoint.save(tmp_path / "weights.pt", {"network": "resnet8", "state": built.state_dict()})
    assert (tmp_path / "weights.pt").stat().st_size == pytest.approx(counted, rel=0.1)


def test_size_of_a_checkpoint_by_optimiser_and_what_is_kept(place: Any) -> None:
    trial = next(iter(place.plan(place.write()).trials.values()))
    trial = trial.model_copy(update={"protocol": trial.protocol.model_copy(update={"keep": "last"})})
    for recipe, times in (({}, 2), ({"momentum": 0.0}, 1), ({"optimizer": "adam"}, 3), ({"keep": "best"}, 3)):
        protocol = trial.protocol.model_copy(update=recipe)
        assert preflight.checkpoint_bytes(trial.model_copy(update={"protocol": protocol}), 100) == 100 * times


def test_size_of_a_pool_by_hand(place: Any) -> None:
    plan = place.plan(place.write(DATA_FREE))
    teacher, student, _ = plan.trials.values()
    recipe = student.protocol
    assert preflight.pool_bytes(student, info_of("digits")) == recipe.epochs * recipe.batch_size * 8 * 8
    assert preflight.pool_bytes(teacher, info_of("digits")) == 0


def test_memory_on_a_gpu_grows_with_the_batch_and_the_views(place: Any) -> None:
    plan = place.plan("pckd/table1", "paper", method="KD", pair="WRN-40-2 / WRN-16-2")
    trial = list(plan.trials.values())[-1]
    info = info_of("cifar100")

    def need(batch: int, method: str = "kd") -> float:
        protocol = trial.protocol.model_copy(update={"batch_size": batch})
        return preflight.gpu_bytes(
            trial.model_copy(update={"protocol": protocol, "method": method, "hparams": {}}), info
        )

    assert need(128) - need(64) == pytest.approx(need(192) - need(128))
    assert need(64, "pckd") - need(0, "pckd") == pytest.approx(4 * (need(64) - need(0)))
    weights = [preflight.weights_bytes(network, info) for network in ("wrn_16_2", "wrn_40_2")]
    assert need(0) == 3 * weights[0] + 2 * weights[1]  # weights, momentum, gradients; the teacher's, and folded


def test_every_shipped_experiment_can_be_sized_at_every_profile_of_its_images(place: Any) -> None:
    names = spec.experiment_names()
    for name in (names[0], "cudfkd/table2", "pckd/table9", "pckd/search"):
        plan = place.plan(name, "demo")
        assert preflight.faults([plan], place.settings) == []
