"""A prompt step with `samples`: asks the same question several times and lets the answers vote.

Owns the records of the samples and what the row's own record says. Knows nothing of how one of them is asked
(tasks.prompt) or of how votes are counted (tasks.voting). Invariant: each sample has a record, attempts and a
value key of its own; the row's record holds what the vote came to, and no tokens or costs, which the samples
have.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from chains.errors import BudgetExceeded, Cancelled, HeadraceError, StepFailed
from chains.spec import PromptStep
from tasks.context import Progress, RowJob, RowResult, StepContext
from tasks.gathering import gather
from tasks.recording import attempts_before, closed, ending_of, is_final, put_closed
from tasks.voting import elect

if TYPE_CHECKING:
    from chains.store import RecordRow

Ask = Callable[[RowJob, int], Awaitable[RowResult]]
"""Asks one sample, by its number from 0; the job's record is the sample's own."""


async def run_samples(ctx: StepContext, job: RowJob, ask: Ask) -> RowResult:
    """Ask all samples that have no answer yet, and return what they voted for.

    Raises StepFailed below the quorum, Cancelled or BudgetExceeded where samples are left for a resume.
    """
    step = ctx.step
    assert isinstance(step, PromptStep) and job.opening is not None
    earlier = {record.sample: record for record in ctx.store.samples(job.opening)}
    stopped: list[HeadraceError] = []

    async def one(number: int) -> RecordRow:
        before = earlier.get(number + 1)
        if before is not None and is_final(ctx, before):
            return before
        record, error = await _run_sample(ctx, _job_of(ctx, job, number, before), number, ask)
        if isinstance(error, Cancelled | BudgetExceeded):
            stopped.append(error)
        return record

    records = await gather([one(number) for number in range(step.samples)])
    if stopped:
        raise next((error for error in stopped if isinstance(error, BudgetExceeded)), stopped[0])
    return _voted(step, records)


def _job_of(ctx: StepContext, job: RowJob, number: int, before: RecordRow | None) -> RowJob:
    """Return the work of one sample: the row's, with a record of its own."""
    assert job.opening is not None
    opening = dataclasses.replace(
        job.opening,
        id=before.id if before is not None else ctx.clock.new_id(),
        sample=number + 1,
        started_at=ctx.clock.now(),
    )
    made, granted = attempts_before(ctx, before)
    return dataclasses.replace(
        job, record_id=opening.id, opening=opening, attempts_before=made, attempts_granted=granted
    )


async def _run_sample(
    ctx: StepContext, job: RowJob, number: int, ask: Ask
) -> tuple[RecordRow, Exception | None]:
    assert job.opening is not None
    ending = await ending_of(ask(job, number))
    _, result, error = ending
    fence = result.fence if result is not None else None
    record = await put_closed(ctx, closed(ctx, job.opening, ending), fence)
    progress = Progress(
        ctx.step_id,
        "item",
        row=job.row,
        status=record.status,
        reused=record.reused_from is not None,
        tokens_in=record.tokens_in or 0,
        tokens_out=record.tokens_out or 0,
        cost_micro=record.cost_micro,
    )
    ctx.report(progress)
    return record, error


def _voted(step: PromptStep, records: Sequence[RecordRow]) -> RowResult:
    answers = [_answer(record) for record in records]
    try:
        elected = elect(answers, step.vote, step.least_votes)
    except StepFailed as failure:
        failure.history = [
            f"sample {record.sample}: {_said(record)}" for record in records if record.status != "ok"
        ]
        raise
    if step.vote == "all":
        return RowResult(output=[answer for answer in answers if answer is not None])
    chosen = answers[elected.place]
    assert chosen is not None  # nothing else can be elected
    agreement = elected.votes / len(records)
    # A field of the answer with this name wins, as it does over `text`.
    return RowResult(output={"agreement": agreement, **chosen})


def _answer(record: RecordRow) -> dict[str, Any] | None:
    if record.status != "ok" or record.output is None:
        return None
    found: dict[str, Any] = json.loads(record.output)
    return found


def _said(record: RecordRow) -> str:
    said = json.loads(record.error) if record.error is not None else {}
    return f"{said.get('type') or record.status}: {said.get('message') or ''}".rstrip(": ")
