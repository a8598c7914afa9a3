"""docker/health and docker/login against servers that answer as MLflow and Ray do."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

DOCKER = Path(__file__).resolve().parent.parent.parent / "docker"
ADMIN, USER = ("admin", "a" * 64), ("researcher", "b" * 64)


class Server:
    """A server that keeps what it was asked and answers by `rule`."""

    def __init__(self, rule: Callable[[BaseHTTPRequestHandler, bytes], tuple[int, str]]) -> None:
        asked: list[tuple[str, str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                asked.append((self.command, self.path, self.headers["Host"]))
                status, text = rule(self, body)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            do_POST = do_GET

            def log_message(self, *_: object) -> None: ...

        self.asked = asked
        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    made: list[Server] = []

    def start(rule: Callable[[BaseHTTPRequestHandler, bytes], tuple[int, str]]) -> Server:
        made.append(Server(rule))
        return made[-1]

    yield start
    for each in made:
        each.server.shutdown()
        each.server.server_close()


def run(program: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "SWEEPS_"))}
    return subprocess.run(
        [sys.executable, DOCKER / program, *words], capture_output=True, text=True, env=own | environment
    )


def login(handler: BaseHTTPRequestHandler) -> tuple[str, str]:
    name, _, password = base64.b64decode(handler.headers["Authorization"].split()[1]).decode().partition(":")
    return name, password


def mlflow(users: dict[str, str]) -> Callable[[BaseHTTPRequestHandler, bytes], tuple[int, str]]:
    """Host check first, then the login, as the real server does; POST makes a user."""

    def rule(handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, str]:
        name = handler.headers["Host"].partition(":")[0]
        if name not in ("mlflow", "127.0.0.1") and handler.path != "/health":
            return 403, "Invalid Host header"
        who, password = login(handler)
        if users.get(who) != password:
            return 401, "You are not authenticated"
        if handler.path == "/api/2.0/mlflow/users/create":
            made = json.loads(body)
            if made["username"] in users:
                return 400, "exists"
            users[made["username"]] = made["password"]
        return 200, "{}"

    return rule


def health_of(server: Server, **changed: str) -> subprocess.CompletedProcess[str]:
    known = {
        "MLFLOW_PORT": str(server.port),
        "MLFLOW_HEALTH_HOST": f"mlflow:{server.port}",
        "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN[0],
        "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1],
    }
    return run("health", "mlflow", **known | changed)


def test_mlflow_is_asked_by_its_service_name_with_a_login(serve: Callable[..., Server]) -> None:
    server = serve(mlflow(dict([ADMIN])))
    done = health_of(server)
    assert done.returncode == 0, done.stdout + done.stderr
    assert server.asked == [("GET", "/api/2.0/mlflow/experiments/search?max_results=1", f"mlflow:{server.port}")]


@pytest.mark.parametrize(
    ("changed", "status"),
    [({"MLFLOW_HEALTH_HOST": "elsewhere:5000"}, "403"), ({"MLFLOW_AUTH_ADMIN_PASSWORD": "wrong"}, "401")],
)
def test_a_server_that_turns_clients_away_is_not_well(
    serve: Callable[..., Server], changed: dict[str, str], status: str
) -> None:
    done = health_of(serve(mlflow(dict([ADMIN]))), **changed)
    assert done.returncode == 1
    assert f"status {status}" in done.stdout
    assert ADMIN[1] not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("kind", "path"), [("ray-head", "/api/gcs_healthz"), ("ray-worker", "/api/local_raylet_healthz")]
)
def test_a_ray_node_is_asked_by_its_own_path(serve: Callable[..., Server], kind: str, path: str) -> None:
    server = serve(lambda handler, body: (200, "success"))
    done = run("health", kind, str(server.port))
    assert (done.returncode, done.stdout) == (0, "success\n")
    assert [asked for _, asked, _ in server.asked] == [path]
    ill = serve(lambda handler, body: (503, "Local Raylet failed"))
    done = run("health", kind, str(ill.port))
    assert done.returncode == 1 and "503" in done.stdout and "Local Raylet failed" in done.stdout


def test_where_nobody_listens_nothing_is_well(serve: Callable[..., Server]) -> None:
    server = serve(lambda handler, body: (200, ""))
    server.server.shutdown()
    server.server.server_close()
    done = run("health", "ray-head", str(server.port))
    assert done.returncode == 1 and "refused" in done.stdout


def test_a_driver_is_well_where_it_can_write(tmp_path: Path) -> None:
    assert run("health", "driver", SWEEPS_STATE=str(tmp_path / "state")).returncode == 0
    assert list((tmp_path / "state").iterdir()) == []
    (tmp_path / "file").write_text("")
    assert run("health", "driver", SWEEPS_STATE=str(tmp_path / "file" / "state")).returncode == 1
    assert run("health", "driver").returncode == 1


@pytest.mark.parametrize("words", [[], ["mlfow"], ["ray-head", "x"], ["ray-head", "1", "2"]])
def test_bad_words_show_the_usage(words: list[str]) -> None:
    done = run("health", *words)
    assert done.returncode == 2 and "ray-worker" in done.stderr


def login_at(server: Server, **changed: str) -> subprocess.CompletedProcess[str]:
    known = {
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{server.port}",
        "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN[0],
        "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1],
        "MLFLOW_TRACKING_USERNAME": USER[0],
        "MLFLOW_TRACKING_PASSWORD": USER[1],
    }
    return run("login", **known | changed)


def test_the_login_is_made_once(serve: Callable[..., Server]) -> None:
    users = dict([ADMIN])
    server = serve(mlflow(users))
    first = login_at(server)
    assert (first.returncode, first.stdout) == (0, "made login researcher\n")
    assert users == dict([ADMIN, USER])
    again = login_at(server)
    assert (again.returncode, again.stdout) == (0, "login researcher is there\n")
    assert [method for method, _, _ in server.asked].count("POST") == 1


def test_a_taken_name_and_a_wrong_administrator_are_told_apart(serve: Callable[..., Server]) -> None:
    server = serve(mlflow({**dict([ADMIN]), USER[0]: "another"}))
    taken = login_at(server)
    assert taken.returncode == 1 and "taken with another password" in taken.stderr
    wrong = login_at(server, MLFLOW_AUTH_ADMIN_PASSWORD="old")
    assert wrong.returncode == 1 and "administrator's password differs" in wrong.stderr
    assert USER[1] not in taken.stderr + wrong.stderr


def test_a_refused_host_is_told_at_once(serve: Callable[..., Server]) -> None:
    done = login_at(serve(lambda handler, body: (403, "Invalid Host header")))
    assert done.returncode == 1 and "MLFLOW_SERVER_ALLOWED_HOSTS" in done.stderr
