"""How much of a text a page sends, and how what a model said is shown.

Owns the caps: a page is small however long an answer was, until somebody asks for all of it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from flows.inspector.marking import Stretch

LONGEST: Final = 16_000
"""Characters of one text on a page."""
SHORT: Final = 2_000
"""Characters of a value among others."""
MOST: Final = 20
"""Texts of one kind on a page: messages, variables, attempts."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A text, or its beginning; `left_out` is how many characters there are besides."""

    text: str
    left_out: int = 0


def cut(text: str, limit: int = LONGEST) -> Cut:
    """Return a text's beginning."""
    return Cut(text[:limit], max(0, len(text) - limit))


def cut_stretches(stretches: list[Stretch], limit: int = LONGEST) -> tuple[list[Stretch], int]:
    """Return the beginning of a marked text, and how many characters were left out."""
    found: list[Stretch] = []
    left = limit
    for stretch in stretches:
        if left <= 0:
            break
        found.append(Stretch(stretch.text[:left], stretch.variable))
        left -= len(stretch.text)
    return found, max(0, sum(len(stretch.text) for stretch in stretches) - limit)


def decoded(payload: bytes | None) -> Any:
    """Return a JSON payload's value."""
    return None if payload is None else json.loads(payload)


def as_text(payload: bytes | None) -> str:
    """Return bytes as text, with U+FFFD for what is no UTF-8."""
    return "" if payload is None else payload.decode("utf-8", "replace")


def pretty(value: Any) -> str:
    """Return a value as a page shows it: text as itself, anything else as JSON on lines."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)


def summary(output: bytes | None, error: bytes | None) -> str:
    """Return one line of what a record says, from the beginnings of its payloads."""
    if error is not None:
        return _line(as_text(error), "message")
    return _line(as_text(output), "text") if output is not None else ""


def _line(text: str, field: str) -> str:
    """Return a field of an object of which only the beginning may be there."""
    try:
        value = json.loads(text)
    except ValueError:
        _, _, rest = text.partition(f'"{field}":')
        said = (rest or text).strip().lstrip('"')[:200]
        return said.replace("\\n", " ").replace('\\"', '"')
    shown = value.get(field, value) if isinstance(value, dict) else value
    return (shown if isinstance(shown, str) else json.dumps(shown, ensure_ascii=False))[:200]
