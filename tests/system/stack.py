"""The services of docker/services.toml as native processes on 127.0.0.1: its flags, ports of their own, secrets by docker/init."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

from tests.system.servers import HOST, POSTGRES_USER, Server, descendants, free_port, postgres_program

DOCKER = Path(__file__).resolve().parent.parent.parent / "docker"
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "SWEEPS_", "RAY_", "PG", "AWS_"))}
CLEAN["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{CLEAN['PATH']}"  # as in the images
SLOW_START = "The current node timed out during startup"
WORKER = "127.0.0.{}"
"""Address of a worker's node by its number; the head is 1."""


def reader() -> Any:
    """docker/services.py, which is no package."""
    spec = importlib.util.spec_from_file_location("docker_services", DOCKER / "services.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class Service(Server):
    """One service with the shared flags; well when its own health check says so."""

    def __init__(self, stack: Stack, name: str, *extra: str, port: int, **environment: str) -> None:
        self.name, self.stack, self.extra = name, stack, extra
        super().__init__(stack.folder)
        self.port = port
        self.environment = {**CLEAN, **stack.services.environment(name, stack.env, stack.places), **environment}
        self.owner: dict[str, Any] = {}
        self.log_name = name
        self.health = stack.services.health(name, stack.places, native=True)
        self._logged = 0  # bytes, before this start

    def start(self, timeout_s: float = 300) -> Self:
        """As `Server.start`; a Ray node gives up after half a minute on a busy machine and, as compose would, is started again."""
        for left in (2, 1, 0):
            try:
                return super().start(timeout_s)
            except RuntimeError as error:
                if not left or SLOW_START not in str(error):
                    raise
        raise AssertionError

    @property
    def log(self) -> Path:
        return self.folder / f"{self.log_name}.log"

    def ready(self) -> bool:
        if self.name.startswith("ray") and b"Ray runtime started" not in self.log.read_bytes()[self._logged :]:
            return False  # its services answer before the node is a part of the cluster
        return subprocess.run(self.health, env=self.environment, capture_output=True, timeout=60).returncode == 0

    def _launch(self, log: int) -> subprocess.Popen[bytes]:
        self._logged = self.log.stat().st_size
        command = self.stack.services.command(self.name, self.stack.places, native=True)
        programs = {"ray": [sys.executable, "-m", "ray.scripts.scripts"], "mlflow": [sys.executable, "-m", "mlflow"]}
        programs["postgres"] = [str(postgres_program("postgres"))]
        words = [*programs[command[0]], *command[1:], *self.extra]
        return subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.stack.folder, env=self.environment, **self.owner
        )  # fmt: skip


class Stack:
    """All services on 127.0.0.1.

    Attributes:
        folder: environment file, logs and artifacts; short, and open to the user that PostgreSQL runs as.
        ray_folder: Ray's own logs.
        shared: the volume of all nodes, which holds the state root.
        services: docker/services.toml.
        env: the environment file's content.
        places: ports and names in place of services.toml's.
        started: in order.
        workers: of them, the nodes for trials.
    """

    def __init__(self) -> None:
        self.folder = folder = Path(tempfile.mkdtemp(prefix="sweeps-stack-"))
        folder.chmod(0o755)
        self.ray_folder, self.shared = folder / "ray", folder / "shared"
        subprocess.run([DOCKER / "init", folder / ".env"], check=True, capture_output=True)
        module = reader()
        self.services, self.env = module.load(), module.read_env(folder / ".env")
        ports = {name: str(free_port()) for name in ("POSTGRES_PORT", "MLFLOW_PORT", "RAY_PORT", "RAY_DASHBOARD_PORT")}
        self.places = {"POSTGRES_HOST": HOST, "MLFLOW_NAME": HOST, "RAY_HEAD": HOST, **ports, "STATE": str(self.shared)}
        hosts = f"{HOST}:{ports['MLFLOW_PORT']}"
        self.env |= {"MLFLOW_SERVER_ALLOWED_HOSTS": hosts, "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts")}
        self.env["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"] = f"http://{hosts}"  # as `init` does for port 5000
        self.started: list[Service] = []
        self.workers: list[Service] = []

    def port(self, name: str) -> int:
        """A port by its name in `places`."""
        return int(self.places[name])

    def start(self, service: Service) -> None:
        """Starts one service and waits until it is well."""
        self.started.append(service)
        service.start()

    def postgres(self) -> None:
        """As the postgres image does: initdb, the server, then roles.sql as the superuser."""
        home = Path(tempfile.mkdtemp(prefix="sweeps-pg-", dir=self.folder))
        service = Service(self, "postgres", "-D", str(home / "data"), port=self.port("POSTGRES_PORT"))
        service.extra += (
            "-c",
            f"listen_addresses={HOST}",
            "-c",
            f"port={service.port}",
            "-c",
            "unix_socket_directories=",
        )
        secret = home / "password"
        secret.write_text(service.environment["POSTGRES_PASSWORD"] + "\n")
        if os.geteuid() == 0:
            service.owner = {"user": POSTGRES_USER, "group": POSTGRES_USER, "extra_groups": []}
            for path in (home, secret):
                shutil.chown(path, POSTGRES_USER, POSTGRES_USER)
        words = service.environment["POSTGRES_INITDB_ARGS"].split()
        initdb: list[str | Path] = [
            postgres_program("initdb"),
            "--username=postgres",
            f"--pwfile={secret}",
            *words,
            home / "data",
        ]
        subprocess.run(initdb, check=True, capture_output=True, cwd=home, **service.owner)
        secret.unlink()
        service.health[0] = str(postgres_program("pg_isready"))
        self.start(service)
        self.sql("postgres", "POSTGRES_PASSWORD", "postgres", "--file", str(DOCKER / "postgres" / "roles.sql"))

    def sql(self, user: str, password: str, database: str, *words: str) -> subprocess.CompletedProcess[str]:
        """Runs psql as a role; a file that fails is an error of ours."""
        command: list[str | Path] = [
            postgres_program("psql"),
            "--no-psqlrc",
            "-h",
            HOST,
            "-p",
            self.places["POSTGRES_PORT"],
        ]
        environment = {**CLEAN, **{k: v for k, v in self.env.items() if k.endswith("PASSWORD")}}
        environment["PGPASSWORD"] = self.env[password]
        done = subprocess.run(
            [*command, "-U", user, "-d", database, *words], capture_output=True, text=True, env=environment
        )
        assert words[0] != "--file" or done.returncode == 0, done.stderr
        return done

    def all(self, *, workers: int = 1) -> None:
        """Starts everything, in the order that compose does.

        Args:
            workers: nodes for trials, with one CPU and an address of its own each.
        """
        self.postgres()
        mlflow = {"MLFLOW_HOST": HOST, "MLFLOW_AUTH_CONFIG_PATH": str(DOCKER / "mlflow" / "basic_auth.ini")}
        self.start(Service(self, "mlflow", port=self.port("MLFLOW_PORT"), **mlflow))
        login = {**CLEAN, **self.services.environment("mlflow-login", self.env, self.places)}
        subprocess.run(self.services.command("mlflow-login", native=True), env=login, check=True, capture_output=True)
        here = ["--node-ip-address", HOST, "--temp-dir", str(self.ray_folder)]
        own = ["--dashboard-host", HOST, "--ray-client-server-port", str(free_port())]
        own += ["--dashboard-agent-listen-port", str(free_port())]
        self.start(Service(self, "ray-head", *here, *own, port=self.port("RAY_PORT")))
        for number in range(2, workers + 2):
            agent = str(free_port())
            own = [
                "--node-ip-address",
                WORKER.format(number),
                "--num-cpus",
                "1",
                "--dashboard-agent-listen-port",
                agent,
            ]
            worker = Service(self, "ray-worker", *own, port=int(agent))
            worker.health.append(agent)
            worker.log_name = f"ray-worker-{number - 1}"
            self.workers.append(worker)
            self.start(worker)

    def processes(self) -> dict[int, str]:
        """Command line of every process of the stack."""
        found = {}
        for service in self.started:
            for pid in descendants(service._process.pid) if service._process else []:
                with contextlib.suppress(OSError):  # it ended meanwhile
                    found[pid] = Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
        return found

    def secrets(self) -> dict[str, str]:
        """What docker/init made, by name."""
        return {name: value for name, value in self.env.items() if len(value) == 64}

    def close(self) -> None:
        """Ends everything and removes the folder."""
        for service in reversed(self.started):
            service.close()
        shutil.rmtree(self.folder, ignore_errors=True)
