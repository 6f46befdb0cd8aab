"""A step with `map`: runs the step for each item of a list, and gives the list of what each gave.

Owns the list, how many items run at once, and what a failed item does to the step. Knows nothing of what the
step does with an item. Invariant: each item has a record of its own; the step's record for the row holds the
list, so that whoever reads the step reads one record, and holds no tokens or costs, which the items have.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from chains.errors import Cancelled, InputInvalid, StepFailed
from chains.loading.explaining import kind_of_value
from chains.spec import MappedStep
from chains.templates import render_value
from tasks.context import Place, Progress, RowJob, RowResult, StepContext
from tasks.gathering import gather
from tasks.prompt import variables_in, variables_of

if TYPE_CHECKING:
    from chains.store import RecordRow

MOST_ITEMS = 100_000


async def run_row(ctx: StepContext, job: RowJob) -> RowResult:
    """Run the step for each item of the row's list; raise StepFailed where a failed item fails the step."""
    step = ctx.step
    assert isinstance(step, MappedStep) and job.inside is not None
    inputs = _variables(step, job)
    try:
        items = _items(ctx, step, job)
        records = await _run_items(ctx, step, job, items)
        output = [
            json.loads(record.output) if record.status == "ok" and record.output is not None else None
            for record in records
            if record.status == "ok" or step.on_error != "skip"
        ]
    except (InputInvalid, StepFailed, Cancelled) as error:
        error.inputs = inputs
        raise
    return RowResult(output=output, inputs=inputs)


def _items(ctx: StepContext, step: MappedStep, job: RowJob) -> list[Any]:
    value = render_value(step.map, job.scope)
    if not isinstance(value, list):
        raise InputInvalid(
            f"`map` of step {ctx.step_id!r} is {kind_of_value(value)}, and needs a list.",
            hint='Write `map: "{{ [value] }}"` for a list of one.',
        )
    if len(value) > MOST_ITEMS:
        raise InputInvalid(f"`map` of step {ctx.step_id!r} has {len(value)} items, and takes {MOST_ITEMS}.")
    return value


async def _run_items(ctx: StepContext, step: MappedStep, job: RowJob, items: list[Any]) -> list[RecordRow]:
    """Return the records of all items, in order."""
    inside, opening = job.inside, job.opening
    assert inside is not None and opening is not None
    place = Place(job.row, turn=opening.turn, path=opening.path)
    failed: list[tuple[int, RecordRow]] = []
    limit = _limit(ctx, step)

    async def one(number: int, item: Any) -> RecordRow | None:
        async with limit:
            if failed and step.on_error == "fail":
                return None
            record = await inside(ctx, replace(place, item=number), {**job.scope, step.as_: item})
            if record.status != "ok" and record.status != "cancelled":
                failed.append((number, record))
            return record

    ctx.report(Progress(ctx.step_id, "items", row=job.row, total=len(items)))
    found = await gather([one(number, item) for number, item in enumerate(items)])
    if failed and step.on_error == "fail":
        raise _failure(min(failed, key=lambda pair: pair[0]), len(items))
    records = [record for record in found if record is not None]
    if any(record.status == "cancelled" for record in records):
        raise Cancelled("the run was stopped before all items had ended.")
    return records


def _limit(ctx: StepContext, step: MappedStep) -> AbstractAsyncContextManager[object]:
    """Return what bounds the items at work, which the rows of the step share."""
    if step.max_concurrency is None:
        return nullcontext()
    found: asyncio.Semaphore = ctx.memo.setdefault("items", asyncio.Semaphore(step.max_concurrency))
    return found


def _failure(first: tuple[int, RecordRow], of: int) -> StepFailed:
    number, record = first
    said = json.loads(record.error or b"{}")
    message = said.get("message") or f"it was {record.status}"
    failure = StepFailed(f"item {number} of {of}: {message}", hint=said.get("hint"))
    failure.history = list(said.get("history") or ())
    return failure


def _variables(step: MappedStep, job: RowJob) -> dict[str, Any]:
    """Return what the list was made from, by the dotted names that its template uses."""
    texts = step.map if isinstance(step.map, list) else [step.map]
    return variables_of(variables_in([text for text in texts if isinstance(text, str)]), job.scope)
