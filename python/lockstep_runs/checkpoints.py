"""Checkpoints: the manifest, and tensors that are read when they are asked for."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lockstep_runs.errors import CheckpointError
from lockstep_runs.hashing import xxh3_64, xxh3_64_of_file

if TYPE_CHECKING:
    import numpy
    import pandas

VERSION = 1
_NAME = re.compile(r"step-(\d{8,})")
_SEAL = re.compile(r'\A(.*),\n  "xxh3": "([0-9a-f]{16})"\n}\n\Z', re.DOTALL)
_SLICE = re.compile(r"(.+)\[(\d+):(\d+)\]")


class Checkpoint:
    """A directory `step-00000100`. Its manifest is read, and its own hash checked, at once."""

    def __init__(self, path: str | os.PathLike[str]):
        self.path = pathlib.Path(path)
        self.manifest: dict[str, Any] = _read_manifest(self.path / "manifest.json")

    @property
    def step(self) -> int:
        return int(self.manifest["step"])

    @property
    def healthy(self) -> bool:
        """Whether ten applied steps have followed it."""
        return (self.path / "healthy").exists()

    @functools.cached_property
    def weights(self) -> Mapping[str, numpy.ndarray[Any, Any]]:
        """The fp32 master weights by name, each read from the file when it is looked up."""
        return _Tensors([self.path / "model.safetensors"])

    @functools.cached_property
    def optimizer_state(self) -> Mapping[str, numpy.ndarray[Any, Any]]:
        """`state0.NAME`, `state1.NAME`, ... and `ema.NAME` as flat vectors in canonical order.

        They are put together from the shards of the ranks that saved, whatever their number.
        """
        return _Slices(self._files("optimizer-"))

    def verify(self) -> None:
        """Reads every file. Raises CheckpointError naming one that is missing, torn or altered."""
        for file in self.manifest["files"]:
            path = self.path / file["name"]
            try:
                size, found = path.stat().st_size, ""
                if size == file["bytes"]:
                    found = f"{xxh3_64_of_file(path):016x}"
            except OSError as error:
                raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
            if size != file["bytes"]:
                raise CheckpointError(f"{path}: expected {file['bytes']} bytes, found {size}")
            if found != file["xxh3"]:
                raise CheckpointError(f"{path}: expected hash {file['xxh3']}, found {found}: it was altered")

    def weights_frame(self) -> pandas.DataFrame:
        """Shape, elements, mean, standard deviation and extremes of every weight."""
        import pandas

        rows = [
            {
                "name": name,
                "shape": values.shape,
                "elements": values.size,
                "mean": float(values.mean()),
                "std": float(values.std()),
                "min": float(values.min()),
                "max": float(values.max()),
            }
            for name, values in self.weights.items()
        ]
        return pandas.DataFrame.from_records(rows).set_index("name")

    def _files(self, prefix: str) -> list[pathlib.Path]:
        names = [str(file["name"]) for file in self.manifest["files"]]
        return [self.path / name for name in sorted(names) if name.startswith(prefix)]


def list_checkpoints(directory: pathlib.Path) -> list[Checkpoint]:
    """The whole checkpoints of OUTPUT/checkpoints, oldest first; those being saved are left out."""
    try:
        found = [entry for entry in directory.iterdir() if _NAME.fullmatch(entry.name)]
    except FileNotFoundError:
        return []
    return sorted(map(Checkpoint, found), key=lambda checkpoint: checkpoint.step)


def _read_manifest(path: pathlib.Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    sealed = _SEAL.match(text)
    if sealed is None or xxh3_64((sealed[1] + "\n}").encode()) != int(sealed[2], 16):
        raise CheckpointError(f"{path}: torn or altered: its own hash does not fit; use another checkpoint")
    manifest: dict[str, Any] = json.loads(text)
    if manifest["version"] != VERSION:
        raise CheckpointError(f"{path}: expected version {VERSION}, found {manifest['version']}")
    return manifest


class _Tensors(Mapping[str, "numpy.ndarray[Any, Any]"]):
    """The tensors of safetensors files; only their headers are read at first."""

    def __init__(self, paths: list[pathlib.Path]):
        from safetensors import SafetensorError, safe_open

        self._files: dict[str, Any] = {}
        for path in paths:
            try:
                file: Any = safe_open(path, framework="numpy")
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{path}: cannot be read: {error}") from None
            self._files.update((name, file) for name in file.keys())  # noqa: SIM118

    def __getitem__(self, name: str) -> numpy.ndarray[Any, Any]:
        return self._files[name].get_tensor(name)  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._files))

    def __len__(self) -> int:
        return len(self._files)


class _Slices(Mapping[str, "numpy.ndarray[Any, Any]"]):
    """Vectors whose slices `NAME[begin:end]` lie in the shards of several ranks."""

    def __init__(self, paths: list[pathlib.Path]):
        self._tensors = _Tensors(paths)
        self._slices: dict[str, list[tuple[int, int, str]]] = {}
        for name in self._tensors:
            part = _SLICE.fullmatch(name)
            if part is None:
                raise CheckpointError(f"{paths[0].parent}: expected a slice NAME[begin:end], found {name}")
            self._slices.setdefault(part[1], []).append((int(part[2]), int(part[3]), name))

    def __getitem__(self, name: str) -> numpy.ndarray[Any, Any]:
        import numpy

        parts = sorted(self._slices[name])
        begins = [0, *(end for _, end, _ in parts[:-1])]
        if [begin for begin, _, _ in parts] != begins:
            raise CheckpointError(f"{name}: its slices leave a hole or overlap: {[part[2] for part in parts]}")
        return numpy.concatenate([self._tensors[stored] for _, _, stored in parts])

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._slices))

    def __len__(self) -> int:
        return len(self._slices)
