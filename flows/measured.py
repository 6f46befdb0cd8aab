"""The measured values in an output: each a figure with its interval.

Owns how they are found among other fields; models may have written anything beside them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_ESTIMATE = ("value", "low", "high", "n")


def estimates(output: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the name of each measured value and the value with its interval."""
    for name, value in output.items():
        if not isinstance(value, dict):
            continue
        if all(_is_figure(value.get(part)) for part in _ESTIMATE):
            yield prefix + name, value
        elif not prefix:  # checks and fields of an object have theirs one level below
            yield from estimates(value, f"{name}.")


def _is_figure(value: Any) -> bool:
    """Whether a value is a number that a table can show; a model may have written a far longer one."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**53)
