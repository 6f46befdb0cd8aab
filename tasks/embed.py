"""The embed step: documents into a collection (once), or one text per row into a vector.

Owns which chunks are new, changed, moved or gone, and reuse where nothing changed. Knows nothing of how a
call is retried (tasks.attempts), how vectors are made (tasks.providers) or kept (tasks.collection).
Every batch is in the collection before the next one is asked for, so a step that is run again after a crash
embeds only what is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from chains.errors import HeadraceError, InputInvalid
from chains.keys import deciding
from chains.spec import EmbedStep
from chains.store import Claim
from chains.templates import render
from tasks.attempts import Caller, call, caller_for
from tasks.collection.chunk import Chunk, chunks_of
from tasks.collection.collection import PLACE
from tasks.collection.cutting import cut, estimated_spans
from tasks.collection.documents import Document, read_documents
from tasks.context import OnceJob, Progress, RowJob, RowResult, StepContext
from tasks.reuse import Question, answer, found, linked, question

if TYPE_CHECKING:
    import numpy as np

    from tasks.collection import Collection
    from tasks.providers import Provider

# Texts per call: few enough that a crash loses little, many enough for a full batch.
BATCH = 64


async def run_once(ctx: StepContext, job: OnceJob) -> RowResult:
    """Bring a collection up to date with its documents."""
    step = _step(ctx)
    assert step.into is not None
    collection = ctx.collections.get(step.into)
    provider = ctx.providers.get(collection.embedder_name)
    patterns = [step.embed] if isinstance(step.embed, str) else list(step.embed)
    documents = await asyncio.to_thread(
        read_documents, patterns, ctx.chain_file.folder, read_outside=ctx.settings.read_outside
    )
    inputs = {"documents": [{"source": document.source, "sha256": document.sha256} for document in documents]}
    try:
        asked = question(ctx, "embed", _documents_parts(step, documents, collection, provider))
        result = await _unchanged(ctx, asked, collection) or await _update(ctx, job, documents, collection)
    except HeadraceError as error:
        error.inputs = inputs
        raise
    result.value_key, result.inputs = asked.key, inputs
    return result


async def run_row(ctx: StepContext, job: RowJob) -> RowResult:
    """Embed one text per row."""
    step = _step(ctx)
    if not isinstance(step.embed, str):
        raise InputInvalid(
            f"Step '{ctx.step_id}' embeds one text per row, and 'embed' is a list.",
            hint="Write one template, or add 'into: COLLECTION' to embed documents.",
        )
    name = step.model or ctx.collections.get(step.into or "").embedder_name
    text = render(step.embed, job.scope)
    inputs = {"text": text}
    provider = ctx.providers.get(name)
    asked = question(ctx, "embed", {"text": text, "embedder": dict(provider.identity)})
    try:
        result = await answer(ctx, asked, lambda claim: _embed_row(ctx, job, text, name, claim))
    except HeadraceError as error:
        error.inputs = inputs
        raise
    result.inputs = inputs
    return result


async def embed_texts(
    caller: Caller, provider: Provider, texts: Sequence[str], *, granted: int = 0
) -> np.ndarray:
    """Return one vector per text from one call (and its retries)."""
    request = provider.embed_request(texts)
    return await call(caller, request, provider.send_embed, provider.read_embed, granted=granted)


async def _embed_row(  # noqa: PLR0917 - one text, and for whom
    ctx: StepContext, job: RowJob, text: str, name: str, claim: Claim | None
) -> RowResult:
    caller = caller_for(ctx, job, name, claim=claim)
    vectors = await embed_texts(caller, ctx.providers.get(name), [text])
    vector = [float(number) for number in vectors[0]]
    return caller.charge(RowResult(output={"vector": vector, "dimension": len(vector)}))


def _step(ctx: StepContext) -> EmbedStep:
    assert isinstance(ctx.step, EmbedStep)
    return ctx.step


def _documents_parts(
    step: EmbedStep, documents: Sequence[Document], collection: Collection, provider: Provider
) -> dict[str, Any]:
    return {
        "documents": [[document.source, document.sha256] for document in documents],
        "chunk": deciding(step.chunk),
        "collection": collection.name,
        "distance": collection.distance,
        "embedder": dict(provider.identity),
    }


async def _unchanged(ctx: StepContext, asked: Question, collection: Collection) -> RowResult | None:
    """Return the earlier result where the collection still holds exactly what it left behind."""
    record = found(ctx, asked)
    if record is None:
        return None
    result = linked(record, asked.key)
    return result if result.output.get("version") == await collection.version() else None


async def _update(
    ctx: StepContext, job: OnceJob, documents: Sequence[Document], collection: Collection
) -> RowResult:
    provider = ctx.providers.get(collection.embedder_name)
    chunks = await asyncio.to_thread(_cut_all, ctx, documents, provider)
    there = await collection.places()
    anew = _step(ctx).cache in ("never", "refresh")
    # Longest first: texts of one length are padded least, and what does not fit is known at once.
    missing = sorted(
        (chunk for chunk in chunks if anew or chunk.id not in there), key=lambda chunk: -len(chunk.text)
    )
    moved = [chunk for chunk in chunks if chunk.id in there and _place(chunk) != there[chunk.id]]
    wanted = {chunk.id for chunk in chunks}
    origin = chunks[0].origin
    gone = [id for id, place in there.items() if place.get("origin") == origin and id not in wanted]
    caller = caller_for(ctx, job, collection.embedder_name)
    await _embed_missing(ctx, caller, missing, collection)
    await collection.describe(moved)
    await collection.delete(gone)
    await collection.settle()
    output: dict[str, Any] = {
        "collection": collection.name,
        "documents": len(documents),
        "chunks": len(chunks),
        "embedded": len(missing),
        "reused": len(chunks) - len(missing),
        "version": await collection.version(),
    }
    return caller.charge(RowResult(output=output))


async def _embed_missing(
    ctx: StepContext, caller: Caller, missing: Sequence[Chunk], collection: Collection
) -> None:
    provider = ctx.providers.get(collection.embedder_name)
    # Each batch is a call with its own tries within one record: what led to the last success does not count.
    earlier = ctx.store.attempts(caller.record_id)
    granted = max((attempt.number for attempt in earlier if attempt.state == "ok"), default=0)
    for start in range(0, len(missing), BATCH):
        batch = missing[start : start + BATCH]
        vectors = await embed_texts(caller, provider, [chunk.text for chunk in batch], granted=granted)
        await collection.upsert(batch, vectors)
        granted = caller.first_number - 1 + caller.tally.attempts
        done = start + len(batch)
        ctx.report(
            Progress(
                ctx.step_id,
                "message",
                text=f"{done} of {len(missing)} chunks embedded",
                done=done,
                total=len(missing),
            )
        )


def _cut_all(ctx: StepContext, documents: Sequence[Document], provider: Provider) -> list[Chunk]:
    chunk = _step(ctx).chunk
    window = getattr(provider, "window", None)
    if window is not None and chunk.tokens > window:
        raise InputInvalid(
            f"Step '{ctx.step_id}' cuts chunks of {chunk.tokens} tokens, and its embedder reads {window}.",
            hint=f"Set `chunk: {{tokens: {window}}}` or less.",
        )
    spans = getattr(provider, "token_spans", estimated_spans)
    origin = f"{ctx.chain_file.chain.chain}/{ctx.step_id}"
    chunks = []
    for document in documents:
        passages = cut(
            document.text,
            markdown=document.markdown,
            tokens=chunk.tokens,
            overlap=chunk.overlap,
            spans=spans,
        )
        chunks += chunks_of(document.source, passages, origin=origin)
    if not chunks:
        raise InputInvalid(f"The {len(documents)} documents of step '{ctx.step_id}' hold no text.")
    return chunks


def _place(chunk: Chunk) -> dict[str, Any]:
    payload = chunk.payload()
    return {field: payload[field] for field in PLACE}
