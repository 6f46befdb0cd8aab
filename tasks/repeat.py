"""The repeat step: runs its steps in turns until something holds.

Owns when it ends and which turn is taken. Knows nothing of how the steps of a turn are run (tasks.body). What
decides is in the records of the turns, so a run that is gone on with takes the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chains.errors import HeadraceError, InputInvalid, StepFailed
from chains.graph import body_of, graph_of_file
from chains.spec import RepeatStep
from chains.templates import evaluate, references
from tasks.body import Body, run_body
from tasks.context import RowJob, RowResult, StepContext


async def run_row(ctx: StepContext, job: RowJob) -> RowResult:
    """Run turns until `until` holds; what the taken turn gave is the output, with all turns beside it."""
    step = ctx.step
    assert isinstance(step, RepeatStep)
    body: Body | None = ctx.memo.get("body")
    if body is None:
        chain_file = body_of(ctx.chain_file, step)
        body = ctx.memo["body"] = Body(chain_file, graph_of_file(chain_file))
    turns: list[dict[str, Any]] = []
    reached = False
    while not reached and len(turns) < step.repeat.max:
        number = len(turns)
        scope = {**job.scope, "loop": {"turn": number, "previous": turns[-1] if turns else None}}
        try:
            turns.append(await run_body(ctx, job, body, scope, turn=number))
        except StepFailed as failure:
            failure.message = f"turn {number}: {failure.message}"
            raise
        reached = bool(_value(step, step.repeat.until, {**scope, **turns[-1]}))
    taken = len(turns) - 1 if reached else _taken(step, job.scope, turns)
    return RowResult(output={**turns[taken], "turns": turns, "turn": taken, "reached": reached})


def _value(step: RepeatStep, expression: str, scope: Mapping[str, Any]) -> Any:
    """Return what an expression says of a turn; None where a step that it reads was skipped."""
    for reference in references(expression, bare=True):
        if reference.root in step.steps and reference.root not in scope and not reference.guarded:
            return None
    return evaluate(expression, scope)


def _taken(step: RepeatStep, scope: Mapping[str, Any], turns: Sequence[Mapping[str, Any]]) -> int:
    """Return the number of the turn that is taken although `until` never held."""
    repeat = step.repeat
    match repeat.exhausted:
        case "fail":
            raise StepFailed(
                f"`until: {repeat.until}` is still false after {len(turns)} turns.",
                hint="Raise `max`, or say what is taken then: `on_exhausted: last` or `best(...)`.",
            )
        case "last":
            return len(turns) - 1
        case "best":
            assert repeat.best is not None
            values = [
                _number(repeat.best, _value(step, repeat.best, _seen(scope, turns, number)))
                for number in range(len(turns))
            ]
            return max(range(len(turns)), key=lambda number: (values[number], -number))


def _seen(scope: Mapping[str, Any], turns: Sequence[Mapping[str, Any]], number: int) -> dict[str, Any]:
    loop = {"turn": number, "previous": turns[number - 1] if number else None}
    return {**scope, "loop": loop, **turns[number]}


def _number(expression: str, value: Any) -> float:
    if value is None:
        return float("-inf")
    if isinstance(value, int | float):
        return float(value)
    failure: HeadraceError = InputInvalid(
        f"`best({expression})` is a {type(value).__name__}, and needs a number to compare turns by."
    )
    raise failure
