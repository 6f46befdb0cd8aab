"""Where a replay begins: `STEP` or `STEP[row 3]`.

Owns the reading of such a text. Knows nothing of what runs from there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from chains.errors import InputInvalid
from chains.suggest import shown

_FORM: Final = re.compile(r"([a-z][a-z0-9_]{0,63})((?:\[[^\[\]]*\])*)")
_PLACE: Final = re.compile(r"\[\s*([a-z]+)\s+([0-9,\s-]+)\]")
_MOST_ROWS: Final = 100_000
_HINT: Final = "Write STEP, STEP[row 3], STEP[row 3-7] or STEP[row 3,5]."


@dataclass(frozen=True, slots=True)
class Selection:
    """A step, and the rows that it is replayed for; None: all."""

    step: str
    rows: frozenset[int] | None = None

    def __str__(self) -> str:
        if self.rows is None:
            return self.step
        return f"{self.step}[row {','.join(map(str, sorted(self.rows)))}]"


def selection_of(text: str) -> Selection:
    """Read where a replay begins; raise InputInvalid for what is no such place."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise InputInvalid(f"{shown(text)} names no step to replay from.", hint=_HINT)
    rows: frozenset[int] | None = None
    for bracket in re.findall(r"\[[^\[\]]*\]", found[2]):
        place = _PLACE.fullmatch(bracket)
        if place is None or place[1] != "row" or rows is not None:
            raise InputInvalid(f"{shown(text)}: {shown(bracket)} names no rows.", hint=_HINT)
        rows = _numbers(text, place[2])
    return Selection(found[1], rows)


def _numbers(text: str, listed: str) -> frozenset[int]:
    numbers: set[int] = set()
    for piece in listed.split(","):
        first, dash, last = (part.strip() for part in piece.partition("-"))
        if not first.isdigit() or (dash and not last.isdigit()) or len(first + last) > 18:
            raise InputInvalid(f"{shown(text)}: {shown(piece)} is no row.", hint=_HINT)
        start, stop = int(first), int(last or first)
        if stop < start or stop - start >= _MOST_ROWS:
            raise InputInvalid(f"{shown(text)}: {shown(piece)} is no range of rows.", hint=_HINT)
        numbers.update(range(start, stop + 1))
    return frozenset(numbers)
