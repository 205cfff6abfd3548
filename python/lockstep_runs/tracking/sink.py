"""What a tracker must be able to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from lockstep_runs.tracking.history import History


class Unreachable(Exception):
    """No answer, or one that says to come again: whether a request was carried out is not known."""


class Refused(Exception):
    """The tracker's answer will not change by asking again."""


class Stopped(Exception):
    """By SIGTERM or Ctrl-C."""


class Misused(Exception):
    """The command was not given what it needs, or is not where it can run."""


@dataclass(frozen=True)
class Point:
    key: str
    value: float
    step: int
    seconds: float  # of training until the end of the step: the same whenever it is sent


@dataclass(frozen=True)
class RunFacts:
    """What a run's entry in the tracker says beside its metrics."""

    id: str  # of this run's entry, made once and kept beside it
    name: str
    config: dict[str, str]  # by dotted key
    tags: dict[str, str]


class Sink(Protocol):
    """Each method may raise Unreachable, after which `open` tells what has arrived, or Refused."""

    def open(self, facts: RunFacts) -> History:
        """Finds or makes the run's entry, and says what it has."""

    def send(self, points: list[Point]) -> None:
        """Steps ascend from point to point and from call to call."""

    def supersede(self, reason: str) -> None:
        """The entry is of a past that the run has left; the next `open` makes one that is empty."""

    def finish(self, status: str) -> None:
        """FINISHED, FAILED, KILLED; or RUNNING: the run goes on without the tracker."""
