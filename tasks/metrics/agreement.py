"""How far two raters agree: the share of rows with the same score, and Cohen's kappa.

Owns kappa with quadratic weights (Cohen 1968) and its bootstrap. Knows nothing of who rates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.metrics.estimate import FEW, PLACES, wilson
from tasks.metrics.resampling import bootstrap_interval

if TYPE_CHECKING:
    import numpy as np


def agreement_with(rows: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Return the share of equal scores and kappa over pairs of scores, each with its interval.

    Kappa is null where both raters give one score only: there is nothing that chance would not do, too. Its
    interval is null below ten rows, of which no resample says much.
    """
    equal = sum(abs(one - other) < 1e-9 for one, other in rows)
    return {"same": wilson(equal, len(rows)).to_dict(), "kappa": _kappa(rows)}


def _kappa(rows: Sequence[tuple[float, float]]) -> dict[str, Any] | None:
    import numpy as np

    found = Counter(rows)
    pairs = sorted(found)
    counts = [found[pair] for pair in pairs]
    values = np.asarray(pairs)

    def kappa(draws: np.ndarray) -> np.ndarray:
        n = draws.sum(axis=1)
        sums, squares = draws @ values, draws @ values**2
        apart = draws @ (values[:, 0] - values[:, 1]) ** 2 / n
        # what the same scores would be apart if each rater had dealt them out at random
        by_chance = (squares.sum(axis=1) - 2 * sums[:, 0] * sums[:, 1] / n) / n
        # a resample in which both raters say one thing only shows full agreement
        return np.asarray(1 - np.divide(apart, by_chance, out=np.zeros(len(n)), where=by_chance > 1e-12))

    one = np.asarray([counts], dtype=np.float64)
    if len({score for pair in pairs for score in pair}) == 1:
        return None
    value = float(kappa(one)[0])
    n = len(rows)
    low, high = bootstrap_interval(counts, kappa) if n >= FEW else (None, None)
    return {
        "value": round(value, PLACES),
        "low": None if low is None else round(min(low, value), PLACES),
        "high": None if high is None else round(max(high, value), PLACES),
        "n": n,
    }
