"""The runs of a coordinator, through the `lockstep` command.

The command knows addresses, tokens, TLS and how to come back when the coordinator was away; what it
prints with `-o jsonl` is the proto JSON of coordinator/proto, a line each. Here 64-bit numbers are ints
and not the texts that proto JSON makes of them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lockstep_runs.errors import CoordinatorError

if TYPE_CHECKING:
    import pandas

Resource = dict[str, Any]

_UNREACHABLE = 6
# int64 fields of the messages that are read here.
_COUNTS = frozenset(
    ("bytes", "checkpointAnswer", "checkpointRequest", "checkpointStep", "eventSequence", "fence", "pid")
    + ("runSequence", "sequence", "step", "totalSteps")
)


class Coordinator:
    """Reads; to submit, pause or cancel there are the commands of docs/job_control.md.

    Without an address it is LOCKSTEP_ADDRESS or this user's socket, as for the command. Every method
    raises CoordinatorError with the command's message and exit code.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        token_file: str | os.PathLike[str] | None = None,
        ca: str | os.PathLike[str] | None = None,
        command: str | os.PathLike[str] | None = None,
    ):
        found = command or os.environ.get("LOCKSTEP_BINARY") or shutil.which("lockstep")
        if not found:
            raise CoordinatorError(
                "there is no command lockstep in PATH; give its path as Coordinator(command=...)", _UNREACHABLE
            )
        self._command = os.fspath(found)
        self._options: list[str] = []
        for option, value in (("--address", address), ("--token-file", token_file), ("--ca", ca)):
            if value is not None:
                self._options += [option, os.fspath(value)]

    def runs(
        self, *, states: list[str] | None = None, labels: dict[str, str] | None = None, filter: str | None = None
    ) -> Iterator[Resource]:
        """Newest first."""
        options = [part for state in states or [] for part in ("--state", state)]
        options += [part for key, value in (labels or {}).items() for part in ("--label", f"{key}={value}")]
        if filter is not None:
            options += ["--filter", filter]
        return self._resources("runs", "list", *options)

    def run(self, run: str) -> Resource:
        """By id, name, or the beginning of an id."""
        return next(self._resources("runs", "show", run))

    def events(self, run: str) -> Iterator[Resource]:
        """What happened to it, oldest first."""
        return self._resources("runs", "events", run)

    def checkpoints(self, run: str) -> Iterator[Resource]:
        return self._resources("runs", "checkpoints", run)

    def hosts(self) -> Iterator[Resource]:
        return self._resources("hosts", "list")

    def metrics(self, run: str, *, follow: bool = False) -> Iterator[dict[str, Any]]:
        """Events of its metrics.jsonl; with `follow` until it has ended, whatever its verdict."""
        options = ["--follow"] if follow else []
        for line in self._lines("metrics", run, "--jsonl", *options, verdict=follow):
            yield json.loads(line)

    def logs(self, run: str, *, follow: bool = False) -> Iterator[str]:
        """What its ranks wrote, line by line."""
        options = ["--follow"] if follow else []
        yield from self._lines("logs", run, *options, verdict=follow)

    def runs_frame(self, **selection: Any) -> pandas.DataFrame:
        """Index `uid`; what is nested has names like `progress.loss`, times are timestamps."""
        return self._frame(self.runs(**selection), "uid")

    def events_frame(self, run: str) -> pandas.DataFrame:
        return self._frame(self.events(run), "sequence")

    def _frame(self, rows: Iterator[Resource], index: str) -> pandas.DataFrame:
        import pandas

        table = pandas.json_normalize(list(rows))
        for column in table.columns:
            if column.split(".")[-1] == "time" or column.endswith("Time"):
                table[column] = pandas.to_datetime(table[column], format="ISO8601", utc=True)
        return table if table.empty else table.set_index(index)

    def _resources(self, *arguments: str) -> Iterator[Resource]:
        for line in self._lines(*arguments, "-o", "jsonl"):
            yield _with_ints(json.loads(line))

    def _lines(self, *arguments: str, verdict: bool = False) -> Iterator[str]:
        """Lines of the command's output. With `verdict` its exit codes 1 and 3 tell of the run."""
        command = [self._command, *arguments, *self._options]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace"
        ) as process:
            assert process.stdout is not None and process.stderr is not None
            try:
                for line in process.stdout:
                    if line.strip():
                        yield line.rstrip("\n")
            except GeneratorExit:
                process.terminate()
                raise
            message = process.stderr.read().strip()
        code = process.returncode
        if code != 0 and not (verdict and code in (1, 3)):
            raise CoordinatorError(message or f"{' '.join(command)}: exit code {code}", code)


def _with_ints(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: int(part) if key in _COUNTS and isinstance(part, str) else _with_ints(part)
            for key, part in value.items()
        }
    return [_with_ints(part) for part in value] if isinstance(value, list) else value
