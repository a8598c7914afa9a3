"""A folder of its own for each test: a small experiment, a state root, an empty MLflow store, trials without training."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sweeps import spec
from sweeps.plan import Plan, make
from sweeps.settings import Settings
from tests.sweeps.searching import Launch
from trainers import attempts, checkpoint
from trainers.attempts import Attempt
from trainers.config import Execution, Trial

GRID = """
title = "Small grid"
paper = "tiny"
protocol = "demo-scratch"
teacher_protocol = "demo-scratch"
seeds = [0]

[report]
kind = "table"
metrics = ["test/acc1_pct"]
rows = "pair"
columns = "temperature"

[base]
data = "digits"
method = "kd"
hparams = { ce_weight = 0.25 }

[[axes]]
name = "pair"
values = [
    { label = "A", teacher = "resnet14", student = "resnet8" },
    { label = "B", teacher = "resnet20", student = "resnet8" },
]

[[axes]]
name = "temperature"
path = "hparams.temperature"
values = [{ label = "2", value = 2.0 }, { label = "4", value = 4.0 }]
"""

SEARCH = """
title = "Small search"
paper = "tiny"
protocol = "demo-scratch"
teacher_protocol = "demo-scratch"
seeds = [0]

[report]
kind = "scatter"
metrics = ["val/acc1_pct"]
rows = "suggestion"

[base]
data = "digits"
method = "kd"
teacher = "resnet14"
student = "resnet8"

[search]
trials = 8
startup_trials = 3
space = [
    { path = "hparams.temperature", low = 1.0, high = 20.0, log = true },
    { path = "hparams.ce_weight", low = 0.0, high = 1.0 },
]
"""


def row_of(acc1: float, epoch: int) -> dict[str, float]:
    """Metrics of one epoch as a training loop would give them."""
    return {
        "train/loss": 1.0 / (epoch + 1),
        "val/acc1_pct": acc1,
        "test/acc1_pct": acc1 - 0.5,
        "time/total_s": 1.5 * (epoch + 1),
    }


@dataclass
class Place:
    """A working folder with `.sweeps`, and calls that write experiment files and put trials on disk."""

    folder: Path

    @property
    def home(self) -> Path:
        return self.folder / ".sweeps"

    @property
    def state(self) -> Path:
        return self.home / "state"

    @property
    def database(self) -> Path:
        return self.home / "mlflow.db"

    @property
    def settings(self) -> Settings:
        return Settings(self.home, self.state, self.home / "data", f"sqlite:///{self.database}", None, None)

    def write(self, text: str = GRID, name: str = "grid.toml", *, swap: Mapping[str, str] | None = None) -> str:
        """A file with `text`, in which each key of `swap`, which must occur once, is replaced; returns its name."""
        for old, new in (swap or {}).items():
            assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times"
            text = text.replace(old, new)
        (self.folder / name).write_text(text, encoding="utf-8")
        return name

    def plan(self, name: str, profile: str = "paper", *, seeds: Sequence[int] | None = None, **only: str) -> Plan:
        return make(
            name,
            spec.load_profile(profile),
            self.state,
            self.settings.data,
            seeds=seeds,
            only={axis: [label] for axis, label in only.items()},
        )

    def train(
        self,
        trial: Trial,
        accuracies: Sequence[float] = (50.0, 60.0),
        *,
        end: str | None = "done",
        cause: str = "broken",
        result: Mapping[str, float] | None = None,
    ) -> Attempt:
        """Claims a trial, adds one epoch an accuracy (after those of its checkpoint), and ends it; None leaves it partial."""
        with attempts.claim(trial, self.state, Execution(), lease_s=0.1) as attempt:
            file = attempt.folder / "checkpoint.pt"
            rows = checkpoint.load(file)["rows"] if file.exists() else []
            for accuracy in accuracies:
                rows.append(row_of(accuracy, len(rows)))
                checkpoint.save(file, {"rows": rows})
                attempt.append(len(rows) - 1, rows[-1])
            if end == "done":
                checkpoint.save(attempt.folder / "weights.pt", {"network": trial.student, "state": {}})
                attempt.finish(dict(result or result_of(rows)), len(rows))
            elif end == "failed":
                attempt.fail(cause, "TrialError")
            elif end == "stopped":
                assert attempts.stop(self.state, trial.digest(), cause)
        return attempt

    def train_all(self, plan: Plan) -> None:
        for digest, trial in plan.trials.items():
            if attempts.read_status(self.state, digest).state is not attempts.State.DONE:
                self.train(trial)

    def trial_folders(self) -> list[str]:
        return sorted(folder.name for folder in self.state.glob("??/*"))


def result_of(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Best and last of every metric, and the time, of fake rows."""
    result = {f"best/{name}": max(row[name] for row in rows) for name in rows[0] if "acc" in name}
    result |= {f"last/{name}": rows[-1][name] for name in rows[0] if "acc" in name}
    return result | {"time/total_s": rows[-1]["time/total_s"]}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "SWEEPS_STATE", "SWEEPS_DATA", "SWEEPS_STUDY_URL", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """An empty working folder, which is the current one."""
    (tmp_path / ".sweeps").mkdir()
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path)


@pytest.fixture(scope="session")
def migrated_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database after its migrations, which take seconds."""
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def tracked_place(place: Place, migrated_store: Path) -> Place:
    """As `place`, with an empty MLflow store that needs no migration."""
    shutil.copy(migrated_store, place.database)
    return place


@pytest.fixture
def launch(place: Place) -> Callable[..., Launch]:
    """Opens a launch; `at` names the state root, so that one test can compare several."""

    def make(text: str, total: int = 8, *, at: str = "one", **options: Any) -> Launch:
        folder = place.folder / at
        (folder / ".sweeps").mkdir(parents=True, exist_ok=True)
        return Launch(Place(folder), text, total, **options)

    return make


@pytest.fixture
def grid_text() -> str:
    return GRID


@pytest.fixture
def search_text() -> str:
    return SEARCH


@pytest.fixture
def run_sweep(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process; returns exit code, stdout and stderr."""
    from sweeps import cli

    def run(*argv: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = cli.main([*argv])
        except SystemExit as exit_:  # argparse leaves this way
            code = int(exit_.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def user_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `my_pkg` of the user's with a method, a network and a data set, importable during the test."""
    import sys

    folder = tmp_path / "user" / "my_pkg"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "my_method.py").write_text(
        "from pydantic import Field\n"
        "from trainers.config import MethodConfig\n"
        "from trainers.methods.kd import Method as Kd\n"
        "KIND, VERSION, NEEDS_TEACHER = 'distill', 3, True\n"
        "class Config(MethodConfig):\n"
        "    gain: float = Field(1.0, gt=0, le=8, description='weight')\n"
        "class Method(Kd):\n"
        "    pass\n"
    )
    (folder / "my_network.py").write_text(
        "from trainers import models\n"
        "def build(*, classes, channels, size):\n"
        "    return models.build('resnet8', classes=classes, channels=channels, size=size)\n"
    )
    (folder / "my_data.py").write_text(
        "from trainers.data.digits import info, load\ndef content(spec, root):\n    return 'f' * 64\n"
    )
    (folder / "no_method.py").write_text("KIND = 'distill'\n")
    (folder / "broken.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(folder.parent))
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "my_pkg"]:
        del sys.modules[name]


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, Any]]:
    """Names and contents below a folder, to show that nothing was touched."""

    def take(folder: Path) -> dict[str, Any]:
        return {
            str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
            for path in sorted(folder.rglob("*"))
        }

    return take
