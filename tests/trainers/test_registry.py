"""The file name is the registry: what is found, and what an unknown name says."""

import sys
from pathlib import Path

import pytest

from trainers import registry
from trainers.errors import ConfigError
from trainers.methods import config_type, module, presets


def test_files_are_found_and_helpers_are_not() -> None:
    assert set(registry.names("methods")) >= {"ce", "kd", "cudfkd", "evaluate"}
    assert set(registry.names("data")) >= {"digits", "cifar10", "cifar100", "image_folder"}
    for package in ("methods", "data", "models"):
        folder = Path(str(sys.modules["trainers"].__file__)).parent / package
        files = {file.stem for file in folder.glob("*.py")}
        assert set(registry.names(package)) == {name for name in files if not name.startswith("_")}


@pytest.mark.parametrize(
    ("package", "name", "message"),
    [
        ("methods", "cudfdk", "unknown method 'cudfdk'; did you mean 'cudfkd'? known: "),
        ("methods", "zzz", "unknown method 'zzz'; known: "),
        ("data", "cifar", "unknown data set 'cifar'"),
        ("methods", "_losses", "unknown method '_losses'"),
    ],
)
def test_unknown_name_says_what_is_known(package: str, name: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        registry.load(package, name)
    assert str(caught.value).startswith(message)
    assert all(known in str(caught.value) for known in registry.names(package))


def test_dotted_name_is_the_users_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_pkg").mkdir()
    (tmp_path / "mine_pkg" / "__init__.py").touch()
    (tmp_path / "mine_pkg" / "method.py").write_text(
        "from trainers.methods.ce import *\nfrom trainers.methods.ce import Config, Method\n"
    )
    (tmp_path / "mine_pkg" / "nothing.py").write_text("KIND = 'distill'\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert module("mine_pkg.method").KIND == "distill"
    assert config_type("mine_pkg.method")().active() == {}
    assert presets("mine_pkg.method") == {}
    with pytest.raises(
        ConfigError, match=r"'mine_pkg.nothing' is not a method: it lacks VERSION, NEEDS_TEACHER, Config"
    ):
        module("mine_pkg.nothing")
    with pytest.raises(ConfigError, match=r"cannot import module 'mine_pkg.absent'"):
        module("mine_pkg.absent")
