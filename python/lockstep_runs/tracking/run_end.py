"""How a run ended, told from its output directory."""

from __future__ import annotations

import json
import os
import pathlib
import socket
from typing import Any

_DONE, _STOPPED = 0, 7  # exit codes of docs/operations.md


def run_status(output: pathlib.Path) -> str:
    """FINISHED, KILLED (stopped on request), FAILED, or RUNNING, which includes that nobody knows.

    An attempt that was killed leaves no exit record; it is known to have ended if it ran on this host.
    """
    lock, end = _read(output / "lock"), _read(output / "exit/rank-0000.json")
    if lock is None or end is None:
        return "RUNNING"
    if end and end["attempt"] >= lock.get("attempt", 0):
        return {_DONE: "FINISHED", _STOPPED: "KILLED"}.get(end["exit_code"], "FAILED")
    if lock and lock["host"] == socket.gethostname() and not _is_alive(lock["pid"]):
        return "FAILED"
    return "RUNNING"


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    """Empty if it is not there; None while it is being written."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
