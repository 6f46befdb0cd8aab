"""Runs the steps inside a step, once through: a turn of a repeat, or a chain.

Owns their order, what each of them sees, and where their records stand. Knows nothing of why a body is run or
how often. Invariant: all that runs here runs within the unit of the outermost step, and each step leaves a
record of its own, by which a resume goes on.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from chains.errors import Cancelled, StepFailed
from chains.graph import Graph
from chains.spec import Step
from tasks.context import Place, Progress, RowJob, StepContext
from tasks.gathering import gather
from tasks.scopes import Upstream, verdict_of

if TYPE_CHECKING:
    from chains.loading import ChainFile
    from chains.store import RecordRow
    from tasks.collection import Collections
    from tasks.providers import Providers


@dataclass(frozen=True, slots=True)
class Body:
    """The steps inside a step, as a chain of their own."""

    chain_file: ChainFile
    graph: Graph
    services: tuple[Providers, Collections] | None = None
    """The models and collections of a chain that has its own."""

    @property
    def steps(self) -> Mapping[str, Step]:
        """The steps by the names that they have among each other."""
        return self.chain_file.chain.steps


async def run_body(
    ctx: StepContext, job: RowJob, body: Body, scope: Mapping[str, Any], *, turn: int = -1
) -> dict[str, Any]:
    """Run every step of a body and return what each gave; a skipped one gave nothing.

    Raises StepFailed that names the first step that failed, Cancelled where some are left for a resume.
    """
    assert job.inside is not None and job.opening is not None
    run_inside = job.inside
    place = place_inside(ctx, job.opening, turn)
    ended: dict[str, asyncio.Future[RecordRow]] = {}
    ctx.report(Progress(ctx.step_id, "items", row=job.row, total=len(body.graph.order)))

    async def one(step_id: str) -> RecordRow:
        step = body.steps[step_id]
        upstream = [await asyncio.shield(ended[name]) for name in sorted(body.graph.needs[step_id])]
        known = [Upstream(_last(record.step), record.status, _output(record)) for record in upstream]
        seen = {**scope, **{up.step: up.output for up in known if up.output is not None}}
        run_on_skip = step.on_skip == "run"
        verdict = verdict_of(body.graph, step_id, known, run_on_skip=run_on_skip)
        gone = sorted(body.graph.outside[step_id] - seen.keys())
        if gone and verdict[0] == "run" and not run_on_skip:  # else nothing here would have begun
            verdict = "skipped", f"step {gone[0]!r} was skipped"
        return await run_inside(context_inside(ctx, body, step_id), place, seen, verdict)

    for step_id in body.graph.order:  # each comes after all that it needs
        ended[step_id] = asyncio.ensure_future(one(step_id))
    try:
        records = await gather(list(ended.values()))
    except BaseException:
        for unfinished in ended.values():
            unfinished.cancel()
        await asyncio.gather(*ended.values(), return_exceptions=True)
        raise
    _raise_failure(records)
    return {_last(record.step): _output(record) for record in records if record.status == "ok"}


def place_inside(ctx: StepContext, record: RecordRow, turn: int) -> Place:
    """Return where the records of the steps inside a record stand."""
    *outer, own = ctx.step_id.split(".")
    frames = [record.path] if record.path else []
    if record.turn >= 0:
        frames.append(f"{outer[-1]}[turn {record.turn}]")
    if record.item >= 0:
        frames.append(f"{own}[item {record.item}]")
    return Place(record.row, turn=turn, path=".".join(frames))


def context_inside(ctx: StepContext, body: Body, step_id: str) -> StepContext:
    """Return the context of a step inside; what it tells is told of the outermost step."""

    def report(progress: Progress) -> None:
        event = "item" if progress.event == "row" else progress.event
        ctx.report(replace(progress, step=ctx.step_id, event=event))

    memo: dict[str, Any] = ctx.memo.setdefault(f"inside {step_id}", {})
    whole = f"{ctx.step_id}.{step_id}"
    step = body.steps[step_id]
    inner = replace(ctx, step_id=whole, step=step, chain_file=body.chain_file, report=report, memo=memo)
    if body.services is not None:
        inner.providers, inner.collections = body.services
    return inner


def _raise_failure(records: list[RecordRow]) -> None:
    for record in records:
        if record.status == "failed":
            said = json.loads(record.error or b"{}")
            message = str(said.get("message") or "it failed").removeprefix(f"step {record.step!r}: ")
            failure = StepFailed(f"step {_last(record.step)!r}: {message}", hint=said.get("hint"))
            failure.history = list(said.get("history") or ())
            raise failure
    if any(record.status in ("cancelled", "blocked") for record in records):
        raise Cancelled("the run was stopped before all steps inside had ended.")


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _output(record: RecordRow) -> Any:
    return json.loads(record.output) if record.status == "ok" and record.output is not None else None
