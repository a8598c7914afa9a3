"""How sweeps that share a Ray cluster divide it: real `sweep run` drivers over trials that sleep.

    python benchmarks/shares.py [--places 6] [--weights 2 1]

Starts a Ray head with logical CPUs, one `sweep run` for each weight, each of a user with a state root of their own, and after a
while one more of a higher priority with as many trials as there are places. When it is over and every trial that yielded has come
to its end, the others are interrupted. Places held are read from the trial directories twice a second: attempts that are claimed and
not released. Prints Markdown: places and epochs of each sweep while the first ones compete, when the higher priority got its places,
how often a trial was continued, and whether all that ended did so once. Ends with 1 where that, or the ratio, was not met.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from trainers import attempts
from trainers.attempts import State

POLL_S = 0.5
EPOCHS = 30
PLENTY = 30
"""Trials of weight 1 and a place: more than get a turn."""
SETTLED_S = 3.0
"""How long all of the first sweeps must have held places before they are measured."""
GOLDEN = 0.618034
"""Multiples of it, without their whole part, are even over 0 to 1: trials of unlike length do not all end at once."""
TOLD_S = 5
TOLERANCE = 0.25
"""By how much a mean number of places may be off, relative to what the weights say, and one trial's start or end more."""
HERE = Path(__file__).resolve().parent
EXPERIMENT = """
title = "Trials that sleep"
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
path = "hparams.pause_s"
values = [{values}]
"""


@dataclass
class User:
    """One sweep: a folder with a state root of its own, and its driver.

    Attributes:
        pause_s: how long an epoch sleeps, on average.
        held: time -> places it has, by the trial directories.
        epochs: time -> epochs it has finished.
    """

    name: str
    folder: Path
    trials: int
    options: tuple[str, ...]
    pause_s: float = 1.0
    driver: subprocess.Popen[bytes] | None = None
    held: dict[float, int] = field(default_factory=dict)
    epochs: dict[float, int] = field(default_factory=dict)
    over: set[str] = field(default_factory=set)

    @property
    def state(self) -> Path:
        return self.folder / ".sweeps" / "state"

    def start(self, environment: dict[str, str]) -> None:
        """Starts the driver on the cluster."""
        (self.folder / ".sweeps").mkdir(parents=True)
        shutil.copytree(HERE / "noop", self.folder / "noop", ignore=shutil.ignore_patterns("__pycache__"))
        pauses = [self.pause_s * (0.75 + 0.5 * (GOLDEN * number % 1)) for number in range(self.trials)]
        values = ", ".join(f'{{ label = "{number}", value = {pause:.5f} }}' for number, pause in enumerate(pauses))
        (self.folder / "noop.toml").write_text(EXPERIMENT.format(epochs=EPOCHS, values=values))
        command = [str(Path(sys.executable).parent / "sweep"), "run", "noop.toml", "--profile", "paper", *self.options]
        with open(self.folder / "driver.log", "wb") as log:
            self.driver = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    @property
    def has(self) -> int:
        """Places at the last look."""
        return list(self.held.values())[-1]

    def look(self, now: float) -> None:
        """Notes what the trial directories say."""
        held = 0
        for folder in self.state.glob("??/*/attempts"):
            digest = folder.parent.name
            if digest not in self.over:
                try:
                    status = attempts.read_status(self.state, digest)
                except (OSError, ValueError):  # being written this moment
                    continue
                if status.state is State.DONE:
                    self.over.add(digest)
                elif status.state is State.PARTIAL and status.folder is not None:
                    held += not (status.folder / "released").exists()
        self.held[now], self.epochs[now] = held, len(self.over) * EPOCHS + self._open_rows()

    def _open_rows(self) -> int:
        rows = 0
        for folder in self.state.glob("??/*/attempts"):
            if folder.parent.name not in self.over:
                with contextlib.suppress(OSError, ValueError):
                    rows += len(attempts.rows(attempts.read_status(self.state, folder.parent.name)))
        return rows

    def mean_held(self, since: float, until: float) -> float:
        """Places on average between two times."""
        seen = [held for at, held in self.held.items() if since <= at <= until]
        return sum(seen) / len(seen)

    def rate(self, since: float, until: float) -> float:
        """Epochs a second between two times."""
        seen = [(at, count) for at, count in self.epochs.items() if since <= at <= until]
        return (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0])

    def continued(self) -> dict[str, int]:
        """Trials that were taken up again, and how often."""
        folders = list(self.state.glob("??/*/attempts"))
        claims = {each.parent.name: len(list(each.glob("[0-9]*/journal.jsonl"))) for each in folders}
        return {digest: count - 1 for digest, count in claims.items() if count > 1}

    def yielded(self) -> set[str]:
        """Trials that nobody has, in the middle."""
        found = set()
        for folder in self.state.glob("??/*/attempts"):
            status = attempts.read_status(self.state, folder.parent.name)
            if status.state is not State.PARTIAL or status.folder is None:
                continue
            if (status.folder / "released").exists() or attempts.is_gone(status.entry):
                found.add(folder.parent.name)
        return found

    def interrupt(self) -> None:
        """As Ctrl-C does; waits for the end."""
        assert self.driver is not None
        self.driver.send_signal(signal.SIGINT)
        self.driver.wait(120)

    def faults(self) -> list[str]:
        """What is not as a launch that was undisturbed, or interrupted, would have left it."""
        assert self.driver is not None
        found = []
        begun = [folder.parent.name for folder in self.state.glob("??/*/attempts")]
        for digest in begun:
            status = attempts.read_status(self.state, digest)
            epochs = [row["epoch"] for row in attempts.rows(status)]
            whole = len(epochs) == EPOCHS if status.state is State.DONE else digest in self.yielded()
            if not whole or epochs != list(range(len(epochs))):
                found.append(f"{self.name}: {digest[:12]} is {status.state} with epochs {epochs}")
        if self.driver.returncode != (0 if len(begun) == self.trials else 1):
            found.append(
                f"{self.name}: ended with {self.driver.returncode}, {len(begun)} of {self.trials} trials begun"
            )
        return found

    def log(self) -> str:
        """What the driver wrote."""
        return (self.folder / "driver.log").read_text(errors="replace")


@dataclass
class Measured:
    """What came out.

    Attributes:
        users: the first sweeps, then the one of higher priority.
        window: from when to when the first ones competed undisturbed.
        first_s, all_s: seconds from the other's plan until it had a place, and as many as it ever had.
        faults: see `User.faults`.
    """

    users: list[User]
    window: tuple[float, float]
    first_s: float
    all_s: float
    faults: list[str]


def free_port() -> int:
    """A port that nobody listens on, below those that the system gives to outgoing connections."""
    for port in random.SystemRandom().sample(range(20_000, 32_000), 200):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port")


@contextlib.contextmanager
def ray_head(places: int) -> Iterator[dict[str, str]]:
    """A Ray head with so many logical CPUs, ports, a folder and a token of its own; gives the environment of its drivers."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SWEEPS_", "MLFLOW_", "RAY_"))}
    kept |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with tempfile.TemporaryDirectory(prefix="shares-", ignore_cleanup_errors=True) as folder:
        port = free_port()
        options = {
            "--port": port,
            "--node-ip-address": "127.0.0.1",
            "--num-cpus": places,
            "--include-dashboard": "false",
            "--dashboard-agent-listen-port": free_port(),
            "--temp-dir": folder,
        }
        command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--disable-usage-stats"]
        log = Path(folder) / "start.log"
        with open(log, "wb") as file:
            head = subprocess.Popen(
                [*command, *(f"{name}={value}" for name, value in options.items())],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=kept,
            )
        try:
            end = time.monotonic() + 300
            while "Ray runtime started" not in log.read_text(errors="replace"):
                if head.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"Ray did not come up:\n{log.read_text(errors='replace')}")
                time.sleep(0.2)
            yield {**kept, "RAY_ADDRESS": f"127.0.0.1:{port}"}
        finally:
            head.terminate()  # with --block it ends all that it started
            try:
                head.wait(60)
            except subprocess.TimeoutExpired:
                head.kill()


def measure(folder: Path, places: int, weights: list[float], window_s: float, timeout_s: float = 1200.0) -> Measured:
    """Runs the sweeps and watches them.

    Raises:
        RuntimeError: a driver ended early, or the time is up.
    """
    users = [
        User(f"weight {weight:g}", folder / f"user{number}", round(PLENTY * weight), ("--weight", f"{weight:g}"))
        for number, weight in enumerate(weights)
    ]
    urgent = User("priority 5", folder / "urgent", places, ("--priority", "5"), 0.5)
    everyone = [*users, urgent]
    end = time.monotonic() + timeout_s

    def watch(until: float | None = None, condition: object = None) -> float:
        """Looks at all until a time or a condition; gives the time."""
        while True:
            now = time.monotonic()
            for user in everyone:
                if user.driver is not None:
                    user.look(now)
                    if user.driver.poll() not in (None, 0):
                        raise RuntimeError(f"{user.name} ended with {user.driver.returncode}:\n{user.log()}")
            if now > end:
                logs = [user.log() for user in everyone if user.driver is not None]
                raise RuntimeError("\n".join(["timed out", timeline(everyone), *logs]))
            if (until is not None and now >= until) or (callable(condition) and condition()):
                return now
            time.sleep(POLL_S)

    try:
        with ray_head(places) as environment:
            for user in users:
                user.start(environment)
            began: list[float] = []

            def settled() -> bool:
                now = time.monotonic()
                began[:] = (began or [now]) if all(user.has for user in users) else []
                return bool(began) and now - began[0] >= SETTLED_S and sum(user.has for user in users) == places

            since = watch(condition=settled)
            until = watch(until=since + window_s)
            urgent.start(environment)
            asked = watch(condition=lambda: "price:" in urgent.log())
            first = watch(condition=lambda: urgent.has > 0)
            watch(condition=lambda: max(urgent.held.values()) >= places or len(urgent.over) > 0)
            got = next((at for at, held in urgent.held.items() if held == max(urgent.held.values())), first)
            waiting = {user.name: user.yielded() for user in users}
            watch(condition=lambda: urgent.driver is not None and urgent.driver.poll() == 0)
            watch(condition=lambda: all(waiting[user.name] | set(user.continued()) <= user.over for user in users))
            for user in users:
                user.interrupt()
            return Measured(
                everyone, (since, until), first - asked, got - asked, [f for user in everyone for f in user.faults()]
            )
    finally:
        for user in everyone:
            if user.driver is not None and user.driver.poll() is None:
                user.driver.kill()
                user.driver.wait()


def timeline(users: list[User]) -> str:
    """Places of all sweeps over time, such as `6/0/0 4/2/0`."""
    times = sorted(at for at in users[0].held if any(user.held.get(at) for user in users))
    shown, due = [], 0.0
    for at in times:
        if at >= due:
            shown.append("/".join(str(user.held.get(at, 0)) for user in users))
            due = at + TOLD_S
    return " ".join(shown)


def say(line: str) -> None:
    """One line of output, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n")[0])
    parser.add_argument(
        "--places", type=int, default=6, help="logical CPUs of the cluster, one for each trial (default 6)"
    )
    parser.add_argument("--weights", type=float, nargs="+", default=[2.0, 1.0], help="one sweep each (default 2 1)")
    parser.add_argument("--window", type=float, default=60.0, help="seconds that they are watched for (default 60)")
    parser.add_argument("--folder", type=Path, help="keep what was made here (default: a temporary folder)")
    arguments = parser.parse_args()
    scratch = arguments.folder or Path(tempfile.mkdtemp(prefix="shares-"))
    try:
        return told(measure(scratch, arguments.places, arguments.weights, arguments.window), arguments)
    finally:
        if arguments.folder is None:
            shutil.rmtree(scratch, ignore_errors=True)


def told(found: Measured, arguments: argparse.Namespace) -> int:
    """Prints what was measured; the exit code."""
    since, until = found.window
    say(f"{arguments.places} places, {until - since:.0f} s, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")
    say("| sweep | ended | places on average | by its weight | epochs a second | continued |")
    say("|---|---:|---:|---:|---:|---:|")
    met = not found.faults
    for user, weight in zip(found.users, arguments.weights, strict=False):
        held, due = user.mean_held(since, until), arguments.places * weight / sum(arguments.weights)
        met = met and abs(held - due) <= TOLERANCE * due + 0.5
        figures = f"{held:.2f} | {due:.2f} | {user.rate(since, until):.2f} | {sum(user.continued().values())}"
        say(f"| {user.name} | {len(user.over)} | {figures} |")
    urgent = found.users[-1]
    say(f"| {urgent.name} | {len(urgent.over)} | - | - | - | {sum(urgent.continued().values())} |")
    most = f"{max(urgent.held.values())} of {arguments.places}"
    say(f"\npriority 5: its first place after {found.first_s:.1f} s, {most} after {found.all_s:.1f} s")
    say(f"\nplaces every {TOLD_S} s from the first claim on: {timeline(found.users)}\n")
    say("\n".join(found.faults) or "every trial that ended did so once, with each epoch once; the others can go on")
    say("met" if met else "not met")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
