"""Exceptions of this package."""


class SweepError(Exception):
    """Root of every error that `sweeps` raises on purpose.

    Attributes:
        faults: one message for each fault, each with value, place and remedy.
    """

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class SpecError(SweepError):
    """An experiment or profile file that cannot be used as written; all its faults at once."""


class SetupError(SweepError):
    """The place is not fit to run: state root, tracking store, cluster or data; nothing was started."""
