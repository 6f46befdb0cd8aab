"""Which row of one run is which row of another.

Rows of the same data are paired by number. Where the data differ, rows with the same inputs are paired, as
far as the prompts have read inputs; equal rows in their order. Knows nothing of what is compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from chains.diff.recorded import RecordedRun
from chains.keys import canonical
from chains.store import Store

_AT_ONCE: Final = 1000


@dataclass(slots=True)
class Pairing:
    """Pairs of row numbers, and how many rows have no other."""

    by: str
    pairs: int
    only_before: int
    only_after: int
    found: Iterable[tuple[int, int]] = field(repr=False)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield the pairs, by the first run's row."""
        return iter(self.found)


def pair_rows(store: Store, before: RecordedRun, after: RecordedRun) -> Pairing:
    """Return the pairs of rows of two runs."""
    old, new = before.run, after.run
    if old.data_sha256 == new.data_sha256:
        # A limited run has rows of the same numbers as far as it goes.
        both = min(old.rows, new.rows)
        last = min(store.last_row(old.id), store.last_row(new.id))
        numbers = ((row, row) for row in range(last + 1))
        return Pairing("number", both, old.rows - both, new.rows - both, numbers)
    left = _by_inputs(store, before)
    right = _by_inputs(store, after)
    pairs = sorted(
        pair for name in left.keys() & right.keys() for pair in zip(left[name], right[name], strict=False)
    )
    counts = sum(map(len, left.values())), sum(map(len, right.values()))
    return Pairing("inputs", len(pairs), counts[0] - len(pairs), counts[1] - len(pairs), pairs)


def _by_inputs(store: Store, recorded: RecordedRun) -> dict[str, list[int]]:
    """Return the rows of a run by a hash of the inputs that its steps have read."""
    found: dict[str, list[int]] = {}
    for start in range(0, store.last_row(recorded.run.id) + 1, _AT_ONCE):
        inputs: dict[int, dict[str, object]] = {}
        for record in store.records(recorded.run.id, rows=range(start, start + _AT_ONCE)):
            read = json.loads(record.inputs) if record.inputs is not None else {}
            row = inputs.setdefault(record.row, {})
            row |= {name: value for name, value in read.items() if name.startswith("inputs.")}
        for number, values in sorted(inputs.items()):
            name = hashlib.sha256(canonical(values if values else {"row": number})).hexdigest()
            found.setdefault(name, []).append(number)
    return found
