"""Submits the units of per-row steps to a Prefect task runner, and waits until each has ended.

Owns the task runner's life and which steps go there. Knows nothing of what a unit does, nor of Dask and Ray:
both run a unit again whose worker was lost, and the store sees to it that no call is made twice for that.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from prefect.exceptions import CancelledRun

from chains.errors import Cancelled, StepFailed
from chains.spec import RetrieveStep, kind_of
from flows.parts.counting import RowCounting
from flows.parts.grouping import Group
from flows.parts.part import Part, PartEnd
from flows.prefect_starter import RowsFailed
from flows.task_runners.opening import make_task_runner
from flows.task_runners.unit_task import BudgetUsed, unit_task

if TYPE_CHECKING:
    from prefect.futures import PrefectFuture
    from prefect.task_runners import TaskRunner

    from flows.prepared import PreparedRun
    from flows.progress import Report
    from flows.stopping import Stop

IN_FLIGHT = 256
"""Units that the cluster has at once: enough to fill a large one, few enough that a stop reaches all."""
LOOK_S = 1.0
"""How often their rows are counted, and a wish to stop is passed on."""
_KINDS = ("dask", "ray")


def open_units(run: PreparedRun, *, but: frozenset[str] = frozenset()) -> UnitSender | None:
    """Return the way to the task runner of the settings, or None where no step goes there.

    `but`: steps that are done elsewhere already. Raises EnvironmentLacks where its extra is not installed.
    """
    steps = [step for step in run.graph.order if step not in but and _may_go(run, step)]
    if run.settings.task_runner is None or not steps:
        return None
    return UnitSender(run, steps, make_task_runner(run.settings.task_runner))


def _may_go(run: PreparedRun, step_id: str) -> bool:
    """Whether a step may run in other processes.

    Once steps see all rows and mostly load a model for that: they stay here. So does a `retrieve` from a
    collection in a folder, which one process at a time may open.
    """
    step = run.chain.steps[step_id]
    if isinstance(step, RetrieveStep) and run.chain.collections[step.retrieve].url is None:
        return False
    return step_id not in run.once


class UnitSender:
    """Sends the units of one run to its task runner. `groups`: the steps that are done there."""

    def __init__(self, run: PreparedRun, steps: Sequence[str], runner: TaskRunner[Any]) -> None:
        self._run = run
        self._runner = runner
        self._kind = (run.settings.task_runner or "").partition(":")[0]
        shards = run.shards  # one list for all: shard k of a step waits for shard k of the steps before
        name = f"task runner {self._kind}"
        self.groups: Sequence[Group] = [Group(name, (step,), shards, run.graph.needs[step]) for step in steps]
        self._counting = RowCounting(run, steps)
        self._slots = asyncio.Semaphore(IN_FLIGHT)
        self._submitting = asyncio.Lock()
        self._life = threading.Lock()
        self._started = self._closed = False
        self._under_way: set[str] = set()
        self._watching: asyncio.Task[None] | None = None

    async def run(self, part: Part, pool: str, *, stop: Stop, report: Report) -> PartEnd:
        """Have a unit done, and return what it has left in the store.

        Raises StepFailed where the cluster has lost it too often, or it fails there as a whole.
        """
        async with self._slots:
            if stop.asked():
                return PartEnd(cancelled=stop.by_user)
            self._under_way.add(part.name)
            if self._watching is None or self._watching.done():
                self._watching = asyncio.create_task(self._watch(stop, report))
            try:
                # One at a time: the first makes the cluster, and a second would make another.
                async with self._submitting:
                    future = await asyncio.to_thread(self._submit, part)
                await _end_of(future)
            finally:
                self._under_way.discard(part.name)
            found = await asyncio.to_thread(self._result, future, part)
        counts = await self._counting.of_part(part)
        await self._counting.report_to(report)
        over = found.message if isinstance(found, BudgetUsed) else None
        return PartEnd(counts, over, cancelled=isinstance(found, CancelledRun))

    async def aclose(self) -> None:
        """Close the way there, and the cluster where it was made for this run."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await asyncio.to_thread(self._close)

    def _submit(self, part: Part) -> PrefectFuture[Any]:
        kind = kind_of(self._run.chain.steps[part.steps[0]])
        named = unit_task.with_options(name=kind, task_run_name=part.title)
        with self._life:
            if self._closed:
                raise Cancelled(f"run {part.run_id} was stopped before {part.title} was sent.")
            if not self._started:
                self._runner.__enter__()
                self._started = True
            future: PrefectFuture[Any] = self._runner.submit(named, part.parameters())
            return future

    def _close(self) -> None:
        with (
            self._life
        ):  # whoever was cancelled while the cluster came up has left a thread that waits for it
            self._closed = True
            if self._started:
                self._runner.__exit__(None, None, None)

    def _result(self, future: PrefectFuture[Any], part: Part) -> Any:
        """Return what a unit has left in Prefect; failed rows are no error here."""
        again = f"`headrace resume {part.run_id}` goes on."
        try:
            found = future.result(raise_on_failure=False)
        except Exception as error:  # of the cluster: which ones there are is Dask's and Ray's affair
            raise StepFailed(
                f"the unit {part.title} of run {part.run_id} was lost by {self._kind.capitalize()}: {error}",
                hint=again,
            ) from error
        if isinstance(found, BaseException) and not isinstance(found, RowsFailed | CancelledRun):
            raise StepFailed(
                f"the unit {part.title} failed on {self._kind.capitalize()}: {found}",
                hint=f"When it is put right, {again}",
            ) from found
        return found

    async def _watch(self, stop: Stop, report: Report) -> None:
        while self._under_way:
            await asyncio.sleep(LOOK_S)
            # Again each time: who takes a part up forgets what was wished of the one before.
            for name in list(self._under_way) if stop.asked() else ():
                await asyncio.to_thread(self._run.store.request_cancel, name)
            await self._counting.report_to(report)


async def _end_of(future: PrefectFuture[Any]) -> None:
    """Return when a unit has ended; a thread for each that waits would be one too many."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def tell(_: Any) -> None:
        with suppress(RuntimeError):  # nobody waits any more: the loop is closed
            loop.call_soon_threadsafe(ended.set)

    future.add_done_callback(tell)
    await ended.wait()
