"""What of an event goes to a tracker, and by which keys."""

from __future__ import annotations

from dataclasses import dataclass

from lockstep_runs.metrics import Event

# Of a `step` line: they depend on the attempt that computed it, so they are never compared.
_TIMES = ("tokens_per_second", "step_seconds")
_PREFIX = {"step": "train", "validation": "validation", "layers": "layers"}


@dataclass(frozen=True)
class Row:
    """One line of metrics.jsonl as numbers by key; what was null there has no key."""

    step: int
    values: dict[str, float]
    group: str  # what all its keys begin with
    line: int  # in metrics.jsonl, from 1


def row_of(event: Event, line: int) -> Row | None:
    """`train/FIELD`, `validation/FIELD`, `layers/FIELD` and `layers/NAME/FIELD`; nothing for other events."""
    if event["event"] not in _PREFIX:
        return None
    group = _PREFIX[event["event"]] + "/"
    numbers = _numbers(event)
    del numbers["step"]
    values = {group + field: number for field, number in numbers.items()}
    for layer in event.get("layers", []):
        values |= {f"{group}{layer['name']}/{field}": number for field, number in _numbers(layer).items()}
    return Row(int(event["step"]), values, group, line)


def is_compared(key: str) -> bool:
    """Whether the same step computed again must give the same value."""
    return not key.startswith("layers/") and key.split("/")[-1] not in _TIMES


def _numbers(fields: Event) -> dict[str, float]:
    """Booleans count as 0 and 1."""
    return {name: value + 0 for name, value in fields.items() if isinstance(value, (bool, int, float))}
