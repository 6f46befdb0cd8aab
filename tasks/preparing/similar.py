"""Near duplicates: which of many texts share most of their word sequences.

Owns the shingles (three words; five characters where words are not told apart by spaces), their MinHash
(Broder 1997) and the bands by which candidates are found; each pair is then measured exactly. Knows nothing
of rows or parts. Memory: 200 bytes for each text; the texts themselves stay with the caller.
"""

from __future__ import annotations

import re
import zlib
from array import array
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

BANDS, ROWS = 25, 5
"""25 bands of 5 hashes find a pair of similarity 0.7 with 99 %, and one of 0.8 with 99.99 %."""
_SEED = 20_1107
_MOST_PAIRS = 64
"""Texts that fall into one band together and are all compared; of more, each with the first and the next."""
_WORD = re.compile(r"\w+")
_LONG_WORD = 20


def shingles(text: str) -> set[int]:
    """Return the hashes of a text's word sequences; case and punctuation do not count."""
    words = _WORD.findall(text.casefold())
    if words and sum(map(len, words)) > _LONG_WORD * len(words):
        joined = "".join(words)
        parts = [joined[start : start + 5] for start in range(max(1, len(joined) - 4))]
    else:
        parts = [" ".join(words[start : start + 3]) for start in range(max(1, len(words) - 2))]
    return {zlib.crc32(part.encode("utf-8", "surrogatepass")) for part in parts if part}


def similarity(one: str, other: str) -> float:
    """Return the Jaccard similarity of two texts' word sequences."""
    ours, theirs = shingles(one), shingles(other)
    return len(ours & theirs) / len(ours | theirs) if ours or theirs else 1.0


class Signatures:
    """The band hashes of many texts, and which pairs of them may be near duplicates."""

    def __init__(self) -> None:
        import numpy as np

        generator = np.random.default_rng(_SEED)
        size = BANDS * ROWS
        self._factors = generator.integers(1, 2**31 - 1, size, dtype=np.uint64)[:, np.newaxis]
        self._offsets = generator.integers(0, 2**31 - 1, size, dtype=np.uint64)[:, np.newaxis]
        self._bands = array("Q")
        self._count = 0

    def add(self, text: str) -> None:
        """Take the next text; texts are numbered from 0."""
        self._bands.frombytes(self._bands_of(text).tobytes())
        self._count += 1

    def _bands_of(self, text: str) -> np.ndarray:
        import numpy as np

        found = shingles(text)
        if not found:  # no word in common with anything: a band of its own
            return np.full(BANDS, (1 << 63) + self._count, dtype=np.uint64)
        values = np.fromiter(found, dtype=np.uint64, count=len(found))[np.newaxis, :]
        prime = np.uint64(2**31 - 1)
        lowest = ((values % prime * self._factors + self._offsets) % prime).min(axis=1)
        weights = np.array([1_000_003**place % 2**61 for place in range(ROWS)], dtype=np.uint64)
        return np.asarray((lowest.reshape(BANDS, ROWS) * weights).sum(axis=1, dtype=np.uint64))

    def pairs(self) -> Iterator[tuple[int, int]]:
        """Yield each pair of texts that share a band once, the smaller number first."""
        import numpy as np

        seen: set[tuple[int, int]] = set()
        bands = np.frombuffer(self._bands, dtype=np.uint64).reshape(self._count, BANDS)
        for band in range(BANDS):
            column = bands[:, band]
            order = np.argsort(column, kind="stable")
            starts = np.flatnonzero(np.diff(column[order])) + 1
            for group in np.split(order, starts):
                if len(group) > 1:
                    for pair in _pairs_of(group.tolist()):
                        if pair not in seen:
                            seen.add(pair)
                            yield pair


def _pairs_of(group: list[int]) -> Iterator[tuple[int, int]]:
    if len(group) > _MOST_PAIRS:
        yield from ((group[0], other) for other in group[1:])
        yield from pairwise(group[1:])
        return
    for place, one in enumerate(group):
        for other in group[place + 1 :]:
            yield one, other


def near_pairs(
    signatures: Signatures,
    text_of: Callable[[int], str],
    threshold: float,
    wanted: Callable[[int, int], bool],
) -> Iterator[tuple[int, int, float]]:
    """Yield the wanted pairs whose similarity is at least `threshold`, with it."""
    for one, other in signatures.pairs():
        if wanted(one, other):
            found = similarity(text_of(one), text_of(other))
            if found >= threshold:
                yield one, other, found
