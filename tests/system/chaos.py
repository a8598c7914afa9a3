"""A sweep of real trials under a hail of kills: `python -m tests.system.chaos --trials 48 --kills 100 --seed 0`.

A real `sweep run` trains small networks on digits and mirrors them to a real MLflow server on a real PostgreSQL. Meanwhile the
driver, Ray's workers and raylet, the server and the database are killed (SIGKILL), half of them at the named points of
`trainers.faults`, and started again. In the end every trial must be finished once, with one run, and no epoch lost or doubled.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.system.conftest import Home
from tests.system.exactly_once import Work, print_of, tracking_faults, trial_faults, trials_in
from tests.system.servers import MlflowServer, Postgres, Server, descendants
from trainers import attempts
from trainers.faults import DRIVER, VARIABLE, WORKER

EXPERIMENT = """
title = "A grid to be killed at"
paper = "chaos"
protocol = "demo-cudfkd"
teacher_protocol = "demo-scratch"
seeds = [0]

[report]
kind = "heatmap"
metrics = ["test/acc1_pct"]
rows = "alpha"
columns = "pair"

[base]
data = "digits"
method = "cudfkd"
hparams = {{ latent_dim = 16, generator_width = 8, student_steps = 4, lambda_slope = 1e-3 }}
"protocol.epochs" = {epochs}
"protocol.updates_per_epoch" = {updates}
"teacher_protocol.epochs" = {epochs}

[[axes]]
name = "pair"
values = [
    {{ label = "A", teacher = "resnet14", student = "resnet8" }},
    {{ label = "B", teacher = "resnet20", student = "resnet8" }},
]

[[axes]]
name = "alpha"
path = "hparams.alpha"
values = [{alphas}]
"""
MARK = "SWEEPS_CHAOS"
"""Variable that tells this run's processes from everybody else's."""
EXTERNAL = {"worker": 5, "mlflow": 3, "postgres": 3, "raylet": 2, "gcs_server": 1}
"""What is killed from outside in the middle of a round, and how often in comparison."""
HELPERS = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
REPEATED = ("checkpoint-written", "row-written")
START_TIMEOUT_S = 600.0
END_TIMEOUT_S = 1800.0


@dataclass(frozen=True)
class Size:
    """How large a run is.

    Attributes:
        trials: an even number, 2 teachers included.
        kills: at least so many, half of them at fail points.
        epochs: of every trial.
        updates: of a student's epoch; a kill has to find it at work.
    """

    trials: int = 48
    kills: int = 100
    epochs: int = 5
    updates: int = 24


@dataclass
class Tally:
    """What was done to the sweep, and what it did."""

    kills: Counter[str] = field(default_factory=Counter)
    points: Counter[str] = field(default_factory=Counter)
    freezes: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    seconds: float = 0.0
    work: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.kills.values()) + sum(self.points.values())

    def __str__(self) -> str:
        def shown(counts: Counter[str] | dict[str, int]) -> str:
            return ", ".join(f"{name} {count}" for name, count in counts.items()) or "none"

        return "\n".join(
            [
                f"kills: {self.total} in {self.seconds:.0f} s over {self.starts} starts of the driver",
                f"  from outside: {sum(self.kills.values())} ({shown(self.kills)})",
                f"  at fail points: {sum(self.points.values())} ({shown(self.points)})",
                f"freezes beside them: {shown(self.freezes)}",
                f"drivers that ended by themselves: {shown(self.ended)}",
                f"work: {shown(self.work)}",
            ]
        )


class Chaos:
    """The sweep, its servers, and who kills them.

    Args:
        folder: for the state root, the servers and the drivers' logs.
    """

    def __init__(self, folder: Path, size: Size, seed: int) -> None:
        self.size, self.rng, self.tally = size, random.Random(seed), Tally()
        self.home = Home(folder / "home")
        self.marks = folder / "marks"
        self.marks.mkdir(parents=True)
        self.ray = Path(tempfile.mkdtemp(prefix="chaos-"))  # short: Ray puts sockets below it
        self.mark = uuid.uuid4().hex
        self.postgres = Postgres(folder / "postgres")
        self.server: MlflowServer | None = None
        self.driver: subprocess.Popen[bytes] | None = None
        self.restoring: list[threading.Thread] = []
        self.published: dict[Path, tuple[int, str]] = {}
        count = (size.trials - 2) // 2
        alphas = ", ".join(f'{{ label = "{n}", value = {0.1 + n / 100:.2f} }}' for n in range(count))
        text = EXPERIMENT.format(epochs=size.epochs, updates=size.updates, alphas=alphas)
        (self.home.folder / "chaos.toml").write_text(text)

    # ---- the sweep ----

    def __enter__(self) -> Chaos:
        self.postgres.start()
        folder = self.home.folder.parent / "mlflow"
        self.server = MlflowServer(folder, self.postgres.create("mlflow")).start()
        self.home.uri = self.server.uri
        self.home.environment |= {**self.server.environment, MARK: self.mark, "RAY_TMPDIR": str(self.ray)}
        return self

    def __exit__(self, *_: object) -> None:
        self.restored()
        if self.driver is not None and self.driver.poll() is None:
            self.driver.kill()
            self.driver.wait()
        for pid in self.ours():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.server is not None:
            self.server.close()
        self.postgres.close()
        shutil.rmtree(self.ray, ignore_errors=True)

    def start(self, *entries: str) -> subprocess.Popen[bytes]:
        """Starts a driver, once the servers answer, with these fail points armed."""
        self.restored()
        self.tally.starts += 1
        command = [str(Path(sys.executable).parent / "sweep"), "run", "chaos.toml", "--profile", "paper"]
        environment = self.home.environment | ({VARIABLE: " ".join(entries)} if entries else {})
        with open(self.log(self.tally.starts), "wb") as log:
            self.driver = subprocess.Popen(
                command, cwd=self.home.folder, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        return self.driver

    def log(self, number: int) -> Path:
        return self.home.folder.parent / f"driver-{number:03d}.log"

    def epochs(self) -> int:
        """Finished epochs of all trials, each counted once."""
        total = 0
        for folder in self.home.state.glob("??/*/attempts"):
            with contextlib.suppress(OSError, ValueError, KeyError):  # being written this moment
                total += len(attempts.rows(attempts.read_status(self.home.state, folder.parent.name)))
        return total

    @property
    def wanted(self) -> int:
        return self.size.trials * self.size.epochs

    # ---- processes ----

    def ours(self) -> list[int]:
        """Every process of this run's sweeps, also of drivers that are dead."""
        wanted, found = f"{MARK}={self.mark}".encode(), []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found

    def below(self, name: str) -> list[int]:
        """Processes of the driver in hand whose command begins so; Ray's own helpers in Python are none of `ray::`."""
        assert self.driver is not None
        found = []
        for pid in descendants(self.driver.pid):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode(errors="replace")
                if command.rsplit("/", 1)[-1].startswith(name) and not command.startswith(HELPERS):
                    found.append(pid)
        return found

    def alive(self) -> bool:
        return self.driver is not None and self.driver.poll() is None

    # ---- kills ----

    def strike(self, kind: str) -> None:
        """Kills one thing of this kind now, if it is there."""
        if kind in ("mlflow", "postgres"):
            self.restored()  # what is still starting is no target
            server = self.of(kind)
            server.kill9()
            self.restore(server)
        else:
            assert self.driver is not None
            found = [self.driver.pid] if kind == "driver" else self.below("ray::" if kind == "worker" else kind)
            if not found or not self.alive():
                return
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.rng.choice(found), signal.SIGKILL)
        self.tally.kills[kind] += 1
        self.say(f"killed {kind}")

    def freeze(self, kind: str, seconds: float) -> None:
        """Stops a server for a while, beside everything else."""
        self.restored()
        server = self.of(kind)

        def nap() -> None:
            server.freeze()
            time.sleep(seconds)
            server.thaw()

        self.tally.freezes[kind] += 1
        self.say(f"froze {kind} for {seconds:.0f} s")
        self.beside(nap)

    def of(self, kind: str) -> Server:
        assert self.server is not None
        return self.server if kind == "mlflow" else self.postgres

    def restore(self, server: Server) -> None:
        """Starts a server again, beside everything else; MLflow may need several tries while its database is away."""

        def start() -> None:
            for left in (4, 3, 2, 1, 0):
                try:
                    server.start()
                    return
                except RuntimeError:
                    if not left:
                        raise

        self.beside(start)

    def beside(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self.restoring.append(thread)

    def restored(self) -> None:
        """Waits until both servers answer."""
        for thread in self.restoring:
            thread.join()
        self.restoring.clear()

    # ---- a round ----

    def round(self) -> None:
        """One life of a driver: a few kills around it, and at last its own."""
        points = sum(self.tally.points.values())
        left = max(self.size.kills - self.tally.total, self.size.kills // 2 - points, 1)
        count = min(self.rng.randint(5, 9), left)
        budget = max(1.0, (self.wanted - self.epochs()) * 0.85 / left) * count  # epochs that may pass meanwhile
        armed = self.arm(count)
        entries = [f"{name}:{passage}:{marker}" for marker, (name, passage) in armed.items()]
        self.start(*entries)
        self.say(
            f"started, {self.epochs()}/{self.wanted} epochs, armed: {', '.join(e.rsplit(':', 1)[0] for e in entries)}"
        )
        before, fired = self.epochs(), set[Path]()
        limit = time.monotonic() + START_TIMEOUT_S
        while self.alive() and not self.below("ray::") and not self.notice(armed, fired):
            assert time.monotonic() < limit, f"the driver does not come up; see {self.log(self.tally.starts)}"
            time.sleep(0.1)
        blows = self.rng.choices(list(EXTERNAL), list(EXTERNAL.values()), k=max(0, count - 1 - len(armed)))
        for number, kind in enumerate(blows, 1):
            self.wait(before + budget * number / (len(blows) + 2), self.rng.uniform(0.5, 4), armed, fired)
            if not self.alive():
                break
            self.strike(kind)
        if self.alive() and self.rng.random() < 0.25:
            self.freeze(self.rng.choice(["mlflow", "postgres"]), self.rng.uniform(1, 25))
        self.wait(before + budget, 120, armed, fired, until_fired=True)
        if self.alive():
            self.strike("driver")
        self.bury()
        self.notice(armed, fired)
        self.watch()

    def arm(self, count: int) -> dict[Path, tuple[str, int]]:
        """The fail points of a round and the passages that kill, by their marker files."""
        owed = max(0, (self.tally.total + count + 1) // 2 - sum(self.tally.points.values()))
        names: list[str] = []
        if self.tally.starts == 0:
            names.append("parent-created")  # which there is only once
        elif self.rng.random() < 0.5:
            names.append(self.rng.choice([name for name in DRIVER if name != "parent-created"]))
        names += self.rng.sample(list(WORKER), min(len(WORKER), max(0, owed + 1 - len(names))))  # some never come up
        armed = {}
        for name in names:
            passage = self.rng.choice([1, 2, 3] if name in REPEATED else [1, 1, 1, 2])
            armed[self.marks / f"{self.tally.starts}-{name}"] = (name, 1 if name == "parent-created" else passage)
        return armed

    def notice(self, armed: dict[Path, tuple[str, int]], fired: set[Path]) -> bool:
        """Counts the fail points that have killed; whether all have."""
        for marker, (name, _) in armed.items():
            if marker not in fired and marker.exists():
                fired.add(marker)
                self.tally.points[name] += 1
                self.say(f"died at {name}")
        return bool(armed) and len(fired) == len(armed)

    def wait(
        self,
        epochs: float,
        seconds: float,
        armed: dict[Path, tuple[str, int]],
        fired: set[Path],
        *,
        until_fired: bool = False,
    ) -> None:
        """Waits for that many epochs or seconds, or the driver's end, or where asked until every armed point has killed."""
        limit = time.monotonic() + seconds
        while self.alive() and time.monotonic() < limit and self.epochs() < epochs:
            if self.notice(armed, fired) and until_fired:
                return
            self.watch()
            time.sleep(0.1)

    def bury(self) -> None:
        """Waits for the driver's end, which must come by itself once its Ray is gone."""
        assert self.driver is not None
        try:
            code = self.driver.wait(120)
        except subprocess.TimeoutExpired:
            self.tally.ended["hung"] += 1
            self.driver.kill()
            self.driver.wait()
            self.say(f"HUNG: see {self.log(self.tally.starts)}")
            return
        if code != -signal.SIGKILL:
            self.tally.ended[f"exit {code}"] += 1
            self.say(f"ended by itself with {code}: see {self.log(self.tally.starts)}")

    def watch(self) -> None:
        """Notes every result and every weight when it is first seen."""
        for file in [*self.home.state.glob("??/*/result.json"), *self.home.state.glob("??/*/weights.pt")]:
            if file not in self.published:
                self.published[file] = print_of(file)

    def say(self, text: str) -> None:
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} [{self.tally.total}] {text}\n")
        sys.stderr.flush()

    # ---- all of it ----

    def run(self) -> list[str]:
        """Rounds until there were enough kills, then one driver in peace; returns what is wrong in the end."""
        began = time.monotonic()
        while self.tally.total < self.size.kills or sum(self.tally.points.values()) * 2 < self.size.kills:
            if self.epochs() >= self.wanted:
                return [f"the sweep was over after {self.tally.total} kills; give it more trials or updates"]
            self.round()
        final = self.start()
        try:
            code = final.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return [f"the last driver did not end; see {self.log(self.tally.starts)}"]
        self.tally.seconds = time.monotonic() - began
        wrong = [] if code == 0 else [f"the last driver ended with {code}; see {self.log(self.tally.starts)}"]
        wrong += [f"{count} drivers hung" for count in [self.tally.ended["hung"]] if count]
        return wrong + self.faults()

    def faults(self) -> list[str]:
        """Everything that is not as an unbroken sweep would have left it."""
        digests = trials_in(self.home)
        wrong = [] if len(digests) == self.size.trials else [f"{len(digests)} trials, wanted {self.size.trials}"]
        work = Work()
        for digest in digests:
            wrong += trial_faults(self.home.state, digest, self.size.epochs, work)
        for file, seen in self.published.items():
            if not file.exists() or print_of(file) != seen:
                wrong.append(f"{file} was written again")
        wrong += tracking_faults(self.home, self.size.epochs, work)
        self.tally.work = asdict(work)
        return wrong


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 1 where a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.chaos", description=__doc__)
    parser.add_argument("--trials", type=int, default=Size.trials, help="an even number, teachers included")
    parser.add_argument("--kills", type=int, default=Size.kills, help="at least so many, half of them at fail points")
    parser.add_argument("--epochs", type=int, default=Size.epochs, help="of every trial")
    parser.add_argument("--updates", type=int, default=Size.updates, help="of a student's epoch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="for everything that is written (default: one that goes with it)")
    arguments = parser.parse_args(argv)
    if arguments.trials < 4 or arguments.trials % 2:
        parser.error(f"--trials {arguments.trials}: must be even and at least 4")
    size = Size(arguments.trials, arguments.kills, arguments.epochs, arguments.updates)
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        chaos = stack.enter_context(Chaos(folder.absolute(), size, arguments.seed))
        wrong = chaos.run()
        sys.stdout.write(f"{chaos.tally}\n")
        sys.stdout.write("".join(f"WRONG {fault}\n" for fault in wrong) or "nothing lost, nothing doubled\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
