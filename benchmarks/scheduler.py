"""What a trial costs beside its training: trials that do nothing, through `sweep run` and through stock Ray Tune.

    python benchmarks/scheduler.py [--trials 500] [--workers 2] [--no-stock]
    python benchmarks/scheduler.py --sizes 10 100 1000 [--repeats 3]

Ours is the `sweep run` of an experiment file of N cells that train for five epochs on eight images of four pixels
(`benchmarks/noop`): claims, journal, checkpoints, results, MLflow and the table included, from the start of the process to its
end. Stock is a `Tuner` with its defaults over N configurations of a function that reports five times what a trial of ours
recorded, with `MLflowLoggerCallback`. Both start with an empty folder on SQLite and use as many workers. Seconds on the wall hold
on an idle machine only; CPU seconds, of the driver and all that it started, nearly on any. Prints Markdown and whether what is
asked for was met; ends with 1 where it was not.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EPOCHS = 5
POLL_S = 0.25
RATIO, FLAT, GROWN_MIB, LOG_BYTES_EACH = 15.0, 1.2, 95.0, 200
"""What is asked for: stock's time over ours, flatness, growth of the driver (100 MB) and bytes of its log a trial."""
HERE = Path(__file__).resolve().parent
EXPERIMENT = """
title = "Trials that do nothing"
paper = "noop"
protocol = "demo-scratch"
teacher_protocol = "demo-scratch"
seeds = [0]
resources = {{ cpu = 1 }}

[report]
kind = "table"
metrics = ["test/acc1_pct"]
rows = "number"

[base]
data = {{ module = "noop.data" }}
method = {{ module = "noop.method" }}
student = {{ module = "noop.network" }}
"protocol.epochs" = {epochs}
"protocol.batch_size" = 8

[[axes]]
name = "number"
path = "hparams.number"
values = [{values}]
"""


@dataclass(frozen=True)
class Cost:
    """What one side's N trials took.

    Attributes:
        seconds: from the start of the process to its end, MLflow in step.
        cpu_s: time that it and all processes below it used.
        driver_mib: largest resident memory of the process.
        log_bytes: what it wrote to stdout and stderr together.
    """

    trials: int
    seconds: float
    cpu_s: float
    driver_mib: float
    log_bytes: int

    @property
    def each(self) -> float:
        """Seconds of one trial, the start's share included."""
        return self.seconds / self.trials


def timed(command: list[str], folder: Path, trials: int) -> Cost:
    """Runs a command to its end and watches its memory.

    Raises:
        RuntimeError: it failed; the message has the end of its log.
    """
    log = folder / "driver.log"
    began, peak, used = time.perf_counter(), 0.0, dict[tuple[int, str], float]()
    with open(log, "wb") as file:
        process = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, peak_mib(process.pid))
            used |= cpu_of_tree(process.pid)
            time.sleep(POLL_S)
    seconds = time.perf_counter() - began
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{log.read_text()[-4000:]}")
    return Cost(trials, seconds, sum(used.values()), peak, log.stat().st_size)


def peak_mib(pid: int) -> float:
    """Largest resident memory of a process so far in MiB; 0 when it has gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return max((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), default=0.0)


def cpu_of_tree(root: int) -> dict[tuple[int, str], float]:
    """CPU seconds so far of a process and all below it, by process and time of its start."""
    ticks = os.sysconf("SC_CLK_TCK")
    parents, found = dict[int, int](), dict[int, tuple[tuple[int, str], float]]()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        pid = int(folder.name)
        parents[pid] = int(fields[1])
        found[pid] = ((pid, fields[19]), (int(fields[11]) + int(fields[12])) / ticks)
    below = {root}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return dict(found[pid] for pid in below if pid in found)


def ours(folder: Path, trials: int, workers: int) -> tuple[Cost, dict[str, float]]:
    """`sweep run` of N trials that do nothing; also the row of one epoch.

    Raises:
        RuntimeError: it failed, or something is missing from the trial directories or from MLflow.
    """
    folder.mkdir(parents=True)
    (folder / ".sweeps").mkdir()
    shutil.copytree(HERE / "noop", folder / "noop", ignore=shutil.ignore_patterns("__pycache__"))
    values = ", ".join(f'{{ label = "{number}", value = {number} }}' for number in range(trials))
    (folder / "noop.toml").write_text(EXPERIMENT.format(epochs=EPOCHS, values=values))
    sweep = str(Path(sys.executable).parent / "sweep")
    command = [sweep, "run", "noop.toml", "--profile", "paper", "--concurrency", str(workers)]
    cost = timed(command, folder, trials)
    done = len(list((folder / ".sweeps" / "state").glob("??/*/result.json")))
    if done != trials:
        raise RuntimeError(f"{done} of {trials} trials are done")
    journal = next((folder / ".sweeps" / "state").glob("??/*/attempts/*/journal.jsonl"))
    row = json.loads(journal.read_text().splitlines()[-1])
    del row["epoch"], row["timestamp_ms"]
    # results, last and best, come on top of the rows
    require_tracked(folder / ".sweeps" / "mlflow.db", trials, trials * EPOCHS * len(row))
    return cost, row


def stock(folder: Path, trials: int, workers: int, row: dict[str, float]) -> Cost:
    """Ray Tune as it comes, with MLflow's callback, in a process of its own.

    Raises:
        RuntimeError: it failed, or runs or values are missing from MLflow.
    """
    folder.mkdir(parents=True)
    (folder / "row.json").write_text(json.dumps(row))
    command = [sys.executable, str(Path(__file__).resolve()), "--stock-driver", str(trials), "--workers", str(workers)]
    cost = timed(command, folder, trials)
    require_tracked(folder / "mlflow.db", trials, trials * EPOCHS * len(row))
    return cost


def require_tracked(database: Path, trials: int, values: int) -> None:
    """Raises RuntimeError unless MLflow's store has a finished run of every trial and at least so many values."""
    import sqlite3

    with closing(sqlite3.connect(database)) as connection:
        found = connection.execute(
            "select count(*) from runs where status = 'FINISHED' and name != 'noop'"  # the parent run's name
        ).fetchone()[0]
        logged = connection.execute("select count(*) from metrics").fetchone()[0]
    if found != trials or logged < values:
        raise RuntimeError(f"{database}: {found} finished runs of {trials}, {logged} values of at least {values}")


def stock_driver(trials: int, workers: int) -> None:
    """The process that `stock` measures, in the current folder."""
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    row: dict[str, float] = json.loads(Path("row.json").read_text())

    def train(config: dict[str, Any]) -> None:
        for _ in range(EPOCHS):
            tune.report(row)

    ray.init(include_dashboard=False, num_cpus=workers)
    callback = MLflowLoggerCallback(tracking_uri=f"sqlite:///{Path('mlflow.db').absolute()}", experiment_name="stock")
    tune.Tuner(
        train,
        param_space={"number": tune.grid_search(list(range(trials)))},
        run_config=tune.RunConfig(storage_path=str(Path("results").absolute()), callbacks=[callback]),
    ).fit()
    ray.shutdown()


def flatness(sizes: list[int], times: list[float]) -> float:
    """What a trial more costs among many, over what it costs among few; 1 is flat.

    ((t3 - t2) / (n3 - n2)) / ((t2 - t1) / (n2 - n1)), t being the time of n trials.
    """
    (n1, n2, n3), (t1, t2, t3) = sizes, times
    return ((t3 - t2) / (n3 - n2)) / ((t2 - t1) / (n2 - n1))


def say(line: str) -> None:
    """One line of output, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def told(name: str, cost: Cost) -> str:
    """A row of the table."""
    return (
        f"| {name} | {cost.trials} | {cost.seconds:.1f} | {cost.each:.3f} | {cost.cpu_s / cost.trials:.3f} | "
        f"{cost.driver_mib:.0f} | {cost.log_bytes / 1000:.1f} |"
    )


def of_sizes(scratch: Path, sizes: list[int], workers: int, repeats: int) -> bool:
    """Ours at three sizes: whether a trial costs as much among many as among few, and what the driver keeps of each.

    The fastest of the turns counts, size by size: a run of ten trials and one of a thousand meet other neighbours.
    """
    turns: list[list[Cost]] = []
    for turn in range(repeats):
        turns.append([])
        for trials in sizes:
            cost, _ = ours(scratch / f"ours-{trials}-{turn}", trials, workers)
            turns[-1].append(cost)
            say(told("sweep run", cost))
    costs = [min(each, key=lambda cost: cost.seconds) for each in zip(*turns, strict=True)]
    flat = flatness(sizes, [cost.seconds for cost in costs])
    flat_cpu = flatness(sizes, [cost.cpu_s for cost in costs])
    grown = costs[2].driver_mib - costs[1].driver_mib
    met = flat <= FLAT and grown < GROWN_MIB
    say(
        f"\nfastest of {repeats}: {', '.join(f'{cost.seconds:.1f}' for cost in costs)} s; flatness {flat:.2f} (CPU {flat_cpu:.2f}; asked for: {FLAT}), driver {grown:+.0f} MiB (under {GROWN_MIB:.0f})"
    )
    return met


def against_stock(scratch: Path, trials: int, workers: int, *, alone: bool) -> bool:
    """Both sides, or ours alone: whether stock takes so many times as long, and the log is short."""
    own, row = ours(scratch / f"ours-{trials}", trials, workers)
    say(told("sweep run", own))
    met = own.log_bytes < LOG_BYTES_EACH * max(trials, 100)
    if not alone:
        other = stock(scratch / f"stock-{trials}", trials, workers, row)
        say(told("stock Tune + MLflowLoggerCallback", other))
        ratio = other.each / own.each
        met = met and ratio >= RATIO
        say(
            f"\nstock takes {ratio:.1f} times as long a trial (asked for: {RATIO:.0f}), {other.cpu_s / own.cpu_s:.1f} times the CPU"
        )
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument("--trials", type=int, default=500, help="of each side (default 500)")
    parser.add_argument("--sizes", type=int, nargs=3, metavar="N", help="only ours, at three sizes, and how flat it is")
    parser.add_argument("--repeats", type=int, default=3, help="turns of --sizes; the fastest count (default 3)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="trials at once (default: all cores)")
    parser.add_argument("--no-stock", action="store_true", help="only ours")
    parser.add_argument("--folder", type=Path, help="keep what was made here (default: a temporary folder)")
    parser.add_argument("--stock-driver", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stock_driver is not None:
        stock_driver(arguments.stock_driver, arguments.workers)
        return 0
    scratch = arguments.folder or Path(tempfile.mkdtemp(prefix="scheduler-"))
    try:
        say(f"{arguments.workers} workers, {EPOCHS} epochs a trial")
        say(f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
        say("| side | trials | seconds | seconds a trial | CPU seconds a trial | driver MiB | log kB |")
        say("|---|---:|---:|---:|---:|---:|---:|")
        if arguments.sizes:
            met = of_sizes(scratch, sorted(arguments.sizes), arguments.workers, arguments.repeats)
        else:
            met = against_stock(scratch, arguments.trials, arguments.workers, alone=arguments.no_stock)
        say("met" if met else "not met")
        return 0 if met else 1
    finally:
        if arguments.folder is None:
            shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
