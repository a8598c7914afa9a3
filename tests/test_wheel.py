"""The wheel, installed elsewhere and started in a folder whose own packages have our names."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel, installed into a folder of its own (its dependencies are those of this environment)."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "trainers", "sweeps", "analysis"):
        origin = ROOT / name
        copy = shutil.copytree if origin.is_dir() else shutil.copy
        copy(origin, source / name)
    wheels = tmp_path_factory.mktemp("wheels")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(wheels), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    target = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*install, str(next(wheels.glob("*.whl")))], check=True, capture_output=True)
    return target


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A user's folder that holds packages called like ours."""
    for name in ("analysis", "trainers", "sweeps"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the wrong package')\n")
    return tmp_path


def _run(site: Path, folder: Path, *arguments: str) -> str:
    # -P keeps the current folder off the path, as the installed `sweep` script does
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from sweeps.cli import main; sys.exit(main())"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, str(site), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_installed_wheel_lists_every_experiment(site, foreign):
    shipped = sorted(
        str(p.relative_to(ROOT / "sweeps/experiments").with_suffix(""))
        for p in (ROOT / "sweeps/experiments").rglob("*.toml")
    )
    assert len(shipped) >= 6
    listed = json.loads(_run(site, foreign, "list", "--json"))
    assert sorted(row["experiment"] for row in listed) == shipped


@pytest.mark.parametrize("profile", ["paper", "demo"])
def test_an_installed_wheel_checks_every_experiment(site, foreign, profile):
    assert "no fault" in _run(site, foreign, "check", "--profile", profile)


def test_the_wheel_carries_the_reports_page_and_the_mark_of_types(site):
    carried = {path.name for path in (site / "analysis" / "report").glob("page.*")}
    assert carried == {"page.html", "page.css", "page.js"}
    assert (site / "analysis" / "py.typed").is_file()


def test_the_wheel_carries_the_printed_values(site):
    carried = {path.name for path in (site / "analysis" / "reference").glob("*.csv")}
    assert carried == {path.name for path in (ROOT / "analysis" / "reference").glob("*.csv")}
    assert len(carried) >= 6
