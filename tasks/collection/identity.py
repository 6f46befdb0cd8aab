"""What a collection's vectors are, and whether others fit among them.

Owns the identity (embedder, dimension, distance, normalisation, number format) and every refusal that rests
on it. Invariant: vectors of two embedders, or of one in two number formats, never share a collection.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from chains.errors import CollectionMismatch, StoreDamaged

if TYPE_CHECKING:
    import numpy as np

# Lengths of normalised vectors differ from 1 by rounding; half-precision endpoints reach 1e-3.
NORM_TOLERANCE = 5e-3


@dataclass(frozen=True, slots=True)
class Identity:
    """What all vectors of one collection have in common."""

    embedder: Mapping[str, Any]
    dimension: int
    distance: str
    normalised: bool
    dtype: str

    def to_json(self) -> dict[str, Any]:
        """Return the identity as the manifest keeps it."""
        return {"format": 1, **asdict(self), "embedder": dict(self.embedder)}

    @classmethod
    def from_json(cls, document: Any, *, where: str) -> Identity:
        """Read an identity back."""
        try:
            if document["format"] != 1:
                raise ValueError(f"format {document['format']!r}")
            return cls(
                embedder=dict(document["embedder"]),
                dimension=int(document["dimension"]),
                distance=str(document["distance"]),
                normalised=bool(document["normalised"]),
                dtype=str(document["dtype"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StoreDamaged(
                f"The manifest of {where} cannot be read: {error!r}.",
                hint="Remove the collection and run its embed step again.",
            ) from error


def deciding(embedder: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides an embedder's vectors: for a local one its weights and format, not its name."""
    if "weights" in embedder:
        return {"weights": embedder["weights"], "dtype": embedder.get("dtype")}
    sampling = {"temperature", "top_p", "max_tokens", "seed", "stop"}
    return {key: value for key, value in embedder.items() if key not in sampling}


def check_embedder(kept: Identity, embedder: Mapping[str, Any], *, distance: str, name: str) -> None:
    """Refuse to use a collection with another embedder or distance than it was made with."""
    old, new = deciding(kept.embedder), deciding(embedder)
    different = [
        f"{key} {_short(old.get(key))} there, {_short(new.get(key))} here"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if different:
        was, now = kept.embedder.get("model"), embedder.get("model")
        raise CollectionMismatch(
            f"The collection '{name}' was made with the embedder {was!r}, and this chain uses {now!r}: "
            f"{'; '.join(different)}.",
            hint="Use that embedder, or give the collection another name to embed anew.",
        )
    if kept.distance != distance:
        raise CollectionMismatch(
            f"The collection '{name}' measures distance as '{kept.distance}', this chain as '{distance}'.",
            hint="Use that distance, or give the collection another name to embed anew.",
        )


def checked_vectors(vectors: np.ndarray, *, kept: Identity | None, name: str) -> np.ndarray:
    """Return the vectors if they fit the collection: finite, not zero, of its dimension and length."""
    import numpy as np

    if vectors.ndim != 2:
        raise CollectionMismatch(
            f"Collection '{name}' takes rows of numbers, not an array of {vectors.ndim} dimensions."
        )
    if kept is not None and vectors.shape[1] != kept.dimension:
        raise CollectionMismatch(
            f"The collection '{name}' has vectors of {kept.dimension} numbers, "
            f"and the embedder made {vectors.shape[1]}.",
            hint="Use the embedder that it was made with, or give the collection another name.",
        )
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if bad.size:
        raise CollectionMismatch(f"Vector {int(bad[0])} for collection '{name}' holds NaN or infinity.")
    norms = np.linalg.norm(vectors, axis=1)
    zero = np.flatnonzero(norms == 0)
    if zero.size:
        raise CollectionMismatch(
            f"Vector {int(zero[0])} for collection '{name}' is all zeros; it is near to nothing."
        )
    if kept is not None and kept.normalised and not is_normalised(vectors):
        worst = float(norms[int(np.abs(norms - 1).argmax())])
        raise CollectionMismatch(
            f"The collection '{name}' holds vectors of length 1, and one of length {worst:.4g} came."
        )
    return vectors.astype(np.float32, copy=False)


def is_normalised(vectors: np.ndarray) -> bool:
    """Whether all vectors have length 1."""
    import numpy as np

    return bool((np.abs(np.linalg.norm(vectors, axis=1) - 1) < NORM_TOLERANCE).all())


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return repr(text[:16]) if len(text) > 40 else repr(text)
