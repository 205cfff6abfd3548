"""XXH3-64, the hash of ledgers and manifests."""

from __future__ import annotations

import ctypes
import functools
import pathlib
from collections.abc import Callable

_CHUNK = 1 << 22  # bytes read at a time


@functools.cache
def _one_shot() -> Callable[[bytes, int], int]:
    try:
        import xxhash

        return xxhash.xxh3_64_intdigest
    except ImportError:
        library = _library()
        function = library.XXH3_64bits_withSeed
        function.restype = ctypes.c_uint64
        function.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]
        return lambda data, seed: int(function(data, len(data), seed))


def _library() -> ctypes.CDLL:
    """The C library, which is there wherever Lockstep was built."""
    try:
        return ctypes.CDLL("libxxhash.so.0")
    except OSError:
        raise ImportError("hashes need the package xxhash (pip install xxhash) or libxxhash.so.0") from None


def xxh3_64(data: bytes, seed: int = 0) -> int:
    return _one_shot()(data, seed)


def xxh3_64_of_file(path: pathlib.Path) -> int:
    """Of a file's whole contents, however large. Raises OSError where it cannot be read."""
    try:
        import xxhash
    except ImportError:
        return xxh3_64(path.read_bytes())
    hasher = xxhash.xxh3_64()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            hasher.update(chunk)
    return int(hasher.intdigest())
