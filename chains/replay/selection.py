"""Where a replay begins: `STEP`, `STEP[row 3]`, `STEP[row 3][item 2]` or `STEP.INSIDE[turn 1]`.

Owns the reading of such a text. Knows nothing of what runs from there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from chains.errors import InputInvalid
from chains.suggest import shown

_FORM: Final = re.compile(r"([a-z][a-z0-9_.]{0,63})((?:\[[^\[\]]*\])*)")
_PLACE: Final = re.compile(r"\[\s*([a-z]+)\s+([0-9,\s-]+)\]")
_WORDS: Final = ("row", "item", "turn")
_MOST: Final = 100_000
_HINT: Final = "Write STEP, STEP[row 3], STEP[row 3-7], STEP[row 3,5], STEP[row 3][item 2] or STEP[turn 1]."


@dataclass(frozen=True, slots=True)
class Selection:
    """A step, and the rows and the items of its map that it is replayed for; None: all.

    `turn`: the first turn of its repeat that runs again. `inside`: the step inside it that is meant.
    """

    step: str
    rows: frozenset[int] | None = None
    items: frozenset[int] | None = None
    turn: int | None = None
    inside: str | None = None


def selection_of(text: str) -> Selection:
    """Read where a replay begins; raise InputInvalid for what is no such place."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise InputInvalid(f"{shown(text)} names no step to replay from.", hint=_HINT)
    chosen: dict[str, frozenset[int]] = {}
    for bracket in re.findall(r"\[[^\[\]]*\]", found[2]):
        place = _PLACE.fullmatch(bracket)
        if place is None or place[1] not in _WORDS or place[1] in chosen:
            raise InputInvalid(f"{shown(text)}: {shown(bracket)} names no rows, items or turns.", hint=_HINT)
        chosen[place[1]] = _numbers(text, place[2])
    turns = chosen.get("turn")
    if turns is not None and len(turns) > 1:
        raise InputInvalid(f"{shown(text)}: a repeat goes on from one turn.", hint="Write [turn 1].")
    step, _, inside = found[1].partition(".")
    turn = min(turns) if turns is not None else None
    return Selection(step, chosen.get("row"), chosen.get("item"), turn, inside or None)


def _numbers(text: str, listed: str) -> frozenset[int]:
    numbers: set[int] = set()
    for piece in listed.split(","):
        first, dash, last = (part.strip() for part in piece.partition("-"))
        if not first.isdigit() or (dash and not last.isdigit()) or len(first + last) > 18:
            raise InputInvalid(f"{shown(text)}: {shown(piece)} is no number.", hint=_HINT)
        start, stop = int(first), int(last or first)
        if stop < start or stop - start >= _MOST:
            raise InputInvalid(f"{shown(text)}: {shown(piece)} is no range.", hint=_HINT)
        numbers.update(range(start, stop + 1))
    return frozenset(numbers)
