"""Macro-averaged F1 over labels, with a bootstrap interval.

Owns the confusion cells and their average; equals scikit-learn's `f1_score(average="macro")` where every
row has a prediction. A missing or empty prediction is no label of its own: it is a miss of its reference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tasks.metrics.estimate import FEW, Estimate, wilson
from tasks.metrics.resampling import bootstrap_interval

if TYPE_CHECKING:
    import numpy as np

Cell = tuple[str, str | None]
"""A reference, and the prediction for it (None: there was none)."""


def f1_macro(pairs: Sequence[Cell]) -> Estimate:
    """Estimate the mean over labels of 2 tp / (2 tp + fp + fn).

    The labels are those of the references and those that were predicted. The interval is a percentile
    bootstrap over rows, widened to hold the value where the resamples lean to one side. Fewer than ten
    rows, or rows that are all right or all wrong, leave a bootstrap nothing to vary: there it is Wilson's.
    """
    cells = Counter(pairs)
    ordered = sorted(cells, key=lambda cell: (cell[0], cell[1] is not None, cell[1] or ""))
    counts = [cells[cell] for cell in ordered]
    n = sum(counts)
    right = sum(cells[cell] for cell in ordered if cell[0] == cell[1])
    if n == 0 or right in (0, n):
        return wilson(right, n)
    average = _MacroAverage(ordered)
    value = average.of_counts(counts)
    if n < FEW:
        return wilson(value * n, n)
    low, high = bootstrap_interval(counts, average)
    return Estimate(value, min(low, value), max(high, value), n, "bootstrap")


class _MacroAverage:
    """Macro F1 of many draws at once. A label that a draw holds nowhere has no F1 there and is left out."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        import numpy as np

        labels = sorted({right for right, _ in cells} | {said for _, said in cells if said})
        column = {label: position for position, label in enumerate(labels)}
        self._hits = np.zeros((len(cells), len(labels)))
        self._seen = np.zeros((len(cells), len(labels)))
        for row, (right, said) in enumerate(cells):
            self._seen[row, column[right]] += 1
            if said in column:
                self._seen[row, column[said]] += 1
                self._hits[row, column[said]] += 2.0 * (said == right)

    def __call__(self, draws: np.ndarray) -> np.ndarray:
        import numpy as np

        hits, seen = draws @ self._hits, draws @ self._seen
        scores = np.divide(hits, seen, out=np.zeros_like(hits), where=seen > 0)
        return np.asarray(scores.sum(axis=1) / (seen > 0).sum(axis=1))

    def of_counts(self, counts: Sequence[int]) -> float:
        """Return the macro F1 of the rows themselves."""
        import numpy as np

        return float(self(np.asarray([counts], dtype=np.float64))[0])
