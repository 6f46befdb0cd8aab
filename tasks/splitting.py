"""Cutting numbered examples into train, validation and test.

Owns the assignment and the proof that it leaks nothing. Knows nothing of what an example holds: it sees for
each one a unit (examples that must stay together) and a question (examples that ask the same). Memory: some
forty bytes for each example, while it cuts.
Invariant: the parts partition the examples, no unit straddles, and equal arguments give equal parts.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING

from chains.spec import Split

if TYPE_CHECKING:
    import numpy as np

PARTS = ("train", "validation", "test")


def assign(units: Sequence[int], split: Split, strata: Sequence[int] | None = None) -> array[int]:
    """Return for each example the number of its part in PARTS.

    The units are shuffled with the split's seed and then go, the larger ones first, each to the part that
    lacks most examples. Units of one example thus meet the shares to within one example; large groups meet
    them as well as their sizes let them. A part with a share of 0 stays empty.

    With `strata` (a number for each example) every stratum meets the shares by itself; a unit counts to the
    stratum of most of its examples.
    """
    import numpy as np

    unit_of, count = _numbered(units)
    sizes = np.bincount(unit_of, minlength=count)
    stratum_of = _strata_of_units(unit_of, count, strata)
    shares = [getattr(split, part) for part in PARTS]
    lacking = [[share * held for share in shares] for held in np.bincount(stratum_of, sizes).tolist()]
    allowed = [part for part, share in enumerate(shares) if share > 0]
    place = np.zeros(count, dtype=np.uint8)
    for unit in _dealt(sizes, split.seed):
        lacks = lacking[stratum_of[unit]]
        part = max(allowed, key=lacks.__getitem__)
        lacks[part] -= sizes[unit]
        place[unit] = part
    return array("B", place[unit_of].tobytes())


def _numbered(names: Sequence[int]) -> tuple[np.ndarray, int]:
    """Number the different names from 0 in the order in which they come; return each one's, and how many."""
    import numpy as np

    _, first, inverse = np.unique(np.asarray(names, dtype=np.uint64), return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[inverse], len(first)


def _dealt(sizes: np.ndarray, seed: int) -> array[int]:
    """Return the units in the order in which they are dealt out; an array, as a list is four times larger."""
    import numpy as np

    order = array("Q", range(len(sizes)))
    random.Random(seed).shuffle(order)
    shuffled = np.frombuffer(order, dtype=np.uint64)
    return array("Q", shuffled[np.argsort(-sizes[shuffled], kind="stable")].tobytes())


def _strata_of_units(unit_of: np.ndarray, count: int, strata: Sequence[int] | None) -> np.ndarray:
    """Return each unit's commonest stratum, of equals the first; all in one without strata."""
    import numpy as np

    if strata is None:
        return np.zeros(count, dtype=np.int64)
    stratum_of, different = _numbered(strata)
    pairs, first, times = np.unique(unit_of * different + stratum_of, return_index=True, return_counts=True)
    # The last that is written stays: the commonest, of equals the one that comes first.
    order = np.lexsort((-first, times))
    found = np.zeros(count, dtype=np.int64)
    found[pairs[order] // different] = pairs[order] % different
    return found


def leaks(questions: Sequence[int], parts: Sequence[int]) -> list[tuple[int, int]]:
    """Return pairs of examples that ask the same and stand in different parts: the first of each, and it.

    An example that was dropped is in no part, and leaks nothing.
    """
    import numpy as np

    part = np.asarray(parts, dtype=np.uint8)
    kept = np.flatnonzero(part < len(PARTS))
    asked = np.asarray(questions, dtype=np.uint64)[kept]
    _, first, inverse = np.unique(asked, return_index=True, return_inverse=True)
    earlier = kept[first[inverse]]
    apart = part[earlier] != part[kept]
    return list(zip(earlier[apart].tolist(), kept[apart].tolist(), strict=True))
