"""Whole lines of a file that grows, and that is cut back when its run resumes or goes back."""

from __future__ import annotations

import os
import pathlib
from array import array
from dataclasses import dataclass
from typing import BinaryIO

_AT_ONCE = 1 << 22  # bytes of new lines a poll reads, unless one line is longer
_TAIL = 4096  # bytes before the position that must still be what they were


@dataclass(frozen=True)
class Line:
    number: int  # from 1
    text: bytes  # without its end


@dataclass(frozen=True)
class Cut:
    """Of the lines given so far only the first `kept` are still there."""

    kept: int


class GrowingFile:
    """Gives every line of a file once, and tells when lines that it gave have been taken back.

    A file may be cut and grow beyond its former length between two polls, so its length says
    nothing: what lies before the position is compared with what was read there. After a cut, what
    is left is compared line by line with a hash of each line given.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = pathlib.Path(path)
        self._hashes = array("q")  # of the lines given
        self._position = 0  # in bytes, behind the last of them
        self._tail = b""  # what lies before it

    @property
    def lines(self) -> int:
        """How many have been given and not been cut."""
        return len(self._hashes)

    def poll(self) -> list[Line | Cut]:
        """What is new, at most about 4 MiB of it; nothing when there is nothing new.

        A last line without an end is being written, or was torn; it is not given. A file that is
        not there yet, or not any more, has nothing new.
        """
        found: list[Line | Cut] = []
        try:
            with self.path.open("rb") as file:
                while not self._read(file, found):
                    pass
        except FileNotFoundError:
            pass
        return found

    def _read(self, file: BinaryIO, found: list[Line | Cut]) -> bool:
        """False if the file was cut meanwhile; nothing of what was read then counts."""
        if not self._unchanged(file):
            found.append(Cut(self._recount(file)))
        file.seek(self._position)
        data = file.read(_AT_ONCE)
        while data and b"\n" not in data and (more := file.read(_AT_ONCE)):
            data += more
        whole = data[: data.rfind(b"\n") + 1]
        if not whole:
            return True
        if not self._still_there(file, whole):
            return False
        for text in whole[:-1].split(b"\n"):
            self._hashes.append(hash(text))
            found.append(Line(self.lines, text))
        self._position += len(whole)
        self._tail = (self._tail + whole)[-_TAIL:]
        return True

    def _unchanged(self, file: BinaryIO) -> bool:
        file.seek(self._position - len(self._tail))
        return file.read(len(self._tail)) == self._tail

    def _still_there(self, file: BinaryIO, whole: bytes) -> bool:
        """Whether the file was not cut while it was read, which could mix old and new bytes."""
        end = whole[-_TAIL:]
        file.seek(self._position + len(whole) - len(end))
        return file.read(len(end)) == end and self._unchanged(file)

    def _recount(self, file: BinaryIO) -> int:
        """Moves to behind the last line that is as it was given."""
        file.seek(0)
        kept, position, tail = 0, 0, b""
        for text in file:
            if kept == self.lines or not text.endswith(b"\n") or hash(text[:-1]) != self._hashes[kept]:
                break
            kept += 1
            position += len(text)
            tail = (tail + text)[-_TAIL:]
        del self._hashes[kept:]
        self._position, self._tail = position, tail
        return kept
