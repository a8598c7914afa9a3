"""docker/slurm/sweep.sbatch on a real Slurm of two nodes: a sweep, and one that is told of its time limit."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.conftest import Home
from tests.system.slurm import Slurm

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]

SCRIPT = Path(__file__).resolve().parent.parent.parent / "docker" / "slurm" / "sweep.sbatch"


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    with Slurm(nodes=2) as made:
        yield made


def submit(slurm: Slurm, home: Home, *words: str) -> str:
    """Starts the script as a user does and returns the job's number."""
    environment = {
        **{name: value for name, value in home.environment.items() if not name.startswith("SLURM_")},
        "SLURM_CONF": slurm.environment["SLURM_CONF"],
        "SWEEPS_STATE": str(home.state),
        "SWEEPS_VENV": str(Path(sys.executable).parent.parent),
        "SWEEPS_HEAD_IP": "127.0.0.1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["sbatch", "--parsable", "--nodes=2", "--cpus-per-task=1", str(SCRIPT), *words],
        cwd=home.folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def wait(slurm: Slurm, home: Home, number: str, condition: Callable[[], bool]) -> None:
    """Waits for something that happens while a job runs, or ends it."""
    end = time.monotonic() + 600
    while not condition():
        told = f"{slurm.job(number)}\n{log(home, number)}\n{slurm.logs()}"
        assert time.monotonic() < end and (not over(slurm, number) or condition()), told
        time.sleep(0.5)


def nothing_left(number: str) -> bool:
    """Whether a job's Ray is gone from the machine within a minute, with its folder."""
    end = time.monotonic() + 60
    while left_behind(number) or Path(f"/tmp/ray-{number}").exists():
        if time.monotonic() > end:
            return False
        time.sleep(0.5)
    return True


def log(home: Home, number: str) -> str:
    file = home.folder / f"sweep-{number}.log"
    return file.read_text(errors="replace") if file.exists() else ""


def over(slurm: Slurm, number: str) -> bool:
    return slurm.job(number)["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")


def left_behind(number: str) -> list[str]:
    """Command lines of Ray processes of a job that still run."""
    mark = f"/tmp/ray-{number}/"
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = file.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        found += [line] if mark in line else []
    return found


def test_a_job_told_of_its_limit_ends_cleanly_and_finishes_when_it_is_back(slurm: Slurm, home: Home) -> None:
    number = submit(slurm, home, home.mini([0.05], epochs=12, updates=24), "--profile", "demo")
    wait(slurm, home, number, lambda: len(home.results()) >= 1)
    before = {file: file.stat().st_mtime_ns for file in home.results()}
    # what --signal=B:USR1@300 does, without the wait: the signal goes to the batch script alone
    slurm.ask("scancel", "--batch", "--signal=USR1", number)
    wait(slurm, home, number, lambda: int(slurm.job(number)["Restarts"]) == 1)
    assert "time limit: ending the sweep" in log(home, number)
    assert len(home.results()) < 3
    assert left_behind(number) == []

    wait(slurm, home, number, lambda: over(slurm, number))
    job = slurm.job(number)
    assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), log(home, number)
    assert len(home.results()) == 3  # a teacher, and one alpha by two k_end
    assert {file: file.stat().st_mtime_ns for file in before} == before  # what was done was not done again
    assert {run.info.status for run in home.runs()} == {"FINISHED"} and len(home.runs()) == 3
    assert "waiting for 2 nodes" in log(home, number)
    assert nothing_left(number), left_behind(number)


def test_a_faulty_name_ends_the_job_with_the_sweep_s_own_exit_code(slurm: Slurm, home: Home) -> None:
    number = submit(slurm, home, "cudfkd/fig99", "--profile", "demo")
    wait(slurm, home, number, lambda: over(slurm, number))
    assert slurm.job(number)["ExitCode"] == "2:0", log(home, number)
    assert "fig99" in log(home, number)
    assert nothing_left(number), left_behind(number)
