"""Experiment and profile files: typed models, the cells they describe, and every fault of a file in one go.

Needs nothing heavier than pydantic, so that `sweep list` and the analysis package start fast. `_models` says what a file may hold,
`_cells` what it describes, `_files` finds and reads it, `_validation` and `_checks` tell its faults.
"""

from sweeps.spec._cells import Cell, Experiment, apply_rules, flatten, matches
from sweeps.spec._checks import race_faults
from sweeps.spec._files import find, load, load_profile, read
from sweeps.spec._models import (
    FLOPS,
    KEPT_METRICS,
    PEAK_MEMORY,
    RACING,
    Axis,
    PassKind,
    Profile,
    Range,
    Reference,
    Report,
    Resources,
    Search,
)
from sweeps.spec._names import experiment_names, natural_key, package_folder, profile_names, unknown

__all__ = [
    "FLOPS",
    "KEPT_METRICS",
    "PEAK_MEMORY",
    "RACING",
    "Axis",
    "Cell",
    "Experiment",
    "PassKind",
    "Profile",
    "Range",
    "Reference",
    "Report",
    "Resources",
    "Search",
    "apply_rules",
    "experiment_names",
    "find",
    "flatten",
    "load",
    "load_profile",
    "matches",
    "natural_key",
    "package_folder",
    "profile_names",
    "race_faults",
    "read",
    "unknown",
]
