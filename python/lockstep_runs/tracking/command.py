"""The command scripts/track."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pathlib
import signal
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from lockstep_runs.errors import RunError
from lockstep_runs.metrics import Event, read_events
from lockstep_runs.run import Run
from lockstep_runs.tracking.mlflow import MlflowSink
from lockstep_runs.tracking.sink import Misused, Refused, RunFacts, Sink, Stopped, Unreachable
from lockstep_runs.tracking.tracker import Pace, Tracker, wait_for_metrics
from lockstep_runs.tracking.wandb_files import WandbSink

# As the exit codes of job-control commands and of training.
_USAGE, _DATA, _REFUSED, _UNREACHABLE, _STOPPED = 2, 3, 5, 6, 7


class _Signals:
    """SIGTERM and Ctrl-C raise Stopped. Where Python drops that (in a callback, a destructor) `came` still says so."""

    def __init__(self) -> None:
        self.came = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.came = True
        raise Stopped


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    output = pathlib.Path(options.run).resolve()
    signals = _Signals()
    try:
        if not output.is_dir():
            raise Misused(f"{options.run}: expected the output directory of a run, found no directory")
        pace = Pace(options.poll, options.once, options.linger, options.patience, lambda: signals.came)
        wait_for_metrics(output, pace)
        with _identity(output / "track", options.to) as track_id:
            return _track(output, options, pace, track_id)
    except Stopped:
        print("track: stopped; the same command goes on from here", file=sys.stderr)
        return _STOPPED
    except (Misused, RunError, Refused, Unreachable) as error:
        print(f"track: {error}", file=sys.stderr)
        codes = {Misused: _USAGE, Unreachable: _UNREACHABLE, RunError: _DATA}
        return next((code for kind, code in codes.items() if isinstance(error, kind)), _REFUSED)


def _track(output: pathlib.Path, options: argparse.Namespace, pace: Pace, track_id: str) -> int:
    sink = _sink(output, options)
    facts = _facts(output, options.name, track_id)
    try:
        status = Tracker(output, sink, facts, pace).run()
    except Stopped:
        sink.finish("RUNNING")
        raise
    print(f"track: all is sent; the run: {status.lower()}", file=sys.stderr)
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="track",
        description="Follows metrics.jsonl of a run and shows it in a tracker: each step once, whatever is killed. "
        "The same command goes on after a stop. Exit codes: 0 all is sent; 2 usage; 3 the run's files cannot be "
        "read; 5 the tracker refuses; 6 it cannot be reached; 7 stopped.",
    )
    parser.add_argument("--to", required=True, choices=("mlflow", "wandb"), help="wandb: its offline files, RUN/track/wandb")
    parser.add_argument("run", metavar="RUN", help="output directory of the run (run.output)")
    parser.add_argument("--uri", help="of the MLflow server, default MLFLOW_TRACKING_URI")
    parser.add_argument("--experiment", help="or W&B project; default MLFLOW_EXPERIMENT_NAME, else lockstep")
    parser.add_argument("--name", help="of the run in the tracker; default run.name")
    parser.add_argument("--once", action="store_true", help="send what is there and end")
    parser.add_argument(
        "--tolerance", type=float, default=0.0, metavar="R",
        help="relative difference up to which a step computed again is the same (0)",
    )  # fmt: skip
    for option, default, meaning in (
        ("--poll", 2.0, "between two looks at the file"),
        ("--linger", 60.0, "to wait for a run that failed or was stopped to resume"),
        ("--patience", 600.0, "to try while the tracker cannot be reached"),
    ):
        parser.add_argument(option, type=float, default=default, metavar="SECONDS", help=f"{meaning} ({default:g})")
    return parser.parse_args(arguments)


def _sink(output: pathlib.Path, options: argparse.Namespace) -> Sink:
    experiment = options.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "lockstep"
    if options.to == "wandb":
        return WandbSink(output / "track", experiment, options.tolerance)
    uri = options.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        raise Misused("--to mlflow needs --uri or MLFLOW_TRACKING_URI, e.g. http://127.0.0.1:5000")
    return MlflowSink(uri, experiment, options.tolerance)


def _facts(output: pathlib.Path, name: str | None, track_id: str) -> RunFacts:
    try:
        config = Run(output).config()
    except ImportError:
        print("track: without the package PyYAML the configuration is not shown", file=sys.stderr)
        config = {}
    first = next(read_events(output / "metrics.jsonl"), {"event": ""})
    return RunFacts(track_id, name or first.get("name") or output.name, dict(_flat(config)), _tags(output, first))


def _tags(output: pathlib.Path, first: Event) -> dict[str, str]:
    """Of the `run` line, with which metrics.jsonl begins."""
    names = ("version", "compiler", "hosts", "ranks", "threads", "device", "comm", "config_fingerprint")
    found = {f"lockstep.{name}": _text(first[name]) for name in names if name in first}
    return {"lockstep.output": str(output), **found}


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _flat(part, f"{path}.{key}" if path else str(key))
    else:
        yield path, _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


@contextmanager
def _identity(directory: pathlib.Path, tracker: str) -> Iterator[str]:
    """The id of the run's entry, made before anything else; held, so that there is one tracker."""
    directory.mkdir(exist_ok=True)
    path = directory / f"{tracker}.json"
    with open(directory / f"{tracker}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Misused(f"{directory}: another process follows this run with --to {tracker}") from None
        if not path.exists():
            _write(path, json.dumps({"version": 1, "id": uuid.uuid4().hex[:16]}) + "\n")
        yield str(json.loads(path.read_text())["id"])


def _write(path: pathlib.Path, text: str) -> None:
    """Whole or not at all."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
