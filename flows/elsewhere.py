"""Where the steps of a run are done besides the process of the run: work pools, and a task runner.

Owns which of them a step goes to: its pool goes first. Knows nothing of how either is reached.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flows.parts.sending import PartSender, open_sender
from flows.task_runners.sending import UnitSender, open_units

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flows.executor import Elsewhere
    from flows.parts.grouping import Group
    from flows.parts.part import Part, PartEnd
    from flows.prepared import PreparedRun
    from flows.progress import Report
    from flows.stopping import Stop


async def open_elsewhere(run: PreparedRun) -> Elsewhere | None:
    """Return the ways to the other processes that do steps of the run, or None where there are none.

    Raises EnvironmentLacks where the task runner of the settings is not installed.
    """
    parts = await open_sender(run)
    taken = frozenset(step for group in (parts.groups if parts is not None else ()) for step in group.steps)
    units = open_units(run, but=taken)
    if parts is not None and units is not None:
        return _Both(parts, units)
    return parts or units


class _Both:
    """Pools for some steps of a run and a task runner for others."""

    def __init__(self, parts: PartSender, units: UnitSender) -> None:
        self.groups: Sequence[Group] = [*parts.groups, *units.groups]
        self._parts, self._units = parts, units

    async def run(self, part: Part, pool: str, *, stop: Stop, report: Report) -> PartEnd:
        """Have a part done where its step belongs."""
        mine = any(part.steps == group.steps for group in self._units.groups)
        way = self._units if mine else self._parts
        return await way.run(part, pool, stop=stop, report=report)

    async def aclose(self) -> None:
        """Close both ways."""
        await asyncio.gather(self._parts.aclose(), self._units.aclose())
