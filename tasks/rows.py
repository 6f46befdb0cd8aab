"""Runs one step over a shard of rows, or once, and leaves a record for each.

Owns resume (a row with a final record is not run again), `when`, the verdicts on skipped and failed
upstream steps, and the record's life from `running` to its end. Knows nothing of Prefect and nothing of
what a kind does; a kind's function is found by its verb. Invariant: when `run_shard` returns, every row of
the shard has a final record, unless the run is stopping.
"""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chains.errors import Cancelled, HeadraceError, StepFailed
from chains.keys import canonical
from chains.spec import PromptStep, kind_of
from chains.store import RecordRow
from chains.templates import evaluate
from tasks.context import OnceJob, Progress, RowJob, RowResult, RowView, StepContext, StepSkipped
from tasks.scopes import ONCE, RowScope, Scopes

FINAL = frozenset({"ok", "skipped"})
"""Statuses that a resumed run leaves alone."""


@dataclass(slots=True)
class ShardCounts:
    """How the rows of one shard ended."""

    statuses: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    reused: int = 0
    first_error: str | None = None

    @property
    def failed(self) -> int:
        """Rows that failed here or could not run because of an earlier failure."""
        return self.statuses["failed"] + self.statuses["blocked"]


@dataclass(frozen=True, slots=True)
class Stopping:
    """Says whether the run is being stopped; rows that have not begun are then left for a resume."""

    asked: Callable[[], bool] = lambda: False
    on_failure: Callable[[], None] = lambda: None


async def run_shard(ctx: StepContext, scopes: Scopes, rows: range, stopping: Stopping) -> ShardCounts:
    """Run a per-row step over `rows`, as many at once as its model allows."""
    counts = ShardCounts()
    before = _records_before(ctx, rows)
    limit = asyncio.Semaphore(_concurrency(ctx))

    async def one(found: RowScope) -> None:
        async with limit:
            if not stopping.asked():
                await _run_row(ctx, found, before.get(found.row), counts)
        if stopping.asked is not None and counts.statuses["failed"]:
            stopping.on_failure()

    pending = []
    for found in scopes.per_row(ctx.step_id, rows, run_on_skip=ctx.step.on_skip == "run"):
        earlier = before.get(found.row)
        if earlier is not None and earlier.status in FINAL:
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
    if earlier is not None and earlier.status in FINAL:
        counts.statuses[earlier.status] += 1
        counts.resumed += 1
        ctx.report(Progress(ctx.step_id, "row", row=ONCE, status=earlier.status, reused=True))
    elif not stopping.asked():
        found = scopes.once(ctx.step_id, run_on_skip=ctx.step.on_skip == "run")
        await _run_row(ctx, found, earlier, counts, views=lambda: scopes.views(ctx.step_id))
        if counts.statuses["failed"]:
            stopping.on_failure()
    return counts


async def _run_row(
    ctx: StepContext,
    found: RowScope,
    earlier: RecordRow | None,
    counts: ShardCounts,
    *,
    views: Callable[[], Sequence[RowView]] | None = None,
) -> None:
    opening = _opening(ctx, found.row, earlier)
    result, status, error = None, "ok", None
    try:
        verdict, reason = _verdict(ctx, found)
        if verdict == "run":
            result = await _call_kind(ctx, found, opening, _attempts_before(ctx, earlier), views)
        else:
            status, error = verdict, StepSkipped(reason)
    except StepSkipped as skipped:
        status, error = "skipped", skipped
    except Cancelled as stopped:
        status, error = "cancelled", stopped
    except HeadraceError as failure:
        status, error = "failed", failure
    closing = _closing(ctx, opening, result, status, error)
    rows = [_score_record(ctx, score.row, score.output, score.status) for score in result.row_records] if result else []
    await ctx.store.aput(closing, *rows)
    _count(ctx, counts, closing, error)


def _verdict(ctx: StepContext, found: RowScope) -> tuple[str, str]:
    """Decide whether the step runs for this row; `when` is asked only where upstream allows it."""
    if found.verdict != "run":
        return found.verdict, found.reason
    when = ctx.step.when
    if when is not None and not evaluate(when, found.scope):
        return "skipped", f"`when: {when}` is false"
    return "run", ""


async def _call_kind(
    ctx: StepContext,
    found: RowScope,
    opening: RecordRow,
    attempts_before: int,
    views: Callable[[], Sequence[RowView]] | None,
) -> RowResult:
    module = importlib.import_module(f"tasks.{kind_of(ctx.step)}")
    run: Callable[..., Awaitable[RowResult]]
    if views is not None and hasattr(module, "run_once"):
        once = OnceJob(opening.id, found.scope, views, opening=opening, attempts_before=attempts_before)
        run = module.run_once
        return await run(ctx, once)
    job = RowJob(found.row, opening.id, found.scope, opening=opening, attempts_before=attempts_before)
    run = module.run_row
    return await run(ctx, job)


def _opening(ctx: StepContext, row: int, earlier: RecordRow | None) -> RecordRow:
    """Return the row's record as `running`; a resumed row keeps its record, and so its attempts."""
    return RecordRow(
        id=earlier.id if earlier is not None else ctx.clock.new_id(),
        run_id=ctx.run_id,
        step=ctx.step_id,
        row=row,
        status="running",
        started_at=ctx.clock.now(),
    )


def _attempts_before(ctx: StepContext, earlier: RecordRow | None) -> int:
    return len(ctx.store.attempts(earlier.id)) if earlier is not None else 0


def _closing(
    ctx: StepContext, opening: RecordRow, result: RowResult | None, status: str, error: Exception | None
) -> RecordRow:
    attempts = ctx.store.attempts(opening.id, payloads=False) if _may_call(ctx) else []
    ended = dataclasses.replace(
        opening, status=status, finished_at=ctx.clock.now(), attempts=len(attempts), error=_error_json(error)
    )
    if result is not None:
        return dataclasses.replace(
            ended,
            value_key=result.value_key,
            reused_from=result.reused_from,
            inputs=_json(result.inputs),
            messages=_json(result.messages),
            output=canonical(result.output),
            tokens_in=result.tokens_in,
            tokens_out=result.tokens_out,
            cost_micro=result.cost_micro,
        )
    output = getattr(error, "output", None)
    return dataclasses.replace(
        ended,
        inputs=_json(getattr(error, "inputs", None)),
        messages=_json(getattr(error, "messages", None)),
        output=canonical(output) if output is not None else None,
    )


def _score_record(ctx: StepContext, row: int, output: Mapping[str, Any], status: str) -> RecordRow:
    now = ctx.clock.now()
    return RecordRow(
        id=ctx.clock.new_id(),
        run_id=ctx.run_id,
        step=ctx.step_id,
        row=row,
        status=status,
        output=canonical(output),
        started_at=now,
        finished_at=now,
    )


def _error_json(error: Exception | None) -> bytes | None:
    if error is None:
        return None
    content: dict[str, Any] = {"type": type(error).__name__, "message": str(error)}
    if isinstance(error, HeadraceError):
        content = {"type": type(error).__name__, "message": error.message, "hint": error.hint}
    history = getattr(error, "history", None)
    if history:
        content["history"] = list(history)
    return _json(content)


def _json(value: Any) -> bytes | None:
    return None if value is None else json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _may_call(ctx: StepContext) -> bool:
    return kind_of(ctx.step) in {"prompt", "embed", "retrieve", "finetune"}


def _concurrency(ctx: StepContext) -> int:
    if isinstance(ctx.step, PromptStep):
        name = ctx.step.model or ctx.chain_file.chain.defaults.model
        if name is not None:
            # Twice the model's limit: the next rows render their prompts while calls are in flight.
            return 2 * ctx.providers.get(name).concurrency
    return 128


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
