"""Executes a prepared run, or a part of one: starts each (step, shard) when its inputs are there.

Owns the order and the run's end in the store. Knows nothing of how a unit is started: a `Starter` does that,
as a Prefect task or as a plain call; nor of how parts get to other processes: `Elsewhere` does that.
Invariant: a run that `execute` leaves is never `running` in the store, unless another process has taken it
over.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from chains.inside import all_inside
from chains.spec import kind_of
from flows.ending import close_run, run_status, step_status, taken_over
from flows.garbage import rare_collections
from flows.parts.grouping import Group
from flows.parts.part import Part, PartEnd
from flows.prepared import PreparedRun, note_anew, note_anew_elsewhere
from flows.step_rows import rows_inside, step_row
from flows.stopping import GRACE_SECONDS, Stop, listen
from flows.units import Starter, Track, Unit
from tasks.context import Progress, StepContext
from tasks.counts import ShardCounts, Stopping
from tasks.rows import run_once, run_shard
from tasks.scopes import Scopes

SHARDS_AT_ONCE = 4
"""Shards of one step that run together: enough to fill a model's limit, few enough to bound memory."""
WINDOW = 16
"""Shards of one step that are started or wait for their turn; the others are not even made yet."""

PARTS_WINDOW = 1024
"""Parts of one step that are sent or wait for their turn; a part is a few values until it is sent."""
NOTED_AFTER_S = 0.02
"""How long a step runs before the store says so: the steps of a short run are over by then."""


class Elsewhere(Protocol):
    """The steps of a run that other processes do, and the way there."""

    groups: Sequence[Group]

    async def run(self, part: Part, pool: str, *, stop: Stop, report: Callable[[Progress], None]) -> PartEnd:
        """Have a part done on a pool and return how it ended."""

    async def aclose(self) -> None:
        """Take back what is not done."""


@dataclass(slots=True)
class _Execution:
    run: PreparedRun
    starter: Starter
    report: Callable[[Progress], None]
    stop: Stop
    since: float
    cuts: dict[str, Sequence[range | None]]
    """For each step that is executed here the rows of its units; one None for a once step."""
    elsewhere: Elsewhere | None = None
    groups: dict[str, Group] = field(default_factory=dict)
    whole: bool = True
    tracks: dict[str, Track] = field(default_factory=dict)
    totals: dict[str, ShardCounts] = field(default_factory=dict)
    sent: dict[tuple[str, int], asyncio.Task[PartEnd]] = field(default_factory=dict)
    memos: dict[str, dict[str, Any]] = field(default_factory=dict)
    begun: dict[str, float] = field(default_factory=dict)
    noting: dict[str, asyncio.TimerHandle] = field(default_factory=dict)
    ended: dict[str, Counter[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for step_id, cuts in self.cuts.items():
            self.memos[step_id] = {}
            self.tracks[step_id] = Track(len(cuts))

    def tell(self, progress: Progress) -> None:
        """Pass on what a step that runs here says of itself."""
        self.report(progress)
        self.starter.hear(progress)


async def execute(
    run: PreparedRun,
    starter: Starter,
    report: Callable[[Progress], None] = lambda _: None,
    elsewhere: Elsewhere | None = None,
) -> dict[str, Any]:
    """Run every step and return `{run_id, status, rows, counts, cost, outputs}` as a small dict.

    Never raises for failed rows or a stop by the user: the status says so. A cancellation from outside and
    an unexpected error of the program itself are raised after the run is closed. A run that another process
    has taken over is left to it, with a StoreConflict.
    """
    groups = {step: group for group in (elsewhere.groups if elsewhere else ()) for step in group.steps}
    shards, once = run.shards, [None]
    cuts: dict[str, Sequence[range | None]] = {
        step: groups[step].cuts if step in groups else once if step in run.once else shards
        for step in run.graph.order
    }
    since = 0.0 if run.fresh_fork else run.clock.now()
    execution = _Execution(run, starter, report, Stop(), since, cuts, elsewhere, groups)
    try:
        with rare_collections():
            await _run_units(execution)
    except asyncio.CancelledError:
        if execution.stop.lost:
            raise taken_over(run) from None
        if execution.stop.by_user:  # the grace is over, or Ctrl-C came twice
            return close_run(run, "cancelled")
        close_run(run, "cancelled")
        raise
    except Exception:
        close_run(run, "failed")
        raise
    finally:
        await _leave(execution)
    return close_run(run, run_status(run, execution.stop, execution.ended))


async def execute_part(run: PreparedRun, part: Part, starter: Starter) -> PartEnd:
    """Run a part's steps over its rows; the run itself is opened, closed and looked at by its own process.

    A part that was taken from this process is a StoreConflict. A cancellation from outside and an unexpected
    error are raised.
    """
    rows = part.rows if part.rows is not None else range(0)
    size = run.settings.shard_rows
    shards = [range(start, min(start + size, rows.stop)) for start in range(rows.start, rows.stop, size)]
    cuts: dict[str, Sequence[range | None]] = {
        step: [None] if step in run.once else shards for step in run.graph.order if step in part.steps
    }
    execution = _Execution(run, starter, lambda _: None, Stop(), part.since, cuts, whole=False)
    try:
        with rare_collections():
            await _run_units(execution)
    except asyncio.CancelledError:
        if execution.stop.lost:
            raise taken_over(run) from None
        if not execution.stop.by_user:
            raise
    finally:
        await _leave(execution)
    over = execution.stop.reason if execution.stop.over_budget else None
    return PartEnd(execution.totals, over, cancelled=execution.stop.by_user)


async def _leave(execution: _Execution) -> None:
    if execution.elsewhere is not None:
        await execution.elsewhere.aclose()
    for providers, collections in execution.run.all_services:
        await providers.aclose()
        await collections.aclose()


async def _run_units(execution: _Execution) -> None:
    group = [asyncio.create_task(_run_step(execution, step_id)) for step_id in execution.cuts]
    # Other processes hear of it a little later, and have the same grace from then on.
    grace = GRACE_SECONDS * (1 if execution.elsewhere is None else 1.5)
    restore = listen(execution.stop, execution.run, group, execution.report, grace=grace)
    try:
        await asyncio.gather(*group)
        await execution.starter.finish()
    except BaseException:
        for task in group:
            task.cancel()
        await asyncio.gather(*group, return_exceptions=True)
        raise
    finally:
        restore()


async def _run_step(execution: _Execution, step_id: str) -> None:
    """Make a step's units in order, a window at a time, and write its row when the last has ended."""
    run = execution.run
    kind = kind_of(run.chain.steps[step_id])
    total = execution.totals[step_id] = ShardCounts()
    there = step_id in execution.groups
    slots = asyncio.Semaphore(PARTS_WINDOW if there else SHARDS_AT_ONCE)
    units: set[asyncio.Task[ShardCounts]] = set()
    try:
        for number, rows in enumerate(execution.cuts[step_id]):
            if len(units) == (PARTS_WINDOW if there else WINDOW):
                units = await _some(units, total)
            unit = Unit(step_id, kind, rows)
            units.add(asyncio.create_task(_run_unit(execution, unit, number, slots)))
        while units:
            units = await _some(units, total)
    except BaseException:
        for unfinished in units:
            unfinished.cancel()
        await asyncio.gather(*units, return_exceptions=True)
        _note_running(execution, step_id)
        raise
    if not execution.whole:
        return
    if (noting := execution.noting.pop(step_id, None)) is not None:
        noting.cancel()
    rows_left = (1 if step_id in run.once else len(run.rows)) - total.ended
    status = step_status(total.statuses, rows_left)
    started = execution.begun.get(step_id)
    counts = {**total.statuses, "reused": total.reused, "resumed": total.resumed}
    row = partial(step_row, run.run_id, run.chain, step_id)
    run.store.hand_over(row(status, started=started, finished=run.clock.now(), counts=counts))
    if all_inside(run.chain_file, step_id):
        found = await asyncio.to_thread(run.store.counts, run.run_id)
        inner = partial(rows_inside, run.run_id, run.chain_file, step_id, found)
        for inside in inner(started=started, finished=run.clock.now()):
            run.store.hand_over(inside)
    execution.ended[step_id] = total.statuses
    await execution.starter.step_ended(run, step_id, status)


def _note_running(execution: _Execution, step_id: str) -> None:
    """Write that a step is running, unless that is written or the step has not begun."""
    if (noting := execution.noting.pop(step_id, None)) is not None:
        noting.cancel()
        run, began = execution.run, execution.begun[step_id]
        run.store.hand_over(step_row(run.run_id, run.chain, step_id, "running", started=began))


async def _some(units: set[asyncio.Task[ShardCounts]], total: ShardCounts) -> set[asyncio.Task[ShardCounts]]:
    """Wait until some units have ended, add what they counted, and return the others."""
    ended, others = await asyncio.wait(units, return_when=asyncio.FIRST_COMPLETED)
    for unit in ended:
        total.add(unit.result())
    return others


async def _run_unit(execution: _Execution, unit: Unit, number: int, slots: asyncio.Semaphore) -> ShardCounts:
    run = execution.run
    group = execution.groups.get(unit.step_id)
    for upstream in group.needs if group is not None else run.graph.needs[unit.step_id]:
        track = execution.tracks.get(upstream)
        if track is None:
            continue  # it ended before this part was sent
        if execution.cuts[upstream] is execution.cuts[unit.step_id] and unit.rows is not None:
            await track.unit(number)
        else:
            await track.all()
    async with slots:
        if unit.step_id not in execution.begun and execution.whole:
            execution.begun[unit.step_id] = run.clock.now()
            # A step that is over by then has its end written only: each would be a transaction of its own.
            execution.noting[unit.step_id] = asyncio.get_running_loop().call_later(
                NOTED_AFTER_S, _note_running, execution, unit.step_id
            )
        if group is not None:
            counts = await _send(execution, group, unit.step_id, number)
        else:
            counts = await execution.starter.start(unit, lambda: _work(execution, unit))
    execution.tracks[unit.step_id].end(number)
    return counts


async def _send(execution: _Execution, group: Group, step_id: str, number: int) -> ShardCounts:
    """Have a part done elsewhere; the steps of its group share it."""
    key = group.steps[0], number
    if key not in execution.sent:
        execution.sent[key] = asyncio.create_task(_run_elsewhere(execution, group, number))
    try:
        end = await asyncio.shield(execution.sent[key])
    except asyncio.CancelledError:
        execution.sent[key].cancel()
        raise
    return end.counts.get(step_id, ShardCounts())


async def _run_elsewhere(execution: _Execution, group: Group, number: int) -> PartEnd:
    run, elsewhere = execution.run, execution.elsewhere
    fence = run.store.run_fence(run.run_id)
    assert elsewhere is not None and fence is not None  # groups come from there; the run is this process's
    folder = str(run.store.path.absolute())
    part = Part(run.run_id, fence, group.steps, group.cuts[number], execution.since, folder)
    for step_id in group.steps:
        execution.report(Progress(step_id, "started"))
    end = await elsewhere.run(part, group.pool, stop=execution.stop, report=execution.report)
    note_anew_elsewhere(run)
    if end.cancelled and not execution.stop.asked():
        execution.stop.by_user = True
        execution.stop.calls(run, "a part of it was cancelled")
    if end.over_budget is not None:
        _budget_used(execution, end.over_budget)
    if end.statuses["failed"]:
        _row_failed(execution)
    shards = 1 if part.rows is None else -(-len(part.rows) // run.settings.shard_rows)
    await execution.starter.ended_elsewhere(shards * len(part.steps))
    return end


async def _work(execution: _Execution, unit: Unit) -> ShardCounts:
    run = execution.run
    ctx = StepContext(
        run_id=run.run_id,
        step_id=unit.step_id,
        step=run.chain.steps[unit.step_id],
        chain_file=run.chain_file,
        store=run.store,
        clock=run.clock,
        settings=run.settings,
        providers=run.providers,
        collections=run.collections,
        inner_services=run.inner_services,
        report=execution.tell,
        since=execution.since,
        holder=run.lease.holder,
        worker=run.worker,
        stream=run.stream,
        approvals=run.request.approve,
        memo=execution.memos[unit.step_id],
        anew=run.anew.get(unit.step_id, 0.0),
        renewed=lambda: note_anew(run, unit.step_id),
    )
    scopes = Scopes(store=run.store, run_id=run.run_id, graph=run.graph, once=run.once, rows=run.rows)
    stopping = Stopping(
        execution.stop.asked, lambda: _row_failed(execution), lambda reason: _budget_used(execution, reason)
    )
    total = len(unit.rows) if unit.rows is not None else 1
    execution.tell(Progress(unit.step_id, "started", total=total))
    if unit.rows is None:
        counts = await run_once(ctx, scopes, stopping)
    else:
        counts = await run_shard(ctx, scopes, unit.rows, stopping)
    execution.report(
        Progress(unit.step_id, "ended", text=unit.title, done=counts.statuses.total(), total=total)
    )
    return counts


def _row_failed(execution: _Execution) -> None:
    if execution.run.chain.on_error == "fail":
        execution.stop.failed = True
        execution.stop.reason = execution.stop.reason or "a row failed and the chain says `on_error: fail`"


def _budget_used(execution: _Execution, reason: str) -> None:
    """Stop the run: every further call would be turned away in the same way."""
    if execution.stop.reason is None:
        execution.stop.failed = execution.stop.over_budget = True
        execution.stop.calls(execution.run, reason)
        execution.report(Progress("", "message", text=reason))
