"""What a collection holds and gives back: chunks of documents, and hits.

A chunk's id is made of its source, its text and how many equal texts precede it in that source: it stays the
same when other parts of the document change, so that nothing is embedded twice.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

NAMESPACE = uuid.UUID("6f0b6c1e-6a53-5d0e-9c0b-6b1f6c0e5a11")


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of one document, before it has an id; `start` and `end` count characters."""

    text: str
    heading: str | None
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """One point of a collection without its vector. `origin` is the chain and step that put it there."""

    id: str
    text: str
    source: str
    heading: str | None
    start: int
    end: int
    sha256: str
    origin: str

    def payload(self) -> dict[str, Any]:
        """Return what is stored beside the vector."""
        return {
            "text": self.text,
            "source": self.source,
            "heading": self.heading,
            "start": self.start,
            "end": self.end,
            "sha256": self.sha256,
            "origin": self.origin,
        }


@dataclass(frozen=True, slots=True)
class Hit:
    """One chunk that a search found; `rank` counts from 1."""

    id: str
    text: str
    score: float
    rank: int
    source: str
    heading: str | None

    def as_json(self) -> dict[str, Any]:
        """Return the hit as a step's output shows it."""
        return {
            "id": self.id,
            "text": self.text,
            "score": self.score,
            "rank": self.rank,
            "source": self.source,
            "heading": self.heading,
        }


def chunks_of(source: str, passages: Iterable[Passage], *, origin: str) -> list[Chunk]:
    """Give the passages of one document their ids."""
    seen: Counter[str] = Counter()
    chunks = []
    for passage in passages:
        digest = hashlib.sha256(passage.text.encode()).hexdigest()
        chunks.append(
            Chunk(
                id=str(uuid.uuid5(NAMESPACE, f"{source}\n{digest}\n{seen[digest]}")),
                text=passage.text,
                source=source,
                heading=passage.heading,
                start=passage.start,
                end=passage.end,
                sha256=digest,
                origin=origin,
            )
        )
        seen[digest] += 1
    return chunks
