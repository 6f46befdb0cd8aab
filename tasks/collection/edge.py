"""A collection in a folder: embedded Qdrant Edge.

Owns the folder (`manifest.json`, `shard/`), its lock and its life. The manifest is written after the shard
was made and before the first point, so a folder without one holds nothing and is made anew. Within one
process a folder is opened once and shared by all runs. Invariant: one process at a time.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chains.clock import Clock
from chains.errors import StoreDamaged
from chains.store.files import atomic_write
from tasks.collection.identity import Identity
from tasks.collection.index import Found, Payload
from tasks.collection.lock import FolderLock

if TYPE_CHECKING:
    import numpy as np

PAGE = 2000
DISTANCES = {"cosine": "Cosine", "dot": "Dot", "euclid": "Euclid"}

_OPEN: dict[Path, EdgeIndex] = {}
_OPENING = threading.Lock()


class EdgeIndex:
    """One folder, opened by this process; get it from `open_edge`."""

    def __init__(self, folder: Path, *, name: str, clock: Clock) -> None:
        self._folder = folder
        self._name = name
        self._users = 0
        self._shard: Any = None
        self._identity: Identity | None = None
        self._writing = threading.Lock()
        self._lock = FolderLock(folder.with_name(f"{folder.name}.lock"), name=name, clock=clock)

    @property
    def identity(self) -> Identity | None:
        """What the vectors are; None while nothing has been written."""
        return self._identity

    def create(self, identity: Identity) -> None:
        """Make an empty shard; a second caller that asks for the same finds it made."""
        with self._writing:
            if self._identity is None:
                self._make(identity)

    def upsert(self, points: Sequence[tuple[str, Payload]], vectors: np.ndarray) -> None:
        """Add points, or replace those of the same ids."""
        from qdrant_edge import Point, UpdateOperation

        batch = [Point(id, row.tolist(), payload) for (id, payload), row in zip(points, vectors, strict=True)]
        with self._writing:
            self._shard.update(UpdateOperation.upsert_points(batch))

    def set_payloads(self, points: Sequence[tuple[str, Payload]]) -> None:
        """Replace the payloads of points and keep their vectors."""
        from qdrant_edge import UpdateOperation

        with self._writing:
            for id, payload in points:
                self._shard.update(UpdateOperation.overwrite_payload([id], payload))

    def delete(self, ids: Sequence[str]) -> None:
        """Remove points; ids that are not there are no error."""
        from qdrant_edge import UpdateOperation

        with self._writing:
            self._shard.update(UpdateOperation.delete_points(list(ids)))

    def scan(self, fields: Sequence[str]) -> Iterator[tuple[str, Payload]]:
        """Go over all points with these payload fields."""
        from qdrant_edge import ScrollRequest

        offset = None
        while self._shard is not None:
            page, offset = self._shard.scroll(
                ScrollRequest(limit=PAGE, offset=offset, with_payload=list(fields), with_vector=False)
            )
            for record in page:
                yield str(record.id), record.payload or {}
            if offset is None:
                return

    def search(self, vector: np.ndarray, *, top_k: int, min_score: float | None) -> list[Found]:
        """Return the nearest points, best first."""
        from qdrant_edge import Query, QueryRequest

        found = self._shard.query(
            QueryRequest(
                limit=top_k,
                query=Query.Nearest(vector.tolist()),
                with_payload=True,
                with_vector=False,
                score_threshold=min_score,
            )
        )
        return [(str(point.id), float(point.score), point.payload or {}) for point in found]

    def count(self) -> int:
        """Return how many points there are."""
        from qdrant_edge import CountRequest

        return 0 if self._shard is None else int(self._shard.count(CountRequest()))

    def settle(self) -> None:
        """Build the HNSW graph where the set is large enough for one, and put everything on disk."""
        if self._shard is not None:
            with self._writing:
                self._shard.optimize()
                self._shard.flush()

    def close(self) -> None:
        """Let go; the last user of the folder in this process closes it."""
        with _OPENING:
            self._users -= 1
            if self._users > 0:
                return
            _OPEN.pop(self._folder, None)
            try:
                if self._shard is not None:
                    self._shard.close()
            finally:
                self._shard = None
                self._lock.release()

    def _begin(self) -> None:
        """Take the lock and load what is there."""
        self._lock.acquire()
        try:
            self._load()
        except BaseException:
            self._lock.release()
            raise

    def _load(self) -> None:
        from qdrant_edge import EdgeShard

        manifest = self._folder / "manifest.json"
        if not manifest.is_file():
            return
        where = f"the collection '{self._name}' in {str(self._folder)!r}"
        self._identity = Identity.from_json(_read(manifest, where), where=where)
        try:
            self._shard = EdgeShard.load(str(self._folder / "shard"))
        except Exception as error:  # qdrant_edge raises plain Exception for all that goes wrong
            raise StoreDamaged(
                f"Cannot open {where}: {str(error)[:200]}",
                hint="Remove that folder and run its embed step again.",
            ) from error

    def _make(self, identity: Identity) -> None:
        from qdrant_edge import Distance, EdgeConfig, EdgeShard, EdgeVectorParams

        shutil.rmtree(self._folder, ignore_errors=True)
        shard = self._folder / "shard"
        shard.mkdir(parents=True)
        params = EdgeVectorParams(
            size=identity.dimension, distance=getattr(Distance, DISTANCES[identity.distance])
        )
        self._shard = EdgeShard.create(str(shard), EdgeConfig(vectors=params))
        self._shard.flush()
        atomic_write(self._folder / "manifest.json", json.dumps(identity.to_json(), indent=1).encode())
        self._identity = identity


def open_edge(folder: Path, *, name: str, clock: Clock) -> EdgeIndex:
    """Open a collection's folder, which need not exist yet; CollectionBusy when another process has it."""
    folder = folder.resolve()
    with _OPENING:
        index = _OPEN.get(folder)
        if index is None:
            index = EdgeIndex(folder, name=name, clock=clock)
            index._begin()
            _OPEN[folder] = index
        index._users += 1
        return index


def _read(path: Path, where: str) -> Any:
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise StoreDamaged(
            f"The manifest of {where} is not JSON: {error}",
            hint="Remove that folder and run its embed step again.",
        ) from error
