"""The life of a record: from `running` to its end, and what a resume leaves alone.

Owns what is written when a row, or a piece of it, begins and ends, and which records stand. Knows nothing
of what a step does. Invariant: a record keeps the position of its opening.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Awaitable
from typing import Any, TypeAlias

from chains.errors import BudgetExceeded, Cancelled, HeadraceError, StoreConflict
from chains.keys import canonical
from chains.store import RecordRow
from chains.store.rows import RecordStatus
from tasks.context import Place, RowResult, RowWaits, StepContext, StepSkipped

DONE = frozenset({"ok", "skipped"})
"""Statuses that a resumed run leaves alone."""

Ending: TypeAlias = tuple[RecordStatus, RowResult | None, Exception | None]
"""A record's status, with what the step left behind or why it left nothing."""

_ENCODER = json.JSONEncoder(ensure_ascii=False)  # made once: `json.dumps` makes one for each value


def is_final(ctx: StepContext, record: RecordRow) -> bool:
    """Whether a record stands: done in any process, or failed since this execution of the run began.

    A task that Prefect retries must not try failed rows again; only the user's resume does. What a step that
    the user has changed left behind does not stand.
    """
    finished = record.finished_at or 0.0
    failed = record.status in ("failed", "blocked") and finished >= ctx.since
    return failed or (record.status in DONE and finished >= ctx.anew)


def opened(ctx: StepContext, place: Place, earlier: RecordRow | None) -> RecordRow:
    """Return a record as `running`; one that is resumed keeps its id, and so its attempts."""
    return RecordRow(
        id=earlier.id if earlier is not None else ctx.clock.new_id(),
        run_id=ctx.run_id,
        step=ctx.step_id,
        row=place.row,
        item=place.item,
        turn=place.turn,
        path=place.path,
        status="running",
        started_at=ctx.clock.now(),
        worker=ctx.worker,
    )


def attempts_before(ctx: StepContext, earlier: RecordRow | None) -> tuple[int, int]:
    """Return how many attempts the record has, and how many of them a resume forgives.

    A row that is run again by the user's wish, because it failed or its step was changed, gets its tries
    anew; one that a crash or a stop left open goes on with what is left of its bound.
    """
    if earlier is None:
        return 0, 0
    attempts = ctx.store.attempts(earlier.id, payloads=False)
    if earlier.status == "failed" or (earlier.status in DONE and not is_final(ctx, earlier)):
        return len(attempts), len(attempts)
    unsent = sum(attempt.state == "error" and attempt.error_type == "Cancelled" for attempt in attempts)
    return len(attempts), unsent


async def ending_of(work: Awaitable[RowResult]) -> Ending:
    """Await a row's work and return how it ended; an unexpected error is raised."""
    try:
        return "ok", await work, None
    except StepSkipped as skipped:
        return "skipped", None, skipped
    except RowWaits as waits:
        return "waiting", None, waits
    except (Cancelled, BudgetExceeded) as stopped:  # nothing is wrong with the row: a resume goes on with it
        return "cancelled", None, stopped
    except HeadraceError as failure:
        return "failed", None, failure


def closed(ctx: StepContext, opening: RecordRow, ending: Ending) -> RecordRow:
    """Return a record as it ended."""
    status, result, error = ending
    left: dict[str, Any]
    if result is not None:
        left = {
            "value_key": result.value_key,
            "reused_from": result.reused_from,
            "inputs": _json(result.inputs),
            "messages": _json(result.messages),
            "output": canonical(result.output),
            "tokens_in": result.tokens_in,
            "tokens_out": result.tokens_out,
            "cost_micro": result.cost_micro,
            "attempts": result.attempts,
        }
    else:
        output, tally = getattr(error, "output", None), getattr(error, "tally", None)
        left = {
            "inputs": _json(getattr(error, "inputs", None)),
            "messages": _json(getattr(error, "messages", None)),
            "output": canonical(output) if output is not None else None,
            "tokens_in": getattr(tally, "tokens_in", None),
            "tokens_out": getattr(tally, "tokens_out", None),
            "cost_micro": getattr(tally, "cost_micro", None),
            "attempts": len(ctx.store.attempts(opening.id, payloads=False)),
        }
    return dataclasses.replace(
        opening, status=status, finished_at=ctx.clock.now(), error=_error_json(error), **left
    )


async def put_closed(ctx: StepContext, closing: RecordRow, fence: int | None) -> RecordRow:
    """Write a row's record; what was made under a claim that has passed on is linked to the new holder's."""
    try:
        await ctx.store.aput(closing, fence=fence)
    except StoreConflict:
        key = closing.value_key
        made = ctx.store.reusable([key]).get(key) if fence is not None and key is not None else None
        if made is not None:
            closing = dataclasses.replace(closing, output=made.output, reused_from=made.id)
        elif fence is None:
            raise
        await ctx.store.aput(closing)
    return closing


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
    return None if value is None else _ENCODER.encode(value).encode("utf-8", "surrogatepass")
