"""One (step, shard): the piece of a run that is started by itself, and the order in which pieces end.

Owns the names of units and who waits for whom. Knows nothing of steps and of what a unit does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from flows.prepared import PreparedRun
    from tasks.context import Progress
    from tasks.counts import ShardCounts

Work = Callable[[], Awaitable["ShardCounts"]]


@dataclass(frozen=True, slots=True)
class Unit:
    """One (step, shard); `rows` is None for a once step."""

    step_id: str
    kind: str
    rows: range | None

    @property
    def title(self) -> str:
        """The unit's name in the Prefect UI and in logs, such as `triage · rows 0-255`."""
        if self.rows is None:
            return f"{self.step_id} · once"
        if len(self.rows) == 1:
            return f"{self.step_id} · row {self.rows.start}"
        return f"{self.step_id} · rows {self.rows.start}-{self.rows.stop - 1}"


class Starter(Protocol):
    """How units are started, and who hears of ends."""

    async def start(self, unit: Unit, work: Work) -> ShardCounts:
        """Run `work` and return what it counted."""

    async def step_ended(self, run: PreparedRun, step_id: str, status: str) -> None:
        """All units of a step have ended."""

    def hear(self, progress: Progress) -> None:
        """A step says something of itself; any thread may tell."""

    async def ended_elsewhere(self, units: int) -> None:
        """As much work as that of so many units has ended in another process."""

    async def finish(self) -> None:
        """All steps have ended; return when whoever was told of them is done."""


class Direct:
    """Starts units as plain calls in this process."""

    async def start(self, unit: Unit, work: Work) -> ShardCounts:
        """Run `work` here and now."""
        return await work()

    async def step_ended(self, run: PreparedRun, step_id: str, status: str) -> None:
        """Nobody else is told."""

    def hear(self, progress: Progress) -> None:
        """Nobody else is told."""

    async def ended_elsewhere(self, units: int) -> None:
        """Nobody else is told."""

    async def finish(self) -> None:
        """Nobody was told."""


class Track:
    """Which units of one step have ended, for those who wait for them."""

    def __init__(self, units: int) -> None:
        self._left = units
        self._ended: set[int] = set()
        self._waiting: dict[int, asyncio.Event] = {}
        self._all = asyncio.Event()

    async def unit(self, number: int) -> None:
        """Return when this unit has ended."""
        if number not in self._ended:
            await self._waiting.setdefault(number, asyncio.Event()).wait()

    async def all(self) -> None:
        """Return when every unit has ended."""
        await self._all.wait()

    def end(self, number: int) -> None:
        """Note that a unit has ended."""
        self._ended.add(number)
        self._left -= 1
        if waiting := self._waiting.pop(number, None):
            waiting.set()
        if not self._left:
            self._all.set()
