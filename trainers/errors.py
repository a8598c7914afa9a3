"""Exceptions of this package: one root, one child for each party that has to act."""


class TrainerError(Exception):
    """Root of every error that `trainers` raises on purpose."""


class ConfigError(TrainerError):
    """A trial that cannot be run as written; the author of the experiment has to act.

    Attributes:
        faults: one message for each fault, each complete in itself.
    """

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class DataError(TrainerError):
    """Images are missing, unreadable or not in the expected layout."""


class TrialError(TrainerError):
    """The trial itself is at fault (a loss that is not finite, a corrupt checkpoint): running it again would not help."""


class Fenced(TrainerError):
    """Another worker has taken the trial over: nothing this worker writes counts any more."""
