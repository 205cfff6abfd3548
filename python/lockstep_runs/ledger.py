"""ledger.jsonl: what was decided in each step and from what, as a chain of hashes.

    hash_k = XXH3-64(text of record k without its hash, seed = hash_(k-1)),   hash_0 = 0
"""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lockstep_runs.errors import LedgerError
from lockstep_runs.hashing import xxh3_64

VERSION = 1
_HASH_KEY = b',"hash":"'


@dataclass(frozen=True)
class LedgerRecord:
    step: int
    outcome: str  # "applied", "overflow", "diverged", "spike", "no_tokens", "left_out"
    hash: int  # of this record and all before it
    fields: dict[str, Any]  # all of the line, in its order


def read_ledger(path: str | os.PathLike[str]) -> Iterator[LedgerRecord]:
    """The records, each after the chain up to it has been verified.

    A last line without an end was torn by a kill and is left out. Raises LedgerError naming the line
    that was altered, or is none.
    """
    path = pathlib.Path(path)
    previous = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    return
                record = _parse(path, number, line[:-1], previous)
                previous = record.hash
                yield record
    except OSError as error:
        raise LedgerError(f"ledger {path}: cannot be read: {error.strerror}") from None


def _parse(path: pathlib.Path, number: int, line: bytes, previous: int) -> LedgerRecord:
    at = line.rfind(_HASH_KEY)
    try:
        fields = json.loads(line)
        step, found = fields["step"], int(fields["hash"], 16)
        version, outcome = fields["version"], fields["outcome"]
    except (ValueError, KeyError, TypeError):
        raise LedgerError(f"ledger {path}: line {number} is not a ledger record") from None
    if version != VERSION:
        raise LedgerError(f"ledger {path}: line {number}: expected version {VERSION}, found {version}")
    expected = xxh3_64(line[:at], previous)
    if at < 0 or found != expected or line[at + len(_HASH_KEY) :] != b'%016x"}' % expected:
        raise LedgerError(
            f"ledger {path}: line {number} (step {step}): the chain is broken: expected hash "
            f"{expected:016x}, found {found:016x}; the line or one before it was altered"
        )
    return LedgerRecord(step, outcome, found, fields)
