"""How long until something happens: `sweep --help`, `sweep plan all`, and the first epoch of a launch.

    python benchmarks/startup.py [--repeats 3] [--launches 3]

Every measurement is a process of its own in an empty folder; medians are given, on the wall and in CPU seconds (user and system,
of the process and all that it waited for). Seconds on the wall hold on an idle machine only; the last one is compared with a bare
start of Ray and the import of torch in one of its workers, measured in turn with it: to the worker's answer, not to the end of the
process. Prints Markdown and whether what is asked for was met; ends with 1 where it was not.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

HELP_S, PLAN_S, PLAN_WITH_TORCH_S, FIRST_EPOCH_RATIO = 0.3, 2.0, 5.0, 1.3
"""What is asked for."""
ROOT = Path(__file__).resolve().parents[1]
SWEEP = (sys.executable, "-m", "sweeps.cli")
DEMO = ("cudfkd/fig9", "--profile", "demo", "--concurrency", "1")
BARE = """
import ray
ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")

@ray.remote(num_cpus=1)
class Worker:
    def look(self):
        import torch
        return torch.__version__

print(ray.get(Worker.remote().look.remote()), flush=True)
"""
LIMIT_S = 900.0
HEAVIEST = 12


@dataclass(frozen=True)
class Took:
    """Seconds of one process, or of several: on the wall, and of CPU time."""

    wall_s: float
    cpu_s: float


def median(measure: Callable[[Path], Took], repeats: int) -> Took:
    """Of both times, each by itself; every turn in an empty folder."""
    found = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(prefix="startup-") as folder:
            found.append(measure(Path(folder)))
    return Took(statistics.median(f.wall_s for f in found), statistics.median(f.cpu_s for f in found))


def environment(folder: Path) -> dict[str, str]:
    """Everything that a launch writes lies in `folder`."""
    own = {"PYTHONPATH": str(ROOT), "SWEEPS_STATE": str(folder / ".sweeps" / "state"), "RAY_USAGE_STATS_ENABLED": "0"}
    dropped = ("MLFLOW_TRACKING_URI", "SWEEPS_STUDY_URL", "RAY_ADDRESS")
    return {name: value for name, value in os.environ.items() if name not in dropped} | own


def process(folder: Path, *command: str) -> Took:
    """A command from its start to its end.

    Raises:
        SystemExit: it failed.
    """
    started = time.perf_counter()
    with open(folder / "out", "wb") as out:
        running = subprocess.Popen(command, cwd=folder, env=environment(folder), stdout=out, stderr=out)
        _, status, usage = os.wait4(running.pid, 0)
    running.returncode = os.waitstatus_to_exitcode(status)
    if running.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {running.returncode}: {(folder / 'out').read_text()[-2000:]}")
    return Took(time.perf_counter() - started, usage.ru_utime + usage.ru_stime)


def bare(folder: Path) -> Took:
    """From the start of a process to the answer of a worker of its Ray.

    Raises:
        SystemExit: there was no answer.
    """
    started = time.perf_counter()
    with open(folder / "err", "wb") as err:
        running = subprocess.Popen(
            (sys.executable, "-c", BARE), cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=err
        )
        assert running.stdout is not None
        answer = running.stdout.readline()
        wall_s = time.perf_counter() - started
        _, status, usage = os.wait4(running.pid, 0)
    running.returncode = os.waitstatus_to_exitcode(status)
    if not answer or running.returncode:
        raise SystemExit(f"the bare start ended with {running.returncode}: {(folder / 'err').read_text()[-2000:]}")
    return Took(wall_s, usage.ru_utime + usage.ru_stime)


def first_epoch(folder: Path) -> Took:
    """From the start of `sweep run` in a new folder to the first row in a journal; the launch is then interrupted.

    Raises:
        SystemExit: it ended before, or no epoch came.
    """
    started = time.perf_counter()
    with open(folder / "out", "wb") as out:
        running = subprocess.Popen(
            (*SWEEP, "run", *DEMO), cwd=folder, env=environment(folder), stdout=out, stderr=out, start_new_session=True
        )
        try:
            while not any(file.stat().st_size for file in folder.glob(".sweeps/state/*/*/attempts/*/journal.jsonl")):
                if running.poll() is not None or time.perf_counter() - started > LIMIT_S:
                    raise SystemExit(f"no epoch came: {(folder / 'out').read_text()[-2000:]}")
                time.sleep(0.02)
            wall_s = time.perf_counter() - started
        finally:
            if running.poll() is None:
                os.kill(running.pid, signal.SIGINT)
        _, _, usage = os.wait4(running.pid, 0)
        running.returncode = 0
    return Took(wall_s, usage.ru_utime + usage.ru_stime)


def imports(*command: str) -> list[tuple[float, str]]:
    """Seconds and name of the heaviest modules a command imports, what they import themselves included."""
    with tempfile.TemporaryDirectory() as folder:
        code = (sys.executable, "-X", "importtime", *command[1:])
        done = subprocess.run(
            code, cwd=folder, env=environment(Path(folder)), capture_output=True, text=True, check=True
        )
    lines = re.findall(r"import time:\s+\d+ \|\s+(\d+) \| +(\S+)", done.stderr)
    tops = [(int(total) / 1e6, name) for total, name in lines if name.count(".") < 2 and name[0] != "_"]
    return sorted(tops, reverse=True)[:HEAVIEST]


def main(argv: Sequence[str] | None = None) -> int:
    """Prints Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="of --help and plan (default 3)")
    parser.add_argument("--launches", type=int, default=3, help="turns of the bare start and of a launch (default 3)")
    arguments = parser.parse_args(argv)
    helped = median(lambda folder: process(folder, *SWEEP, "--help"), arguments.repeats)
    planned = median(lambda folder: process(folder, *SWEEP, "plan", "all"), arguments.repeats)
    heaviest = imports(*SWEEP, "plan", "all")
    plan_s = PLAN_WITH_TORCH_S if any(name == "torch" for _, name in heaviest) else PLAN_S
    started, launched = [], []
    for _ in range(arguments.launches):
        started.append(median(bare, 1))
        launched.append(median(first_epoch, 1))
    base, first = (
        Took(statistics.median(each.wall_s for each in turns), statistics.median(each.cpu_s for each in turns))
        for turns in (started, launched)
    )
    ratio = first.wall_s / base.wall_s
    met = {
        "sweep --help": (helped, f"{HELP_S:g} s", helped.wall_s <= HELP_S),
        "sweep plan all": (planned, f"{plan_s:g} s", planned.wall_s <= plan_s),
        "bare Ray, and torch in a worker": (base, "", True),
        "first epoch of a demo trial": (first, f"{FIRST_EPOCH_RATIO:g} x bare", ratio <= FIRST_EPOCH_RATIO),
    }
    lines = ["| what | wall, s | CPU, s | asked for | met |", "|---|---:|---:|---|---|"]
    for name, (took, bound, good) in met.items():
        said = ("yes" if good else "**no**") if bound else ""
        lines.append(f"| {name} | {took.wall_s:.2f} | {took.cpu_s:.2f} | {bound} | {said} |")
    lines += ["", f"First epoch over bare start: {ratio:.2f}. Load at the end: {os.getloadavg()[0]:.1f}.", ""]
    for name, turns in (("Bare starts", started), ("First epochs", launched)):
        lines += [f"{name}, s: {', '.join(f'{turn.wall_s:.2f}' for turn in turns)}.", ""]
    lines += ["Heaviest imports of `sweep plan all`, with what they import:", ""]
    lines += [f"    {seconds:6.3f} s  {name}" for seconds, name in heaviest]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0 if all(good for _, _, good in met.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
