"""Runs one step over a shard of rows, or once, and leaves a record for each.

Owns which rows are run: a row with a final record is left alone, and so is a once step whose rows are as it
read them. Knows nothing of Prefect or of how a record is made (tasks.recorder). Invariant: when `run_shard`
returns, every row of the shard has a final record, unless the run is stopping.
"""

from __future__ import annotations

import asyncio
import functools

from chains.graph import asking_steps
from chains.spec import EvaluateStep
from tasks.context import Progress, StepContext
from tasks.counts import ShardCounts, Stopping
from tasks.gathering import gather
from tasks.recorder import (
    ROWS_AT_ONCE,
    Recorder,
    has_records_inside,
    model_limit,
    records_before,
    records_within,
)
from tasks.recording import is_final
from tasks.scopes import ONCE, RowScope, Scopes


async def run_shard(ctx: StepContext, scopes: Scopes, rows: range, stopping: Stopping) -> ShardCounts:
    """Run a per-row step over `rows`, as many at once as its model allows."""
    nests = has_records_inside(ctx)
    recorder = Recorder(stopping, within=records_within(ctx, rows) if nests else ())
    counts, before = recorder.counts, records_before(ctx, rows)
    # Where the model is asked for what is inside a row, that is what waits for a place.
    limit = (None if nests else model_limit(ctx)) or asyncio.Semaphore(ROWS_AT_ONCE)

    async def one(found: RowScope) -> None:
        async with limit:
            if not stopping.asked():
                await recorder.row(ctx, found, before.get(found.row))

    pending = []
    for found in scopes.per_row(ctx.step_id, rows, run_on_skip=ctx.step.on_skip == "run"):
        earlier = before.get(found.row)
        if earlier is not None and is_final(ctx, earlier):
            counts.statuses[earlier.status] += 1
            counts.resumed += 1
            ctx.report(Progress(ctx.step_id, "row", row=found.row, status=earlier.status, reused=True))
        else:
            pending.append(one(found))
    await gather(pending)
    return counts


async def run_once(ctx: StepContext, scopes: Scopes, stopping: Stopping) -> ShardCounts:
    """Run a once step over all rows."""
    nests = has_records_inside(ctx)
    recorder = Recorder(stopping, within=records_within(ctx, range(ONCE, 0)) if nests else ())
    earlier = ctx.store.record(ctx.run_id, ctx.step_id, ONCE)
    final = earlier is not None and is_final(ctx, earlier)
    newest = scopes.newest_upstream(ctx.step_id)
    ctx.clock.not_before(newest)  # a row may have been finished on a machine whose clock is ahead
    if earlier is not None and final and newest > (earlier.finished_at or 0.0):
        final = False  # a row that it has read was run again since, by a resume
        ctx.renewed()
    if final and _lacks_verdicts(ctx):
        final = False  # a resume asks again what failed before it
        ctx.renewed()
    if earlier is not None and final:
        recorder.counts.statuses[earlier.status] += 1
        recorder.counts.resumed += 1
        ctx.report(Progress(ctx.step_id, "row", row=ONCE, status=earlier.status, reused=True))
    elif not stopping.asked():
        with_lists = not isinstance(ctx.step, EvaluateStep)  # it reads the rows one by one
        found = scopes.once(ctx.step_id, run_on_skip=ctx.step.on_skip == "run", with_lists=with_lists)
        views = functools.partial(scopes.views, ctx.step_id)
        await recorder.row(ctx, found, earlier, views=views)
    return recorder.counts


def _lacks_verdicts(ctx: StepContext) -> bool:
    """Whether a judge, check or embedder of an evaluate step failed for a row in an earlier execution."""
    if not isinstance(ctx.step, EvaluateStep):
        return False
    asked = asking_steps(ctx.step_id, ctx.step)
    failed = (ctx.store.records(ctx.run_id, name, statuses=("failed",), payloads=False) for name in asked)
    return any((record.finished_at or 0.0) < ctx.since for records in failed for record in records)
