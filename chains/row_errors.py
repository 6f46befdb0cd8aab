"""Bad rows of a data set and how they are told. Knows nothing of formats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chains.errors import InputInvalid
from chains.suggest import shown

MAX_LISTED = 20
"""Bad rows that a message lists; the others are counted."""


@dataclass(frozen=True, slots=True, order=True)
class BadRow:
    """A row that cannot be used. `row` counts from 0; `line` from 1, where the format has lines."""

    row: int
    message: str
    line: int | None = None

    def __str__(self) -> str:
        place = f"row {self.row} (line {self.line})" if self.line is not None else f"row {self.row}"
        return f"{place}: {self.message}"


def listed(path: Path, bad: Sequence[BadRow], count: int) -> InputInvalid:
    """Return the error that lists bad rows."""
    head = f"the data set {shown(str(path))} has bad rows; correct them, or leave them out with --skip-bad:"
    lines = [head, *(f"  {row}" for row in sorted(bad))]
    if count > len(bad):
        lines.append("  and more")
    return InputInvalid("\n".join(lines))
