"""metrics.jsonl as events: one dictionary a line, with its field `event`.

Numbers are Python floats and ints with the bits of the file; one that was not finite is None, and NaN
in a frame.
"""

from __future__ import annotations

import json
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from lockstep_runs.errors import RunError
from lockstep_runs.growing_file import Cut, GrowingFile, Line

if TYPE_CHECKING:
    import pandas

Event = dict[str, Any]


def parse_event(line: Line, path: pathlib.Path) -> Event:
    """Raises RunError naming the line if it is not an event."""
    try:
        event = json.loads(line.text)
    except ValueError as error:
        raise RunError(f"{path}: line {line.number}: expected a JSON object, found: {error}") from None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        raise RunError(f"{path}: line {line.number}: expected a JSON object with a field 'event'")
    return event


def read_events(path: str | os.PathLike[str]) -> Iterator[Event]:
    """All events that are in the file now, in its order. Raises RunError."""
    file = GrowingFile(path)
    if not file.path.exists():
        raise RunError(f"{path}: there is no such file; is this the output directory of a run?")
    while found := file.poll():
        for item in found:
            if isinstance(item, Cut):
                raise RunError(f"{path}: the run was resumed or went back while the file was read; read it again")
            yield parse_event(item, file.path)


def follow_events(
    path: str | os.PathLike[str], poll_seconds: float = 1.0, until: Callable[[], bool] = lambda: False
) -> Iterator[Event | Cut]:
    """All events, those to come too, until `until` is true and nothing new is there.

    A Cut says how many of the events given so far still hold, counted from the first: the run resumed
    or went back, and what follows takes the place of the others.
    """
    file = GrowingFile(path)
    while True:
        last = until()
        found = file.poll()
        for item in found:
            yield item if isinstance(item, Cut) else parse_event(item, file.path)
        if last and not found:
            return
        if not found:
            time.sleep(poll_seconds)


def layer_rows(events: Iterable[Event]) -> Iterator[dict[str, Any]]:
    """A row for each layer of each `layers` event, with its step and name."""
    for event in events:
        if event["event"] == "layers":
            for layer in event["layers"]:
                yield {"step": event["step"], **layer}


def frame(rows: Iterable[dict[str, Any]], index: str | list[str]) -> pandas.DataFrame:
    """Rows as a frame with this index; an empty one where there are none."""
    import pandas

    table = pandas.DataFrame.from_records(list(rows))
    table = table.drop(columns="event", errors="ignore")
    if table.empty:
        return pandas.DataFrame(index=pandas.Index([], name=index if isinstance(index, str) else None))
    return table.set_index(index)
