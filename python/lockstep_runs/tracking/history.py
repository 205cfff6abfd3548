"""What a tracker already has of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from lockstep_runs.tracking.rows import Row, is_compared


class HistoryChanged(Exception):
    """The run's past is no longer what the tracker shows. The message says from which step on."""


@dataclass
class History:
    """Each key's newest step and, of keys that are compared, all values by step.

    Rows go to a tracker in the order of their steps, so of a key it has every step up to the newest.
    """

    latest: dict[str, int] = field(default_factory=dict)
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    tolerance: float = 0.0  # relative difference up to which values are the same

    def missing(self, row: Row) -> dict[str, float]:
        """What of the row the tracker lacks. Raises HistoryChanged if it has something else."""
        for key, known in self.values.items():
            if key.startswith(row.group) and key not in row.values and row.step in known:
                raise HistoryChanged(f"step {row.step}: {key} was {known[row.step]!r} and is not there any more")
        absent = {}
        for key, value in row.values.items():
            if row.step > self.latest.get(key, -1):
                absent[key] = value
            elif is_compared(key):
                self._compare(key, row.step, value)
        return absent

    def add(self, step: int, values: dict[str, float]) -> None:
        for key, value in values.items():
            self.latest[key] = step
            if is_compared(key):
                self.values.setdefault(key, {})[step] = value

    def expect_no_more_than(self, last_steps: dict[str, int]) -> None:
        """Raises HistoryChanged if the tracker has later steps than these, by the groups of keys."""
        for key, latest in self.latest.items():
            group = key.split("/")[0] + "/"
            if latest > last_steps.get(group, 0):
                raise HistoryChanged(f"step {latest}: {key} is there, but the run has no such step any more")

    def _compare(self, key: str, step: int, value: float) -> None:
        before = self.values.get(key, {}).get(step)
        if before is None:
            raise HistoryChanged(f"step {step}: {key} is {value!r} and was not there")
        if not math.isclose(before, value, rel_tol=self.tolerance):
            raise HistoryChanged(f"step {step}: {key} was {before!r}, is {value!r}")


def history_of(points: Iterable[tuple[str, int, float]], tolerance: float) -> History:
    """Of points (key, step, value) in any order."""
    history = History(tolerance=tolerance)
    for key, step, value in points:
        history.latest[key] = max(step, history.latest.get(key, -1))
        if is_compared(key):
            history.values.setdefault(key, {})[step] = value
    return history
