"""Calls that a once step makes for its rows, as a step of their own with a record for each.

Owns the id of such a step (`score-polite` for the judge `polite` of the step `score`, `tune-teacher` for the
teacher of the step `tune`), its row in the store, and which records of an earlier try still hold. The rows
run as those of any step (tasks.rows): budgets, retries, claims, reuse and resume are the same, so nothing is
paid twice. Knows nothing of what is asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from chains.errors import BudgetExceeded, Cancelled
from chains.spec import CallingStep, EmbedStep, PromptStep
from chains.store import StepRow
from tasks.context import StepContext
from tasks.counts import Stopping
from tasks.rows import run_shard
from tasks.scopes import RowScope

if TYPE_CHECKING:
    from chains.store import RecordRow

AT_ONCE = 2048
"""Rows whose variables and records are at work together."""


@dataclass(slots=True)
class Answers:
    """What came back by row: the outputs, and why there is none."""

    outputs: dict[int, dict[str, Any]] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)


async def ask_rows(
    ctx: StepContext, name: str, step: PromptStep | EmbedStep, variables: Mapping[int, Mapping[str, Any]]
) -> Answers:
    """Run `step` for each row of `variables`, which its templates read as `judge`.

    Raise BudgetExceeded or Cancelled where rows are left for a resume; a row that failed is an answer.
    """
    kind = "judge" if isinstance(step, PromptStep) else "embed"
    return await ask_in_forms(ctx, name, [(step, variables)], kind=kind)


async def ask_in_forms(
    ctx: StepContext,
    name: str,
    forms: Sequence[tuple[PromptStep | EmbedStep, Mapping[int, Mapping[str, Any]]]],
    *,
    kind: str,
    root: str = "judge",
) -> Answers:
    """Run for each row the step that its variables stand beside, which reads them as `root`."""
    named = f"{ctx.step_id}-{name}"
    started = ctx.clock.now()
    row = StepRow(run_id=ctx.run_id, id=named, kind=kind, status="running", started_at=started)
    await ctx.store.aput(row)
    for step, variables in forms:
        own = _context(ctx, named, step)
        numbers = sorted(variables)
        for start in range(0, len(numbers), AT_ONCE):
            part = {number: variables[number] for number in numbers[start : start + AT_ONCE]}
            await _run(own, part, root)
    answers = _answers(ctx, named, {number for _, variables in forms for number in variables})
    status = "failed" if answers.failures else "ok"
    await ctx.store.aput(replace(row, status=status, finished_at=ctx.clock.now()))  # type: ignore[arg-type]
    return answers


def calling(step: CallingStep) -> dict[str, Any]:
    """Return the keys of a once step that its calls go by."""
    return {
        name: getattr(step, name)
        for name in ("retry", "timeout", "deadline", "on_ambiguous", "budget", "cache")
    }


def _context(ctx: StepContext, step_id: str, step: PromptStep | EmbedStep) -> StepContext:
    chain = ctx.chain_file.chain
    steps = {**chain.steps, step_id.rpartition(".")[2]: step}
    chain_file = replace(ctx.chain_file, chain=chain.model_copy(update={"steps": steps}))
    return replace(ctx, step_id=step_id, step=step, chain_file=chain_file, memo={})


async def _run(ctx: StepContext, variables: Mapping[int, Mapping[str, Any]], root: str) -> None:
    span = range(min(variables), max(variables) + 1)
    changed = {row for row in variables if row in _others(ctx, span, variables, root)}
    # a row whose texts have changed since an earlier try is asked again; the others keep their answers
    anew = replace(ctx, anew=ctx.clock.now(), memo={}) if changed else ctx
    for own, rows in ((ctx, variables.keys() - changed), (anew, changed)):
        if not rows:
            continue
        scopes = _Given({row: variables[row] for row in sorted(rows)}, root)
        counts = await run_shard(own, scopes, span, Stopping())  # type: ignore[arg-type]
        if counts.over_budget is not None:
            raise BudgetExceeded(counts.over_budget)
        if counts.statuses["cancelled"]:
            raise Cancelled(f"step {ctx.step_id!r} was stopped before all rows were answered.")


@dataclass(frozen=True, slots=True)
class _Given:
    """The scopes of rows that a once step has rendered itself, in the place of tasks.scopes.Scopes."""

    variables: Mapping[int, Mapping[str, Any]]
    root: str

    def per_row(self, step_id: str, rows: range, *, run_on_skip: bool) -> Iterator[RowScope]:
        """Yield the scope of each row."""
        for row, variables in self.variables.items():
            if row in rows:
                yield RowScope(row, {self.root: dict(variables)})


def _others(ctx: StepContext, span: range, variables: Mapping[int, Mapping[str, Any]], root: str) -> set[int]:
    """Return the rows that have an answer to other texts than they have now."""
    found = set()
    for record in ctx.store.records(ctx.run_id, ctx.step_id, rows=span, statuses=("ok",)):
        if record.row in variables and _asked(record) != _inputs(ctx, variables[record.row], root):
            found.add(record.row)
    return found


def _asked(record: RecordRow) -> Any:
    return json.loads(record.inputs) if record.inputs is not None else None


def _inputs(ctx: StepContext, variables: Mapping[str, Any], root: str) -> Any:
    if isinstance(ctx.step, EmbedStep):
        inputs: dict[str, Any] = {"text": variables["text"]}
    else:
        inputs = {f"{root}.{name}": value for name, value in variables.items()}
    return json.loads(json.dumps(inputs))


def _answers(ctx: StepContext, step_id: str, rows: set[int]) -> Answers:
    answers = Answers()
    for record in ctx.store.records(ctx.run_id, step_id):
        if record.row not in rows:
            continue  # of an earlier try, when there were other rows
        if record.status == "ok" and record.output is not None:
            answers.outputs[record.row] = json.loads(record.output)
        else:
            error = json.loads(record.error) if record.error is not None else {}
            answers.failures[record.row] = str(error.get("message") or record.status)
    return answers
