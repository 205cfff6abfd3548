"""Reads the runs of Lockstep: metrics, layers, ledger, checkpoints, and what a coordinator knows."""

from lockstep_runs.checkpoints import Checkpoint
from lockstep_runs.coordinator import Coordinator
from lockstep_runs.errors import CheckpointError, CoordinatorError, LedgerError, RunError
from lockstep_runs.growing_file import Cut
from lockstep_runs.ledger import LedgerRecord
from lockstep_runs.metrics import Event
from lockstep_runs.run import Run

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "Coordinator",
    "CoordinatorError",
    "Cut",
    "Event",
    "LedgerError",
    "LedgerRecord",
    "Run",
    "RunError",
]
__version__ = "0.1.0"
