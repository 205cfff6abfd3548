"""config.yaml, the resolved configuration of a run."""

from __future__ import annotations

import pathlib
import re
from typing import Any

from lockstep_runs.errors import RunError

_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?")
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}


def read_config(path: pathlib.Path) -> dict[str, Any]:
    """Raises RunError. Plain words are read as YAML 1.2 has them: `1e-5` is a number, `no` a text."""
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RunError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise RunError(f"{path}: not YAML: {error}") from None
    found = _value(root)
    if not isinstance(found, dict):
        raise RunError(f"{path}: expected a map of keys")
    return found


def _value(node: Any) -> Any:
    if node is None:
        return None
    if node.id == "mapping":
        return {key.value: _value(part) for key, part in node.value}
    if node.id == "sequence":
        return [_value(part) for part in node.value]
    return node.value if node.style else _plain(node.value)


def _plain(word: str) -> Any:
    if word in _WORDS:
        return _WORDS[word]
    number = _NUMBER.fullmatch(word)
    if number is None:
        return word
    return float(word) if number[2] or number[3] or "." in word else int(word)
