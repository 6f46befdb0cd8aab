"""Two systems on the same rows: is one better?

Owns the paired comparison of per-row scores. Knows nothing of what was scored. Both lists hold the scores
of the same rows in the same order; an unpaired comparison is not offered, because it throws away what the
pairing tells (Miller 2024, arXiv 2411.00640).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from chains.errors import StepFailed
from tasks.metrics.estimate import CONFIDENCE, FEW, PLACES, t_cdf, t_half_width, t_quantile, wilson
from tasks.metrics.resampling import draw_statistic, interval_of

MANY = 100
"""From here on the percentile bootstrap covers 92-94 %; below it the paired t does better."""

Verdict = Literal["better", "worse", "no difference shown", "too few rows"]


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """The mean of (after - before) over rows with its 95 % interval.

    `p` is McNemar's exact one where all scores are 0 or 1. Else it is the paired t test's below 100 rows, and
    from there on the bootstrap's: how often the difference of a resample falls on the other side of 0, twice.
    None where all rows differ by the same.
    """

    difference: float
    low: float
    high: float
    n: int
    method: Literal["bootstrap", "t", "wilson"]
    p: float | None

    @property
    def verdict(self) -> Verdict:
        """Say in words what the interval shows."""
        if self.n < FEW:
            return "too few rows"
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "no difference shown"

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON data, rounded; p keeps its size."""
        rounded = {name: round(getattr(self, name), PLACES) for name in ("difference", "low", "high")}
        return asdict(self) | rounded | {"verdict": self.verdict}


def compare(before: Sequence[float], after: Sequence[float]) -> PairedDifference:
    """Compare the per-row scores (each between 0 and 1) of two systems on the same rows.

    The interval is a paired percentile bootstrap from 100 rows on, a paired t below. Where all differences
    are equal neither has a spread to work with, and Wilson's interval takes its place.
    """
    _check(before, after)
    differences = [new - old for old, new in zip(before, after, strict=True)]
    n = len(differences)
    value = math.fsum(differences) / n
    p = mcnemar(before, after) if {*before, *after} <= {0, 1} else None
    if n < 2 or min(differences) == max(differences):
        return PairedDifference(value, *_all_equal(value, n), n, "wilson", p)
    if n < MANY:
        half = t_half_width(differences)
        p = _t_p(differences) if p is None else p
        return PairedDifference(value, max(-1.0, value - half), min(1.0, value + half), n, "t", p)
    low, high, beyond = _bootstrap(differences)
    p = beyond if p is None else p
    return PairedDifference(value, min(low, value), max(high, value), n, "bootstrap", p)


def mcnemar(before: Sequence[float], after: Sequence[float]) -> float:
    """Return the exact two-sided p of McNemar's test on 0/1 scores (the sign test on rows that changed)."""
    wins = sum(new > old for old, new in zip(before, after, strict=True))
    losses = sum(new < old for old, new in zip(before, after, strict=True))
    changed = wins + losses
    term = tail = 1  # of the binomial: C(changed, k), and its sum up to the rarer outcome
    for k in range(1, min(wins, losses) + 1):
        term = term * (changed - k + 1) // k
        tail += term
    # whole numbers up to the last division: 2**changed is beyond a float from 1,024 rows on
    return float(min(1.0, 2 * tail / 2**changed))


def _check(before: Sequence[float], after: Sequence[float]) -> None:
    if len(before) != len(after):
        raise StepFailed(
            f"a paired comparison needs the same rows on both sides, and got {len(before)} and {len(after)}."
        )
    if not before:
        raise StepFailed("a paired comparison needs at least one row.")
    for score in (*before, *after):
        if not 0 <= score <= 1:  # also true of NaN
            raise StepFailed(f"a paired comparison takes scores between 0 and 1, and got {score!r}.")


def _all_equal(value: float, n: int) -> tuple[float, float]:
    if value == 0:
        # no row changed: what is left open is the share of rows that might
        unseen = wilson(0, n).high
        return -unseen, unseen
    as_share = wilson((value + 1) / 2 * n, n)
    return min(2 * as_share.low - 1, value), max(2 * as_share.high - 1, value)


def _t_p(differences: Sequence[float]) -> float:
    """Return the two-sided p of the paired t test."""
    n = len(differences)
    half = t_half_width(differences)
    t = abs(math.fsum(differences) / n) / (half / t_quantile((1 + CONFIDENCE) / 2, n - 1))
    return max(0.0, min(1.0, 2 * (1 - t_cdf(t, n - 1))))


def _bootstrap(differences: Sequence[float]) -> tuple[float, float, float]:
    import numpy as np

    cells = sorted(Counter(differences).items())
    values = np.array([value for value, _ in cells])
    counts = [count for _, count in cells]
    drawn = draw_statistic(counts, lambda draws: np.asarray(draws @ values / len(differences)))
    low, high = interval_of(drawn)
    # the rows themselves are one more draw, so that p is never 0
    other = min(int((drawn <= 0).sum()), int((drawn >= 0).sum())) + 1
    return low, high, min(1.0, 2 * other / (len(drawn) + 1))
