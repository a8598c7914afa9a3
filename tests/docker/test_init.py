"""docker/init: fresh secrets, for their owner's eyes, never written over."""

from __future__ import annotations

import re
import stat
import subprocess
from pathlib import Path

import pytest

INIT = Path(__file__).resolve().parent.parent.parent / "docker" / "init"
SECRETS = [
    "POSTGRES_PASSWORD",
    "MLFLOW_DB_PASSWORD",
    "STUDY_DB_PASSWORD",
    "MLFLOW_AUTH_ADMIN_PASSWORD",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
    "MLFLOW_TRACKING_PASSWORD",
    "RAY_AUTH_TOKEN",
]


def init(*words: str | Path, umask: str = "0022") -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", f'umask {umask}; exec "$@"', "sh", INIT, *words], capture_output=True, text=True)


def values(file: Path) -> dict[str, str]:
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def test_every_secret_is_new_and_256_bits_long(tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        assert init(tmp_path / name).returncode == 0
        found = values(tmp_path / name)
        assert [key for key, value in found.items() if re.fullmatch("[0-9a-f]{64}", value)] == SECRETS
        made += [found[key] for key in SECRETS]
    assert len(set(made)) == 2 * len(SECRETS)


def test_only_the_owner_may_read_the_file_whatever_the_umask(tmp_path: Path) -> None:
    init(tmp_path / "env", umask="0000")
    assert stat.S_IMODE((tmp_path / "env").stat().st_mode) == 0o600


def test_the_secrets_are_not_printed(tmp_path: Path) -> None:
    done = init(tmp_path / "env")
    assert not [
        value for value in values(tmp_path / "env").values() if len(value) == 64 and value in done.stdout + done.stderr
    ]


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_what_is_there_is_left_as_it_is(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "env"
    if kind == "file":
        file.write_text("mine")
    elif kind == "folder":
        file.mkdir()
    else:
        file.symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.rglob("*"))
    done = init(file)
    assert done.returncode == 2
    assert str(file) in done.stderr and "Move it away" in done.stderr
    assert sorted(tmp_path.rglob("*")) == before
    assert kind != "file" or file.read_text() == "mine"


def test_of_many_at_once_one_wins_and_its_file_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "env"
    running = [subprocess.Popen([INIT, file], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(8)]
    assert sorted(process.wait() for process in running) == [0] + [2] * 7
    assert [path.name for path in tmp_path.iterdir()] == ["env"]
    assert set(SECRETS) <= set(values(file))


def test_a_host_is_allowed_with_and_without_the_port(tmp_path: Path) -> None:
    assert init("--host", "gpu1.example.org", "--publish", "0.0.0.0", tmp_path / "env").returncode == 0
    found = values(tmp_path / "env")
    hosts = found["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert {"gpu1.example.org", "gpu1.example.org:5000", "mlflow", "mlflow:5000", "localhost:5000"} <= set(hosts)
    assert not [host for host in hosts if "*" in host]
    assert "http://gpu1.example.org:5000" in found["MLFLOW_SERVER_CORS_ALLOWED_ORIGINS"].split(",")
    assert found["PUBLISH_ADDRESS"] == "0.0.0.0"


def test_pages_are_for_this_machine_unless_said_otherwise(tmp_path: Path) -> None:
    init(tmp_path / "env")
    assert values(tmp_path / "env")["PUBLISH_ADDRESS"] == "127.0.0.1"


@pytest.mark.parametrize("value", ["*", "a,b", "a b", "", "a;rm", "$(id)"])
def test_a_host_that_would_widen_the_list_is_refused(tmp_path: Path, value: str) -> None:
    done = init("--host", value, tmp_path / "env")
    assert done.returncode == 2 and f"'{value}'" in done.stderr
    assert not list(tmp_path.iterdir())


def test_git_leaves_the_file_alone() -> None:
    ignored = (INIT.parent.parent / ".gitignore").read_text().splitlines()
    assert "/docker/.env*" in ignored


def test_an_unknown_option_is_refused(tmp_path: Path) -> None:
    done = init("--hots", tmp_path / "env")
    assert done.returncode == 2 and "--hots" in done.stderr
