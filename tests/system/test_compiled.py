"""`passes = "compiled"` with PyTorch's own compiler: the same training, the same bits whoever interrupts it, and a fallback that says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainers.conftest import Tiny
from trainers import attempts, checkpoint, models
from trainers.attempts import read_status
from trainers.config import Execution, Trial
from trainers.group import Ended, run_group
from trainers.run import run_trial
from trainers.train import trial_folder

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

COMPILED = Execution.of_new(1, "compiled")
LIGHT = ["mobilenetv2_small", "shufflev1_small", "shufflev2_small"]


@pytest.fixture(scope="module")
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture(scope="module", autouse=True)
def _one_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the compiler made for one test serves the next, and nothing is left from earlier runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        yield


@pytest.fixture(scope="module")
def new_root(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    with_teacher = tmp_path_factory.mktemp("teacher")
    list(run_trial(tiny.teacher(), with_teacher, with_teacher))

    def make() -> Path:
        root = tmp_path_factory.mktemp("state")
        shutil.copytree(with_teacher, root, dirs_exist_ok=True)
        return root

    return make


SMALL = {"latent_dim": 8, "generator_width": 4, "iterations": 2, "synthesis_batch": 8, "bank_images": 16}


def trials(tiny: Tiny, epochs: int) -> list[Trial]:
    """Logits alone; all maps; images that the method makes; a pool that is smaller than a batch in the first epoch."""
    found = [tiny._trial(name, {}, {"epochs": epochs}, None, with_teacher=True) for name in ("kd", "fitnet")]
    recipe = {"augment": False, "updates_per_epoch": 2, "epochs": epochs}
    return [*found, tiny.cudfkd(epochs=epochs), tiny._trial("cmi", SMALL, recipe, None, with_teacher=True)]


def log(trial: Trial, root: Path) -> str:
    return (trial_folder(root, trial.digest()) / "attempts" / "1" / "log.txt").read_text()


def weights(trial: Trial, root: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(trial_folder(root, trial.digest()) / "weights.pt")["state"]  # type: ignore[no-any-return]


def same_bits(trial: Trial, one: Path, other: Path) -> bool:
    pairs = zip(weights(trial, one).values(), weights(trial, other).values(), strict=True)
    return all(torch.equal(*pair) for pair in pairs)


def test_compiled_training_is_the_eager_one_up_to_rounding(tiny: Tiny, new_root: Callable[[], Path]) -> None:
    usual, compiled = new_root(), new_root()
    half = tiny.kd(epochs=1, trial={"precision": "bf16"})
    for trial in (*trials(tiny, epochs=1)[:3], half):
        list(run_trial(trial, usual, usual, execution=Execution.of_new(1)))
        list(run_trial(trial, compiled, compiled, execution=COMPILED))
        assert log(trial, compiled).count("is compiled for images of shape (16, 1, 8, 8)") == 2, log(trial, compiled)
        assert "eager" not in log(trial, compiled)
        ours, theirs = (attempts.rows(read_status(root, trial.digest())) for root in (compiled, usual))
        assert ours[0]["train/loss"] == pytest.approx(theirs[0]["train/loss"], rel=1e-2 if trial is half else 1e-3)
        if trial is half:
            continue
        for mine, others in zip(weights(trial, compiled).values(), weights(trial, usual).values(), strict=True):
            torch.testing.assert_close(mine, others, rtol=1e-2, atol=1e-3)
        assert not same_bits(trial, usual, compiled)  # it was compiled: the order of sums is another one


def test_bits_are_those_of_a_lone_whole_trial_when_it_is_continued_or_in_a_group(
    tiny: Tiny, new_root: Callable[[], Path]
) -> None:
    whole, broken, together = new_root(), new_root(), new_root()
    chosen = trials(tiny, epochs=3)
    for trial in chosen:
        list(run_trial(trial, whole, whole, execution=COMPILED))
        assert log(trial, whole).count("is compiled for images of shape (16, 1, 8, 8)") == 2, log(trial, whole)
        begun = run_trial(trial, broken, broken, execution=COMPILED)
        next(begun)
        begun.close()
        list(run_trial(trial, broken, broken, execution=Execution.of_new(1)))
        assert same_bits(trial, whole, broken), trial.method
    sharing = [trial for trial in chosen if trial.kind == "distill"]
    events = list(run_group(sharing, together, together, execution=COMPILED))
    assert [event.error for _, event in events if isinstance(event, Ended)] == [None, None]
    for trial in sharing:
        assert same_bits(trial, whole, together), trial.method


def test_a_first_stage_and_dot_leave_the_student_eager(tiny: Tiny, new_root: Callable[[], Path]) -> None:
    """A weight that a stage's terms do not reach stays where it was; DOT goes through a graph twice, which is told."""
    fsp = tiny._trial("fsp", {}, {"epochs": 1, "weight_decay": 0.1}, {"student": "wrn_10_1"}, with_teacher=True)
    dot = tiny.kd(epochs=1, optimizer="dot")
    for trial in (fsp, dot):
        usual, compiled = new_root(), new_root()
        list(run_trial(trial, usual, usual, execution=Execution.of_new(1)))
        list(run_trial(trial, compiled, compiled, execution=COMPILED))
        for mine, others in zip(weights(trial, compiled).values(), weights(trial, usual).values(), strict=True):
            torch.testing.assert_close(mine, others, rtol=1e-2, atol=1e-3)
        assert ("WideResNet in training mode is compiled" in log(trial, compiled)) is (trial is fsp)
    assert "stays eager: ResNetCifar: optimizer 'dot' goes through its graph twice" in log(dot, compiled)


@pytest.mark.parametrize("name", ["resnet18_tiny7", "resnet50_small", "resnet8x4", "vgg8", "wrn_16_2", *LIGHT])
def test_every_family_is_one_graph(name: str) -> None:
    """Which `Passes` insists on; traced here, not translated."""
    torch._dynamo.reset()
    network = models.build(name, classes=10, channels=3, size=64, seed=0).train()
    images = torch.randn(2, 3, 64, 64)
    traced = torch.compile(network.features, backend="eager", fullgraph=True, dynamic=False)
    other = models.build(name, classes=10, channels=3, size=64, seed=0).train()
    assert torch.equal(traced(images).logits, other.features(images).logits)


def test_a_sweep_compiles_and_a_machine_without_a_compiler_says_so(home: Any) -> None:
    name = home.mini(epochs=1, alphas=[0.1])
    done = home.sweep("run", name, "--profile", "paper", "--passes", "compiled")
    assert done.returncode == 0, done.stderr
    assert "eager in" not in done.stdout + done.stderr
    executions = [json.loads(file.read_text())["execution"] for file in home.state.glob("??/*/trial.json")]
    assert {each["passes"] for each in executions} == {"compiled"}
    logs = [file.read_text() for file in home.state.glob("??/*/attempts/1/log.txt")]
    assert len(logs) == 3
    assert all("is compiled" in text for text in logs)

    other = home.mini(epochs=1, alphas=[0.2])
    home.environment |= {"CXX": "/nonexistent/g++", "TORCHINDUCTOR_CACHE_DIR": str(home.folder / "empty")}
    done = home.sweep("run", other, "--profile", "paper", "--passes", "compiled")
    assert done.returncode == 0, done.stderr
    assert "eager in 2 of 3 trials: ResNetCifar in training mode: " in done.stdout + done.stderr
    assert "No working C++ compiler found" in done.stdout + done.stderr
    tags = [run.data.tags.get("sweeps.stayed_eager", "") for run in home.runs()]
    assert sorted(map(bool, tags)) == [False, False, False, True, True]
