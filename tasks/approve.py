"""The approve step: asks a person, and leaves the row waiting until there is an answer.

Owns the question and how long it stands. Knows nothing of how an answer reaches the store: it is the row's
record by then, so a resumed run finds it done.
"""

from __future__ import annotations

import json
from typing import Any

from chains.approvals import output_of
from chains.clock import iso
from chains.errors import StepFailed
from chains.spec import ApproveStep
from chains.templates import render, render_value
from tasks.context import RowJob, RowResult, RowWaits, StepContext, StepSkipped


async def run_row(ctx: StepContext, job: RowJob) -> RowResult:
    """Return the answer that the run was given beforehand; raise RowWaits where there is none."""
    step = ctx.step
    assert isinstance(step, ApproveStep)
    question = render(step.approve, job.scope)
    shown = {source: render_value(f"{{{{ {source} }}}}", job.scope) for source in step.show}
    asked_at = _asked_before(ctx, job) or ctx.clock.now()
    inputs = {"question": question, "show": shown, "asked_at": asked_at}
    given = ctx.approvals.get(ctx.step_id)
    if given is not None:
        return _answered(ctx, given, by="the request of the run", inputs=inputs)
    if step.timeout is not None and ctx.clock.now() - asked_at >= step.timeout:
        return _too_late(ctx, step, inputs)
    waits = RowWaits(f"waits for an answer: {question[:200]}")
    waits.inputs = inputs
    raise waits


def _asked_before(ctx: StepContext, job: RowJob) -> float | None:
    """Return when the question was asked first: a resume does not begin its time anew."""
    earlier = ctx.store.record_by_id(job.record_id)
    if earlier is None or earlier.status != "waiting" or earlier.inputs is None:
        return None
    found: float = json.loads(earlier.inputs)["asked_at"]
    return found


def _too_late(ctx: StepContext, step: ApproveStep, inputs: dict[str, Any]) -> RowResult:
    late = f"nobody answered within {step.timeout:g} s"
    if step.on_timeout == "fail":
        failure = StepFailed(f"{late}.", hint="Raise `timeout:`, or say what to do with `on_timeout:`.")
        failure.inputs = inputs
        raise failure
    if step.on_timeout == "skip":
        raise StepSkipped(late)
    answer = {"approved": step.on_timeout == "approve", **dict.fromkeys(step.fields)}
    return _answered(ctx, answer, by="the timeout", inputs=inputs)


def _answered(ctx: StepContext, answer: Any, *, by: str, inputs: dict[str, Any]) -> RowResult:
    return RowResult(output=output_of(answer, by=by, at=iso(ctx.clock.now()) or ""), inputs=inputs)
