"""Sets of vectors with one embedder, one dimension and one distance, in a folder or in a Qdrant server."""

from __future__ import annotations

from tasks.collection.chunk import Chunk, Hit
from tasks.collection.collection import Collection
from tasks.collection.collections import Collections

__all__ = ["Chunk", "Collection", "Collections", "Hit"]
