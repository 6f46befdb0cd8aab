"""Progress in the Prefect UI of steps that take long: a bar per step, with what it says of itself.

Owns when a bar is made and moved: a step that is over within seconds gets none, and however often a step
says something, its bar moves every few seconds. A training shows its loss and the time left, a collection its
chunks, a per-row step how many rows have ended. Knows nothing of units and of the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from uuid import UUID

import httpx

from tasks.context import Progress

AFTER_S = 3.0
"""How long a step runs before it gets a bar."""
EVERY_S = 5.0
"""How often a bar moves: each time is a request to the server."""
PATIENCE_S = 5.0
"""How long the server may take over one: the end of a step waits for it."""


@dataclass(slots=True)
class _Bar:
    done: int = 0
    total: int = 0
    items_done: int = 0
    items: int = 0
    text: str = ""
    counts_rows: bool = True
    shown: tuple[float, str] | None = None
    artifact: UUID | None = None
    units: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)
    following: asyncio.Task[None] | None = None


class LiveSteps:
    """The bars of one run's steps, or of one part's."""

    def __init__(self, chain: str, run_id: str) -> None:
        self._chain = chain
        self._run_id = run_id
        self._bars: dict[str, _Bar] = {}

    def hear(self, progress: Progress) -> None:
        """Take what a step says of itself; any thread may tell."""
        bar = self._bars.get(progress.step)
        if bar is None:
            return
        match progress.event:
            case "started" if bar.counts_rows:
                bar.total += progress.total
            case "row" if bar.counts_rows:
                bar.done += 1
            case "items":
                bar.items += progress.total
            case "item":
                bar.items_done += 1
            case "message" if progress.total:  # the step counts in steps or chunks of its own
                bar.counts_rows = False
                bar.done, bar.total, bar.text = progress.done, progress.total, progress.text
            case "message" if not bar.counts_rows:
                bar.text = progress.text

    @asynccontextmanager
    async def beside(self, step_id: str) -> AsyncIterator[None]:
        """Keep the step's bar while a unit of it runs; called in the task run that the bar belongs to."""
        bar = self._bars.setdefault(step_id, _Bar())
        bar.units += 1
        if bar.following is None:
            bar.over.clear()
            bar.following = asyncio.create_task(self._follow(step_id, bar))
        try:
            yield
        finally:
            bar.units -= 1
            if not bar.units:
                following, bar.following = bar.following, None
                bar.over.set()
                await following

    async def _follow(self, step_id: str, bar: _Bar) -> None:
        """Move the bar now and then, and once more at the end."""
        wait = AFTER_S
        while not bar.over.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(bar.over.wait(), wait)
            wait = EVERY_S
            if bar.total and (bar.artifact is not None or not bar.over.is_set()):
                await self._move(step_id, bar)

    async def _move(self, step_id: str, bar: _Bar) -> None:
        """Show the bar as it is now. What the server does not take is not worth a run."""
        from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
        from prefect.exceptions import PrefectException

        text = bar.text or f"{bar.done} of {bar.total} rows"
        text += f", {bar.items_done} of {bar.items} items" if bar.items else ""
        share = (bar.done + bar.items_done) / max(bar.total + bar.items, 1)
        now = min(100.0 * share, 100.0), f"{step_id} · {text} · run {self._run_id}"
        if now == bar.shown:
            return
        with suppress(httpx.HTTPError, PrefectException, TimeoutError):
            async with asyncio.timeout(PATIENCE_S):
                if bar.artifact is None:
                    key = f"{self._chain}-{step_id}-progress".replace("_", "-")
                    bar.artifact = await acreate_progress_artifact(now[0], key=key, description=now[1])
                else:
                    await aupdate_progress_artifact(bar.artifact, now[0], description=now[1])
                bar.shown = now
