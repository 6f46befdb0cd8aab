"""A worker that does parts of runs in its own process, one after another, so that models stay loaded.

Owns the way from a scheduled flow run of `run-part` to its start, and what Prefect hears of this worker.
Knows nothing of what a part does. Parts run in a thread with an event loop of its own: training or loading
a model holds up neither the heartbeat nor the wish to stop. That thread and its clients of Prefect's API stay
from part to part.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import importlib
import os
import threading
import time
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
from flows.part_bell import Bell
from flows.parts.joining import WORKER_NAME, open_store_of
from flows.parts.part import Part
from flows.pools import ensure_deployment, ensure_pool
from flows.prefect_client import patient_client, shared_clients
from flows.run_part import run_part

ASK_S, ASK_SELDOM_S = 0.25, 1.0
"""How often a worker without work asks for some while the bell is silent; seldom, after LONG_S without."""
LONG_S = 30.0
NEEDED = (
    "chains.changes",
    "chains.loading",
    "prefect.task_engine",
    "sqlalchemy.dialects.sqlite",
    "tasks.collection",
)
"""What a part imports when it begins; the first one should not wait for it either."""
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
        bell = Bell(deployment)
        listening = asyncio.create_task(bell.listen())
        bench, worked = _Bench(), time.monotonic()
        for module in NEEDED:
            importlib.import_module(module)
        say(f"Worker {name!r} serves pool {pool!r}; Ctrl-C stops it.")
        try:
            while True:
                flow_run = await _next(client, pool, deployment)
                if flow_run is None:
                    idle = time.monotonic() - worked
                    await bell.wait(ASK_S if idle < LONG_S else ASK_SELDOM_S)
                else:
                    say(f"{flow_run.name} …")
                    state = await _do(client, bench, flow_run)
                    say(f"{flow_run.name}: {state.name} {state.message or ''}".rstrip())
                    worked = time.monotonic()
        finally:
            beating.cancel()
            listening.cancel()


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
                    flow_run.state = state
                    return flow_run
    except (TimeoutError, httpx.HTTPError, PrefectException):
        await asyncio.sleep(LOOK_S)  # the server is away or busy; the next question may be answered
    return None


async def _do(client: PrefectClient, bench: _Bench, flow_run: FlowRun) -> State[Any]:
    """Run a part in its thread; return the state in which it ended."""
    working = bench.begin(flow_run)
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


class _Bench:
    """The thread in which parts are done, one after another."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._parts: asyncio.Queue[tuple[FlowRun, concurrent.futures.Future[State[Any]]]] = asyncio.Queue()
        # Not waited for: a training that was told to stop may take longer than who stops the worker.
        threading.Thread(target=self._loop.run_until_complete, args=(self._attend(),), daemon=True).start()

    def begin(self, flow_run: FlowRun) -> asyncio.Future[State[Any]]:
        """Run a part; return what will be the state in which it ended."""
        ended: concurrent.futures.Future[State[Any]] = concurrent.futures.Future()
        self._loop.call_soon_threadsafe(self._parts.put_nowait, (flow_run, ended))
        return asyncio.wrap_future(ended)

    async def _attend(self) -> None:
        async with shared_clients():
            while True:
                flow_run, ended = await self._parts.get()
                part = asyncio.create_task(_run(flow_run))
                await asyncio.wait({part})
                if (error := part.exception()) is not None:
                    ended.set_exception(error)
                else:
                    ended.set_result(part.result())


async def _run(flow_run: FlowRun) -> State[Any]:
    # Without its deployment Prefect's engine opens no connection of its own to hear whether the flow run is
    # to be suspended: it would wait for that connection, and a part is stopped by its lease.
    begun = flow_run.model_copy(update={"deployment_id": None})
    running: Any = run_flow_async(run_part, flow_run=begun, parameters=begun.parameters, return_type="state")
    state: State[Any] = await running
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
