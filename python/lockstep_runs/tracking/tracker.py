"""Brings a run's metrics into a tracker: every step once, whatever is killed.

Nothing is remembered here about how far it got: the tracker itself is asked. After a connection was
lost, after a start, and when the run cut its metrics back, the file is read again from its beginning
and held against what the tracker has; only what that lacks is sent. A run that computes steps again
with the same result therefore shows nothing new, and one whose past has changed gets a new entry with
all of its history, since trackers cannot take back a value.
"""

from __future__ import annotations

import functools
import pathlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from lockstep_runs.errors import RunError
from lockstep_runs.growing_file import Cut, GrowingFile, Line
from lockstep_runs.metrics import parse_event
from lockstep_runs.tracking.history import History, HistoryChanged
from lockstep_runs.tracking.rows import row_of
from lockstep_runs.tracking.run_end import run_status
from lockstep_runs.tracking.sink import Point, RunFacts, Sink, Stopped, Unreachable

_POINTS_AT_ONCE = 5000


@dataclass(frozen=True)
class Pace:
    poll_seconds: float = 2.0
    once: bool = False  # send what is there and end
    linger_seconds: float = 60.0  # how long a run that ended otherwise than done may take to resume
    patience_seconds: float = 600.0  # how long the tracker may be away
    stopped: Callable[[], bool] = lambda: False

    def go_on(self) -> None:
        """Raises Stopped if that is wanted."""
        if self.stopped():
            raise Stopped


class Tracker:
    def __init__(self, output: pathlib.Path, sink: Sink, facts: RunFacts, pace: Pace):
        self._path = output / "metrics.jsonl"
        self._output = output
        self._sink = sink
        self._facts = facts
        self._pace = pace
        self._history = History()
        self._begin()

    def run(self) -> str:
        """Until the run has ended; returns how. Raises Unreachable when patience is over, Refused, Stopped."""
        self._patiently(self._open)
        ended_since: float | None = None
        while True:
            self._pace.go_on()
            status = run_status(self._output)  # before reading: what is read then is all
            news = self._patiently(self._pass)
            now = time.monotonic()
            ended_since = None if news or status == "RUNNING" else ended_since or now
            if not news and self._is_over(status, ended_since, now):
                self._patiently(functools.partial(self._finish, status))
                return status
            if not news:
                time.sleep(self._pace.poll_seconds)

    def _is_over(self, status: str, ended_since: float | None, now: float) -> bool:
        if self._pace.once or status == "FINISHED":
            return True
        return ended_since is not None and now - ended_since >= self._pace.linger_seconds

    def _begin(self) -> None:
        """Back to the beginning of the file."""
        self._file = GrowingFile(self._path)
        self._seconds = 0.0
        self._last_steps: dict[str, int] = {}  # by group of keys

    def _open(self) -> bool:
        self._begin()
        self._history = self._sink.open(self._facts)
        return False

    def _pass_all(self) -> None:
        while self._pass():
            pass

    def _pass(self) -> bool:
        """Sends what is new. Returns whether there was anything."""
        items = self._file.poll()
        if any(isinstance(item, Cut) for item in items):
            self._begin()
            return True
        try:
            self._send([item for item in items if isinstance(item, Line)])
        except HistoryChanged as change:
            self._start_anew(change)
        return bool(items)

    def _send(self, lines: list[Line]) -> None:
        points: list[Point] = []
        for line in lines:
            event = parse_event(line, self._path)
            row = row_of(event, line.number)
            if row is None:
                continue
            if event["event"] == "step":
                self._seconds += event["step_seconds"] or 0.0
            self._last_steps[row.group] = row.step
            missing = self._history.missing(row)
            points += [Point(key, value, row.step, self._seconds) for key, value in missing.items()]
            self._history.add(row.step, missing)
            if len(points) >= _POINTS_AT_ONCE:
                self._sink.send(points)
                points = []
        if points:
            self._sink.send(points)

    def _start_anew(self, change: HistoryChanged) -> None:
        print(f"track: the run's past has changed ({change}): a new entry gets all of it", file=sys.stderr)
        self._sink.supersede(str(change))
        self._open()

    def _finish(self, status: str) -> bool:
        self._pass_all()
        try:
            if status == "FINISHED":  # another one may still come to those steps again
                self._history.expect_no_more_than(self._last_steps)
        except HistoryChanged as change:
            self._start_anew(change)
            self._pass_all()
        self._sink.finish(status)
        return False

    def _patiently(self, action: Callable[[], bool]) -> bool:
        """Tries again from the beginning of the file while the tracker is away."""
        deadline, pause, away = time.monotonic() + self._pace.patience_seconds, 0.2, False
        while True:
            try:
                if away:
                    self._open()
                return action()
            except Unreachable as error:
                if time.monotonic() > deadline:
                    raise
                print(f"track: {error}; trying again", file=sys.stderr)
                away = True
                self._pace.go_on()
                time.sleep(pause)
                pause = min(2 * pause, 10.0)


def wait_for_metrics(output: pathlib.Path, pace: Pace) -> None:
    """Until the run has begun its metrics. Raises RunError if that is not waited for."""
    path = output / "metrics.jsonl"
    while not path.exists() or not path.stat().st_size:
        if pace.once:
            raise RunError(f"{path}: the run has not begun; without --once it is waited for")
        pace.go_on()
        time.sleep(pace.poll_seconds)
