"""Steps in an order in which each comes after what it needs, and the circles that have none.

Owns the walk over what steps need. Knows nothing of what a step is.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Mapping, Sequence


def in_order(needs: Mapping[str, frozenset[str]]) -> tuple[str, ...]:
    """Return the steps so that each comes after what it needs, else in file order."""
    place = {step: index for index, step in enumerate(needs)}
    waiting = {step: len(upstream) for step, upstream in needs.items()}
    after: dict[str, list[str]] = {step: [] for step in needs}
    for step, upstream in needs.items():
        for name in upstream:
            after[name].append(step)
    ready = [place[step] for step, count in waiting.items() if count == 0]
    heapq.heapify(ready)
    steps = list(needs)
    order: list[str] = []
    while ready:
        step = steps[heapq.heappop(ready)]
        order.append(step)
        for name in after[step]:
            waiting[name] -= 1
            if waiting[name] == 0:
                heapq.heappush(ready, place[name])
    return tuple(order)


def find_cycles(needs: Mapping[str, frozenset[str]]) -> list[tuple[str, ...]]:
    """Return one shortest cycle for each group of steps that need each other, as `(a, b, a)`.

    A step that needs itself is a cycle of its own.
    """
    cycles: list[tuple[str, ...]] = [(step, step) for step in needs if step in needs[step]]
    others = {step: upstream - {step} for step, upstream in needs.items()}
    ordered = set(in_order(others))
    covered: set[str] = set()
    for step in others:
        if step in ordered or step in covered:
            continue
        cycle = _shortest_way(step, others)
        if cycle is not None:
            cycles.append(cycle)
            covered |= _group(step, others)
    return cycles


def way_of(cycle: Sequence[str]) -> str:
    """Return a cycle as `a -> b -> a`, with the middle of a long one left out."""
    names = [*cycle[:8], f"({len(cycle) - 12} more)", *cycle[-4:]] if len(cycle) > 16 else cycle
    return " -> ".join(names)


def _shortest_way(step: str, needs: Mapping[str, frozenset[str]]) -> tuple[str, ...] | None:
    """Return the shortest way from a step over what it needs back to itself."""
    place = {name: index for index, name in enumerate(needs)}
    came_from: dict[str, str] = {}
    queue = [step]
    for current in queue:
        for name in sorted(needs[current], key=place.__getitem__):
            if name == step:
                way = [current]
                while way[-1] != step:
                    way.append(came_from[way[-1]])
                return (*reversed(way), step)
            if name not in came_from and name != step:
                came_from[name] = current
                queue.append(name)
    return None


def _group(step: str, needs: Mapping[str, frozenset[str]]) -> set[str]:
    """Return the steps that reach `step` and are reached by it."""
    backwards: dict[str, set[str]] = {name: set() for name in needs}
    for name, upstream in needs.items():
        for other in upstream:
            backwards[other].add(name)
    return _reached(step, needs) & _reached(step, backwards)


def _reached(step: str, ways: Mapping[str, Collection[str]]) -> set[str]:
    found: set[str] = set()
    queue = [step]
    for current in queue:
        for name in ways[current]:
            if name not in found:
                found.add(name)
                queue.append(name)
    return found
