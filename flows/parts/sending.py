"""Sends parts of a run to workers of a pool, and waits until each is done.

Owns the flow runs of parts: how many are on their way at once, which are sent again because their process
was lost, and how long nobody may pick them up. What becomes of a part is read from its lease in the store
first and from Prefect second: a process that was killed stays `Running` in Prefect for ever. Knows nothing
of what a part does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException
from prefect.states import Cancelled, Crashed

from chains.errors import EnvironmentLacks, StepFailed
from chains.plan import pool_of
from flows.closing import crash_parts
from flows.parts.counting import RowCounting
from flows.parts.grouping import PARTS_PER_WORKER, Group, cut_rows, group_steps
from flows.parts.part import Part, PartEnd
from flows.parts.posting import note_below_run, post
from flows.parts.waiting import Ending, Sent, Silence, judge
from flows.pool_waits import note_no_wait, note_wait
from flows.pools import PoolState, ensure_deployment, ensure_pool, pool_state
from flows.prefect_client import patient_client
from flows.prepared import PreparedRun
from flows.progress import Report
from flows.run_part import OVER_BUDGET, run_part
from flows.stopping import Stop
from tasks.context import Progress

_LOG = logging.getLogger(__name__)

TRIES = 3
"""How often a part is sent before its loss is the run's."""
LOOK_S = 0.25
LOOK_SLOWLY_S = 1.0
"""How often the parts are looked at; slowly, where they are many or have been at it for long."""
COUNT_S = 2.0
"""How often the rows that they have done are counted."""
POOLS_S = 5.0
"""How often it is asked who serves a pool that has not picked up its parts."""


async def open_sender(run: PreparedRun) -> PartSender | None:
    """Return the way to the pools on which steps of the run are to be done, or None where there are none.

    A step's own pool counts where the server has it, and where the run is not on it already. The pool of
    `shards_on`, for all other per-row steps, is made if it is not there.
    """
    asked = {step: pool_of(run.chain.steps[step], run.chain) for step in run.graph.order}
    shards_on = run.request.shards_on
    if shards_on is None and not any(asked.values()):
        return None
    here = _pool_of_this_run()
    states: dict[str, PoolState] = {}
    deployments: dict[str, UUID] = {}
    async with patient_client() as client:
        if shards_on is not None:
            await ensure_pool(client, shards_on)
        for pool in sorted({pool for pool in (shards_on, *asked.values()) if pool is not None}):
            state = await pool_state(client, pool) if pool != here or pool == shards_on else None
            if state is not None:
                deployments[pool] = await ensure_deployment(
                    client, run_part, pool, pool=pool, tags=["headrace"]
                )
                states[pool] = state
    pools = {}
    for step, own in asked.items():
        taken = own if own in states else None if step in run.once else shards_on
        if taken is not None:
            pools[step] = taken
    if not pools:
        return None
    if run.resumed:  # nobody waits for the parts of the process that had the run before
        await crash_parts([run.run_id])
    rows = cut_rows(
        run.rows.span,
        shard_rows=run.settings.shard_rows,
        part_rows=run.settings.part_rows,
        workers=max(len(states[pool].workers) for pool in pools.values()),
    )
    return PartSender(run, group_steps(run.graph, run.once, pools, rows), states, deployments)


def _pool_of_this_run() -> str | None:
    """Return the pool whose worker carries the run itself."""
    context = FlowRunContext.get()
    carrier = context.flow_run if context is not None else None
    return carrier.work_pool_name if carrier is not None else None


class PartSender:
    """Sends the parts of one run. `groups`: what is done elsewhere."""

    def __init__(
        self,
        run: PreparedRun,
        groups: Sequence[Group],
        pools: Mapping[str, PoolState],
        deployments: Mapping[str, UUID],
    ) -> None:
        self.groups = groups
        self._run = run
        self._pools = dict(pools)
        self._deployments = dict(deployments)
        self._slots = {
            pool: asyncio.Semaphore(PARTS_PER_WORKER * max(len(state.workers), 1))
            for pool, state in pools.items()
        }
        self._sent: dict[UUID, Sent] = {}
        self._silence: dict[str, Silence] = {}
        self._noted: dict[str, set[str]] = {}
        self._stack = AsyncExitStack()
        self._client: PrefectClient | None = None
        self._watching: asyncio.Task[None] | None = None
        self._counting = RowCounting(run, [step for group in groups for step in group.steps])
        self._counted_at = 0.0
        self._stop = Stop()
        self._report: Report = lambda _: None

    async def run(self, part: Part, pool: str, *, stop: Stop, report: Callable[[Progress], None]) -> PartEnd:
        """Have a part done; send it again where its process is lost, as often as TRIES allows.

        Raises StepFailed where it is lost too often or fails there as a whole, EnvironmentLacks where no
        worker picks it up.
        """
        self._stop, self._report = stop, report
        async with self._slots[pool]:
            for number in range(1, TRIES + 1):
                if stop.asked():
                    return PartEnd(cancelled=stop.by_user)
                flow_run_id, ending = await self._once(part, pool, number)
                if ending.kind != "lost":
                    return await self._end(part, pool, ending)
                await asyncio.to_thread(self._run.store.end_part, part.name)
                await self._crash(flow_run_id, ending.message)
                again = "it is sent again" if number < TRIES else "it is not sent again"
                text = f"{part.title}: its process on pool {pool!r} was lost ({ending.message}); {again}"
                _LOG.warning("Run %s: %s", part.run_id, text)
                report(Progress("", "message", text=text))
        raise StepFailed(
            f"the part {part.title} of run {part.run_id} was lost {TRIES} times on pool {pool!r}.",
            hint=f"See what its workers say; `headrace resume {part.run_id}` goes on.",
        )

    async def aclose(self) -> None:
        """Take back what has not begun; what goes on elsewhere stops when the run is closed."""
        for sent in list(self._sent.values()):
            await self._take_back(sent)
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._stack.aclose()

    async def _crash(self, flow_run_id: UUID, reason: str) -> None:
        """Tell Prefect of a process that it believes to be running."""
        client = await self._connected()
        with contextlib.suppress(httpx.HTTPError, PrefectException):
            flow_run = await client.read_flow_run(flow_run_id)
            if flow_run.state is None or not flow_run.state.is_final():
                state: State[Any] = Crashed(message=f"lost: {reason}")
                await client.set_flow_run_state(flow_run.id, state, force=True)

    async def _once(self, part: Part, pool: str, number: int) -> tuple[UUID, Ending]:
        """Send a part once, and return what became of it."""
        client = await self._connected()
        key = f"{part.name}-{part.run_fence}-{number}"
        leases, below = await asyncio.gather(self._leases(), note_below_run(client, part, key))
        before = leases.get(part.name)
        chain, deployment = self._run.chain.chain, self._deployments[pool]
        flow_run_id = await post(client, part, chain=chain, deployment=deployment, key=key, below=below)
        sent = Sent(
            part, pool, flow_run_id, self._run.clock.monotonic(), before.fence if before is not None else 0
        )
        self._sent[flow_run_id] = sent
        if self._watching is None or self._watching.done():
            self._watching = asyncio.create_task(self._watch())
        try:
            return flow_run_id, await sent.ended
        except asyncio.CancelledError:
            await asyncio.shield(self._take_back(sent))
            raise
        finally:
            self._sent.pop(flow_run_id, None)

    async def _end(self, part: Part, pool: str, ending: Ending) -> PartEnd:
        """Return what a part has left in the store, or raise what stopped it as a whole."""
        over = ending.message if ending.name == OVER_BUDGET else None
        if ending.kind == "failed" and over is None:
            raise StepFailed(
                f"the part {part.title} failed on pool {pool!r}: {ending.message}",
                hint=f"When it is put right, `headrace resume {part.run_id}` goes on.",
            )
        counts = await self._counting.of_part(part)
        await self._count()
        return PartEnd(counts, over, cancelled=ending.kind == "cancelled")

    async def _watch(self) -> None:
        """Look at all parts together: one question to the store and one to Prefect for each look."""
        clock = self._run.clock
        while self._sent:
            oldest = min(sent.since for sent in self._sent.values())
            slowly = len(self._sent) > 4 or clock.monotonic() - oldest > 30
            await asyncio.sleep(LOOK_SLOWLY_S if slowly else LOOK_S)
            try:
                await self._look()
            except BaseException as error:  # whoever waits for a part has to hear of it
                for sent in self._sent.values():
                    if not sent.ended.done():
                        sent.ended.set_exception(error)
                raise

    async def _look(self) -> None:
        leases, states = await self._leases(), await self._states()
        now = self._run.clock.monotonic()
        for sent in list(self._sent.values()):
            ending = judge(sent, leases.get(sent.part.name), states.get(sent.flow_run_id), now)
            if sent.begun and (steps := self._noted.pop(sent.pool, None)) is not None:
                # Before anybody hears of its end, whose row is the last.
                note_no_wait(self._run.store, self._run.run_id, steps)
            if ending is not None:
                sent.end(ending)
            elif self._stop.asked():
                await self._stop_part(sent)
        await self._look_at_pools(now)
        if now - self._counted_at > COUNT_S:
            await self._count()

    async def _stop_part(self, sent: Sent) -> None:
        if sent.stopped:
            return
        if sent.begun:
            sent.stopped = True
            await asyncio.to_thread(self._run.store.request_cancel, sent.part.name)
        elif not sent.taken_back:
            await self._take_back(sent)

    async def _take_back(self, sent: Sent) -> None:
        """Let Prefect start a part no more that has not begun."""
        if self._client is None or sent.ended.done() or sent.taken_back:
            return
        sent.taken_back = True
        if not sent.begun:
            with contextlib.suppress(httpx.HTTPError, PrefectException):
                state: State[Any] = Cancelled(message=f"run {sent.part.run_id} was stopped")
                await self._client.set_flow_run_state(sent.flow_run_id, state, force=True)

    async def _look_at_pools(self, now: float) -> None:
        """Say how long a pool has picked up nothing, and give up where nobody serves it."""
        for pool in {sent.pool for sent in self._sent.values()}:
            here = [sent for sent in self._sent.values() if sent.pool == pool]
            silence = self._silence.setdefault(pool, Silence(now))
            if any(sent.begun for sent in here):
                silence.since = now
                continue
            if now - silence.asked > POOLS_S:
                silence.asked = now
                with contextlib.suppress(httpx.HTTPError):
                    assert self._client is not None  # something was sent
                    self._pools[pool] = await pool_state(self._client, pool) or self._pools[pool]
            state, waited = self._pools[pool], now - max(silence.since, min(sent.since for sent in here))
            if waited < POOLS_S:
                continue
            if pool not in self._noted:
                self._noted[pool] = {step for sent in here for step in sent.part.steps}
                since = self._run.clock.now() - waited
                note_wait(self._run.store, self._run.run_id, self._noted[pool], pool=pool, since=since)
            text = silence.text(state, waited)
            self._report(Progress(here[0].part.steps[0], "message", text=text))
            if not state.served and waited > self._run.settings.pool_wait:
                error = EnvironmentLacks(
                    f"no worker took up the work of run {self._run.run_id} on pool {pool!r} in "
                    f"{waited:.0f} s.",
                    hint=f"Start one with `headrace worker --pool {pool}`, then "
                    f"`headrace resume {self._run.run_id}`. `headrace doctor` shows who serves which pool.",
                )
                for sent in here:
                    await self._take_back(sent)
                    sent.fail(error)

    async def _count(self) -> None:
        self._counted_at = self._run.clock.monotonic()
        await self._counting.report_to(self._report)

    async def _leases(self) -> dict[str, Any]:
        return await asyncio.to_thread(self._run.store.part_leases, self._run.run_id)

    async def _states(self) -> dict[UUID, State[Any]]:
        """Return what Prefect says of the parts; nothing where it does not answer now."""
        client = await self._connected()
        wanted = FlowRunFilter(id=FlowRunFilterId(any_=list(self._sent)))
        try:
            found = await client.read_flow_runs(flow_run_filter=wanted)
        except httpx.HTTPError as error:
            _LOG.warning("Prefect did not say how the parts of run %s stand: %s", self._run.run_id, error)
            return {}
        return {flow_run.id: flow_run.state for flow_run in found if flow_run.state is not None}

    async def _connected(self) -> PrefectClient:
        if self._client is None:
            client = patient_client()
            self._client = client
            await self._stack.enter_async_context(client)
        return self._client
