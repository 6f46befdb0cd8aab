"""A collection as steps see it: chunks in, hits out, whatever keeps the vectors.

Owns the checks between an embedder and a collection (tasks.collection.identity) and the collection's row in
the store. The index blocks, so it is called in worker threads and opened with the first use; writes are one
at a time. Invariant: nothing is added or looked up with vectors that do not fit.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Collection as AnyCollection
from typing import TYPE_CHECKING, Any, TypeVar

from chains import spec
from chains.clock import Clock
from chains.errors import CollectionMismatch, StepFailed, TimedOut
from chains.keys import canonical
from chains.store import CollectionRow
from tasks.collection.chunk import Chunk, Hit
from tasks.collection.identity import Identity, check_embedder, checked_vectors, is_normalised
from tasks.collection.index import Found, Index, Payload
from tasks.providers.gate import Gate
from tasks.providers.reply import Reply

if TYPE_CHECKING:
    import numpy as np

    from chains.store import Store

T = TypeVar("T")
SEARCHES = 64
"""Searches in flight at once in a server's collection."""
# Fields that tell whether a chunk that is there already is still described rightly.
PLACE = ("source", "heading", "start", "end", "origin")


class Collection:
    """One collection of one run; get it from `Collections`."""

    def __init__(
        self,
        name: str,
        described: spec.Collection,
        *,
        embedder: Mapping[str, Any],
        store: Store,
        clock: Clock,
        open_index: Callable[[], Index],
    ) -> None:
        self.name = name
        self.embedder_name = described.embedder
        self.distance = described.distance
        self.url = described.url
        self.gate = Gate(SEARCHES)
        self._embedder = embedder
        self._store = store
        self._clock = clock
        self._open_index = open_index
        self._index: Index | None = None
        self._opening = threading.Lock()
        self._versioning = threading.Lock()
        self._version: str | None = None

    async def places(self) -> dict[str, Payload]:
        """Return, for each chunk that is there, where it came from."""
        return await self._in_thread(lambda index: dict(index.scan(PLACE)))

    async def upsert(self, chunks: Sequence[Chunk], vectors: np.ndarray) -> None:
        """Add chunks with their vectors, or replace those of the same ids."""
        if len(chunks) != len(vectors):
            raise CollectionMismatch(
                f"{len(chunks)} chunks and {len(vectors)} vectors were given to collection '{self.name}'."
            )
        if not chunks:
            return
        points = [(chunk.id, chunk.payload()) for chunk in chunks]

        def write(index: Index) -> None:
            checked = checked_vectors(vectors, kept=index.identity, name=self.name)
            if index.identity is None:
                index.create(self._identity_of(checked))
            index.upsert(points, checked)

        self._version = None
        await self._in_thread(write)

    async def describe(self, chunks: Sequence[Chunk]) -> None:
        """Write anew where chunks that are there already came from; their vectors stay."""
        self._version = None
        points = [(chunk.id, chunk.payload()) for chunk in chunks]
        await self._in_thread(lambda index: index.set_payloads(points))

    async def delete(self, ids: AnyCollection[str]) -> None:
        """Remove chunks."""
        if ids:
            self._version = None
            await self._in_thread(lambda index: index.delete(list(ids)))

    async def settle(self) -> None:
        """Make what was written fast to search and durable, and put the collection's row into the store."""

        def finish(index: Index) -> tuple[Identity | None, int]:
            index.settle()
            return index.identity, index.count()

        identity, points = await self._in_thread(finish)
        if identity is not None:
            await self._store.aput(self._row(identity, points))

    async def search(self, vector: np.ndarray, *, top_k: int, min_score: float | None = None) -> list[Hit]:
        """Return the nearest chunks, best first.

        `min_score` is a similarity for `cosine` and `dot`; for `euclid` it is the greatest distance.
        """

        def look(index: Index) -> list[Found]:
            if index.identity is None:
                raise StepFailed(f"The collection '{self.name}' is empty.", hint="Run its embed step first.")
            checked = checked_vectors(vector.reshape(1, -1), kept=index.identity, name=self.name)
            return index.search(checked[0], top_k=top_k, min_score=min_score)

        found = await self._in_thread(look)
        return [_hit(rank, entry) for rank, entry in enumerate(self._ordered(found), start=1)]

    def search_request(self, vector: np.ndarray, *, top_k: int, min_score: float | None) -> bytes:
        """Return what is asked of a server, as an attempt keeps it."""
        numbers = [float(number) for number in vector]
        asked = {"collection": self.name, "vector": numbers, "top_k": top_k, "min_score": min_score}
        return canonical(asked)

    async def send_search(self, request: bytes, *, timeout: float) -> Reply:
        """Search once, as `tasks.attempts` calls it."""
        import numpy as np

        asked = json.loads(request)
        vector = np.asarray(asked["vector"], dtype=np.float32)
        try:
            async with asyncio.timeout(timeout):
                hits = await self.search(vector, top_k=asked["top_k"], min_score=asked["min_score"])
        except TimeoutError:
            raise TimedOut(
                f"The search in collection '{self.name}' took longer than {timeout:g} s."
            ) from None
        document = {"hits": [hit.as_json() for hit in hits]}
        return Reply(body=canonical(document), status=200, tokens_in=0, tokens_out=0, document=document)

    def read_search(self, reply: Reply) -> list[Hit]:
        """Return the hits of a reply."""
        return [Hit(**hit) for hit in reply.document["hits"]]

    async def count(self) -> int:
        """Return how many chunks there are."""
        return await self._in_thread(lambda index: index.count())

    async def version(self) -> str:
        """Return a hash over all chunks and where they came from: equal content, equal hash."""
        return await self._in_thread(self._read_version)

    async def close(self) -> None:
        """Let go of the folder or the connection."""
        index, self._index = self._index, None
        if index is not None:
            await asyncio.to_thread(index.close)

    def _read_version(self, index: Index) -> str:
        # Of many rows that ask at once, the first reads; the others wait for it.
        with self._versioning:
            if self._version is None:
                lines = sorted(
                    f"{id}\n{json.dumps([place.get(field) for field in PLACE])}"
                    for id, place in index.scan(PLACE)
                )
                self._version = hashlib.sha256("\n".join(lines).encode()).hexdigest()
            return self._version

    async def _in_thread(self, work: Callable[[Index], T]) -> T:
        return await asyncio.to_thread(lambda: work(self._opened()))

    def _opened(self) -> Index:
        with self._opening:
            if self._index is None:
                index = self._open_index()
                try:
                    if index.identity is not None:
                        check_embedder(index.identity, self._embedder, distance=self.distance, name=self.name)
                except BaseException:
                    index.close()
                    raise
                self._index = index
            return self._index

    def _identity_of(self, vectors: np.ndarray) -> Identity:
        return Identity(
            embedder=self._embedder,
            dimension=int(vectors.shape[1]),
            distance=self.distance,
            normalised=is_normalised(vectors),
            dtype=str(self._embedder.get("dtype", "float32")),
        )

    def _row(self, identity: Identity, points: int) -> CollectionRow:
        return CollectionRow(
            name=self.name,
            embedder=json.dumps(dict(identity.embedder)).encode(),
            dimension=identity.dimension,
            distance=identity.distance,
            normalised=identity.normalised,
            dtype=identity.dtype,
            points=points,
            url=self.url,
            updated_at=self._clock.now(),
        )

    def _ordered(self, found: Sequence[Found]) -> list[Found]:
        """Put equally near chunks in the order of their ids, so that the same search gives the same list."""
        sign = 1 if self.distance == "euclid" else -1
        return sorted(found, key=lambda entry: (sign * entry[1], entry[0]))


def _hit(rank: int, found: Found) -> Hit:
    id, score, payload = found
    return Hit(
        id=id,
        text=str(payload.get("text", "")),
        score=score,
        rank=rank,
        source=str(payload.get("source", "")),
        heading=payload.get("heading"),
    )
