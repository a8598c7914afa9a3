"""Places: found by searching upward, changed by the environment, shown without passwords."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeps import settings


def test_home_is_the_nearest_folder_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".sweeps").mkdir()
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert settings.find_home() == tmp_path / ".sweeps"
    (tmp_path / "a" / ".sweeps").mkdir()
    assert settings.find_home() == tmp_path / "a" / ".sweeps"


def test_without_a_home_one_is_meant_here_but_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert settings.load({}).home == tmp_path / ".sweeps"
    assert list(tmp_path.iterdir()) == []


def test_a_file_called_like_the_home_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / ".sweeps").mkdir()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".sweeps").write_text("")
    assert settings.find_home(tmp_path / "a") == tmp_path / ".sweeps"


def test_defaults_lie_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found, home = settings.load({}), tmp_path / ".sweeps"
    assert found.state == home / "state"
    assert found.data == home / "data"
    assert found.artifacts == home / "artifacts"
    assert found.tracking_uri == f"sqlite:///{home}/mlflow.db"
    assert found.study_url is None
    assert found.ray_address is None


def test_environment_wins_and_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    environment = {
        "SWEEPS_STATE": "runs",
        "SWEEPS_DATA": "/images",
        "SWEEPS_STUDY_URL": "sqlite:///studies.db",
        "MLFLOW_TRACKING_URI": "http://tracking:5000",
        "RAY_ADDRESS": "ray-head:6379",
    }
    found = settings.load(environment)
    assert found.state == tmp_path / "runs"
    assert found.data == Path("/images")
    assert found.study_url == "sqlite:///studies.db"
    assert found.tracking_uri == "http://tracking:5000"
    assert found.ray_address == "ray-head:6379"


def test_empty_variables_count_as_unset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = ("SWEEPS_STATE", "SWEEPS_DATA", "SWEEPS_STUDY_URL", "MLFLOW_TRACKING_URI", "RAY_ADDRESS")
    assert settings.load(dict.fromkeys(names, "")) == settings.load({})


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("http://tracking:5000", "http://tracking:5000"),
        ("https://user:s3cret@tracking:5000/x", "https://user:***@tracking:5000/x"),
        ("postgresql+psycopg2://me:p%40ss@db/studies", "postgresql+psycopg2://me:***@db/studies"),
        ("postgresql://:s3cret@db/studies", "postgresql://:***@db/studies"),
        ("mysql+my_driver://user:s3cret@db/studies", "mysql+my_driver://user:***@db/studies"),
        ("postgresql://user:s3@cret@db/studies", "postgresql://user:***@db/studies"),
    ],
)
def test_passwords_are_not_shown(url: str, expected: str) -> None:
    assert settings.shown(url) == expected
