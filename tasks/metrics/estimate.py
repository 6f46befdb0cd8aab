"""A measured value with its 95 % interval.

Owns Estimate and the ways to get an interval: Wilson for shares, Student's t for means, order statistics for
percentiles, a seeded percentile bootstrap for everything else. Knows nothing of texts or of steps.
Invariant: an Estimate's numbers are finite and low <= value <= high; a NaN is an error, never a number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, Literal

from chains.errors import StepFailed

Method = Literal["wilson", "t", "bootstrap", "exact"]

CONFIDENCE = 0.95
FEW = 10
"""Below this many rows neither t nor the bootstrap covers 95 %; Wilson on the value is wider and holds."""
PLACES = 6
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value, its 95 % interval, the rows behind it, and how the interval was made."""

    value: float
    low: float
    high: float
    n: int
    method: Method

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.value, self.low, self.high))):
            raise StepFailed(
                f"a metric over {self.n} rows is not a finite number: {self.value} [{self.low}, {self.high}]."
            )
        if not self.low <= self.value <= self.high:
            raise ValueError(f"{self.value!r} is outside its own interval [{self.low!r}, {self.high!r}]")

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as JSON data, rounded, so that equal runs leave equal bytes."""
        rounded = {name: round(getattr(self, name), PLACES) for name in ("value", "low", "high")}
        return asdict(self) | rounded

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}], n={self.n}"


def wilson(successes: float, n: int) -> Estimate:
    """Estimate a share by Wilson's score interval (Wilson 1927), which stays honest at 0 and at n.

    `successes` may be a sum of scores between 0 and 1: their variance is at most that of a share, so the
    interval is then wider than need be, never narrower.
    """
    _needs_rows(n)
    share = successes / n
    centre = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    # min and max also absorb the last bit of rounding at shares of exactly 0 and 1
    return Estimate(
        share, max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share)), n, "wilson"
    )


def mean(scores: Sequence[float]) -> Estimate:
    """Estimate the mean of scores between 0 and 1 by Student's t, cut to that range.

    Fewer than ten rows, or rows that are all equal, say too little about their spread: there it is Wilson's.
    """
    n = len(scores)
    _needs_rows(n)
    value = math.fsum(scores) / n
    if n < FEW or min(scores) == max(scores):
        return wilson(math.fsum(scores), n)
    half = t_half_width(scores)
    return Estimate(value, max(0.0, value - half), min(1.0, value + half), n, "t")


def amount(values: Sequence[float]) -> Estimate:
    """Estimate the mean of amounts that have no upper end (seconds, dollars) by Student's t.

    One value alone has no spread: its interval is itself, and `n` says so.
    """
    n = len(values)
    _needs_rows(n)
    value = math.fsum(values) / n
    half = t_half_width(values) if n > 1 else 0.0
    return Estimate(value, min(value, max(0.0, value - half)), value + half, n, "t")


def percentile(values: Sequence[float], share: float) -> Estimate:
    """Estimate a percentile by the order statistics that hold it (exact, from the binomial distribution).

    With few rows no pair of them holds a far percentile in 95 %; the interval then ends at the last row.
    """
    n = len(values)
    _needs_rows(n)
    ordered = sorted(values)
    place = share * (n - 1)
    below, rest = int(place), place - int(place)
    value = ordered[below] + (rest * (ordered[below + 1] - ordered[below]) if rest else 0.0)
    tail = (1 - CONFIDENCE) / 2
    low, high = _binomial_place(n, share, tail), _binomial_place(n, share, 1 - tail)
    return Estimate(
        value, min(value, ordered[max(0, low - 1)]), max(value, ordered[min(n - 1, high)]), n, "exact"
    )


def _binomial_place(n: int, share: float, probability: float) -> int:
    """Return the smallest k with P(Binomial(n, share) <= k) >= probability."""
    log_term = n * math.log1p(-share)
    total = math.exp(log_term)
    k = 0
    while total < probability and k < n:
        log_term += math.log((n - k) / (k + 1)) + math.log(share / (1 - share))
        k += 1
        total += math.exp(log_term)
    return k


def t_half_width(values: Sequence[float]) -> float:
    """Return half the width of the t interval of the mean of at least two values."""
    n = len(values)
    middle = math.fsum(values) / n
    variance = math.fsum((value - middle) ** 2 for value in values) / (n - 1)
    return t_quantile((1 + CONFIDENCE) / 2, n - 1) * math.sqrt(variance / n)


def t_quantile(p: float, degrees: int) -> float:
    """Return the p-quantile (p > 0.5) of Student's t distribution.

    Up to 200 degrees of freedom by bisection of the exact distribution (Abramowitz and Stegun 26.7.3-4);
    above that by the Cornish-Fisher expansion (26.7.5), whose error is then below 1e-9.
    """
    if degrees > 200:
        return _t_expansion(NormalDist().inv_cdf(p), degrees)
    low, high = 0.0, 1.0
    while t_cdf(high, degrees) < p:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, degrees) < p else (low, middle)
    return (low + high) / 2


def _t_expansion(z: float, degrees: int) -> float:
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / degrees + second / degrees**2 + third / degrees**3


def t_cdf(t: float, degrees: int) -> float:
    """Return the share of Student's t distribution below t (t >= 0)."""
    angle = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = cosine if odd else 1.0
    total = term if degrees > 1 else 0.0
    for k in range(2 + odd, degrees, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    inside = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return (1 + inside) / 2


def _needs_rows(n: int) -> None:
    if n < 1:
        raise StepFailed(
            "a metric needs at least one row.", hint="Run the chain on a data set that has rows."
        )
