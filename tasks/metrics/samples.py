"""Consistency: do repeated answers to one question agree, and are they all right?

A prediction is the list of the answers; a single answer is a list of one. Knows nothing of how often a model
was asked.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from tasks.metrics.text import accuracy, canonical_text, normalise_answer


def agreement(prediction: Any) -> float:
    """Score the share of pairs of answers that are the same after SQuAD's normalisation."""
    said = [normalise_answer(canonical_text(item)) for item in _answers(prediction)]
    pairs = len(said) * (len(said) - 1) / 2
    if not pairs:
        return 1.0
    return sum(count * (count - 1) / 2 for count in Counter(said).values()) / pairs


def pass_all(prediction: Any, reference: Any) -> float:
    """Score 1 where every answer is right."""
    return min((accuracy(item, reference) for item in _answers(prediction)), default=0.0)


def pass_any(prediction: Any, reference: Any) -> float:
    """Score 1 where at least one answer is right."""
    return max((accuracy(item, reference) for item in _answers(prediction)), default=0.0)


def _answers(prediction: Any) -> list[Any]:
    return prediction if isinstance(prediction, list) else [prediction]
