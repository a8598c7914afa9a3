"""PostgreSQL, MLflow and nodes of a Ray cluster as real servers, each with ports and files of its own, that a test can kill and freeze."""

from __future__ import annotations

import atexit
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
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

HOST = "127.0.0.1"
PORTS = range(20_000, 32_000)
"""Below those that the system gives to outgoing connections, so that a server finds its port free when it comes back."""
POSTGRES_USER = "postgres"
"""PostgreSQL refuses to run as root; Debian's package makes this user."""
AUTH = """[mlflow]
default_permission = READ
database_uri = sqlite:///{database}
admin_username = {user}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
"""


class Server(ABC):
    """A process and its children. Use as a context manager; what a test leaves running ends with the tests.

    Attributes:
        name: for messages and the log file.
        folder: where the log is, `<name>.log`.
        port: on 127.0.0.1, the same over every restart.
    """

    name = "server"

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen: list[int] = []
        atexit.register(self.close)

    @property
    def log(self) -> Path:
        """What the server wrote to stdout and stderr, over all its starts."""
        return self.folder / f"{self.name}.log"

    @property
    def running(self) -> bool:
        """Whether its process is alive, frozen or not."""
        return self._process is not None and self._process.poll() is None

    def start(self, timeout_s: float = 300) -> Self:
        """Starts the server and waits until it answers; a running one is left alone.

        Raises:
            RuntimeError: it ended at once or did not answer in time; the message ends with its log.
        """
        if self.running:
            return self
        with open(self.log, "ab") as log:
            self._process = self._launch(log.fileno())
        end = time.monotonic() + timeout_s
        while not self.ready():
            if not self.running or time.monotonic() > end:
                why = "does not answer" if self.running else f"ended with {self._process.poll()}"
                self.kill9()
                raise RuntimeError(f"{self.name} {why}; {self.log}:\n{self.log.read_text(errors='replace')[-4000:]}")
            time.sleep(0.2)
        return self

    @abstractmethod
    def ready(self) -> bool:
        """Whether it answers now."""

    def stop(self, timeout_s: float = 60) -> None:
        """Ends the server in order, or by force when it does not end in time."""
        if self._process is None:
            return
        self.thaw()
        if self.running:
            self._process.send_signal(self._end_signal)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
        self.kill9()

    def kill9(self) -> None:
        """Kills every process of the server as a power cut would; nothing of it gets to clean up."""
        if self._process is None:
            return
        killed = self._stopped()
        for pid in killed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(60)
        end = time.monotonic() + 60
        while (
            any(map(_alive, killed)) and time.monotonic() < end
        ):  # PostgreSQL does not start beside what is left of it
            time.sleep(0.02)
        self._process, self._frozen = None, []

    def freeze(self) -> None:
        """Stops every process of the server where it is: connections stay open, nothing answers."""
        self._frozen = self._stopped()

    def thaw(self) -> None:
        """Lets a frozen server go on."""
        for pid in self._frozen:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self._frozen = []

    def close(self) -> None:
        """Ends the server for good."""
        self.kill9()
        atexit.unregister(self.close)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    _end_signal = signal.SIGTERM

    @abstractmethod
    def _launch(self, log: int) -> subprocess.Popen[bytes]: ...

    def _stopped(self) -> list[int]:
        """Stops the process and all below it; none can start another one meanwhile. Returns their ids."""
        if not self.running:
            return []
        assert self._process is not None
        found: list[int] = []
        while True:
            fresh = [pid for pid in descendants(self._process.pid) if pid not in found]
            if not fresh:
                return found
            for pid in fresh:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
            found += fresh


class Postgres(Server):
    """A PostgreSQL cluster of its own, made with `initdb`; its user is `sweeps`, its password generated.

    Attributes:
        password: of the user.
        data: the cluster's files, in the system's temporary folder: they must belong to a user that may not see `folder`.
    """

    name = "postgres"
    user = "sweeps"
    _end_signal = signal.SIGINT  # fast: open connections are cut, transactions rolled back

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.password = secrets.token_urlsafe(18)
        self._home = Path(tempfile.mkdtemp(prefix="sweeps-postgres-"))
        self.data = self._home / "data"
        self._owner = POSTGRES_USER if os.geteuid() == 0 else None

    def start(self, timeout_s: float = 300) -> Self:
        if not (self.data / "PG_VERSION").exists():
            self._make()
        return super().start(timeout_s)

    def ready(self) -> bool:
        import psycopg

        try:
            self._execute("SELECT 1", timeout_s=2)
        except psycopg.OperationalError:
            return False
        return True

    def url(self, database: str) -> str:
        """SQLAlchemy's URL of a database, password included."""
        return f"postgresql+psycopg://{self.user}:{self.password}@{HOST}:{self.port}/{database}"

    def create(self, database: str) -> str:
        """Makes an empty database and returns its URL."""
        self._execute(f'CREATE DATABASE "{database}"')
        return self.url(database)

    def close(self) -> None:
        super().close()
        shutil.rmtree(self._home, ignore_errors=True)

    def _execute(self, statement: str, timeout_s: int = 30) -> None:
        import psycopg

        where = {"host": HOST, "port": self.port, "user": self.user, "password": self.password}
        with psycopg.connect(**where, dbname="postgres", connect_timeout=timeout_s, autocommit=True) as connection:
            connection.execute(statement)

    def _make(self) -> None:
        secret = self._home / "password"
        secret.write_text(f"{self.password}\n")
        if self._owner is not None:
            for path in (self._home, secret):
                shutil.chown(path, self._owner, self._owner)
        command = [str(postgres_program("initdb")), "--pgdata", str(self.data), "--username", self.user]
        command += ["--auth", "scram-sha-256", "--pwfile", str(secret), "--encoding", "UTF8", "--locale", "C.UTF-8"]
        made = subprocess.run(command, capture_output=True, text=True, cwd=self._home, **self._as_owner())
        secret.unlink()
        if made.returncode:
            raise RuntimeError(f"initdb ended with {made.returncode}:\n{made.stdout}{made.stderr}")

    def _launch(self, log: int) -> subprocess.Popen[bytes]:
        settings = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "off",  # a killed process loses nothing that it handed to the system; only a power cut would
            "max_connections": "200",
        }
        command = [str(postgres_program("postgres")), "-D", str(self.data)]
        command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.data, **self._as_owner()
        )

    def _as_owner(self) -> dict:  # type: ignore[type-arg]
        return {} if self._owner is None else {"user": self._owner, "group": self._owner, "extra_groups": []}


class MlflowServer(Server):
    """A real `mlflow server` with proxied artifacts.

    Args:
        folder: of its log, artifacts and users.
        backend_uri: its store, such as `Postgres.create("mlflow")` or an SQLite URL; a password in it stays off the command line.
        auth: whether it asks for a login; see `username` and `password`.
        workers: processes that answer.
    """

    name = "mlflow"
    username = "researcher"

    def __init__(self, folder: Path, backend_uri: str, auth: bool = False, *, workers: int = 1) -> None:
        super().__init__(folder)
        self.backend_uri, self.auth, self.workers = backend_uri, auth, workers
        self.password = secrets.token_urlsafe(18)
        self._secret = secrets.token_hex(32)
        self.artifacts = folder / "artifacts"

    @property
    def uri(self) -> str:
        """Address without a login."""
        return f"http://{HOST}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs in its environment."""
        login = {"MLFLOW_TRACKING_USERNAME": self.username, "MLFLOW_TRACKING_PASSWORD": self.password}
        return {"MLFLOW_TRACKING_URI": self.uri, **(login if self.auth else {})}

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def requests(self) -> list[str]:
        """Method and path of every request in the access log, in order; the health checks of `start` left out."""
        lines = self.log.read_text(errors="replace").splitlines()
        quoted = [line.split('"')[1].rsplit(" ", 1)[0] for line in lines if line.count('"') == 2 and " HTTP/" in line]
        return [request for request in quoted if request.split()[1] != "/health"]

    def _launch(self, log: int) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("SWEEPS_", "MLFLOW_", "RAY_"))}
        environment |= {
            "MLFLOW_BACKEND_STORE_URI": self.backend_uri,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "PYTHONUNBUFFERED": "1",
        }
        command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(self.port)]
        command += ["--workers", str(self.workers), "--artifacts-destination", str(self.artifacts)]
        command += ["--allowed-hosts", f"{HOST}:{self.port},localhost:{self.port}"]
        if self.auth:
            file = self.folder / "basic_auth.ini"
            file.write_text(AUTH.format(database=self.folder / "users.db", user=self.username))
            environment |= {
                "MLFLOW_AUTH_CONFIG_PATH": str(file),
                "MLFLOW_AUTH_ADMIN_PASSWORD": self.password,
                "MLFLOW_FLASK_SERVER_SECRET_KEY": self._secret,
            }
            command += ["--app-name", "basic-auth"]
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, env=environment
        )


class RayNode(Server):
    """One node of a Ray cluster, started by `ray start` as a machine would; its address is one of this machine's own.

    Args:
        folder: of its log.
        cpus: what it offers to trials.
        head: the node to join; None for the head itself.
        ip: 127.0.0.x, one for each node.
        temp: Ray's folder, short since sockets lie below it; the head's counts for all.
    """

    def __init__(
        self, folder: Path, cpus: int, *, head: RayNode | None = None, ip: str = HOST, temp: Path | None = None
    ):
        self.name = f"ray-{ip}"
        super().__init__(folder)
        self.cpus, self.head, self.ip, self.temp = cpus, head, ip, temp

    @property
    def address(self) -> str:
        """Of the head."""
        return f"{self.ip}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a driver needs in its environment to join."""
        return {"RAY_ADDRESS": self.address, **self._no_token}

    _no_token: ClassVar = {"RAY_AUTH_MODE": "disabled"}
    """Else a token that Ray once left in the home folder would decide whether the head asks for one."""

    def pids(self) -> list[int]:
        """All processes of the node, trials' workers among them."""
        return descendants(self._process.pid) if self._process is not None and self.running else []

    def ready(self) -> bool:
        return "Ray runtime started" in self.log.read_text(errors="replace")

    def _launch(self, log: int) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("SWEEPS_", "MLFLOW_", "RAY_"))}
        environment |= self._no_token
        options: dict[str, object] = {
            "--node-ip-address": self.ip,
            "--num-cpus": self.cpus,
            "--dashboard-agent-listen-port": free_port(),
        }
        if self.head is None:
            options |= {"--port": self.port, "--include-dashboard": "false", "--temp-dir": self.temp}
        else:
            options["--address"] = self.head.address
        words = [f"{name}={value}" for name, value in options.items()]
        command = [str(Path(sys.executable).parent / "ray"), "start", "--block", "--disable-usage-stats", *words]
        command += ["--head"] if self.head is None else []
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, env=environment
        )


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on."""
    for port in random.SystemRandom().sample(PORTS, 200):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port
    raise RuntimeError(f"no free port between {PORTS.start} and {PORTS.stop}")


def postgres_program(name: str) -> Path:
    """A program of the newest PostgreSQL that Debian has installed, else of the one on the path.

    Raises:
        RuntimeError: there is none.
    """
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda file: float(file.parts[-3]))
    on_path = shutil.which(name)
    if not installed and on_path is None:
        raise RuntimeError(f"PostgreSQL's {name} is not installed; `make system-packages` installs it")
    return installed[-1] if installed else Path(str(on_path))


def descendants(pid: int) -> list[int]:
    """A process and all below it, parents first."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, IndexError):  # it ended meanwhile
            continue
        children.setdefault(parent, []).append(int(folder.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def _alive(pid: int) -> bool:
    """Whether a process still holds anything: one that has ended and was not waited for does not."""
    try:
        state = (Path("/proc") / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()[0]
    except (OSError, IndexError):
        return False
    return state not in "ZX"
