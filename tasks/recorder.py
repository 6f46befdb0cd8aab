"""Leaves the records of a shard: those of its rows, and those inside them.

Owns `when`, which kind's function is called, and what is told of each record that has ended. What a record
says in its life is in tasks.recording. Knows nothing of Prefect and of what a kind does.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal

from chains.errors import BudgetExceeded, Cancelled, HeadraceError
from chains.inside import all_inside
from chains.keys import canonical
from chains.spec import ChainStep, MappedStep, PromptStep, RepeatStep, kind_of
from chains.store import RecordRow
from chains.templates import evaluate
from tasks.context import (
    OnceJob,
    Place,
    Progress,
    RowJob,
    RowResult,
    RowScore,
    RowView,
    StepContext,
    StepSkipped,
)
from tasks.counts import ShardCounts, Stopping
from tasks.recording import Ending, attempts_before, closed, ending_of, is_final, opened, put_closed
from tasks.scopes import RowScope, Verdict

ROWS_AT_ONCE = 128
"""Rows of a shard, or items of a step, that are at work together where no model says how many it takes."""
SCORES_AT_ONCE = 1000
"""Per-row records of a once step that one transaction takes."""


class Recorder:
    """Leaves the records of one shard; `within` is what earlier processes have left inside those of rows."""

    def __init__(self, stopping: Stopping, within: Iterable[RecordRow] = ()) -> None:
        self.counts = ShardCounts()
        self._stopping = stopping
        self._within = {
            (record.step, Place(record.row, record.item, record.turn, record.path)): record
            for record in within
            if record.sample == 0
        }

    async def row(
        self,
        ctx: StepContext,
        found: RowScope,
        earlier: RecordRow | None,
        *,
        views: Callable[[], Sequence[RowView]] | None = None,
    ) -> None:
        """Leave the record of a row."""
        place = Place(found.row)
        verdict = found.verdict, found.reason
        record, error = await self._leave(ctx, place, found.scope, earlier, verdict=verdict, views=views)
        self.counts.statuses[record.status] += 1
        self.counts.reused += record.reused_from is not None
        if error is not None and record.status == "failed" and self.counts.first_error is None:
            self.counts.first_error = str(error)
        ctx.report(_told(ctx, "row", record, error))
        if self.counts.statuses["failed"]:
            self._stopping.on_failure()

    async def inside(
        self,
        ctx: StepContext,
        place: Place,
        scope: Mapping[str, Any],
        verdict: tuple[Verdict, str] = ("run", ""),
    ) -> RecordRow:
        """Leave a record inside a row's, or find the one that stands, and return it with its output."""
        earlier = self._within.get((ctx.step_id, place))
        if earlier is not None and is_final(ctx, earlier):
            ctx.report(Progress(ctx.step_id, "item", row=place.row, status=earlier.status, reused=True))
            return ctx.store.records_by_id([earlier.id])[0]
        # What only holds others waits for no place: those would wait for it.
        async with nullcontext() if holds_records(ctx, place) else _limit(ctx):
            if self._stopping.asked():
                raise Cancelled("the run is being stopped.")
            record, error = await self._leave(ctx, place, scope, earlier, verdict=verdict)
        ctx.report(_told(ctx, "item", record, error))
        return record

    async def _leave(
        self,
        ctx: StepContext,
        place: Place,
        scope: Mapping[str, Any],
        earlier: RecordRow | None,
        *,
        verdict: tuple[Verdict, str] = ("run", ""),
        views: Callable[[], Sequence[RowView]] | None = None,
    ) -> tuple[RecordRow, Exception | None]:
        opening = opened(ctx, place, earlier)
        try:
            what, reason = _verdict(ctx, place, scope, verdict)
        except HeadraceError as failure:
            ending: Ending = "failed", None, failure
        else:
            if what == "run":
                before, granted = attempts_before(ctx, earlier)
                job = RowJob(place.row, opening.id, scope, opening, before, granted, self.inside)
                ending = await ending_of(_call_kind(ctx, job, place, views))
            else:
                ending = what, None, StepSkipped(reason)
        _, result, error = ending
        if isinstance(error, BudgetExceeded):
            self.counts.over_budget = self.counts.over_budget or str(error)
            self._stopping.on_budget(self.counts.over_budget)
        closing = closed(ctx, opening, ending)
        of_rows = result.row_records if result is not None else getattr(error, "row_records", ())
        for start in range(0, len(of_rows), SCORES_AT_ONCE):
            await ctx.store.aput(*_score_records(ctx, of_rows[start : start + SCORES_AT_ONCE]))
        # Last: a once step with a final record has all its rows' records.
        return await put_closed(ctx, closing, result.fence if result is not None else None), error


def has_records_inside(ctx: StepContext) -> bool:
    """Whether the step leaves records inside those of its rows."""
    return isinstance(ctx.step, RepeatStep | ChainStep) or _is_mapped(ctx)


def holds_records(ctx: StepContext, place: Place) -> bool:
    """Whether the record at a place only holds what lies inside it."""
    return isinstance(ctx.step, RepeatStep | ChainStep) or (_is_mapped(ctx) and place.item < 0)


def _is_mapped(ctx: StepContext) -> bool:
    return isinstance(ctx.step, MappedStep) and ctx.step.map is not None


def _verdict(
    ctx: StepContext,
    place: Place,
    scope: Mapping[str, Any],
    upstream: tuple[Verdict, str],
) -> tuple[Verdict, str]:
    """Decide whether the step runs; `when` is asked only where upstream allows it, and for no item again."""
    when = ctx.step.when
    if upstream[0] == "run" and when is not None and place.item < 0 and not evaluate(when, scope):
        return "skipped", f"`when: {when}` is false"
    return upstream


async def _call_kind(
    ctx: StepContext, job: RowJob, place: Place, views: Callable[[], Sequence[RowView]] | None
) -> RowResult:
    """Call the function of the step's kind; one that has no `run_once` takes a once step as a single row."""
    is_list = _is_mapped(ctx) and place.item < 0
    module = importlib.import_module("tasks.mapped" if is_list else f"tasks.{kind_of(ctx.step)}")
    run: Callable[..., Awaitable[RowResult]]
    if views is not None and hasattr(module, "run_once"):
        run = module.run_once
        return await run(
            ctx,
            OnceJob(job.record_id, job.scope, views, job.opening, job.attempts_before, job.attempts_granted),
        )
    run = module.run_row
    return await run(ctx, job)


def _score_records(ctx: StepContext, scores: Sequence[RowScore]) -> list[RecordRow]:
    """Return the records of a once step's rows; those of an earlier try keep their ids."""
    if not scores:
        return []
    everything = range(min(s.row for s in scores), max(s.row for s in scores) + 1)
    earlier = {row: record.id for row, record in records_before(ctx, everything).items()}
    now = ctx.clock.now()
    return [
        RecordRow(
            id=earlier.get(score.row) or ctx.clock.new_id(),
            run_id=ctx.run_id,
            step=ctx.step_id,
            row=score.row,
            status=score.status,
            worker=ctx.worker,
            output=canonical(score.output),
            started_at=now,
            finished_at=now,
        )
        for score in scores
    ]


def model_limit(ctx: StepContext) -> asyncio.Semaphore | None:
    """Return what bounds the calls of a model at work: all shards share it, so that calls leave at once."""
    if isinstance(ctx.step, PromptStep):
        name = ctx.step.model or ctx.chain_file.chain.defaults.model
        if name is not None:
            return ctx.providers.gate(name).rows
    return None


def _limit(ctx: StepContext) -> asyncio.Semaphore:
    found: asyncio.Semaphore | None = model_limit(ctx) or ctx.memo.get("at once")
    if found is None:
        found = ctx.memo["at once"] = asyncio.Semaphore(ROWS_AT_ONCE)
    return found


def records_before(ctx: StepContext, rows: range) -> dict[int, RecordRow]:
    """Return the records of rows that are there already."""
    records = ctx.store.records(ctx.run_id, ctx.step_id, rows=rows, payloads=False)
    return {record.row: record for record in records}


def records_within(ctx: StepContext, rows: range) -> list[RecordRow]:
    """Return what is there already inside the records of rows."""
    steps = (ctx.step_id, *all_inside(ctx.chain_file, ctx.step_id))
    return ctx.store.records(ctx.run_id, steps, rows=rows, payloads=False, within=True)


def _told(
    ctx: StepContext, event: Literal["row", "item"], record: RecordRow, error: Exception | None
) -> Progress:
    return Progress(
        ctx.step_id,
        event,
        row=record.row,
        status=record.status,
        reused=record.reused_from is not None,
        tokens_in=record.tokens_in or 0,
        tokens_out=record.tokens_out or 0,
        cost_micro=record.cost_micro,
        text=str(error) if error is not None else "",
    )
