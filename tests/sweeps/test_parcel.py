"""What a submitted sweep takes along, and how it starts on the cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sweeps import parcel
from sweeps.errors import SetupError
from trainers import provenance, registry

METHOD = 'method = { module = "my_pkg.my_method" }'


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_the_three_packages_go_whole_and_nothing_else_does(tmp_path: Path) -> None:
    parcel.pack(tmp_path, [], [])
    found = files_in(tmp_path)
    assert {Path(name).parts[0] for name in found} == {"trainers", "sweeps", "analysis", "code.json"}
    for name in ("trainers/methods/kd.py", "sweeps/experiments/cudfkd/fig8.toml", "analysis/report/page.css"):
        assert name in found
    assert len([name for name in found if name.endswith(".csv")]) >= 10  # printed values
    assert not [name for name in found if "__pycache__" in name or "/." in name]
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 5_000_000


def test_files_of_the_user_s_keep_their_names_apart(tmp_path: Path) -> None:
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "grid.toml").write_text(f"# {folder}")
        paths.append(str(tmp_path / folder / "grid.toml"))
    names = parcel.pack(tmp_path / "parcel", [*paths, paths[0]], [])
    assert names == {paths[0]: "given/0/grid.toml", paths[1]: "given/1/grid.toml"}
    assert (tmp_path / "parcel" / names[paths[1]]).read_text() == "# b"


def test_modules_that_a_file_names_go_with_what_was_loaded_from_beside_them(tmp_path: Path, user_modules: Path) -> None:
    (user_modules.parent / "my_helpers.py").write_text("GAIN = 2\n")
    (user_modules.parent / "never_loaded.py").write_text("")
    (user_modules / "my_method.py").write_text("import my_helpers\n" + (user_modules / "my_method.py").read_text())
    (user_modules / ".env").write_text("PASSWORD=hunter2")
    registry.load("methods", "my_pkg.my_method")
    try:
        assert "my_pkg.my_method" in registry.own_modules()
        parcel.pack(tmp_path / "parcel", [], ["my_pkg.my_method"])
    finally:
        sys.modules.pop("my_helpers", None)
    found = files_in(tmp_path / "parcel" / "modules")
    assert found == {
        "my_helpers.py", "my_pkg/__init__.py", "my_pkg/my_method.py", "my_pkg/my_network.py", "my_pkg/my_data.py",
        "my_pkg/no_method.py", "my_pkg/broken.py",
    }  # fmt: skip


def test_what_is_installed_stays_where_it_is(tmp_path: Path) -> None:
    parcel.pack(tmp_path, [], ["numpy.linalg", "json.decoder", "sweeps.spec"])
    assert not (tmp_path / "modules").exists()


def test_a_link_out_of_a_package_and_too_large_a_package_are_refused(
    tmp_path: Path, user_modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.load("methods", "my_pkg.my_method")
    (tmp_path / "secret").write_text("hunter2")
    (user_modules / "notes.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(SetupError, match=r"notes\.txt is a link that leads out of"):
        parcel.pack(tmp_path / "one", [], ["my_pkg.my_method"])
    (user_modules / "notes.txt").unlink()
    monkeypatch.setattr(parcel, "MOST_MIB", 1)
    (user_modules / "images.bin").write_bytes(bytes(3 * 2**20))
    with pytest.raises(SetupError, match=r"hold 3 MiB, allowed are 1; the largest file is my_pkg/images\.bin"):
        parcel.pack(tmp_path / "two", [], ["my_pkg.my_method"])


def test_the_sender_s_commit_and_changes_are_those_of_the_sent_code(tmp_path: Path) -> None:
    parcel.pack(tmp_path, [], [])
    sent = json.loads((tmp_path / "code.json").read_text())
    assert sent == {"commit": provenance.commit(), "patch": provenance.patch()}
    (tmp_path / "code.json").write_text(json.dumps({"commit": "c0ffee+dirty", "patch": "diff"}))
    code = "from trainers import provenance as p; print(p.__file__, p.commit(), p.patch())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)}, text=True,
        capture_output=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [str(tmp_path / "trainers" / "provenance.py"), "c0ffee+dirty", "diff"]


def started(parcel_folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the job's entrypoint as Ray does: in the unpacked parcel, which is first on Python's path."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SWEEPS_", "MLFLOW_", "RAY_"))}
    return subprocess.run(
        [sys.executable, "-m", "sweeps.parcel", *words], cwd=parcel_folder, text=True, capture_output=True,
        env={**clean, "PYTHONPATH": str(parcel_folder), **environment},
    )  # fmt: skip


def test_it_starts_beside_the_cluster_s_state_root_with_the_user_s_files_and_modules(
    tmp_path: Path, user_modules: Path, place: Any, grid_text: str
) -> None:
    place.write(grid_text.replace('method = "kd"', METHOD).replace("ce_weight = 0.25", "").replace("hparams.temperature", "hparams.gain"))  # fmt: skip
    registry.load("methods", "my_pkg.my_method")
    names = parcel.pack(tmp_path / "parcel", ["grid.toml"], ["my_pkg.my_method"])
    done = started(
        tmp_path / "parcel", "plan", names["grid.toml"], "--json", SWEEPS_STATE=str(tmp_path / "shared" / "state")
    )
    assert done.returncode == 0, done.stderr
    (plan,) = json.loads(done.stdout)["plans"]
    assert plan["experiment"] == "tiny/grid"
    assert {trial["method"] for trial in map(dict, plan.get("trials", {}).values())} <= {"ce", "my_pkg.my_method"}
    assert (tmp_path / "shared").is_dir()


def test_without_a_state_root_on_the_cluster_nothing_starts(tmp_path: Path) -> None:
    parcel.pack(tmp_path, [], [])
    done = started(tmp_path, "run", "cudfkd/fig8", "--profile", "demo")
    assert done.returncode == 2
    assert done.stderr.startswith("error: SWEEPS_STATE is not set on the cluster's head")
    assert "Traceback" not in done.stderr
