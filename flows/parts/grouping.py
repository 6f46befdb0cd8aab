"""Which steps of a run go to another pool together, and how their rows are cut into parts.

Owns the grouping: neighbours of one pool are one group, so that a row's steps run in one process and a model
is loaded once. Knows nothing of Prefect and of leases. Invariant: whatever a group needs from outside lies
before it, so groups cannot wait for each other in a circle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chains.graph import Graph

PARTS_PER_WORKER = 4
"""Enough that none idles at the end, and that a lost part is a small piece of the whole."""
FEWEST_SHARDS, MOST_SHARDS = 4, 32
"""Shards of one part: the process that starts for it costs seconds, and a lost one is waited for."""


@dataclass(frozen=True, slots=True)
class Group:
    """Steps that one part takes together. `cuts`: the rows of each part; None is a part of once steps."""

    pool: str
    steps: tuple[str, ...]
    cuts: Sequence[range | None]
    needs: frozenset[str]
    """Steps outside the group that must have ended before a part of it may begin."""


def group_steps(
    graph: Graph, once: frozenset[str], pools: Mapping[str, str], rows: Sequence[range]
) -> list[Group]:
    """Group the steps that have a pool. `rows`: the range of each part of per-row steps.

    Once steps see all rows, so they share a part with per-row steps only where that part has all rows.
    """

    def place(step: str) -> tuple[str | None, bool]:
        return pools.get(step), len(rows) > 1 and step in once

    depth: dict[str, int] = {}
    for step in graph.order:
        depth[step] = max((depth[up] + (place(up) != place(step)) for up in graph.needs[step]), default=0)
    members: dict[tuple[tuple[str | None, bool], int], list[str]] = {}
    for step in graph.order:
        if step in pools:
            members.setdefault((place(step), depth[step]), []).append(step)
    found = []
    for steps in members.values():
        needs = frozenset().union(*(graph.needs[step] for step in steps)) - set(steps)
        cuts: Sequence[range | None] = [None] if once.issuperset(steps) else rows
        found.append(Group(pools[steps[0]], tuple(steps), cuts, needs))
    return found


def cut_rows(span: range, *, shard_rows: int, part_rows: int | None, workers: int) -> list[range]:
    """Cut the rows of a run into those of parts: whole shards, and a few parts for each worker."""
    if part_rows is None:
        shards = -(-len(span) // shard_rows)
        each = -(-shards // (PARTS_PER_WORKER * max(workers, 1)))
        part_rows = shard_rows * min(max(each, FEWEST_SHARDS), MOST_SHARDS)
    return [range(start, min(start + part_rows, span.stop)) for start in range(0, span.stop, part_rows)]
