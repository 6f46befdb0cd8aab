"""The retrieve step: embed a query and find the nearest chunks of a collection.

Owns the query's text, the hits' form and reuse: the same query over the same content is neither embedded nor
searched again. What documents say is handed on as data and never rendered as a template.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from chains.errors import HeadraceError, InputInvalid
from chains.keys import key_of
from chains.spec import RetrieveStep
from chains.templates import render
from tasks.attempts import Caller, call, caller_for
from tasks.context import RowJob, RowResult, StepContext
from tasks.embed import embed_texts

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
        key = await _key(ctx, collection, query)
        found = ctx.store.reusable([key]).get(key)
        if found is not None and found.output is not None:
            return RowResult(
                output=json.loads(found.output), value_key=key, reused_from=found.id, inputs=inputs
            )
        caller = caller_for(ctx, job, collection.embedder_name)
        hits = await _look_up(ctx, caller, collection, query)
    except HeadraceError as error:
        error.inputs = inputs
        raise
    output = {"hits": [hit.as_json() for hit in hits], "scores": [hit.score for hit in hits]}
    return caller.charge(RowResult(output=output, value_key=key, inputs=inputs))


async def _key(ctx: StepContext, collection: Collection, query: str) -> str:
    step = ctx.step
    assert isinstance(step, RetrieveStep)
    return key_of(
        "retrieve",
        {
            "query": query,
            "embedder": dict(ctx.providers.get(collection.embedder_name).identity),
            "distance": collection.distance,
            "content": await collection.version(),
            "top_k": step.top_k,
            "min_score": step.min_score,
        },
    )


async def _look_up(ctx: StepContext, caller: Caller, collection: Collection, query: str) -> list[Hit]:
    step = ctx.step
    assert isinstance(step, RetrieveStep)
    provider = ctx.providers.get(collection.embedder_name)
    vectors = await embed_texts(caller, provider, [query])
    if collection.url is None:
        return await collection.search(vectors[0], top_k=step.top_k, min_score=step.min_score)
    # A server is called like any other: with attempts in the store, and tries of its own.
    request = collection.search_request(vectors[0], top_k=step.top_k, min_score=step.min_score)
    searcher = replace(caller, gate=collection.gate)
    granted = caller.first_number - 1 + caller.tally.attempts
    return await call(searcher, request, collection.send_search, collection.read_search, granted=granted)
