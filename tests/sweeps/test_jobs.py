"""Submitted sweeps before a cluster is reached, and against servers that answer as Ray's dashboard does."""

from __future__ import annotations

import argparse
import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from sweeps import cli, jobs
from sweeps.errors import SetupError
from sweeps.verbs import remote

Run = Callable[..., tuple[int, str, str]]
TOKEN = "b" * 64
ID = "sweep-20260131-120000-3f9a1c07"


@pytest.fixture(autouse=True)
def _no_ray_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # to be put back after the test
    monkeypatch.delenv("RAY_AUTH_MODE")


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[tuple[str, str, str]]]]:
    """Starts a dashboard that answers with a status by the Authorization header; RAY_ADDRESS names it. Returns what it is asked."""
    made: list[HTTPServer] = []

    def start(rule: Callable[[str, str], tuple[int, Any]]) -> list[tuple[str, str, str]]:
        asked: list[tuple[str, str, str]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                asked.append((self.command, self.path, self.headers.get("Authorization", "")))
                status, content = rule(self.path, self.headers.get("Authorization", ""))
                self.send_response(status)
                self.end_headers()
                self.wfile.write((content if isinstance(content, str) else json.dumps(content)).encode())

            do_POST = do_PUT = do_GET

            def log_message(self, *_: object) -> None: ...

        server = HTTPServer(("127.0.0.1", 0), Handler)
        made.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("RAY_ADDRESS", f"http://127.0.0.1:{server.server_port}")
        return asked

    yield start
    for server in made:
        server.shutdown()
        server.server_close()


# --- where it goes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", ["", "gpu1:6379", "auto", "ray://gpu1:10001", "http://", "http://gpu1/a/b", "ftp://x"]
)
def test_an_address_that_is_no_dashboard_is_refused_with_an_example(value: str) -> None:
    with pytest.raises(SetupError, match=r"RAY_ADDRESS=http://gpu1\.example\.org:8265"):
        jobs.address({"RAY_ADDRESS": value})


def test_ray_s_own_name_for_the_dashboard_goes_first() -> None:
    both = {"RAY_ADDRESS": "gpu1:6379", "RAY_API_SERVER_ADDRESS": "https://ray.example.org/"}
    assert jobs.address(both) == "https://ray.example.org"


def test_a_password_in_the_address_is_not_shown() -> None:
    with pytest.raises(SetupError) as raised:
        jobs.address({"RAY_ADDRESS": "ray://me:hunter2@gpu1:10001"})
    assert "hunter2" not in str(raised.value)


# --- the token -------------------------------------------------------------------------------------------------------


def test_a_cluster_that_asks_for_no_token_is_refused_and_never_sees_ours(
    serve: Any, monkeypatch: pytest.MonkeyPatch, run_sweep: Run, place: Any
) -> None:
    asked = serve(lambda path, header: (200, []))
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    code, out, err = run_sweep("submit", place.write(), "--profile", "paper")
    assert (code, out) == (2, "")
    assert err.count("error: ") == 1 and "asks for no token" in err and "--no-auth" in err
    assert asked == [("GET", "/api/jobs/", "")]


def test_told_so_it_is_used_without_a_token(serve: Any, run_sweep: Run) -> None:
    versions = {"ray_version": "2.60.0"}
    asked = serve(lambda path, header: (200, versions if path == "/api/version" else []))
    assert run_sweep("status", "--jobs", "--no-auth")[:2] == (
        0, "no sweep was submitted to this cluster since it was started\n",
    )  # fmt: skip
    assert {header for _, _, header in asked} == {""}


def test_no_answer_and_something_else_that_answers_are_told_apart(
    serve: Any, monkeypatch: pytest.MonkeyPatch, run_sweep: Run
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    code, _, err = run_sweep("logs", ID)
    assert code == 2 and "no Ray dashboard answers at http://127.0.0.1:1" in err and "Traceback" not in err
    serve(lambda path, header: (404, "nginx"))
    code, _, err = run_sweep("logs", ID)
    assert code == 2 and "not the dashboard of a Ray" in err


def test_an_unknown_job_is_one_error(serve: Any, monkeypatch: pytest.MonkeyPatch, run_sweep: Run) -> None:
    serve(lambda path, header: (200, {"ray_version": "2.60.0"}) if "version" in path else (404, f"{path} is not there"))
    monkeypatch.setattr(jobs, "_answers_without_token", lambda url: True)
    for verb in ("logs", "cancel", "status"):
        code, out, err = run_sweep(verb, ID, "--no-auth")
        assert (code, out) == (2, "")
        assert f"no job {ID} on the cluster" in err and "sweep status --jobs" in err


# --- ids -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "job", ["../../etc/passwd", "sweep-1/../x", "a%2fb", "", "-x", "a b", "é", "x" * 101, "sweep-x\n"]
)
def test_an_id_that_could_name_anything_else_is_refused_before_anything_is_asked(job: str) -> None:
    for ask in (jobs.status, jobs.cancel):
        with pytest.raises(SetupError, match="is no id of a job"):
            ask(None, job)  # type: ignore[arg-type]
    with pytest.raises(SetupError, match="is no id of a job"):
        jobs.show_log(None, job, follow=False)  # type: ignore[arg-type]


# --- what is sent ----------------------------------------------------------------------------------------------------


def parsers() -> dict[str, argparse.ArgumentParser]:
    top = cli.parser()
    (verbs,) = [action for action in top._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(verbs.choices)


def test_submit_takes_every_option_of_run_and_hands_it_on_unchanged() -> None:
    run, submit = parsers()["run"], parsers()["submit"]
    options = {action.dest for action in run._actions if action.option_strings} - {"help", "dry_run"}
    assert {"seeds", "only", "trials", "concurrency", "retry_failed"} <= options
    assert options <= {action.dest for action in submit._actions}
    typed = [
        "--seeds",
        "0,10",
        "--only",
        "k_end=1/2",
        "--only",
        "method=KD, form 'a'",
        "--trials",
        "7",
        "--retry-failed",
    ]
    arguments = submit.parse_args(["cudfkd/fig9", "--profile", "demo", *typed])
    words = jobs.words_of(run, arguments)
    again = run.parse_args(["cudfkd/fig9", "--profile", "demo", *words])
    assert {name: getattr(again, name) for name in options} == {name: getattr(arguments, name) for name in options}
    assert jobs.words_of(run, submit.parse_args(["cudfkd/fig9", "--profile", "demo"])) == []


class Client:
    """Keeps what would be sent."""

    def __init__(self) -> None:
        self.sent: dict[str, Any] = {}
        self.files: set[str] = set()

    def submit_job(self, **sent: Any) -> None:
        self.sent = sent
        folder = Path(sent["runtime_env"]["working_dir"])
        self.files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        self.content = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client()
    monkeypatch.setenv("RAY_ADDRESS", "http://gpu1:8265")
    monkeypatch.setattr(jobs, "connect", lambda *, no_auth: made)
    return made


def test_a_job_says_what_it_runs_and_nothing_of_this_machine_s_environment(
    client: Client, place: Any, run_sweep: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = {name: f"decoy-{name.lower()}-0123456789" for name in (
        "RAY_AUTH_TOKEN", "MLFLOW_TRACKING_PASSWORD", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "SWEEPS_STUDY_URL",
    )}  # fmt: skip
    for name, value in secret.items():
        monkeypatch.setenv(name, value)
    file = place.folder / place.write()
    code, out, err = run_sweep("submit", str(file), "--profile", "paper", "--only", "pair=A", "--seeds", "0,1")
    assert (code, err) == (0, "")
    job = client.sent["submission_id"]
    assert jobs.JOB.fullmatch(job) and remote.is_job(job)
    assert client.sent["entrypoint"] == (
        "exec python -m sweeps.parcel run given/0/grid.toml --profile paper --seeds 0,1 --only pair=A"
    )
    assert client.sent["runtime_env"]["env_vars"] == {
        "RAY_JOB_STOP_SIGNAL": "SIGINT",
        "RAY_JOB_STOP_WAIT_TIME_S": "120",
    }
    assert set(client.sent) == {"submission_id", "entrypoint", "runtime_env", "metadata"}
    assert (
        client.sent["metadata"]["sweep.experiments"] == "grid" and client.sent["metadata"]["sweep.profile"] == "paper"
    )
    assert {"given/0/grid.toml", "sweeps/cli.py", "trainers/run.py", "analysis/cli.py"} <= client.files
    for verb in ("logs", "status", "cancel"):
        assert f"sweep {verb} {job}" in out
    told = json.dumps(client.sent) + out
    for value in secret.values():
        assert value not in told and value.encode() not in client.content
    assert str(place.folder) not in json.dumps(client.sent)


def test_faults_are_told_here_and_nothing_is_sent(client: Client, place: Any, run_sweep: Run) -> None:
    place.write(
        swap={
            'student = "resnet8" },\n    { label = "B"': 'student = "resnet9" },\n    { label = "B"',
            "ce_weight": "ce_wait",
        }
    )
    code, out, err = run_sweep("submit", "grid.toml", "--profile", "paper")
    assert (code, out) == (2, "")
    assert "resnet9" in err and "ce_wait" in err
    for words in (["--profile", "demoo"], [], ["--profile", "paper", "--only", "pair=C"]):
        place.write()
        code, out, err = run_sweep("submit", "grid.toml", *words)
        assert (code, out) == (2, "") and err.startswith("error: ")
    assert client.sent == {}


def test_images_need_not_be_here(client: Client, place: Any, run_sweep: Run) -> None:
    place.write(swap={'data = "digits"': 'data = { name = "image_folder", folder = "pets" }'})
    assert run_sweep("check", "grid.toml")[0] == 2
    assert run_sweep("submit", "grid.toml", "--profile", "paper")[0] == 0
    assert client.sent["submission_id"]


def test_run_does_not_take_a_dashboard_for_a_cluster(
    tracked_place: Any, run_sweep: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://gpu1:8265")
    code, _, err = run_sweep("run", tracked_place.write(), "--profile", "paper")
    assert code == 2
    assert "RAY_ADDRESS is 'http://gpu1:8265', a dashboard: `sweep submit`" in err
    assert tracked_place.trial_folders() == []
