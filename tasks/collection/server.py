"""A collection in a Qdrant server, through qdrant-client.

The manifest travels with the collection as its metadata, so that every store that uses the server sees the
same identity. Knows nothing of retries. Errors of the client become the ones of chains.errors here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from chains.errors import CallRefused, CollectionMismatch, ConnectionFailed, RateLimited, ServerFault
from tasks.collection.identity import Identity
from tasks.collection.index import Found, Payload

if TYPE_CHECKING:
    import numpy as np
    from qdrant_client import QdrantClient

PAGE = 1000
DISTANCES = {"cosine": "Cosine", "dot": "Dot", "euclid": "Euclid"}
METADATA = "headrace"


class ServerIndex:
    """One collection of a Qdrant server."""

    def __init__(self, client: QdrantClient, name: str) -> None:
        self._client = client
        self._name = name
        self._identity = self._read_identity()

    @property
    def identity(self) -> Identity | None:
        """What the vectors are; None while the collection does not exist."""
        return self._identity

    def create(self, identity: Identity) -> None:
        """Make the collection on the server."""
        from qdrant_client import models

        params = models.VectorParams(
            size=identity.dimension, distance=models.Distance(DISTANCES[identity.distance])
        )
        with _errors(self._name):
            self._client.create_collection(
                self._name, vectors_config=params, metadata={METADATA: identity.to_json()}
            )
        self._identity = identity

    def upsert(self, points: Sequence[tuple[str, Payload]], vectors: np.ndarray) -> None:
        """Add points, or replace those of the same ids."""
        from qdrant_client import models

        batch = [
            models.PointStruct(id=id, vector=row.tolist(), payload=payload)
            for (id, payload), row in zip(points, vectors, strict=True)
        ]
        with _errors(self._name):
            self._client.upsert(self._name, points=batch, wait=True)

    def set_payloads(self, points: Sequence[tuple[str, Payload]]) -> None:
        """Replace the payloads of points and keep their vectors."""
        with _errors(self._name):
            for id, payload in points:
                self._client.overwrite_payload(self._name, payload=payload, points=[id], wait=True)

    def delete(self, ids: Sequence[str]) -> None:
        """Remove points; ids that are not there are no error."""
        from qdrant_client import models

        with _errors(self._name):
            self._client.delete(self._name, points_selector=models.PointIdsList(points=list(ids)), wait=True)

    def scan(self, fields: Sequence[str]) -> Iterator[tuple[str, Payload]]:
        """Go over all points with these payload fields."""
        offset: Any = None
        while self._identity is not None:
            with _errors(self._name):
                page, offset = self._client.scroll(
                    self._name, limit=PAGE, offset=offset, with_payload=list(fields), with_vectors=False
                )
            for record in page:
                yield str(record.id), record.payload or {}
            if offset is None:
                return

    def search(self, vector: np.ndarray, *, top_k: int, min_score: float | None) -> list[Found]:
        """Return the nearest points, best first."""
        with _errors(self._name):
            found = self._client.query_points(
                self._name, query=vector.tolist(), limit=top_k, score_threshold=min_score, with_payload=True
            ).points
        return [(str(point.id), float(point.score), point.payload or {}) for point in found]

    def count(self) -> int:
        """Return how many points there are."""
        if self._identity is None:
            return 0
        with _errors(self._name):
            return int(self._client.count(self._name, exact=True).count)

    def settle(self) -> None:
        """Do nothing: a server builds its index and syncs by itself, and writes were awaited."""

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _read_identity(self) -> Identity | None:
        with _errors(self._name):
            if not self._client.collection_exists(self._name):
                return None
            metadata = self._client.get_collection(self._name).config.metadata or {}
        if METADATA not in metadata:
            raise CollectionMismatch(
                f"The server's collection '{self._name}' does not say which embedder made it.",
                hint="It was not made by Headrace; give the chain's collection another name.",
            )
        return Identity.from_json(metadata[METADATA], where=f"the server's collection '{self._name}'")


def open_server(url: str, *, api_key: str | None, name: str) -> ServerIndex:
    """Connect to a server's collection, which need not exist yet."""
    from qdrant_client import QdrantClient

    client = QdrantClient(url=url, api_key=api_key, check_compatibility=False, timeout=30)
    return ServerIndex(client, name)


@contextmanager
def _errors(name: str) -> Iterator[None]:
    """Say what a failed call to the server means."""
    from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

    try:
        yield
    except UnexpectedResponse as error:
        said = f"The Qdrant server answered {error.status_code} for the collection '{name}'"
        body = error.content.decode(errors="replace")[:200] if error.content else ""
        if error.status_code == 429:
            raise RateLimited(f"{said}.") from error
        if error.status_code is None or error.status_code >= 500:
            raise ServerFault(f"{said}: {body!r}.") from error
        raise CallRefused(f"{said}: {body!r}.", hint="Check its address and key.") from error
    except ResponseHandlingException as error:
        raise ConnectionFailed(
            f"The Qdrant server of the collection '{name}' cannot be reached: {str(error)[:200]}."
        ) from error
