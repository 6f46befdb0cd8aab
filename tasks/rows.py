"""Runs one step over a shard of rows, or once, and leaves a record for each.

Owns resume (a row with a final record is not run again), `when`, the verdicts on skipped and failed
upstream steps; what a record says in its life is in tasks.recording. Knows nothing of Prefect and nothing of
what a kind does; a kind's function is found by its verb. Invariant: when `run_shard` returns, every row of
the shard has a final record, unless the run is stopping.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from chains.errors import BudgetExceeded, HeadraceError, StepFailed
from chains.keys import canonical
from chains.spec import EvaluateStep, PromptStep, kind_of
from chains.store import RecordRow
from chains.store.rows import RecordStatus
from chains.templates import evaluate
from tasks.context import (
    OnceJob,
    Progress,
    RowJob,
    RowResult,
    RowScore,
    RowView,
    StepContext,
    StepSkipped,
)
from tasks.recording import Ending, attempts_before, closed, ending_of, is_final, opened, put_closed
from tasks.scopes import ONCE, RowScope, Scopes

SCORES_AT_ONCE = 1000
"""Per-row records of a once step that one transaction takes."""


@dataclass(slots=True)
class ShardCounts:
    """How the rows of one shard ended."""

    statuses: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    reused: int = 0
    first_error: str | None = None
    over_budget: str | None = None

    @property
    def failed(self) -> int:
        """Rows that failed here or could not run because of an earlier failure."""
        return self.statuses["failed"] + self.statuses["blocked"]

    @property
    def ended(self) -> int:
        """Rows that have come to an end of their own; not those that a stop left for a resume."""
        return self.statuses.total() - self.statuses["cancelled"]

    def add(self, other: ShardCounts) -> None:
        """Count another shard's rows in."""
        self.statuses += other.statuses
        self.resumed += other.resumed
        self.reused += other.reused
        self.first_error = self.first_error or other.first_error


@dataclass(frozen=True, slots=True)
class Stopping:
    """Says whether the run is being stopped; rows that have not begun are then left for a resume.

    `on_budget` is told, with the reason, when a call was not made because a budget would not cover it.
    """

    asked: Callable[[], bool] = lambda: False
    on_failure: Callable[[], None] = lambda: None
    on_budget: Callable[[str], None] = lambda _: None


async def run_shard(ctx: StepContext, scopes: Scopes, rows: range, stopping: Stopping) -> ShardCounts:
    """Run a per-row step over `rows`, as many at once as its model allows."""
    counts = ShardCounts()
    before = _records_before(ctx, rows)
    limit = _limit(ctx)

    async def one(found: RowScope) -> None:
        async with limit:
            if not stopping.asked():
                await _run_row(ctx, found, before.get(found.row), counts)
        _tell(counts, stopping)

    pending = []
    for found in scopes.per_row(ctx.step_id, rows, run_on_skip=ctx.step.on_skip == "run"):
        earlier = before.get(found.row)
        if earlier is not None and is_final(ctx, earlier):
            counts.statuses[earlier.status] += 1
            counts.resumed += 1
            ctx.report(Progress(ctx.step_id, "row", row=found.row, status=earlier.status, reused=True))
        else:
            pending.append(one(found))
    await _gather(pending)
    return counts


async def run_once(ctx: StepContext, scopes: Scopes, stopping: Stopping) -> ShardCounts:
    """Run a once step over all rows."""
    counts = ShardCounts()
    earlier = ctx.store.record(ctx.run_id, ctx.step_id, ONCE)
    final = earlier is not None and is_final(ctx, earlier)
    newest = scopes.newest_upstream(ctx.step_id)
    ctx.clock.not_before(newest)  # a row may have been finished on a machine whose clock is ahead
    if earlier is not None and final and newest > (earlier.finished_at or 0.0):
        final = False  # a row that it has read was run again since, by a resume
        ctx.renewed()
    if earlier is not None and final:
        counts.statuses[earlier.status] += 1
        counts.resumed += 1
        ctx.report(Progress(ctx.step_id, "row", row=ONCE, status=earlier.status, reused=True))
    elif not stopping.asked():
        with_lists = not isinstance(ctx.step, EvaluateStep)  # it reads the rows one by one
        found = scopes.once(ctx.step_id, run_on_skip=ctx.step.on_skip == "run", with_lists=with_lists)
        views = functools.partial(scopes.views, ctx.step_id)
        await _run_row(ctx, found, earlier, counts, views=views)
        _tell(counts, stopping)
    return counts


def _tell(counts: ShardCounts, stopping: Stopping) -> None:
    if counts.over_budget is not None:
        stopping.on_budget(counts.over_budget)
    if counts.statuses["failed"]:
        stopping.on_failure()


async def _run_row(
    ctx: StepContext,
    found: RowScope,
    earlier: RecordRow | None,
    counts: ShardCounts,
    *,
    views: Callable[[], Sequence[RowView]] | None = None,
) -> None:
    opening = opened(ctx, found.row, earlier)
    try:
        verdict, reason = _verdict(ctx, found)
    except HeadraceError as failure:
        ending: Ending = "failed", None, failure
    else:
        if verdict == "run":
            before, granted = attempts_before(ctx, earlier)
            job = RowJob(found.row, opening.id, found.scope, opening, before, granted)
            ending = await ending_of(_call_kind(ctx, job, views))
        else:
            ending = verdict, None, StepSkipped(reason)
    _, result, error = ending
    if isinstance(error, BudgetExceeded):
        counts.over_budget = counts.over_budget or str(error)
    closing = closed(ctx, opening, ending)
    of_rows = result.row_records if result is not None else getattr(error, "row_records", ())
    for start in range(0, len(of_rows), SCORES_AT_ONCE):
        await ctx.store.aput(*_score_records(ctx, of_rows[start : start + SCORES_AT_ONCE]))
    # Last: a once step with a final record has all its rows' records.
    closing = await put_closed(ctx, closing, result.fence if result is not None else None)
    _count(ctx, counts, closing, error)


def _verdict(ctx: StepContext, found: RowScope) -> tuple[RecordStatus | Literal["run"], str]:
    """Decide whether the step runs for this row; `when` is asked only where upstream allows it."""
    if found.verdict != "run":
        return found.verdict, found.reason
    when = ctx.step.when
    if when is not None and not evaluate(when, found.scope):
        return "skipped", f"`when: {when}` is false"
    return "run", ""


async def _call_kind(
    ctx: StepContext, job: RowJob, views: Callable[[], Sequence[RowView]] | None
) -> RowResult:
    """Call the function of the step's kind; one that has no `run_once` takes a once step as a single row."""
    module = importlib.import_module(f"tasks.{kind_of(ctx.step)}")
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
    earlier = {row: record.id for row, record in _records_before(ctx, everything).items()}
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


def _limit(ctx: StepContext) -> asyncio.Semaphore:
    """Return what bounds the rows at work: for a model all shards share it, so that calls leave at once."""
    if isinstance(ctx.step, PromptStep):
        name = ctx.step.model or ctx.chain_file.chain.defaults.model
        if name is not None:
            return ctx.providers.gate(name).rows
    return asyncio.Semaphore(128)


def _records_before(ctx: StepContext, rows: range) -> dict[int, RecordRow]:
    records = ctx.store.records(ctx.run_id, ctx.step_id, rows=rows, payloads=False)
    return {record.row: record for record in records}


def _count(ctx: StepContext, counts: ShardCounts, record: RecordRow, error: Exception | None) -> None:
    counts.statuses[record.status] += 1
    counts.reused += record.reused_from is not None
    if error is not None and record.status == "failed" and counts.first_error is None:
        counts.first_error = str(error)
    ctx.report(
        Progress(
            ctx.step_id,
            "row",
            row=record.row,
            status=record.status,
            reused=record.reused_from is not None,
            tokens_in=record.tokens_in or 0,
            tokens_out=record.tokens_out or 0,
            cost_micro=record.cost_micro,
            text=str(error) if error is not None else "",
        )
    )


async def _gather(pending: Sequence[Awaitable[None]]) -> None:
    """Await all; an unexpected error of one lets the others end first, so that no paid call is dropped."""
    results = await asyncio.gather(*pending, return_exceptions=True)
    for result in results:
        if isinstance(result, asyncio.CancelledError):
            raise result
        if isinstance(result, HeadraceError):
            raise result
        if isinstance(result, BaseException):
            raise StepFailed(f"an unexpected {type(result).__name__}: {result}") from result
