"""Cutting numbered examples into train, validation and test.

Owns the assignment and the proof that it leaks nothing. Knows nothing of what an example holds: it sees for
each one a unit (examples that must stay together) and a question (examples that ask the same).
Invariant: the parts partition the examples, no unit straddles, and equal arguments give equal parts.
"""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Sequence

from chains.spec import Split

PARTS = ("train", "validation", "test")


def assign(units: Sequence[int], split: Split, strata: Sequence[int] | None = None) -> array[int]:
    """Return for each example the number of its part in PARTS.

    The units are shuffled with the split's seed and then go, the larger ones first, each to the part that
    lacks most examples. Units of one example thus meet the shares to within one example; large groups meet
    them as well as their sizes let them. A part with a share of 0 stays empty.

    With `strata` (a number for each example) every stratum meets the shares by itself; a unit counts to the
    stratum of most of its examples.
    """
    sizes: dict[int, int] = {}
    for unit in units:
        sizes[unit] = sizes.get(unit, 0) + 1
    order = list(sizes)
    random.Random(split.seed).shuffle(order)
    order.sort(key=lambda unit: -sizes[unit])
    shares = [getattr(split, part) for part in PARTS]
    stratum_of = _strata_of_units(units, strata)
    in_stratum = Counter(stratum_of[unit] for unit in units)
    lacking = {stratum: [share * in_stratum[stratum] for share in shares] for stratum in sorted(in_stratum)}
    allowed = [part for part, share in enumerate(shares) if share > 0]
    place: dict[int, int] = {}
    for unit in order:
        lacks = lacking[stratum_of[unit]]
        part = max(allowed, key=lacks.__getitem__)
        lacks[part] -= sizes[unit]
        place[unit] = part
    return array("B", (place[unit] for unit in units))


def _strata_of_units(units: Sequence[int], strata: Sequence[int] | None) -> dict[int, int]:
    if strata is None:
        return dict.fromkeys(units, 0)
    counts: dict[int, Counter[int]] = {}
    for unit, stratum in zip(units, strata, strict=True):
        counts.setdefault(unit, Counter())[stratum] += 1
    return {unit: found.most_common(1)[0][0] for unit, found in counts.items()}


def leaks(questions: Sequence[int], parts: Sequence[int]) -> list[tuple[int, int]]:
    """Return pairs of examples that ask the same and stand in different parts: the first of each, and it."""
    first: dict[int, int] = {}
    found = []
    for example, question in enumerate(questions):
        earlier = first.setdefault(question, example)
        if parts[earlier] != parts[example]:
            found.append((earlier, example))
    return found
