"""The Prefect task that a worker of a task runner does: one shard of one per-row step.

Owns how a unit ends in Prefect's eyes, and the wait for a worker before that was lost with the same unit.
Only names come in, and only counts go out; what it does is in flows.parts and in the store.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from prefect import Task, get_run_logger
from prefect.cache_policies import NO_CACHE
from prefect.states import Cancelled

from chains.errors import ChainInvalid, InputInvalid
from chains.settings import get_settings
from flows.executor import execute_part
from flows.parts.joining import join, open_store_of
from flows.parts.part import Part
from flows.prefect_starter import RowsFailed, counted, is_infrastructure
from flows.units import Direct
from tasks.providers.resident import keep

if TYPE_CHECKING:
    from chains.store import Store

MODELS_KEPT = 2
"""Local models that a worker's process keeps from one unit to the next."""
LOOK_S = 0.5
"""How often the lease of a worker before is looked at."""


class BudgetUsed(RowsFailed):
    """A budget has stopped the unit; the rows that it was not reached for are in the store as cancelled."""


async def _run_unit(  # noqa: PLR0917 - the name of a part, as Prefect carries it
    run_id: str,
    run_fence: int,
    steps: list[str],
    first_row: int,
    end_row: int,
    since: float,
    folder: str | None,
) -> Any:
    """Do a step of a run over rows `first_row` to `end_row` (exclusive); return how many have each status."""
    part = Part(run_id, run_fence, tuple(steps), range(first_row, end_row), since, folder)
    settings = get_settings()
    keep(MODELS_KEPT)
    with open_store_of(part, settings) as store:
        await _until_free(store, part)
        if store.cancel_requested(run_id, part.name) is not None:
            return Cancelled(message="the run was stopped before this")
        try:
            run = join(part, store=store, settings=settings)
        except ChainInvalid as error:  # its problems have no form in which errors go between processes
            raise InputInvalid(str(error)) from None
        try:
            end = await execute_part(run, part, Direct())
        finally:
            run.lease.give_back()
    counts = end.counts[steps[0]]
    get_run_logger().info("%s: %s", part.title, counted(counts))
    if end.over_budget is not None:
        raise BudgetUsed(end.over_budget)
    if end.cancelled:
        return Cancelled(message=f"stopped; {counted(counts)}")
    if counts.failed:
        raise RowsFailed(f"{counts.failed} rows failed. {counts.first_error or ''}".strip())
    return dict(counts.statuses)


async def _until_free(store: Store, part: Part) -> None:
    """Wait while another process has the part.

    Dask and Ray give a unit to another worker as soon as they miss the first. Whether that one is gone, its
    lease knows: a worker that was only cut off goes on, and ends what it has begun.
    """
    while True:
        lease = (await asyncio.to_thread(store.part_leases, part.run_id)).get(part.name)
        if lease is None or not lease.alive or store.cancel_requested(part.run_id, part.name) is not None:
            return
        await asyncio.sleep(LOOK_S)


# A task of its own name beside the function: workers find the function by that, and get no copy of it.
unit_task: Task[Any, Any] = Task(
    _run_unit,
    name="unit",
    retries=1,
    retry_delay_seconds=1,
    retry_condition_fn=is_infrastructure,
    cache_policy=NO_CACHE,
    persist_result=False,
)
