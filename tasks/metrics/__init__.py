"""The metrics that an evaluate step can name.

Owns the table from name to metric. A metric gives each row a score between 0 and 1 where it has one (macro
F1 has none), and all rows together an Estimate. Knows nothing of chains, templates or the store.
A row without a prediction scores 0 in every metric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.metrics import text
from tasks.metrics.estimate import Estimate, mean, wilson
from tasks.metrics.f1 import f1_macro

__all__ = ["METRICS", "Estimate", "Metric", "Pair"]


@dataclass(frozen=True, slots=True)
class Pair:
    """What was said and what is right for one row; `missing` where nothing could be said."""

    prediction: Any
    reference: Any
    missing: bool = False


@dataclass(frozen=True, slots=True)
class Metric:
    """A way to score rows: `score` gives one pair's score, `estimate` all of them with a 95 % interval.

    `score` is None where the metric exists only over many rows.
    """

    score: Callable[[Pair], float] | None
    estimate: Callable[[Sequence[Pair]], Estimate]


def _by_row(score: Callable[[Any, Any], float], summary: Callable[[Sequence[float]], Estimate]) -> Metric:
    def of_pair(pair: Pair) -> float:
        return 0.0 if pair.missing else score(pair.prediction, pair.reference)

    return Metric(of_pair, lambda pairs: summary([of_pair(pair) for pair in pairs]))


def _share(scores: Sequence[float]) -> Estimate:
    return wilson(sum(scores), len(scores))


def _f1_macro(pairs: Sequence[Pair]) -> Estimate:
    return f1_macro([(text.canonical_text(pair.reference), _label(pair)) for pair in pairs])


def _label(pair: Pair) -> str | None:
    return None if pair.missing else text.canonical_text(pair.prediction)


METRICS: Mapping[str, Metric] = {
    "accuracy": _by_row(text.accuracy, _share),
    "exact_match": _by_row(text.exact_match, _share),
    "f1_macro": Metric(None, _f1_macro),
    "token_f1": _by_row(text.token_f1, mean),
    "contains": _by_row(text.contains, _share),
}
