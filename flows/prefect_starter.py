"""Starts units as Prefect tasks: what Prefect shows of a run, and what it may run again.

Owns names, retries and the progress bar of task runs. Knows nothing of flows. Only ids and counts pass
through Prefect; payloads stay in the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from prefect import Task, get_run_logger
from prefect.cache_policies import NO_CACHE

from chains.errors import StepFailed
from flows.artifacts import RunProgress, leave_artifact
from flows.assets import tell_assets
from flows.gates import tell_failed_gate
from flows.live_steps import LiveSteps
from flows.prepared import PreparedRun
from flows.units import Unit, Work
from tasks.context import Progress
from tasks.counts import ShardCounts


class RowsFailed(StepFailed):
    """Some rows of a shard failed; the rows that did not are in the store."""


def is_infrastructure(_task: Any, _run: Any, state: Any) -> bool:
    """Let Prefect retry what the store or the machine did, never rows whose attempts are used up."""
    return not isinstance(state.data, RowsFailed)


class PrefectStarter:
    """Starts each unit as one task run, named by kind, with retries that re-do only what is missing.

    `whole`: the run is this process's, and so is its progress; a part shows its task runs only.
    """

    def __init__(self, run: PreparedRun, *, whole: bool = True) -> None:
        self._run = run
        self._progress = RunProgress(run) if whole else None
        self._live = LiveSteps(run.chain.chain, run.run_id)
        self._aside: list[asyncio.Task[None]] = []

    async def start(self, unit: Unit, work: Work) -> ShardCounts:
        """Run `work` inside a Prefect task; failed rows make a failed task run but no exception here."""
        kept: list[ShardCounts] = []

        async def run_unit(run_id: str, step: str, rows: str) -> dict[str, int]:
            async with self._live.beside(unit.step_id):
                counts = await work()
            kept.append(counts)
            get_run_logger().info("%s · %s: %s", step, rows, counted(counts))
            if counts.failed:
                raise RowsFailed(f"{counts.failed} rows failed. {counts.first_error or ''}".strip())
            return dict(counts.statuses)

        # No tags: each would cost a request for its concurrency limit, and seconds on a busy server.
        unit_task = Task(
            run_unit,
            name=unit.kind,
            task_run_name=unit.title,
            retries=1,
            retry_delay_seconds=1,
            retry_condition_fn=is_infrastructure,
            cache_policy=NO_CACHE,
            persist_result=False,
        )
        rows = unit.title.partition(" · ")[2]
        running: Any = unit_task(self._run.run_id, unit.step_id, rows, return_state=True)
        state = await running
        if not kept:
            await state.aresult()  # the body never came to its end: raise what stopped it
        await self.ended_elsewhere(1)
        return kept[-1]

    def hear(self, progress: Progress) -> None:
        """Note it for the step's bar."""
        self._live.hear(progress)

    async def ended_elsewhere(self, units: int) -> None:
        """Move the progress bar."""
        if self._progress is not None:
            await self._progress.unit_ended(units)

    async def step_ended(self, run: PreparedRun, step_id: str, status: str) -> None:
        """Tell of a gate that was not met and of what was made, and begin to leave the step's artifact."""
        tell_failed_gate(run, step_id, status)
        tell_assets(run, step_id, status)
        self.aside(leave_artifact(run, step_id, status))

    def aside(self, work: Coroutine[Any, Any, None]) -> None:
        """Have something done beside the run, before its end."""
        self._aside.append(asyncio.create_task(work))

    async def finish(self) -> None:
        """Return when what is done beside the run is done; raise what went wrong there."""
        while self._aside:
            await self._aside.pop()


def counted(counts: ShardCounts) -> str:
    """Return how the rows of a unit ended, in words."""
    line = (
        ", ".join(f"{number} {status}" for status, number in sorted(counts.statuses.items()))
        or "nothing to do"
    )
    notes = [f"{counts.reused} reused"] * bool(counts.reused) + [f"{counts.resumed} resumed"] * bool(
        counts.resumed
    )
    return f"{line} ({', '.join(notes)})" if notes else line
