"""Seeded percentile bootstrap over rows of which many are alike.

Owns the drawing. A row is known by the cell that it falls into; drawing n rows with replacement is then
one multinomial draw over the cells, which costs cells and not rows. The cells come in an order of their
own, so the order of the rows does not change the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from tasks.metrics.estimate import CONFIDENCE

if TYPE_CHECKING:
    import numpy as np

DRAWS = 10_000
SEED = 0
_BATCH = 500
"""Draws held in memory at once: 500 draws over 10,000 distinct cells are 40 MB."""


def bootstrap_interval(
    counts: Sequence[int], statistic: Callable[[np.ndarray], np.ndarray]
) -> tuple[float, float]:
    """Return the 2.5 and 97.5 percentiles of a statistic over 10,000 resamples.

    `counts` says how many rows fall into each cell. `statistic` takes draws (draws x cells, row counts)
    and gives one number for each draw.
    """
    return interval_of(draw_statistic(counts, statistic))


def bootstrap_intervals(
    counts: Sequence[int], statistic: Callable[[np.ndarray], np.ndarray]
) -> list[tuple[float, float]]:
    """Return the interval of each number that `statistic` gives for a draw (draws x numbers)."""
    import numpy as np

    low, high = np.quantile(draw_statistic(counts, statistic), _tails(), axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def interval_of(drawn: np.ndarray) -> tuple[float, float]:
    """Return the 2.5 and 97.5 percentiles of the numbers that were drawn."""
    import numpy as np

    low, high = np.quantile(drawn, _tails())
    return float(low), float(high)


def draw_statistic(counts: Sequence[int], statistic: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Return the statistic of each of 10,000 resamples."""
    import numpy as np

    return np.concatenate([statistic(draws) for draws in _draws(counts)])


def _draws(counts: Sequence[int]) -> Iterator[np.ndarray]:
    import numpy as np

    n = sum(counts)
    shares = np.asarray(counts, dtype=np.float64) / n
    generator = np.random.default_rng(SEED)
    for _ in range(DRAWS // _BATCH):
        yield generator.multinomial(n, shares, size=_BATCH)


def _tails() -> list[float]:
    tail = (1 - CONFIDENCE) / 2
    return [tail, 1 - tail]
