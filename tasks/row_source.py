"""The rows of a run, read as a stream whenever a step needs them.

Owns which rows take part (one row of given inputs, or the good rows of a data set up to a limit) and their
numbers. Invariants: a row's number is its place among the rows of its file, from 0, also where rows before
it are bad and left out; memory does not grow with the number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chains.data import BoundRows


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row: its typed inputs, and the columns of its data set, if it comes from one."""

    number: int
    inputs: Mapping[str, Any]
    columns: Mapping[str, Any] | None = None


class RowSource:
    """The rows of a run. `shared` are the run's own inputs; `span` is the range that holds all numbers."""

    def __init__(
        self, shared: Mapping[str, Any], bound: BoundRows | None = None, *, limit: int | None = None
    ) -> None:
        self.shared = shared
        self._bound = bound
        self._first: SourceRow | None = None
        if bound is None:
            self.count, self.span = 1, range(1)
        else:
            self.count = bound.count if limit is None else min(limit, bound.count)
            self.span = range(self._end(bound)) if self.count < bound.count else range(bound.dataset.count)

    def __len__(self) -> int:
        return self.count

    @property
    def first(self) -> SourceRow:
        """The first row that takes part; a run has at least one."""
        if self._first is None:
            self._first = next(self.read(self.span))
        return self._first

    def read(self, rows: range) -> Iterator[SourceRow]:
        """Yield the rows that take part and whose numbers are in `rows`, in order."""
        if self._bound is None:
            if 0 in rows:
                yield SourceRow(0, self.shared)
            return
        for row in self._bound.read(rows.start, min(rows.stop, self.span.stop)):
            yield SourceRow(row.row, {**self.shared, **row.inputs}, row.columns)

    def shards(self, size: int) -> list[range]:
        """Cut the numbers into ranges of `size`; rows that are left out make some of them lighter."""
        span = self.span
        return [range(start, min(start + size, span.stop)) for start in range(0, span.stop, size)]

    def _end(self, bound: BoundRows) -> int:
        """Return the number after the last row that the limit lets in."""
        for place, row in enumerate(bound.read(), start=1):
            if place == self.count:
                return row.row + 1
        raise AssertionError("a data set's rows are counted when it is checked")
