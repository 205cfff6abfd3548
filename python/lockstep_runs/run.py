"""One run: the files of its output directory, described in docs/operations.md."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from lockstep_runs.checkpoints import Checkpoint, list_checkpoints
from lockstep_runs.config import read_config
from lockstep_runs.errors import CheckpointError, RunError
from lockstep_runs.growing_file import Cut
from lockstep_runs.ledger import LedgerRecord, read_ledger
from lockstep_runs.metrics import Event, follow_events, frame, layer_rows, read_events

if TYPE_CHECKING:
    import pandas


class Run:
    """Reads OUTPUT of a run, during the run and after it; never writes there."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = pathlib.Path(path)
        if not self.path.is_dir():
            raise RunError(f"{path}: expected the output directory of a run, found no directory")

    # Metrics

    def events(self, *kinds: str) -> Iterator[Event]:
        """Lines of metrics.jsonl; of these kinds ("step", "validation", ...), or all."""
        found = read_events(self.path / "metrics.jsonl")
        return (event for event in found if not kinds or event["event"] in kinds)

    def steps(self) -> Iterator[Event]:
        return self.events("step")

    def validations(self) -> Iterator[Event]:
        return self.events("validation")

    def layers(self) -> Iterator[dict[str, Any]]:
        """A row for each layer of each `layers` line."""
        return layer_rows(self.events("layers"))

    def follow(
        self, poll_seconds: float = 1.0, until: Callable[[], bool] = lambda: False
    ) -> Iterator[Event | Cut]:
        """Events as they come; a Cut where the run resumed or went back (see follow_events)."""
        return follow_events(self.path / "metrics.jsonl", poll_seconds, until)

    def steps_frame(self) -> pandas.DataFrame:
        """Columns as the fields of a `step` line, index `step`."""
        return frame(self.steps(), "step")

    def validations_frame(self) -> pandas.DataFrame:
        return frame(self.validations(), "step")

    def layers_frame(self) -> pandas.DataFrame:
        """Index (step, name)."""
        return frame(self.layers(), ["step", "name"])

    # Ledger

    def ledger(self) -> Iterator[LedgerRecord]:
        """Verified records. Raises LedgerError where the chain is broken."""
        return read_ledger(self.path / "ledger.jsonl")

    def ledger_frame(self) -> pandas.DataFrame:
        return frame((record.fields for record in self.ledger()), "step")

    # Checkpoints

    def checkpoints(self) -> list[Checkpoint]:
        """Oldest first."""
        return list_checkpoints(self.path / "checkpoints")

    def latest_checkpoint(self) -> Checkpoint:
        found = self.checkpoints()
        if not found:
            raise CheckpointError(f"{self.path / 'checkpoints'}: there is no checkpoint yet")
        return found[-1]

    def checkpoints_frame(self) -> pandas.DataFrame:
        rows = (
            {
                "step": checkpoint.step,
                "healthy": checkpoint.healthy,
                "world_size": checkpoint.manifest["world_size"],
                "bytes": sum(file["bytes"] for file in checkpoint.manifest["files"]),
                "path": str(checkpoint.path),
            }
            for checkpoint in self.checkpoints()
        )
        return frame(rows, "step")

    # The rest

    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        return read_config(self.path / "config.yaml")

    def exit_records(self) -> list[dict[str, Any]]:
        """How each rank's last attempt ended, by rank; empty while none has ended."""
        return [json.loads(path.read_text()) for path in sorted(self.path.glob("exit/rank-*.json"))]
