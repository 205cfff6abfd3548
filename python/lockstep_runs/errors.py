"""What this package raises. Messages say what was expected, what was found, and where."""


class RunError(Exception):
    """A file of a run is missing, or is not what it should be."""


class LedgerError(RunError):
    """The ledger's hash chain is broken, or a line of it is not a record."""


class CheckpointError(RunError):
    """A checkpoint is torn or altered, or lacks what was asked for."""


class CoordinatorError(Exception):
    """The coordinator cannot be reached, or refused. `code` is the exit code of job-control commands."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code
