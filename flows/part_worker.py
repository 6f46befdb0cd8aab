"""A worker that does parts of runs in its own process, one after another, so that models stay loaded.

Owns the way from a scheduled flow run of `run-part` to its start, and what Prefect hears of this worker.
Knows nothing of what a part does. A part runs in a thread with an event loop of its own: training or loading
a model holds up neither the heartbeat nor the wish to stop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import Abort, ObjectNotFound, PrefectException, PrefectSignal
from prefect.flow_engine import run_flow_async
from prefect.states import Crashed, Pending
from prefect.utilities.engine import propose_state

from chains.errors import HeadraceError
from chains.settings import get_settings
from flows.parts.joining import WORKER_NAME, open_store_of
from flows.parts.part import Part
from flows.pools import ensure_deployment, ensure_pool
from flows.prefect_client import patient_client
from flows.run_part import run_part

ASK_S = 0.2
"""How often a worker without work asks for some."""
ASK_LIMIT_S = 5.0
"""How long the answer may take: refused by a busy server, Prefect's client pauses for up to a minute."""
BEAT_S = 10.0
LOOK_S = 1.0
"""How often it is asked whether somebody wants the part that is in work to be cancelled."""


async def serve_parts(pool: str, name: str, *, say: Callable[[str], None]) -> None:
    """Do the parts that are sent to a pool until cancelled; the one in work is then given back.

    The pool is made if it is not there, for one part at a time.
    """
    os.environ[WORKER_NAME] = name
    async with patient_client() as client:
        await ensure_pool(client, pool, limit=1)
        deployment = await ensure_deployment(client, run_part, pool, pool=pool, tags=["headrace"])
        beating = asyncio.create_task(_beat(client, pool, name))
        say(f"Worker {name!r} serves pool {pool!r}; Ctrl-C stops it.")
        try:
            while True:
                flow_run = await _next(client, pool, deployment)
                if flow_run is None:
                    await asyncio.sleep(ASK_S)
                else:
                    say(f"{flow_run.name} …")
                    state = await _do(client, flow_run)
                    say(f"{flow_run.name}: {state.name} {state.message or ''}".rstrip())
        finally:
            beating.cancel()


async def _next(client: PrefectClient, pool: str, deployment: UUID) -> FlowRun | None:
    """Return the part that has waited longest, reserved for this worker; None where there is none."""
    try:
        async with asyncio.timeout(ASK_LIMIT_S):
            found = await client.get_scheduled_flow_runs_for_work_pool(
                pool, scheduled_before=datetime.now(UTC)
            )
        for response in found:
            flow_run = response.flow_run
            if flow_run.deployment_id != deployment:
                continue  # of a flow that another kind of worker runs
            with contextlib.suppress(Abort):  # another worker was quicker, or the pool's limit is reached
                state: State[Any] = await propose_state(client, Pending(), flow_run_id=flow_run.id)
                if state.is_pending():
                    return await client.read_flow_run(flow_run.id)
    except (TimeoutError, httpx.HTTPError, PrefectException):
        await asyncio.sleep(LOOK_S)  # the server is away or busy; the next question may be answered
    return None


async def _do(client: PrefectClient, flow_run: FlowRun) -> State[Any]:
    """Run a part in a thread; return the state in which it ended."""
    working = asyncio.create_task(asyncio.to_thread(_run, flow_run))
    try:
        while not working.done():
            await asyncio.wait({working}, timeout=LOOK_S)
            if not working.done() and await _is_to_be_cancelled(client, flow_run.id):
                await asyncio.to_thread(_ask_to_stop, flow_run)
    except asyncio.CancelledError:
        with contextlib.suppress(httpx.HTTPError, PrefectException):
            stopped: State[Any] = Crashed(message="its worker was stopped")
            await client.set_flow_run_state(flow_run.id, stopped, force=True)
        raise
    try:
        return working.result()
    except (httpx.HTTPError, PrefectException, PrefectSignal) as error:
        # What the part did is in the store; who waits for it reads its lease.
        return Crashed(message=f"Prefect did not take its state: {error}")


def _run(flow_run: FlowRun) -> State[Any]:
    running: Any = run_flow_async(
        run_part, flow_run=flow_run, parameters=flow_run.parameters, return_type="state"
    )
    state: State[Any] = asyncio.run(running)
    return state


async def _is_to_be_cancelled(client: PrefectClient, flow_run_id: UUID) -> bool:
    try:
        state = (await client.read_flow_run(flow_run_id)).state
    except (httpx.HTTPError, ObjectNotFound):
        return False
    return state is not None and (state.is_cancelling() or state.is_cancelled())


def _ask_to_stop(flow_run: FlowRun) -> None:
    """Let the part hear it as any part does: by its lease."""
    given = dict(flow_run.parameters)
    first, end = given.pop("first_row"), given.pop("end_row")
    rows = range(first, end) if first is not None else None
    part = Part(rows=rows, **{**given, "steps": tuple(given["steps"])})
    with contextlib.suppress(HeadraceError), open_store_of(part, get_settings()) as store:
        store.request_cancel(part.name)


async def _beat(client: PrefectClient, pool: str, name: str) -> None:
    """Let the server know that somebody serves the pool."""
    while True:
        with contextlib.suppress(httpx.HTTPError, PrefectException):
            await client.send_worker_heartbeat(pool, name, heartbeat_interval_seconds=BEAT_S)
        await asyncio.sleep(BEAT_S)
