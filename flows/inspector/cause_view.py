"""A cause of a difference as the pages show it: its name, both sides by words, and moved passages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chains.diff import words
from chains.diff.causes import moved
from flows.inspector.texts import LONGEST, cut, pretty

if TYPE_CHECKING:
    from chains.diff import Cause


def cause_view(cause: Cause) -> dict[str, Any]:
    """Return a cause; sides that are not there are empty."""
    if cause.kind == "passages":
        return {"cause": str(cause), "pieces": [], "moves": moved(cause.before, cause.after)}
    before, after = (_side(side) for side in (cause.before, cause.after))
    return {"cause": str(cause), "pieces": pieces_of(before, after), "moves": []}


def pieces_of(before: str, after: str) -> list[dict[str, str]]:
    """Return two texts by words; nothing where they are equal."""
    if before == after:
        return []
    return [{"side": piece.side, "text": piece.text} for piece in words(before, after)]


def _side(value: Any) -> str:
    if value is None:
        return ""
    return cut(_messages(value) or pretty(value), LONGEST // 4).text


def _messages(value: Any) -> str | None:
    """Return a prompt's template as text, or None for anything else."""
    pairs = isinstance(value, list) and all(
        isinstance(part, list) and len(part) == 2 and all(isinstance(text, str) for text in part)
        for part in value
    )
    return "\n\n".join(f"{role}: {text}" for role, text in value) if pairs else None
