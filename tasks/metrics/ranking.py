"""Retrieval metrics: how early the relevant ones stand in a ranked list.

Owns recall@k, the reciprocal rank and nDCG@k (Järvelin and Kekäläinen 2002, linear gains as in trec_eval).
A prediction is a list of ids, best first; hits count by their `id`. A reference is one id, a list of ids, or
an object from id to grade. An id that stands twice counts at its first place. Knows nothing of collections.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tasks.metrics.text import canonical_text


def recall(prediction: Any, reference: Any, k: int) -> float:
    """Score the share of the relevant ids among the first `k`; where there are none, right is to say none."""
    said, grades = ranked(prediction), relevant(reference)
    if not grades:
        return float(not said)
    return sum(name in grades for name in said[:k]) / len(grades)


def reciprocal_rank(prediction: Any, reference: Any) -> float:
    """Score 1 over the place of the first relevant id, 0 where there is none."""
    grades = relevant(reference)
    for place, name in enumerate(ranked(prediction), start=1):
        if name in grades:
            return 1 / place
    return 0.0


def ndcg(prediction: Any, reference: Any, k: int) -> float:
    """Score the discounted gain of the first `k` as a share of the best that there is."""
    grades = relevant(reference)
    best = _gain(sorted(grades.values(), reverse=True)[:k])
    if not best:
        return float(not ranked(prediction))
    return min(1.0, _gain([grades.get(name, 0.0) for name in ranked(prediction)[:k]]) / best)


def ranked(prediction: Any) -> list[str]:
    """Return the ids of a ranked list, each once."""
    if prediction is None or prediction == "":
        return []
    items = (
        prediction if isinstance(prediction, Sequence) and not isinstance(prediction, str) else [prediction]
    )
    return list(dict.fromkeys(canonical_text(_id_of(item)) for item in items))


def relevant(reference: Any) -> dict[str, float]:
    """Return the grade of each relevant id; grades of 0 and below are irrelevant."""
    if isinstance(reference, Mapping):
        return {canonical_text(name): float(grade) for name, grade in reference.items() if float(grade) > 0}
    return dict.fromkeys(ranked(reference), 1.0)


def _id_of(item: Any) -> Any:
    return item.get("id", item) if isinstance(item, Mapping) else item


def _gain(grades: Sequence[float]) -> float:
    return math.fsum(grade / math.log2(place + 1) for place, grade in enumerate(grades, start=1))
