"""Which texts were seen before, in a few bytes for each: a data set has more of them than memory has room.

Owns a hash table with open addressing. A dictionary of the same holds a text's hash and its row as objects,
and takes four times as much. Knows nothing of texts: it is given their hashes.
"""

from __future__ import annotations

from array import array

DIGEST = 16
"""Bytes of a hash that are kept: a collision is as unlikely as a wrong disk read."""
_HALF = 8
_SMALLEST = 1024
_MOST_FULL = 0.66


class Seen:
    """The first row of each hash. Rows are numbered from 0."""

    def __init__(self) -> None:
        self._count = 0
        self._resize(_SMALLEST)

    @property
    def size(self) -> int:
        """Bytes that the table takes."""
        return 3 * _HALF * len(self._rows)

    def first(self, digest: bytes, row: int) -> int:
        """Return the row that came with this hash first, which is `row` where there was none."""
        high, low = int.from_bytes(digest[:_HALF]), int.from_bytes(digest[_HALF:DIGEST])
        slot = self._slot(high, low)
        if self._rows[slot]:
            return self._rows[slot] - 1
        self._highs[slot], self._lows[slot], self._rows[slot] = high, low, row + 1
        self._count += 1
        if self._count > _MOST_FULL * len(self._rows):
            self._grow()
        return row

    def _slot(self, high: int, low: int) -> int:
        """Return the place of a hash, or the free one where it belongs."""
        slot = low & self._mask
        while self._rows[slot] and (self._lows[slot] != low or self._highs[slot] != high):
            slot = (slot + 1) & self._mask
        return slot

    def _grow(self) -> None:
        highs, lows, rows = self._highs, self._lows, self._rows
        self._resize(2 * len(rows))
        for high, low, row in zip(highs, lows, rows, strict=True):
            if row:
                slot = self._slot(high, low)
                self._highs[slot], self._lows[slot], self._rows[slot] = high, low, row

    def _resize(self, size: int) -> None:
        empty = bytes(_HALF * size)
        self._highs, self._lows, self._rows = (array("Q", empty) for _ in range(3))
        self._mask = size - 1
