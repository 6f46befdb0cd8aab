"""The metrics that an evaluate step can name and that need a prediction and a reference only.

Owns the table from name to metric. A metric gives each row a score between 0 and 1 where it has one (F1 and
BLEU over a corpus have none), and all rows together an Estimate. Knows nothing of chains, templates, models
or the store. A row without a prediction scores 0 in every metric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tasks.metrics import overlap, ranking, samples, structure, text
from tasks.metrics.classes import Average, Cell, f1
from tasks.metrics.estimate import Estimate, mean, wilson

__all__ = ["METRICS", "Estimate", "Metric", "Pair", "cells"]


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


def cells(pairs: Sequence[Pair]) -> list[Cell]:
    """Return each row's label and what was said, as the metrics over labels count them."""
    return [(text.canonical_text(pair.reference), _label(pair)) for pair in pairs]


def _by_row(score: Callable[[Any, Any], float], summary: Callable[[Sequence[float]], Estimate]) -> Metric:
    def of_pair(pair: Pair) -> float:
        return 0.0 if pair.missing else score(pair.prediction, pair.reference)

    return Metric(of_pair, lambda pairs: summary([of_pair(pair) for pair in pairs]))


def _said_only(score: Callable[[Any], float], summary: Callable[[Sequence[float]], Estimate]) -> Metric:
    return _by_row(lambda prediction, _: score(prediction), summary)


def _share(scores: Sequence[float]) -> Estimate:
    return wilson(sum(scores), len(scores))


def _label(pair: Pair) -> str | None:
    return None if pair.missing else text.canonical_text(pair.prediction)


def _f1(average: Average) -> Metric:
    return Metric(None, lambda pairs: f1(cells(pairs), average))


def _of_counts(row: Callable[[Any, Any], list[int]], figure: Callable[[Any], Any]) -> Metric:
    def score(pair: Pair) -> float:
        return 0.0 if pair.missing else overlap.of_sums([row(pair.prediction, pair.reference)], figure).value

    def estimate(pairs: Sequence[Pair]) -> Estimate:
        rows = [row("" if pair.missing else pair.prediction, pair.reference) for pair in pairs]
        return overlap.of_sums(rows, figure)

    return Metric(score, estimate)


_PLACES = (1, 3, 5, 10, 20, 50, 100)

METRICS: Mapping[str, Metric] = {
    "accuracy": _by_row(text.accuracy, _share),
    "f1_macro": _f1("macro"),
    "f1_micro": _f1("micro"),
    "f1_weighted": _f1("weighted"),
    "exact_match": _by_row(text.exact_match, _share),
    "token_f1": _by_row(text.token_f1, mean),
    "contains": _by_row(text.contains, _share),
    "bleu": _of_counts(overlap.bleu_row, overlap.bleu_of_sums),
    "chrf": _of_counts(overlap.chrf_row, overlap.chrf_of_sums),
    "rouge1": _by_row(partial(overlap.rouge, kind="1"), mean),
    "rouge2": _by_row(partial(overlap.rouge, kind="2"), mean),
    "rougeL": _by_row(partial(overlap.rouge, kind="L"), mean),
    "json_valid": _said_only(structure.json_valid, _share),
    "fields": _by_row(structure.fields_right, mean),
    **{f"recall_at_{k}": _by_row(partial(ranking.recall, k=k), mean) for k in _PLACES},
    **{f"ndcg_at_{k}": _by_row(partial(ranking.ndcg, k=k), mean) for k in _PLACES},
    "mrr": _by_row(ranking.reciprocal_rank, mean),
    "agreement": _said_only(samples.agreement, mean),
    "pass_all": _by_row(samples.pass_all, _share),
    "pass_any": _by_row(samples.pass_any, _share),
}
