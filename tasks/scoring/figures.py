"""A figure of an evaluate step: each row's score, the rows that have none, and the value with its interval.

Owns what becomes of rows without a score: they are counted, and the interval is widened to what they could
have been. Knows nothing of where scores come from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chains.errors import StepFailed
from tasks.metrics.estimate import PLACES, Estimate, mean


@dataclass(slots=True)
class Figure:
    """The scores by row, why the others have none, and what else belongs to the figure."""

    estimate: Estimate
    scores: Mapping[int, float] = field(default_factory=dict)
    unscored: Mapping[int, str] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    per_row: Mapping[int, dict[str, Any]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the figure as JSON data."""
        return self.estimate.to_dict() | {"unscored": len(self.unscored)} | self.more


def figure_of_shares(
    name: str, scores: Mapping[int, float], unscored: Mapping[int, str], **more: Any
) -> Figure:
    """Return the mean of scores from 0 to 1.

    A row without a score is never averaged away: the value is that of the others, and the interval holds
    whatever the missing scores could make of it, so that a gate on `low` cannot be passed by a judge that
    fails. No score at all is an error.
    """
    _needs_one(name, scores, unscored)
    known = mean([scores[row] for row in sorted(scores)])
    n, gone = len(scores), len(unscored)
    low, high = known.low * n / (n + gone), (known.high * n + gone) / (n + gone)
    estimate = Estimate(known.value, min(low, known.value), max(high, known.value), n, known.method)
    return Figure(estimate, _rounded(scores), unscored, dict(more))


def figure(name: str, scores: Mapping[int, float], unscored: Mapping[int, str], estimate: Estimate) -> Figure:
    """Return a figure whose scores have no upper end, such as seconds; unscored rows are counted only."""
    _needs_one(name, scores, unscored)
    return Figure(estimate, _rounded(scores), unscored)


def _rounded(scores: Mapping[int, float]) -> dict[int, float]:
    return {row: round(score, PLACES) for row, score in scores.items()}


def _needs_one(name: str, scores: Mapping[int, float], unscored: Mapping[int, str]) -> None:
    bad = [row for row, score in scores.items() if not math.isfinite(score)]
    if bad:
        raise StepFailed(f"{name!r}: row {bad[0]} has the score {scores[bad[0]]!r}, which is no number.")
    if not scores:
        row, why = next(iter(unscored.items()), (None, "there are no rows"))
        where = f"row {row}: " if row is not None else ""
        raise StepFailed(f"{name!r}: no row has a score: {where}{why}")


def in_order(values: Mapping[int, float]) -> Sequence[float]:
    """Return the scores by row number."""
    return [values[row] for row in sorted(values)]
