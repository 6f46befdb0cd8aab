"""Two texts, word by word: what stayed, what went, what came.

Owns the cutting into words and the bounds: comparing takes time with the square of the length, so a text
that is too long is compared by lines, and one that is still too long as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal, TypeAlias

MOST = 1500
"""Words or lines that are compared one by one."""

Side: TypeAlias = Literal["same", "before", "after"]
_WORDS = re.compile(r"\w+|\s+|[^\w\s]")
_LINES = re.compile(r"[^\n]*\n|[^\n]+")


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text that both have, or only one of them."""

    side: Side
    text: str


def words(before: str, after: str) -> list[Piece]:
    """Return two texts as one row of pieces: those of `same` and `before` are the first text."""
    if before == after:
        return [Piece("same", before)] if before else []
    for cut in (_WORDS, _LINES):
        old, new = cut.findall(before), cut.findall(after)
        if max(len(old), len(new)) <= MOST:
            return _pieces(old, new)
    return [Piece(side, text) for side, text in _sides(before, after) if text]


def _sides(before: str, after: str) -> tuple[tuple[Side, str], tuple[Side, str]]:
    return ("before", before), ("after", after)


def _pieces(old: Sequence[str], new: Sequence[str]) -> list[Piece]:
    # What both begin and end with is mostly most of it, and found at once.
    start = _same(old, new)
    end = _same(old[start:][::-1], new[start:][::-1])
    middle = old[start : len(old) - end], new[start : len(new) - end]
    found = [Piece("same", "".join(old[:start]))]
    for tag, i, j, k, m in SequenceMatcher(None, *middle, autojunk=False).get_opcodes():
        if tag == "equal":
            found.append(Piece("same", "".join(middle[0][i:j])))
        else:
            found += [Piece(*side) for side in _sides("".join(middle[0][i:j]), "".join(middle[1][k:m]))]
    found.append(Piece("same", "".join(old[len(old) - end :])))
    return [piece for piece in found if piece.text]


def _same(old: Sequence[str], new: Sequence[str]) -> int:
    """Return how many parts both begin with."""
    for place, (one, other) in enumerate(zip(old, new, strict=False)):
        if one != other:
            return place
    return min(len(old), len(new))
