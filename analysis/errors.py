"""Exceptions of this package."""


class AnalysisError(Exception):
    """Root of every error that `analysis` raises on purpose.

    Attributes:
        faults: one message for each fault, each with value, place and remedy.
    """

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class StoreError(AnalysisError):
    """The MLflow store cannot be read, or does not hold what was asked for."""


class NeverSwept(StoreError):
    """The store has no plan of the experiment at this profile: nothing is wrong, nothing was started."""


class ReportError(AnalysisError):
    """An experiment that cannot be shown as its file says."""
