"""Counts the rows that other processes have done, and reports them as if they had been done here.

Owns the numbers that were reported before. Knows nothing of where the rows are done: the store tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tasks.context import Progress
from tasks.counts import ShardCounts

if TYPE_CHECKING:
    from flows.parts.part import Part
    from flows.prepared import PreparedRun
    from flows.progress import Report

_STATUSES = ("ok", "failed", "blocked", "skipped", "cancelled")


class RowCounting:
    """The rows of the steps of a run that are done elsewhere."""

    def __init__(self, run: PreparedRun, steps: Sequence[str]) -> None:
        self._run = run
        self._steps = steps
        self._counted: dict[str, dict[str, int]] = {}

    async def of_part(self, part: Part) -> dict[str, ShardCounts]:
        """Return what the steps of a part have left in the store."""
        found = await asyncio.to_thread(self._run.store.counts, part.run_id, part.span)
        counts = {}
        for step in part.steps:
            numbers = found.get(step, {})
            counts[step] = ShardCounts(reused=numbers.get("reused", 0))
            counts[step].statuses.update({name: numbers[name] for name in _STATUSES if numbers.get(name)})
        return counts

    async def report_to(self, report: Report) -> None:
        """Report the rows that have ended since the last time."""
        found = await asyncio.to_thread(self._run.store.counts, self._run.run_id)
        again = self._run.resumed and not self._counted
        for step in self._steps:
            now = found.get(step, {})
            # What had failed before this process began with the run is run again, and counts when it ends.
            before = self._counted.get(step, _failed(now) if again else {})
            self._counted[step] = now
            grown = {name: max(now.get(name, 0) - before.get(name, 0), 0) for name in now | before}
            for status in _STATUSES[:-1]:
                for _ in range(grown.get(status, 0)):
                    report(_row(step, status, grown))
                    grown |= dict.fromkeys(("tokens_in", "tokens_out", "cost_micro", "cost_unknown"), 0)
                    grown["reused"] = grown.get("reused", 0) - 1


def _failed(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: counts.get(name, 0) for name in ("failed", "blocked")}


def _row(step: str, status: str, grown: Mapping[str, int]) -> Progress:
    """Return the report of one row; the first of several carries what all of them have used."""
    return Progress(
        step,
        "row",
        status=status,
        reused=status == "ok" and grown.get("reused", 0) > 0,
        tokens_in=grown.get("tokens_in", 0),
        tokens_out=grown.get("tokens_out", 0),
        cost_micro=None if grown.get("cost_unknown") else grown.get("cost_micro", 0),
    )
