"""Did-you-mean: the nearest of some known names. Knows nothing of chains."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_MANY = 100


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that `name` was probably meant to be."""
    names = list(known)
    if len(names) > _MANY:
        # Comparing is slow, and a file may have thousands of names and of mistakes.
        names = [other for other in names if other[:2] == name[:2]][:_MANY]
    found = difflib.get_close_matches(name[:100], names, n=1, cutoff=0.6)
    return found[0] if found else None


def did_you_mean(name: str, known: Iterable[str], *, prefix: str = "") -> str | None:
    """Return a hint that names the nearest known name, or all of them where they are few."""
    names = list(known)
    near = closest(name, names)
    if near is not None:
        return f"Did you mean {prefix + near!r}?"
    if names and len(names) <= 12:
        return f"Known here: {', '.join(prefix + known_name for known_name in sorted(names))}."
    return None


def shown(value: object, limit: int = 200) -> str:
    """Return a value as Python writes it, cut to a length that fits a message."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
