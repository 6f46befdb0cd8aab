"""Which steps of a fork run, for which rows, and why; the others are linked.

Owns the walk down the graph. Invariant: a step runs exactly where something changed in it, or in a step that
it needs; whatever else there is of the earlier run stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from chains.graph import Graph

Rows = frozenset[int] | None
"""Row numbers; None stands for all rows, and for a step that runs once."""


@dataclass(frozen=True, slots=True)
class Start:
    """A step that runs for a reason of its own."""

    rows: Rows
    reason: str


@dataclass(frozen=True, slots=True)
class Reach:
    """A step that runs in a fork: for which rows, and why."""

    step: str
    rows: Rows
    reason: str


def reach_of(graph: Graph, once: frozenset[str], starts: Mapping[str, Start]) -> dict[str, Reach]:
    """Return the steps that run, in order: the starts and all that needs one of them.

    A once step runs whole where any row that it reads is run again; what needs it runs for all rows.
    """
    found: dict[str, Reach] = {}
    for step in graph.order:
        above = [found[name] for name in graph.order if name in graph.needs[step] and name in found]
        own = starts.get(step)
        if own is None and not above:
            continue
        reason = own.reason if own is not None else f"needs {', '.join(reach.step for reach in above)}"
        wanted = [own.rows] if own is not None else []
        wanted += [None if reach.step in once else reach.rows for reach in above]
        found[step] = Reach(step, None if step in once else _together(wanted), reason)
    return found


def _together(wanted: list[Rows]) -> Rows:
    rows: set[int] = set()
    for some in wanted:
        if some is None:
            return None
        rows |= some
    return frozenset(rows)
