"""Closes runs that nobody works on any more, here and in Prefect.

Owns what happens to a run whose process is gone. Knows nothing of how a run that lives is stopped. Invariant:
a run is closed only by who has its lease, so that a process that was merely slow loses it visibly.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from chains.clock import Clock
from chains.errors import HeadraceError
from flows.lease import LEASE_S, take_over
from flows.resuming import is_dead

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

    from chains.store import RunRow, Store
    from flows.prepared import PreparedRun

_LOG = logging.getLogger(__name__)

PART_OF = "part-of:"
"""How the tag of a part's flow run begins; the run's id follows."""

RECENT = 200
"""Newest runs that are looked at beside those whose lease has passed."""


def close_lost_runs(store: Store, clock: Clock) -> list[RunRow]:
    """Close every run whose lease has passed, or whose process was here and is gone, as `interrupted`."""
    passed = store.lost_runs()
    known = {run.id for run in passed}
    here = [run for run in store.runs(limit=RECENT, payloads=False) if is_dead(run) and run.id not in known]
    return [run for run in [*passed, *here] if close_if_lost(store, run, clock, "interrupted")]


def close_if_lost(
    store: Store, run: RunRow, clock: Clock, status: Literal["interrupted", "cancelled"]
) -> bool:
    """Close a run as `status` and return True, unless a process works on it."""
    if is_dead(run):
        store.close_lost(run.id, status)
        return True
    lease = take_over(store, run, clock)
    if lease is None:
        return False
    store.close_lost(run.id, status)
    lease.give_back()
    return True


async def until_free(store: Store, run_id: str, limit: float = LEASE_S + 5) -> None:
    """Return when the lease of a run has passed, and at the latest after `limit` seconds.

    Prefect may start a flow run again on another machine before the lease of a process that died has ended.
    """
    clock = Clock()
    begun = clock.monotonic()
    while clock.monotonic() - begun < limit:
        run = store.run(run_id)
        if run is None or run.status != "running" or is_dead(run):
            return
        if run_id in {lost.id for lost in store.lost_runs()}:
            return
        await asyncio.sleep(0.5)


def close_unfinished(run: PreparedRun, status: Literal["failed", "cancelled"]) -> None:
    """Close a run of this process that ended before its executor could; one that is closed stays as it is."""
    try:
        row = run.store.run(run.run_id)
        if row is not None and row.status == "running" and run.lease.still_mine():
            run.store.close_lost(run.run_id, status)
            run.lease.give_back()
    except HeadraceError as error:  # what stopped the run is told, not this
        _LOG.warning("Run %s could not be closed: %s", run.run_id, error)


async def crash_flow_runs(runs: Mapping[str, str]) -> list[str]:
    """Give the flow runs (id to reason) that Prefect still holds for running the state Crashed.

    Returns the ids of those that were changed. A flow run that this Prefect does not know is left out.
    """
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Crashed

    changed = []
    async with get_client() as client:
        for flow_run_id, reason in runs.items():
            try:
                flow_run = await client.read_flow_run(UUID(flow_run_id))
            except ObjectNotFound:
                continue
            if flow_run.state is None or not flow_run.state.is_final():
                await client.set_flow_run_state(flow_run.id, Crashed(message=reason), force=True)
                changed.append(flow_run_id)
    return changed


async def crash_parts(run_ids: Collection[str]) -> int:
    """Give the parts of these runs that Prefect still waits for the state Crashed; return how many.

    The caller knows that nobody waits for them any more: their runs are closed, or were taken over. Until
    then a part whose worker was killed keeps the place that it had in its pool.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
        FlowRunFilterTags,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    if not run_ids:
        return 0
    unended = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
    wanted = FlowRunFilter(
        tags=FlowRunFilterTags(any_=[f"{PART_OF}{run_id}" for run_id in run_ids]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=unended)),
    )
    async with get_client() as client:
        left = await client.read_flow_runs(flow_run_filter=wanted)
        for flow_run in left:
            state: State[Any] = Crashed(message="its run has ended or goes on elsewhere")
            await client.set_flow_run_state(flow_run.id, state, force=True)
    return len(left)


def with_flow_runs(runs: Sequence[RunRow]) -> dict[str, str]:
    """Return the flow runs that carried these runs, each with what to say of it."""
    return {
        run.prefect_flow_run_id: f"run {run.id}: its process is gone; `headrace resume {run.id}` finishes it"
        for run in runs
        if run.prefect_flow_run_id
    }
