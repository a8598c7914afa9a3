"""Where things are: environment variables with defaults found by searching upward for a `.sweeps` folder."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

HOME = ".sweeps"


@dataclass(frozen=True)
class Settings:
    """Resolved places; workers get these absolute values, never the environment's.

    Attributes:
        home: the `.sweeps` folder that defaults live in.
        state: state root, one directory for each trial digest.
        data: root of downloaded data sets and image folders.
        tracking_uri: MLflow's store or server.
        study_url: Optuna's storage as an SQLAlchemy URL; None means a journal file in the state root.
        ray_address: cluster to join; None starts Ray on this machine.
    """

    home: Path
    state: Path
    data: Path
    tracking_uri: str
    study_url: str | None
    ray_address: str | None

    @property
    def artifacts(self) -> Path:
        """Where MLflow keeps artifacts when its store is a database on this machine."""
        return self.home / "artifacts"


def find_home(start: Path | None = None) -> Path:
    """The nearest `.sweeps` at or above `start` (default: the current folder), else one to be made in `start`."""
    here = (start or Path.cwd()).resolve()
    return next((folder / HOME for folder in (here, *here.parents) if (folder / HOME).is_dir()), here / HOME)


def load(environment: dict[str, str] | None = None) -> Settings:
    """Settings from the environment (`SWEEPS_STATE`, `SWEEPS_DATA`, `SWEEPS_STUDY_URL`, `MLFLOW_TRACKING_URI`, `RAY_ADDRESS`)."""
    env = dict(os.environ) if environment is None else environment
    home = find_home()
    return Settings(
        home=home,
        state=Path(env.get("SWEEPS_STATE") or home / "state").absolute(),
        data=Path(env.get("SWEEPS_DATA") or home / "data").absolute(),
        tracking_uri=env.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow.db'}",
        study_url=env.get("SWEEPS_STUDY_URL") or None,
        ray_address=env.get("RAY_ADDRESS") or None,
    )


LOGIN = re.compile(r"(://[^/:@]*):(.*)@")
"""User and password of a URL, also of one that is not quite valid, so that no fault in it shows its password."""


def shown(url: str) -> str:
    """A URL without its password, fit for logs and messages."""
    return LOGIN.sub(r"\1:***@", url)
