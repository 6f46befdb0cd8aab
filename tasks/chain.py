"""The chain step: runs another chain for a row, with its steps' records inside the step's own.

Owns what goes in (the inputs, checked as those of a run are) and what comes out (the outputs of the chain).
Knows nothing of how its steps are run (tasks.body).
"""

from __future__ import annotations

from typing import Any

from chains.errors import HeadraceError, TemplateFailed
from chains.graph import graph_of_file
from chains.inputs import bind_inputs
from chains.spec import ChainStep
from chains.templates import render_value
from tasks.body import Body, run_body
from tasks.context import RowJob, RowResult, StepContext


async def run_row(ctx: StepContext, job: RowJob) -> RowResult:
    """Run the chain's steps for one row; its outputs are the output, null where one cannot be had."""
    step = ctx.step
    assert isinstance(step, ChainStep)
    body: Body | None = ctx.memo.get("body")
    if body is None:
        inner = ctx.chain_file.chains[step.chain]
        body = ctx.memo["body"] = Body(inner, graph_of_file(inner), ctx.services_of(inner))
    chain = body.chain_file.chain
    given = {name: render_value(value, job.scope) for name, value in step.inputs.items()}
    try:
        inputs = bind_inputs(chain, given, from_text=False)
        scope = {"inputs": inputs, **await run_body(ctx, job, body, {"inputs": inputs})}
    except HeadraceError as error:
        error.inputs = given
        raise
    output = {name: _value(template, scope) for name, template in chain.outputs.items()}
    return RowResult(output=output, inputs=given)


def _value(template: Any, scope: dict[str, Any]) -> Any:
    try:
        return render_value(template, scope)
    except TemplateFailed:  # it reads a step that was skipped
        return None
