"""The retrieve step: embed a query and find the nearest chunks of a collection.

Owns the query's text, the hits' form and reuse: the same query over the same content is neither embedded nor
searched again. What documents say is handed on as data and never rendered as a template.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from chains.errors import HeadraceError, InputInvalid
from chains.spec import RetrieveStep
from chains.store import Claim
from chains.templates import render
from tasks.attempts import Caller, call, caller_for
from tasks.context import RowJob, RowResult, StepContext
from tasks.embed import embed_texts
from tasks.prices import FREE
from tasks.reuse import answer, question

if TYPE_CHECKING:
    from tasks.collection import Collection, Hit


async def run_row(ctx: StepContext, job: RowJob) -> RowResult:
    """Return the hits for one row's query."""
    step = ctx.step
    assert isinstance(step, RetrieveStep)
    collection = ctx.collections.get(step.retrieve)
    query = render(step.query, job.scope)
    inputs = {"query": query}
    try:
        if not query.strip():
            raise InputInvalid(
                f"The query of step '{ctx.step_id}' is empty.", hint="Give it text to look for."
            )
        asked = question(ctx, "retrieve", await _parts(ctx, collection, query))
        result = await answer(ctx, asked, lambda claim: _find(ctx, job, collection, query, claim))
    except HeadraceError as error:
        error.inputs = inputs
        raise
    result.inputs = inputs
    return result


async def _parts(ctx: StepContext, collection: Collection, query: str) -> dict[str, Any]:
    """Return what decides the hits."""
    step = ctx.step
    assert isinstance(step, RetrieveStep)
    return {
        "query": query,
        "embedder": dict(ctx.providers.get(collection.embedder_name).identity),
        "distance": collection.distance,
        "content": await collection.version(),
        "top_k": step.top_k,
        "min_score": step.min_score,
    }


async def _find(  # noqa: PLR0917 - one query, and for whom
    ctx: StepContext, job: RowJob, collection: Collection, query: str, claim: Claim | None
) -> RowResult:
    caller = caller_for(ctx, job, collection.embedder_name, claim=claim)
    hits = await _look_up(ctx, caller, collection, query)
    output = {"hits": [hit.as_json() for hit in hits], "scores": [hit.score for hit in hits]}
    return caller.charge(RowResult(output=output))


async def _look_up(ctx: StepContext, caller: Caller, collection: Collection, query: str) -> list[Hit]:
    step = ctx.step
    assert isinstance(step, RetrieveStep)
    provider = ctx.providers.get(collection.embedder_name)
    vectors = await embed_texts(caller, provider, [query])
    if collection.url is None:
        return await collection.search(vectors[0], top_k=step.top_k, min_score=step.min_score)
    # A server is called like any other: with attempts in the store, and tries of its own.
    request = collection.search_request(vectors[0], top_k=step.top_k, min_score=step.min_score)
    searcher = replace(caller, gate=collection.gate, price=FREE, rates=None, limits=())
    granted = caller.first_number - 1 + caller.tally.attempts
    return await call(searcher, request, collection.send_search, collection.read_search, granted=granted)
