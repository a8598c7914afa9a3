"""A sweep whose MLflow server is killed in its middle and comes back: `python -m tests.system.away --seconds 60`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from tests.system.conftest import Home
from tests.system.servers import MlflowServer
from trainers import attempts

Point = tuple[int, int, float]
"""Epoch, time in ms and value."""


@dataclass(frozen=True)
class Outage:
    """What became of a sweep.

    Attributes:
        down_s: how long the server answered nothing.
        ended_meanwhile: the sweep was over before the server was back.
        code: the sweep's exit code.
        trials, failed: of the sweep.
        values: in MLflow, one for each metric and epoch.
        faults: values that are missing, doubled, out of order or wrong, and runs too many or not FINISHED.
    """

    down_s: float
    ended_meanwhile: bool
    code: int
    trials: int
    failed: int
    values: int
    faults: list[str]

    def __str__(self) -> str:
        told = (
            f"server away for {self.down_s:.0f} s; {self.trials} trials, {self.failed} failed; exit code {self.code}; "
        )
        told += f"{self.values} values in MLflow, {len(self.faults)} faults"
        return "\n".join([told, *self.faults])


def client_of(home: Home, server: MlflowServer) -> MlflowClient:
    """A client of the server; `home` must not ask for a login."""
    home.environment |= server.environment
    home.uri = server.uri
    return MlflowClient(tracking_uri=server.uri)


def sweep_through(folder: Path, seconds: float) -> Outage:
    """Runs a small sweep of real trials, kills the server after its first trial, and starts it again `seconds` later."""
    home = Home(folder / "home")
    alphas = [round(0.02 * number, 2) for number in range(1, 6 + int(seconds / 6))]
    experiment = home.mini(alphas, epochs=6, updates=24)
    with MlflowServer(folder / "server", f"sqlite:///{folder / 'server.db'}") as server:
        client = client_of(home, server)
        process = home.start("run", experiment, "--profile", "paper")
        home.wait_for(lambda: len(home.results()) >= 1, process)
        server.kill9()
        down = time.monotonic()
        time.sleep(seconds)
        server.start()
        down_s = time.monotonic() - down
        ended = process.poll() is not None
        output, errors = process.communicate(timeout=1200)
        (folder / "sweep.log").write_text(output + errors)
        return outcome(home, client, process.returncode, 1 + 2 * len(alphas), down_s, ended)


def outcome(
    home: Home, client: MlflowClient, code: int, trials: int, down_s: float = 0.0, ended_meanwhile: bool = False
) -> Outage:
    """Compares every value in MLflow with the journals."""
    runs = home.runs()
    faults = [f"{len(runs)} runs for {trials} trials"] if len(runs) != trials else []
    values = 0
    for run in runs:
        number, wrong = compare(home, client, run)
        values, faults = values + number, faults + wrong
    failed = len(list(home.state.glob("*/*/error.json"))) + trials - len(home.results())
    return Outage(down_s, ended_meanwhile, code, trials, failed, values, faults)


def compare(home: Home, client: MlflowClient, run: Run) -> tuple[int, list[str]]:
    """How many values of the rows MLflow has of a run, and what is wrong with them."""
    digest, name = run.data.tags["sweeps.digest"], run.info.run_name
    status = attempts.read_status(home.state, digest)
    wanted: dict[str, list[Point]] = {}
    for row in attempts.rows(status):
        for metric in row.keys() - {"epoch", "timestamp_ms"}:
            wanted.setdefault(metric, []).append((int(row["epoch"]), int(row["timestamp_ms"]), float(row[metric])))
    faults = [] if run.info.status == "FINISHED" else [f"{name}: {run.info.status}"]
    missing = set(status.result) - set(run.data.metrics)
    faults += [f"{name}: no {', '.join(sorted(missing))}"] if missing else []
    if not wanted:
        faults.append(f"{name}: no journal")
    for metric, points in wanted.items():
        found = [(p.step, p.timestamp, p.value) for p in client.get_metric_history(run.info.run_id, metric)]
        if sorted(found) != points:
            faults.append(f"{name}: {metric} is {found}, the journal has {points}")
    return sum(map(len, wanted.values())), faults


def main() -> int:
    """Prints what became of the sweep; 0 where nothing failed and nothing is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long the server is away (default 60)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sweeps-away-") as folder:
        found = sweep_through(Path(folder), arguments.seconds)
    sys.stdout.write(f"{found}\n")
    if found.ended_meanwhile:
        sys.stdout.write("the sweep ended before the server was back\n")
    return int(bool(found.code or found.failed or found.faults or found.ended_meanwhile))


if __name__ == "__main__":
    sys.exit(main())
