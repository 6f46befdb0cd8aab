"""What a place that keeps vectors can do; a folder (edge) and a server look the same from here.

All calls block: the collection runs them in worker threads. Ids are UUIDs as text. Knows nothing of
embedders, chunks or documents.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from tasks.collection.identity import Identity

if TYPE_CHECKING:
    import numpy as np

Payload: TypeAlias = dict[str, Any]
Found: TypeAlias = tuple[str, float, Payload]


class Index(Protocol):
    """A set of vectors with payloads."""

    @property
    def identity(self) -> Identity | None:
        """What the vectors are; None while nothing has been written."""
        ...

    def create(self, identity: Identity) -> None:
        """Make the empty set for vectors of this identity."""
        ...

    def upsert(self, points: Sequence[tuple[str, Payload]], vectors: np.ndarray) -> None:
        """Add points, or replace those of the same ids."""
        ...

    def set_payloads(self, points: Sequence[tuple[str, Payload]]) -> None:
        """Replace the payloads of points and keep their vectors."""
        ...

    def delete(self, ids: Sequence[str]) -> None:
        """Remove points; ids that are not there are no error."""
        ...

    def scan(self, fields: Sequence[str]) -> Iterator[tuple[str, Payload]]:
        """Go over all points with these payload fields."""
        ...

    def search(self, vector: np.ndarray, *, top_k: int, min_score: float | None) -> list[Found]:
        """Return the nearest points, best first."""
        ...

    def count(self) -> int:
        """Return how many points there are."""
        ...

    def settle(self) -> None:
        """Build what makes searching fast, and put everything on disk."""
        ...

    def close(self) -> None:
        """Let go of files, locks and connections."""
        ...
