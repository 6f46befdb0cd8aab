"""Cutting numbered examples into train, validation and test.

Owns the assignment and the proof that it leaks nothing. Knows nothing of what an example holds: it sees for
each one a unit (examples that must stay together) and a question (examples that ask the same).
Invariant: the parts partition the examples, no unit straddles, and equal arguments give equal parts.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence

from chains.spec import Split

PARTS = ("train", "validation", "test")


def assign(units: Sequence[int], split: Split) -> array[int]:
    """Return for each example the number of its part in PARTS.

    The units are shuffled with the split's seed and then go, the larger ones first, each to the part that
    lacks most examples. Units of one example thus meet the shares to within one example; large groups meet
    them as well as their sizes let them. A part with a share of 0 stays empty.
    """
    sizes: dict[int, int] = {}
    for unit in units:
        sizes[unit] = sizes.get(unit, 0) + 1
    order = list(sizes)
    random.Random(split.seed).shuffle(order)
    order.sort(key=lambda unit: -sizes[unit])
    shares = [getattr(split, part) for part in PARTS]
    lacking = [share * len(units) for share in shares]
    allowed = [part for part, share in enumerate(shares) if share > 0]
    place: dict[int, int] = {}
    for unit in order:
        part = max(allowed, key=lacking.__getitem__)
        lacking[part] -= sizes[unit]
        place[unit] = part
    return array("B", (place[unit] for unit in units))


def leaks(questions: Sequence[int], parts: Sequence[int]) -> list[tuple[int, int]]:
    """Return pairs of examples that ask the same and stand in different parts: the first of each, and it."""
    first: dict[int, int] = {}
    found = []
    for example, question in enumerate(questions):
        earlier = first.setdefault(question, example)
        if parts[earlier] != parts[example]:
            found.append((earlier, example))
    return found
