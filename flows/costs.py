"""What records cost: micro-dollars, or None where any call's price is not known."""

from __future__ import annotations

from collections.abc import Mapping


def cost_of(counts: Mapping[str, int]) -> int | None:
    """Return the cost of one step from the store's counts; one unknown call makes it unknown, never 0."""
    return None if counts.get("cost_unknown") else counts.get("cost_micro", 0)


def cost_of_run(counts: Mapping[str, Mapping[str, int]]) -> int | None:
    """Return the cost of all steps together."""
    costs = [cost_of(step) for step in counts.values()]
    return None if None in costs else sum(cost for cost in costs if cost is not None)
