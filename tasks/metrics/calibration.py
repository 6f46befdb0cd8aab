"""Calibration: does what was said with 80 % confidence hold in 80 % of the rows?

Owns the Brier score, the expected calibration error and the bins of a reliability diagram (Guo et al. 2017,
arXiv 1706.04599). A confidence is the probability that was given to the prediction. Knows nothing of labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.metrics.estimate import FEW, PLACES, Estimate, mean, wilson
from tasks.metrics.resampling import bootstrap_interval

if TYPE_CHECKING:
    import numpy as np

BINS = 10

Said = tuple[float, bool]
"""The confidence of a prediction, and whether it was right."""


def calibration(rows: Sequence[Said]) -> dict[str, Any]:
    """Return the Brier score and the calibration error with their intervals, and the bins."""
    brier = mean([(confidence - right) ** 2 for confidence, right in rows])
    return {
        "brier": brier.to_dict(),
        "error": _error(rows).to_dict(),
        "bins": [_bin(place, rows) for place in range(BINS)],
    }


def _error(rows: Sequence[Said]) -> Estimate:
    """Estimate the mean over rows of how far confidence and accuracy of their bins are apart.

    The error of a resample is larger than that of the rows, because noise counts as error; the interval is
    widened to hold the value.
    """
    import numpy as np

    values = sorted(rows)
    cells = np.zeros((len(values), 2, BINS))
    for row, (confidence, right) in enumerate(values):
        cells[row, 0, _place(confidence)] = confidence
        cells[row, 1, _place(confidence)] = right
    flat = cells.reshape(len(values), 2 * BINS)

    def error(draws: np.ndarray) -> np.ndarray:
        sums = (draws @ flat).reshape(-1, 2, BINS)
        return np.asarray(np.abs(sums[:, 0] - sums[:, 1]).sum(axis=1) / len(values))

    value = float(error(np.ones((1, len(values))))[0])
    if len(values) < FEW:
        return wilson(value * len(values), len(values))
    low, high = bootstrap_interval([1] * len(values), error)
    return Estimate(value, min(low, value), max(high, value), len(values), "bootstrap")


def _bin(place: int, rows: Sequence[Said]) -> dict[str, Any]:
    inside = [(confidence, right) for confidence, right in rows if _place(confidence) == place]
    n = len(inside)
    return {
        "from": place / BINS,
        "to": (place + 1) / BINS,
        "rows": n,
        "confidence": round(sum(confidence for confidence, _ in inside) / n, PLACES) if n else None,
        "accuracy": wilson(sum(right for _, right in inside), n).to_dict() if n else None,
    }


def _place(confidence: float) -> int:
    return min(BINS - 1, int(confidence * BINS))
