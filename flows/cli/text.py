"""How values look on a terminal: escaped control characters, money, durations, tables.

Owns nothing but text; what models and documents said is printed only through `safe`.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

_KEPT = {"\n", "\t"}


def safe(text: str) -> str:
    """Return text whose control, bidirectional and zero-width characters are written out, not obeyed."""
    if text.replace("\n", "").replace("\t", "").isprintable():
        return text  # nearly always, and a hundred times as fast
    return "".join(_shown(char) for char in text)


def _shown(char: str) -> str:
    if char in _KEPT or char.isprintable():
        return char
    category = unicodedata.category(char)
    if category == "Zs":
        return char
    return f"\\u{ord(char):04x}" if ord(char) <= 0xFFFF else f"\\U{ord(char):08x}"


def print_json(value: Any) -> None:
    """Print one JSON document to standard output; what a terminal would obey is written as `\\uXXXX`."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    # Outside strings JSON is plain ASCII, so whatever is not printable stands in one.
    escaped = "".join(char if char == "\n" or char.isprintable() else _json_escape(char) for char in text)
    sys.stdout.buffer.write(escaped.encode("utf-8") + b"\n")


def _json_escape(char: str) -> str:
    return json.dumps(char)[1:-1] if ord(char) != 0x7F else "\\u007f"


def money(cost_micro: int | None) -> str:
    """Return micro-dollars as dollars; None is unknown, never 0."""
    if cost_micro is None:
        return "unknown"
    return f"${cost_micro / 1e6:.4f}" if cost_micro else "$0"


def duration(seconds: float | None) -> str:
    """Return seconds as `0.4 s`, `12 s` or `3 m 20 s`."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{int(seconds // 60)} m {int(seconds % 60):02d} s"


def moment(time: str | None) -> str:
    """Return a time in the form of `iso` as `2026-01-31 12:00:00`."""
    return "-" if time is None else time[:19].replace("T", " ")


def table(rows: Sequence[Mapping[str, Any]], *, right: frozenset[str] = frozenset()) -> str:
    """Return rows as aligned columns; the keys of the first row are the heads."""
    if not rows:
        return ""
    heads = list(rows[0])
    cells = [[safe(_cell(row.get(head))) for head in heads] for row in rows]
    widths = [max(len(head), *(len(line[i]) for line in cells)) for i, head in enumerate(heads)]
    lines = [heads, *cells]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if head in right else cell.ljust(width)
            for cell, width, head in zip(line, widths, heads, strict=True)
        ).rstrip()
        for line in lines
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return str(value).replace("\n", " ⏎ ").replace("\t", " ")


def shorten(text: str, width: int) -> str:
    """Return at most `width` characters, with an ellipsis where some were left out."""
    return text if len(text) <= width else text[: width - 1] + "…"
